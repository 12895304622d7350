//! Integration tests of the whole.

mod support;

mod alloc;
mod cli;
mod crash;
mod independence;
mod qmp;
mod queues;
