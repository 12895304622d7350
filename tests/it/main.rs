//! Integration tests of the whole.

mod support;

mod crash;
mod independence;
mod qmp;
mod queues;
