#![doc = include_str!("README.md")]

mod connection;
mod input;
mod listener;
mod replies;
mod server;
mod work;

pub use listener::{Address, BoundAddress};
pub use server::{
    DEFAULT_HANDSHAKE_MAX, DEFAULT_MAX_CONNECTIONS, ExportOptions, ExportStatus, NbdServer,
    RemoveMode, ServerError, ServerOptions,
};

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// The value of `work`, or nothing when `limit` ends first.
async fn first<T>(work: impl Future<Output = T>, limit: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut limit) = (pin!(work), pin!(limit));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests;
