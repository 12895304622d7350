//! File descriptors sent along with a command, over a Unix socket: for `getfd`, `add-fd` and such.
//! Invariant: they go with the first byte of the command's message, which is where servers look.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::call::{CallError, Command, decode_answer};
use super::client::Client;
use super::connection::ConnectionError;
use super::value::{Object, Value};

impl Client<UnixStream> {
    /// Runs a command that takes descriptors, and waits for what it answers. They stay open here.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_with<C: Command>(
        &mut self,
        command: C,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<C::Ok, CallError> {
        self.flush()?;
        let id = self.connection.call(&command);
        self.send(descriptors)?;
        decode_answer::<C>(self.reply(id)?)
    }

    /// Runs a command by its name that takes descriptors.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn execute_with(
        &mut self,
        name: &str,
        arguments: Object,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Value, CallError> {
        self.flush()?;
        let id = self.connection.execute(name, arguments);
        self.send(descriptors)?;
        self.reply(id)?.map_err(CallError::Refused)
    }

    /// Sends the start of the output with descriptors; the rest leaves as usual.
    fn send(&mut self, descriptors: &[BorrowedFd<'_>]) -> Result<(), ConnectionError> {
        let message = SendAncillaryMessage::ScmRights(descriptors);
        let mut space = vec![MaybeUninit::uninit(); message.size()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(message) {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(self.connection.failed(error));
        }
        loop {
            let output = [IoSlice::new(self.connection.output())];
            match sendmsg(&self.stream, &output, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.connection.sent(count);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.connection.failed(error.into())),
            }
        }
    }
}
