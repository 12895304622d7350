//! What emitters must know about the schema as a whole: where recursion is broken.
//! Called by `lib.rs` before anything is emitted.
//! Invariant: with the boxes of a [`Plan`] every type has a finite size, and no box can be left
//! out; the choice depends on the schema alone. Where types hold each other in a small knot, as
//! they do in any schema that people wrote, there is no choice with fewer boxes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use qapi_parser::{Kind, Schema, Type};

/// A place where a type holds another by value: owner, and member or branch.
pub(crate) type Place = (String, String);

/// Decisions about a schema.
pub(crate) struct Plan {
    boxes: HashSet<Place>,
    /// Types that stand in a box somewhere.
    boxed: HashSet<String>,
}

struct Edge {
    from: usize,
    to: usize,
    place: Place,
    /// Branches are boxed rather than members: fewer users see it.
    branch: bool,
}

/// Sets of places that are tried for one knot before the choice is made place by place.
const MAX_TRIALS: usize = 20_000;

impl Plan {
    pub(crate) fn new(schema: &Schema) -> Self {
        let names: Vec<&String> = schema.entities.keys().collect();
        let nodes = names.iter().enumerate();
        let nodes: HashMap<&str, usize> =
            nodes.map(|(index, name)| (name.as_str(), index)).collect();
        let edges = edges(schema, &nodes);
        let boxes: HashSet<Place> = knots(names.len(), &edges)
            .iter()
            .flat_map(|knot| fewest(knot))
            .cloned()
            .collect();
        let boxed = edges.iter().filter(|edge| boxes.contains(&edge.place));
        let boxed = boxed.map(|edge| names[edge.to].clone()).collect();
        Self { boxes, boxed }
    }

    /// Whether member or branch `member` of `owner` is boxed.
    pub(crate) fn is_boxed(&self, owner: &str, member: &str) -> bool {
        self.boxes.contains(&(owner.to_owned(), member.to_owned()))
    }

    /// Whether type `name` stands in a box somewhere.
    pub(crate) fn has_box_of(&self, name: &str) -> bool {
        self.boxed.contains(name)
    }
}

/// The edges that lie on cycles, those together that share a strongly connected component or a
/// place: what is boxed in one knot does not matter to another.
fn knots(nodes: usize, edges: &[Edge]) -> Vec<Vec<&Edge>> {
    let component = components(nodes, edges);
    let mut knots: BTreeMap<usize, Vec<&Edge>> = BTreeMap::new();
    for edge in edges {
        if component[edge.from] == component[edge.to] {
            knots.entry(component[edge.from]).or_default().push(edge);
        }
    }
    let mut joined: Vec<(BTreeSet<&Place>, Vec<&Edge>)> = Vec::new();
    for knot in knots.into_values() {
        let places: BTreeSet<&Place> = knot.iter().map(|edge| &edge.place).collect();
        let (with, mut apart): (Vec<_>, Vec<_>) = joined
            .into_iter()
            .partition(|(others, _)| !others.is_disjoint(&places));
        let mut all = (places, knot);
        for (places, edges) in with {
            all.0.extend(places);
            all.1.extend(edges);
        }
        apart.push(all);
        joined = apart;
    }
    joined.into_iter().map(|(_, edges)| edges).collect()
}

/// The number of each node's strongly connected component, by Tarjan's algorithm without recursion.
fn components(nodes: usize, edges: &[Edge]) -> Vec<usize> {
    const NONE: usize = usize::MAX;
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for edge in edges {
        next[edge.from].push(edge.to);
    }
    let (mut order, mut low) = (vec![NONE; nodes], vec![NONE; nodes]);
    let mut component = vec![NONE; nodes];
    let (mut seen, mut count) = (0, 0);
    let mut open = Vec::new();
    for root in 0..nodes {
        let mut work = vec![(root, 0)];
        while let Some((node, child)) = work.pop() {
            if child == 0 {
                if order[node] != NONE {
                    continue;
                }
                (order[node], low[node]) = (seen, seen);
                seen += 1;
                open.push(node);
            } else {
                // Back from a child that was just finished.
                let last = next[node][child - 1];
                low[node] = low[node].min(low[last]);
            }
            let rest = next[node].iter().enumerate().skip(child);
            let mut down = None;
            for (at, &to) in rest {
                if order[to] == NONE {
                    down = Some((at, to));
                    break;
                }
                if component[to] == NONE {
                    low[node] = low[node].min(order[to]);
                }
            }
            if let Some((at, to)) = down {
                work.push((node, at + 1));
                work.push((to, 0));
            } else if low[node] == order[node] {
                while let Some(member) = open.pop() {
                    component[member] = count;
                    if member == node {
                        break;
                    }
                }
                count += 1;
            }
        }
    }
    component
}

/// The fewest places without which `knot` has no cycle; branches before members, then the first
/// in the schema.
fn fewest<'e>(knot: &[&'e Edge]) -> Vec<&'e Place> {
    let knot = Knot::new(knot);
    let all = knot.places.len();
    let mut trials = 0;
    for size in 0..=all {
        let mut chosen: Vec<usize> = (0..size).collect();
        loop {
            if !knot.has_cycle(&chosen) {
                return knot.named(&chosen);
            }
            trials += 1;
            if trials > MAX_TRIALS {
                return knot.named(&knot.enough());
            }
            if !advance(&mut chosen, all) {
                break;
            }
        }
    }
    knot.places
}

