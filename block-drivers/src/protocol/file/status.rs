//! Which bytes of a file are data and which are holes.
//!
//! Called by `map` and by copies. Nothing is remembered: mapped writes fill holes without passing
//! through this driver.

use std::ops::Range;

use block_core::Result;
use block_core::driver::{Cx, Status, StatusKind};
use block_core::engine::Seek;

use super::FileDriver;

impl FileDriver {
    pub(super) async fn first_run(&self, cx: &Cx, range: Range<u64>) -> Result<Status> {
        let end = range.end.min(self.leaf.len());
        if end <= range.start {
            return Ok(run(StatusKind::Zero, &range, range.end));
        }
        let file = cx.leaf(&self.leaf);
        // A file system that cannot tell holds data everywhere.
        let (kind, stop) = match file.seek(range.start, Seek::Data).await {
            Err(_) => (StatusKind::Data, end),
            // The hole goes on behind the end of the file.
            Ok(None) => (StatusKind::Zero, range.end),
            Ok(Some(data)) if data > range.start => (StatusKind::Zero, data),
            Ok(Some(_)) => {
                let hole = file.seek(range.start, Seek::Hole).await;
                let hole = hole.ok().flatten().filter(|&hole| hole > range.start);
                (StatusKind::Data, hole.unwrap_or(end))
            }
        };
        Ok(run(kind, &range, stop))
    }
}

fn run(kind: StatusKind, range: &Range<u64>, stop: u64) -> Status {
    Status {
        len: stop.min(range.end) - range.start,
        kind,
        child: None,
        compressed: false,
    }
}
