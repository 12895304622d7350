#![doc = include_str!("README.md")]
// Called by the registry (open) and the request path; the walk skips the node unless its format
// was guessed. Invariant: `offset` plus any offset of the node fits an i64.

use std::ops::Range;

use block_core::driver::{ClaimKind, Cx, Driver, Pending, Preallocation, Status, ZeroFlags};
use block_core::graph::open::Opener;
use block_core::graph::perm::Role;
use block_core::request::map::{Access, EdgeIndex, Extent, Lookup, Mapping};
use block_core::{Error, IoBuf, Result};
use block_schema::types::BlockdevOptionsRaw;
use rustix::io::Errno;

#[cfg(test)]
mod tests;

/// The only child.
const FILE: EdgeIndex = EdgeIndex(0);

/// Windows are made of whole sectors.
const SECTOR: u64 = 512;

/// Bytes at the start that a guess of the format looks at.
const PROBED: u64 = 512;

/// Whether the first bytes of an image look like a format other than raw.
pub type LooksLikeFormat = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A window of a child.
pub struct RawDriver {
    offset: u64,
    size: Option<u64>,
    /// Set where the format was guessed.
    looks_like_format: Option<LooksLikeFormat>,
}

impl RawDriver {
    /// All of the child at edge 0.
    pub fn whole() -> RawDriver {
        RawDriver {
            offset: 0,
            size: None,
            looks_like_format: None,
        }
    }

    /// The bytes from `offset` of a child of `child_len` bytes: to its end, or `size` of them.
    ///
    /// # Errors
    /// `InvalidOption` when the window does not lie within the child, or has half a sector.
    pub fn window(offset: u64, size: Option<u64>, child_len: u64) -> Result<RawDriver> {
        let Some(rest) = child_len.checked_sub(offset) else {
            return Err(Error::invalid(
                "offset",
                format!(
                    "Offset ({offset}) cannot be greater than size of the containing file \
                     ({child_len})"
                ),
            ));
        };
        if let Some(size) = size.filter(|&size| size > rest) {
            return Err(Error::invalid(
                "size",
                format!(
                    "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to \
                     the  actual size of the containing file ({child_len})"
                ),
            ));
        }
        if size.is_some_and(|size| !size.is_multiple_of(SECTOR)) {
            return Err(Error::invalid(
                "size",
                format!("Specified size is not multiple of {SECTOR}"),
            ));
        }
        Ok(RawDriver {
            offset,
            size,
            looks_like_format: None,
        })
    }

    /// Says that the format was guessed: writes that would change the guess are refused.
    #[must_use]
    pub fn guessed(self, looks_like_format: LooksLikeFormat) -> RawDriver {
        RawDriver {
            looks_like_format: Some(looks_like_format),
            ..self
        }
    }

    /// Where a range of the node is in the child.
    fn below(&self, cx: &Cx, range: &Range<u64>) -> Result<Range<u64>> {
        let shifted = |at: u64| {
            at.checked_add(self.offset)
                .filter(|&at| at <= i64::MAX as u64)
        };
        match (shifted(range.start), shifted(range.end)) {
            (Some(start), Some(end)) => Ok(start..end),
            _ => Err(Error::OutOfRange {
                node: cx.node_name().to_owned(),
                offset: range.start,
                len: range.end.saturating_sub(range.start),
                end: i64::MAX as u64 - self.offset,
            }),
        }
    }

    async fn write_below(&self, cx: &Cx, offset: u64, buf: IoBuf) -> Result<()> {
        let below = self.below(cx, &(offset..offset.saturating_add(buf.len() as u64)))?;
        cx.child(FILE).write(below.start, buf).await
    }

    /// Writes to the first sector of a node whose format was guessed.
    async fn write_checked(
        &self,
        cx: &Cx,
        looks_like_format: &LooksLikeFormat,
        offset: u64,
        buf: IoBuf,
    ) -> Result<()> {
        let _claim = cx.claim(0..PROBED, ClaimKind::Write).await;
        let start = self.below(cx, &(0..PROBED))?.start;
        let len = PROBED.min(cx.child(FILE).len().saturating_sub(start));
        let mut head = cx.child(FILE).read_bytes(start, to_index(len)).await?;
        let skip = to_index(offset);
        let count = buf.len().min(to_index(PROBED) - skip);
        let mut written = vec![0; count];
        buf.copy_out(0, &mut written);
        if let Some(part) = head.get_mut(skip..) {
            let there = part.len().min(count);
            part[..there].copy_from_slice(&written[..there]);
        }
        if looks_like_format(&head) {
            return Err(Error::Io {
                node: cx.node_name().to_owned(),
                op: "write",
                offset,
                len: buf.len() as u64,
                source: Errno::PERM.into(),
            });
        }
        let mut checked = IoBuf::copy_of(&written);
        checked.append(buf.slice(count..buf.len()));
        self.write_below(cx, offset, checked).await
    }