/// Types that hold each other, by numbers of their own.
struct Knot<'e> {
    nodes: usize,
    /// Branches first.
    places: Vec<&'e Place>,
    /// From, to, and at which place.
    edges: Vec<(usize, usize, usize)>,
}

impl<'e> Knot<'e> {
    fn new(edges: &[&'e Edge]) -> Self {
        let mut places: Vec<&Place> = Vec::new();
        for branches in [true, false] {
            for edge in edges.iter().filter(|edge| edge.branch == branches) {
                if !places.contains(&&edge.place) {
                    places.push(&edge.place);
                }
            }
        }
        let mut nodes: HashMap<usize, usize> = HashMap::new();
        let mut number = |node| {
            let next = nodes.len();
            *nodes.entry(node).or_insert(next)
        };
        let edges = edges.iter().map(|edge| {
            let place = places.iter().position(|place| **place == edge.place);
            (
                number(edge.from),
                number(edge.to),
                place.unwrap_or_default(),
            )
        });
        let edges = edges.collect();
        Self {
            nodes: nodes.len(),
            places,
            edges,
        }
    }

    fn named(&self, places: &[usize]) -> Vec<&'e Place> {
        places.iter().map(|&at| self.places[at]).collect()
    }

    /// Whether a cycle is left when the edges at places `without` are gone: whether, when nodes that
    /// nobody holds are taken away again and again, some stay.
    fn has_cycle(&self, without: &[usize]) -> bool {
        let kept = || {
            let edges = self.edges.iter();
            edges.filter(|(.., place)| !without.contains(place))
        };
        let mut gone = vec![false; self.nodes];
        loop {
            let mut held = vec![false; self.nodes];
            for &(from, to, _) in kept() {
                held[to] |= !gone[from];
            }
            let mut changed = false;
            for (gone, held) in gone.iter_mut().zip(held) {
                changed |= !held && !*gone;
                *gone = !held;
            }
            if !changed {
                return gone.contains(&false);
            }
        }
    }

    /// Some places without which there is no cycle, and none of which can be left out.
    fn enough(&self) -> Vec<usize> {
        let mut kept: Vec<usize> = (0..self.places.len()).collect();
        for place in (0..self.places.len()).rev() {
            let fewer: Vec<usize> = kept.iter().copied().filter(|&at| at != place).collect();
            if !self.has_cycle(&fewer) {
                kept = fewer;
            }
        }
        kept
    }
}

/// The next choice of as many numbers below `len`; false after the last one.
fn advance(chosen: &mut [usize], len: usize) -> bool {
    let size = chosen.len();
    let Some(at) = (0..size).rev().find(|&at| chosen[at] + size - at < len) else {
        return false;
    };
    let first = chosen[at] + 1;
    for (value, place) in (first..).zip(&mut chosen[at..]) {
        *place = value;
    }
    true
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Edges between types `0..`: a small letter is a member, a capital one a branch.
    fn edges_of(edges: &[(usize, usize, char)]) -> Vec<Edge> {
        let edge = |&(from, to, place): &(usize, usize, char)| Edge {
            from,
            to,
            place: (String::new(), place.to_string()),
            branch: place.is_ascii_uppercase(),
        };
        edges.iter().map(edge).collect()
    }

    /// The boxes that types which hold each other need.
    #[track_caller]
    fn check(edges: &[(usize, usize, char)], want: &[char]) {
        let edges = edges_of(edges);
        let mut got: Vec<String> = knots(10, &edges)
            .iter()
            .flat_map(|knot| fewest(knot))
            .map(|(_, name)| name.clone())
            .collect();
        got.sort();
        let want: Vec<String> = want.iter().map(char::to_string).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn what_holds_itself_is_boxed_and_nothing_else() {
        check(&[(0, 1, 'a'), (1, 2, 'b')], &[]);
        check(&[(0, 0, 'a'), (0, 1, 'b')], &['a']);
        check(&[(0, 1, 'a'), (1, 2, 'b'), (2, 0, 'c')], &['a']);
    }

    #[test]
    fn branches_are_boxed_rather_than_members() {
        check(&[(0, 1, 'a'), (1, 0, 'B')], &['B']);
    }

    #[test]
    fn one_box_serves_cycles_that_cross() {
        // Two cycles share c; a choice of the first place on each would take two.
        check(
            &[(0, 1, 'a'), (1, 2, 'c'), (2, 0, 'b'), (2, 1, 'd')],
            &['c'],
        );
        // The same member of a base, in two types.
        check(&[(0, 0, 'a'), (1, 1, 'a'), (1, 0, 'b')], &['a']);
    }

    #[test]
    fn a_large_knot_is_cut_in_bounded_time() {
        let letters: Vec<char> = ('a'..='z').chain('A'..='Z').collect();
        let mut edges = Vec::new();
        for (index, &place) in letters.iter().enumerate() {
            edges.push((index % 9, (index * 7 + 1) % 9, place));
        }
        let edges = edges_of(&edges);
        for edges in knots(10, &edges) {
            let knot = Knot::new(&edges);
            let boxes = knot.enough();
            assert!(!knot.has_cycle(&boxes));
            for left_out in &boxes {
                let fewer: Vec<_> = boxes.iter().copied().filter(|at| at != left_out).collect();
                assert!(knot.has_cycle(&fewer), "{left_out:?}");
            }
            assert!(fewest(&edges).len() <= boxes.len());
        }
    }
}
