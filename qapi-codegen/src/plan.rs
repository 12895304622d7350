//! What emitters must know about the schema as a whole: where recursion is broken.
//! Called by `lib.rs` before anything is emitted.
//! Invariant: with the boxes of a [`Plan`] every type has a finite size, and no box can be left
//! out; the choice depends on the schema alone.

use std::collections::{HashMap, HashSet};

use qapi_parser::{Kind, Schema, Type};

/// A place where a type holds another by value: owner, and member or branch.
pub(crate) type Place = (String, String);

/// Decisions about a schema.
pub(crate) struct Plan {
    boxes: HashSet<Place>,
}

struct Edge {
    from: usize,
    to: usize,
    place: Place,
    /// Branches are boxed rather than members: fewer users see it.
    branch: bool,
}

impl Plan {
    pub(crate) fn new(schema: &Schema) -> Self {
        let nodes: HashMap<&str, usize> = schema
            .entities
            .keys()
            .enumerate()
            .map(|(index, name)| (name.as_str(), index))
            .collect();
        let mut edges = edges(schema, &nodes);
        let mut boxes = HashSet::new();
        // One edge at a time: the one without which the fewest edges still lie on a cycle.
        loop {
            let cyclic = cyclic_edges(nodes.len(), &edges, None);
            let best = cyclic.iter().copied().min_by_key(|&candidate| {
                let left = cyclic_edges(nodes.len(), &edges, Some(candidate)).len();
                (left, !edges[candidate].branch, candidate)
            });
            let Some(best) = best else { break };
            let place = edges[best].place.clone();
            edges.retain(|edge| edge.place != place);
            boxes.insert(place);
        }
        Self { boxes }
    }

    /// Whether member or branch `member` of `owner` is boxed.
    pub(crate) fn is_boxed(&self, owner: &str, member: &str) -> bool {
        self.boxes.contains(&(owner.to_owned(), member.to_owned()))
    }
}

fn edges(schema: &Schema, nodes: &HashMap<&str, usize>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (from, entity) in schema.entities.values().enumerate() {
        let mut add = |owner: &str, name: &str, ty: &Type, branch: bool| {
            if let Type::Named(target) = ty
                && let Some(&to) = nodes.get(target.as_str())
            {
                edges.push(Edge {
                    from,
                    to,
                    place: (owner.to_owned(), name.to_owned()),
                    branch,
                });
            }
        };
        // Members of a base are members of whoever has that base: boxed there, boxed everywhere.
        let mut add_members = |name: &str| {
            for (member, owner) in schema.members(name) {
                add(&owner.name, &member.name, &member.ty, false);
            }
        };
        let branches = match &entity.kind {
            Kind::Struct(_) => {
                add_members(&entity.name);
                continue;
            }
            Kind::FlatUnion(union) => {
                for (member, owner) in schema.base_members(entity, union) {
                    add(&owner.name, &member.name, &member.ty, false);
                }
                &union.branches
            }
            Kind::SimpleUnion(union) => {
                if let Some(base) = &union.base {
                    add_members(base);
                }
                &union.branches
            }
            Kind::Alternate(alternate) => &alternate.branches,
            Kind::Enum(_) | Kind::Command(_) | Kind::Event(_) => continue,
        };
        for branch in branches {
            add(&entity.name, &branch.name, &branch.ty, true);
        }
    }
    edges
}

/// Numbers of the edges that lie on a cycle, when edge `without` (and those of its place) is gone.
fn cyclic_edges(nodes: usize, edges: &[Edge], without: Option<usize>) -> Vec<usize> {
    let gone = without.map(|index| &edges[index].place);
    let kept = |edge: &&Edge| Some(&edge.place) != gone;
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for edge in edges.iter().filter(kept) {
        next[edge.from].push(edge.to);
    }
    // An edge lies on a cycle when its end reaches its start.
    let reaches = |from: usize, to: usize| {
        let mut seen = vec![false; nodes];
        let mut work = vec![from];
        while let Some(node) = work.pop() {
            if node == to {
                return true;
            }
            if !std::mem::replace(&mut seen[node], true) {
                work.extend(next[node].iter().copied());
            }
        }
        false
    };
    let on_cycle = |(index, edge): (usize, &Edge)| {
        (kept(&edge) && reaches(edge.to, edge.from)).then_some(index)
    };
    edges.iter().enumerate().filter_map(on_cycle).collect()
}
