//! Permissions: what a parent does with a child, and what it lets others do with it.
//!
//! Pure. Checked on the next graph before it replaces the current one (`graph/mod.rs`); the `file`
//! driver carries them to other processes as locks.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Perm(u8);

impl Perm {
    /// None.
    pub const NONE: Perm = Perm(0);
    /// Reads see what was written last.
    pub const CONSISTENT_READ: Perm = Perm(1);
    /// Changes what a read returns.
    pub const WRITE: Perm = Perm(2);
    /// Writes that change no byte (populate).
    pub const WRITE_UNCHANGED: Perm = Perm(4);
    /// Changes the length.
    pub const RESIZE: Perm = Perm(8);
    /// All of them.
    pub const ALL: Perm = Perm(15);

    /// Whether all of `other` are in `self`.
    pub fn contains(self, other: Perm) -> bool {
        self & other == other
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self == Perm::NONE
    }

    /// The bits, in the order in which image locks number them.
    pub fn bits(self) -> u8 {
        self.0
    }
}

impl BitOr for Perm {
    type Output = Perm;
    fn bitor(self, other: Perm) -> Perm {
        Perm(self.0 | other.0)
    }
}

impl BitAnd for Perm {
    type Output = Perm;
    fn bitand(self, other: Perm) -> Perm {
        Perm(self.0 & other.0)
    }
}

impl Not for Perm {
    type Output = Perm;
    fn not(self) -> Perm {
        Perm(!self.0 & Perm::ALL.0)
    }
}

impl fmt::Display for Perm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Perm::CONSISTENT_READ, "consistent read"),
            (Perm::WRITE, "write"),
            (Perm::WRITE_UNCHANGED, "write unchanged"),
            (Perm::RESIZE, "resize"),
        ];
        let mut separator = "";
        for (_, name) in names.iter().filter(|(perm, _)| self.contains(*perm)) {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl fmt::Debug for Perm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Perm({self})")
    }
}

/// What one parent wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// What the parent does.
    pub need: Perm,
    /// What it lets others do at the same time.
    pub share: Perm,
    /// What it does besides, where nobody in this graph can see it: what a commit writes to a base
    /// image is what the images above it read as already. Only other processes must allow it.
    pub unseen: Perm,
}

impl Use {
    /// What a user that only looks needs: nothing, and it keeps nobody out.
    pub const NOTHING: Use = Use {
        need: Perm::NONE,
        share: Perm::ALL,
        unseen: Perm::NONE,
    };

    /// A commit on its base: the images above read as before.
    pub(crate) const COMMIT_BASE: Use = Use {
        need: Perm(Perm::CONSISTENT_READ.0 | Perm::WRITE_UNCHANGED.0),
        share: Perm::ALL,
        unseen: Perm(Perm::WRITE.0 | Perm::RESIZE.0),
    };

    /// As other processes see it.
    pub(crate) fn outside(self) -> Use {
        Use {
            need: self.need | self.unseen,
            unseen: Perm::NONE,
            ..self
        }
    }

    /// A guest device, job or export on a root node: others may do the same.
    pub fn backend(read_only: bool) -> Use {
        let need = if read_only {
            Perm::CONSISTENT_READ
        } else {
            Perm::CONSISTENT_READ | Perm::WRITE
        };
        Use {
            need,
            ..Use::NOTHING
        }
    }
}

/// What a child is to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A format's file: data and metadata.
    Image,
    /// A format's file that holds guest data only.
    Data,
    /// A filter's child.
    Filtered,
    /// The backing file.
    Cow,
}

impl Role {
    /// What a parent in use as `parent` asks of a child in this role.
    pub fn child_use(self, parent: Use, parent_read_only: bool) -> Use {
        let writes = !parent_read_only;
        match self {
            Role::Filtered => parent,
            Role::Image | Role::Data => {
                let need = if writes {
                    Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE
                } else {
                    Perm::CONSISTENT_READ
                };
                // Nobody else may change what this format's tables describe.
                Use {
                    need,
                    share: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
                    unseen: Perm::NONE,
                }
            }
            // Nobody reads through: what is below may change, as it does when a commit has led the
            // users of the image above down to the one below.
            Role::Cow if parent == Use::NOTHING => Use::NOTHING,
            Role::Cow => Use {
                need: Perm::CONSISTENT_READ,
                share: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
                unseen: Perm::NONE,
            },
        }
    }
}

/// Whether `a` and `b` can use a node at the same time; else the permissions in the way.
pub fn conflict(a: Use, b: Use) -> Option<Perm> {
    let refused = (a.need & !b.share) | (b.need & !a.share);
    (!refused.is_empty()).then_some(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writing_formats_exclude_each_other() {
        let format = Role::Image.child_use(Use::backend(false), false);
        assert_eq!(conflict(format, format), Some(Perm::WRITE | Perm::RESIZE));
        let reader = Role::Image.child_use(Use::backend(true), true);
        assert_eq!(conflict(reader, reader), None);
        assert_eq!(conflict(format, reader), Some(Perm::WRITE | Perm::RESIZE));
    }

    #[test]
    fn a_commit_writes_below_those_who_read_through() {
        let below = Role::Cow.child_use(Use::backend(false), false);
        assert_eq!(conflict(Use::COMMIT_BASE, below), None);
        assert_eq!(conflict(Use::backend(false), below), Some(Perm::WRITE));
        assert!(Use::COMMIT_BASE.outside().need.contains(Perm::WRITE));
    }

    #[test]
    fn an_overlay_that_nobody_uses_keeps_nobody_out() {
        let below = Role::Cow.child_use(Use::NOTHING, false);
        assert_eq!(conflict(Use::backend(false), below), None);
    }

    #[test]
    fn exports_share_a_node() {
        assert_eq!(conflict(Use::backend(false), Use::backend(false)), None);
    }
}
