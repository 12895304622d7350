#![doc = include_str!("README.md")]

mod buffers;
mod connection;
mod listener;
mod server;
mod work;

pub use listener::{Address, BoundAddress};
pub use server::{
    DEFAULT_HANDSHAKE_MAX, DEFAULT_MAX_CONNECTIONS, ExportOptions, ExportStatus, NbdServer,
    RemoveMode, ServerError, ServerOptions,
};

#[cfg(test)]
mod tests;
