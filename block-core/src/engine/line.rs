//! A line in which one does the work for all who stand in it.
//! Called by `sync_line.rs` and `write_line.rs`. Invariant: whoever joins is in a batch that is taken after it joined,
//! so work done for the batch began after that; one at a time does the work.

use crate::atomic::Mutex;

/// Who waits, and whether somebody is at work.
pub(crate) struct Line<W>(Mutex<State<W>>);

struct State<W> {
    running: bool,
    waiting: Vec<W>,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Line(Mutex::new(State {
            running: false,
            waiting: Vec::new(),
        }))
    }
}

impl<W> Line<W> {
    /// Joins the line. When nobody is at work the caller is: it gets the first batch, does the
    /// work, and asks for the [`next`](Line::next) until there is none.
    pub(crate) fn join(&self, waiter: W) -> Option<Vec<W>> {
        let mut state = self.0.lock();
        state.waiting.push(waiter);
        if std::mem::replace(&mut state.running, true) {
            return None;
        }
        Some(std::mem::take(&mut state.waiting))
    }

    /// Those who joined since the last batch was taken; `None` ends the caller's work.
    pub(crate) fn next(&self) -> Option<Vec<W>> {
        let mut state = self.0.lock();
        if state.waiting.is_empty() {
            state.running = false;
            return None;
        }
        Some(std::mem::take(&mut state.waiting))
    }
}
