//! Integration tests of the whole.

mod support;

mod alloc;
mod chain;
mod checks;
mod cli;
mod crash;
mod create;
mod detach;
mod devices;
mod events;
mod faults;
mod in_use;
mod independence;
mod interop;
mod jobs;
mod layers;
mod patience;
mod qmp;
mod queues;
mod reopen;
mod reports;
mod unused_tables;