    /// The part of a range in the sector that is guarded, and the rest.
    fn guarded(&self, range: &Range<u64>) -> (Range<u64>, Range<u64>) {
        let end = match self.looks_like_format {
            Some(_) => range.end.min(PROBED).max(range.start),
            None => range.start,
        };
        (range.start..end, end..range.end)
    }
}

/// Lengths up to [`PROBED`].
fn to_index(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Opens the driver by its options.
///
/// # Errors
/// As [`RawDriver::window`]; what opening the child answers.
pub(crate) async fn open(
    opener: &mut Opener,
    options: BlockdevOptionsRaw,
) -> Result<Box<dyn Driver>> {
    let offset = non_negative("offset", options.offset)?;
    let size = non_negative("size", options.size)?;
    // A window is more than a filter: its parent's permissions are for other bytes.
    let role = match (offset, size) {
        (None, None) => Role::Filtered,
        (_, _) => Role::Image,
    };
    let file = opener.child("file", role, options.file).await?;
    let child_len = opener.opened(file).len();
    let driver = RawDriver::window(offset.unwrap_or(0), size, child_len)?;
    Ok(Box::new(driver))
}

fn non_negative(option: &str, value: Option<i64>) -> Result<Option<u64>> {
    let converted = value.map(u64::try_from).transpose();
    converted.map_err(|_| {
        Error::invalid(
            option,
            format!("Parameter '{option}' expects a non-negative number below 2^63"),
        )
    })
}

impl Driver for RawDriver {
    fn format_name(&self) -> &'static str {
        "raw"
    }

    fn len(&self) -> u64 {
        self.size.unwrap_or(u64::MAX)
    }

    fn len_child(&self) -> Option<(EdgeIndex, u64)> {
        Some((FILE, self.offset))
    }

    fn shifted_child(&self) -> Option<(EdgeIndex, u64)> {
        match self.looks_like_format {
            Some(_) => None,
            None => Some((FILE, self.offset)),
        }
    }

    fn try_map(&self, access: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        let guarded = access == Access::Write && !self.guarded(&range).0.is_empty();
        match range.start.checked_add(self.offset) {
            Some(offset) if !guarded => {
                let edge = FILE;
                out.push(range.end - range.start, Extent::Child { edge, offset })
            }
            Some(_) | None => Lookup::Miss,
        }
    }

    fn read<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move {
            let range = offset..offset.saturating_add(buf.len() as u64);
            cx.child(FILE)
                .read(self.below(cx, &range)?.start, buf)
                .await
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move {
            match &self.looks_like_format {
                Some(looks) if offset < PROBED => self.write_checked(cx, looks, offset, buf).await,
                Some(_) | None => self.write_below(cx, offset, buf).await,
            }
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx, range: Range<u64>, flags: ZeroFlags) -> Pending<'a> {
        Box::pin(async move {
            // Zeroes too can finish a format's header.
            let (head, rest) = self.guarded(&range);
            if !head.is_empty() {
                let zeroes = IoBuf::zeroed(to_index(head.end - head.start));
                self.write(cx, head.start, zeroes).await?;
            }
            if rest.is_empty() {
                return Ok(());
            }
            let below = self.below(cx, &rest)?;
            cx.child(FILE).write_zeroes(below, flags).await
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a> {
        Box::pin(async move {
            // What a discarded byte reads as is not ours to say, so the guarded sector stays.
            let (_, rest) = self.guarded(&range);
            if rest.is_empty() {
                return Ok(());
            }
            cx.child(FILE).discard(self.below(cx, &rest)?).await
        })
    }

    fn status<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a, Status> {
        Box::pin(async move {
            let below = self.below(cx, &range)?;
            let status = cx.child(FILE).status(below.clone()).await?;
            Ok(Status {
                child: Some((FILE, below.start)),
                ..status
            })
        })
    }

    fn resize<'a>(&'a self, cx: &'a Cx, len: u64, preallocation: Preallocation) -> Pending<'a> {
        Box::pin(async move {
            if self.size.is_some() {
                return Err(Error::invalid("size", "Cannot resize fixed-size raw disks"));
            }
            let Ok(below) = self.below(cx, &(0..len)) else {
                return Err(Error::invalid(
                    "size",
                    "Disk size too large for the chosen offset",
                ));
            };
            cx.child(FILE).resize(below.end, preallocation).await
        })
    }
}
