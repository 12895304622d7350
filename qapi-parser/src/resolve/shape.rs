//! What members an object type has, kept so that a type's check costs what it adds.

use std::collections::HashSet;
use std::rc::Rc;

use indexmap::IndexMap;

use crate::check::name::Key;
use crate::resolve::Part;
use crate::schema::Member;

/// The members of an object type.
#[derive(Debug, Default)]
pub(super) struct Shape<'a> {
    /// What the base has.
    pub(super) base: Option<Rc<Shape<'a>>>,
    /// Own members, by the name under which they would clash.
    pub(super) own: IndexMap<Key<'a>, (Part<'a>, &'a Member)>,
    /// What the branches have, of a union.
    pub(super) branches: Vec<Rc<Shape<'a>>>,
    /// Whether a member is there under a condition only.
    pub(super) conditional: bool,
}

impl<'a> Shape<'a> {
    /// The member that every value of the type has under `key`.
    pub(super) fn get(&self, key: Key<'a>) -> Option<&(Part<'a>, &'a Member)> {
        let mut at = Some(self);
        while let Some(shape) = at {
            if let Some(found) = shape.own.get(&key) {
                return Some(found);
            }
            at = shape.base.as_deref();
        }
        None
    }

    /// The first member, of the type or a branch, that `other` has too, with that one's.
    pub(super) fn first_in(&self, other: &Shape<'a>) -> Option<(Part<'a>, Part<'a>)> {
        self.search(other, &mut HashSet::new())
    }

    /// Branches may share types, so each is looked at once.
    fn search(
        &self,
        other: &Shape<'a>,
        visited: &mut HashSet<*const Shape<'a>>,
    ) -> Option<(Part<'a>, Part<'a>)> {
        if !visited.insert(std::ptr::from_ref(self)) {
            return None;
        }
        let inherited = self
            .base
            .as_ref()
            .and_then(|base| base.search(other, visited));
        inherited
            .or_else(|| {
                let mut own = self.own.iter();
                own.find_map(|(key, (part, _))| Some((*part, other.get(*key)?.0)))
            })
            .or_else(|| {
                let mut branches = self.branches.iter();
                branches.find_map(|branch| branch.search(other, visited))
            })
    }
}
