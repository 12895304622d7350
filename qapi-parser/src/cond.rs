//! `if`: when a definition, member, value or feature is there, as a small tree over symbols.
//! Built by `check.rs`; generators keep it, or decide it with [`Schema::configured`].
//! Invariant: a condition that was not written is [`Cond::Always`].

use crate::schema::{Arguments, Base, Branch, Doc, Entity, Feature, Kind, Member, Schema};

/// When something is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Cond {
    /// Without condition.
    #[default]
    Always,
    /// When the symbol is configured.
    Symbol(String),
    /// When the other does not hold.
    Not(Box<Cond>),
    /// When all hold.
    All(Vec<Cond>),
    /// When one holds.
    Any(Vec<Cond>),
}

impl Cond {
    /// Whether nothing was asked.
    pub fn is_always(&self) -> bool {
        *self == Self::Always
    }

    /// Whether it holds where `is_set` says which symbols are configured.
    pub fn holds(&self, is_set: &impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Always => true,
            Self::Symbol(symbol) => is_set(symbol),
            Self::Not(cond) => !cond.holds(is_set),
            Self::All(conds) => conds.iter().all(|cond| cond.holds(is_set)),
            Self::Any(conds) => conds.iter().any(|cond| cond.holds(is_set)),
        }
    }

    /// Calls `each` for every symbol in it, in the order written.
    pub fn symbols<'a>(&'a self, each: &mut impl FnMut(&'a str)) {
        match self {
            Self::Always => {}
            Self::Symbol(symbol) => each(symbol),
            Self::Not(cond) => cond.symbols(each),
            Self::All(conds) | Self::Any(conds) => {
                for cond in conds {
                    cond.symbols(each);
                }
            }
        }
    }
}

impl Schema {
    /// What is left of it where `is_set` says which symbols are configured: no condition is left,
    /// and nothing whose condition does not hold, its documentation included. A branch goes with
    /// the value that chooses it.
    #[must_use]
    pub fn configured(&self, is_set: &impl Fn(&str) -> bool) -> Self {
        let mut schema = self.clone();
        schema
            .entities
            .retain(|_, entity| settle(&mut entity.cond, is_set));
        for entity in schema.entities.values_mut() {
            configure(entity, is_set);
        }
        let values = |name: &str| match &schema.get(name)?.kind {
            Kind::Enum(values) => Some(values.names().map(str::to_owned).collect::<Vec<_>>()),
            _ => None,
        };
        let mut left: Vec<(String, Vec<String>)> = Vec::new();
        for entity in schema.entities.values() {
            if let Kind::FlatUnion(union) = &entity.kind {
                left.extend(values(&union.tag).map(|values| (entity.name.clone(), values)));
            }
        }
        for (name, values) in left {
            if let Some(Entity {
                kind: Kind::FlatUnion(union),
                ..
            }) = schema.entities.get_mut(&name)
            {
                union
                    .branches
                    .retain(|branch| values.contains(&branch.name));
            }
        }
        schema
    }

    /// Calls `each` for every condition in it, in schema order.
    pub fn conditions<'a>(&'a self, each: &mut impl FnMut(&'a Cond)) {
        for entity in self.entities.values() {
            each(&entity.cond);
            features(&entity.features, each);
            match &entity.kind {
                Kind::Enum(values) => {
                    for value in &values.values {
                        each(&value.cond);
                        features(&value.features, each);
                    }
                }
                Kind::Struct(structure) => members(&structure.members, each),
                Kind::FlatUnion(union) => {
                    if let Base::Inline(list) = &union.base {
                        members(list, each);
                    }
                    branches(&union.branches, each);
                }
                Kind::SimpleUnion(union) => branches(&union.branches, each),
                Kind::Alternate(alternate) => branches(&alternate.branches, each),
                Kind::Command(command) => arguments(&command.arguments, each),
                Kind::Event(event) => arguments(&event.data, each),
            }
        }
    }
}

fn features<'a>(list: &'a [Feature], each: &mut impl FnMut(&'a Cond)) {
    list.iter().for_each(|feature| each(&feature.cond));
}

fn branches<'a>(list: &'a [Branch], each: &mut impl FnMut(&'a Cond)) {
    list.iter().for_each(|branch| each(&branch.cond));
}

fn members<'a>(list: &'a [Member], each: &mut impl FnMut(&'a Cond)) {
    for member in list {
        each(&member.cond);
        features(&member.features, each);
    }
}

fn arguments<'a>(list: &'a Arguments, each: &mut impl FnMut(&'a Cond)) {
    if let Arguments::Members(list) = list {
        members(list, each);
    }
}

/// Decides `cond`: true when it holds, and then nothing is left of it.
fn settle(cond: &mut Cond, is_set: &impl Fn(&str) -> bool) -> bool {
    std::mem::take(cond).holds(is_set)
}

/// Decides the conditions inside `entity`.
fn configure(entity: &mut Entity, is_set: &impl Fn(&str) -> bool) {
    let Entity {
        features,
        doc,
        kind,
        ..
    } = entity;
    keep_features(features, doc, is_set);
    let keep_members = |list: &mut Vec<Member>, doc: &mut Doc| {
        list.retain_mut(|member| {
            let holds = settle(&mut member.cond, is_set);
            forget(doc, &member.name, holds);
            holds
        });
        for member in list {
            member
                .features
                .retain_mut(|feature| settle(&mut feature.cond, is_set));
        }
    };
    let keep_branches = |list: &mut Vec<Branch>, doc: &mut Doc| {
        list.retain_mut(|branch| {
            let holds = settle(&mut branch.cond, is_set);
            forget(doc, &branch.name, holds);
            holds
        });
    };
    match kind {
        Kind::Enum(values) => {
            values.values.retain_mut(|value| {
                let holds = settle(&mut value.cond, is_set);
                forget(doc, &value.name, holds);
                holds
            });
            for value in &mut values.values {
                value
                    .features
                    .retain_mut(|feature| settle(&mut feature.cond, is_set));
            }
        }
        Kind::Struct(structure) => keep_members(&mut structure.members, doc),
        Kind::FlatUnion(union) => {
            if let Base::Inline(list) = &mut union.base {
                keep_members(list, doc);
            }
            keep_branches(&mut union.branches, doc);
        }
        Kind::SimpleUnion(union) => keep_branches(&mut union.branches, doc),
        Kind::Alternate(alternate) => keep_branches(&mut alternate.branches, doc),
        Kind::Command(command) => {
            if let Arguments::Members(list) = &mut command.arguments {
                keep_members(list, doc);
            }
        }
        Kind::Event(event) => {
            if let Arguments::Members(list) = &mut event.data {
                keep_members(list, doc);
            }
        }
    }
}

fn keep_features(list: &mut Vec<Feature>, doc: &mut Doc, is_set: &impl Fn(&str) -> bool) {
    list.retain_mut(|feature| {
        let holds = settle(&mut feature.cond, is_set);
        if !holds {
            doc.features.shift_remove(&feature.name);
        }
        holds
    });
}

fn forget(doc: &mut Doc, name: &str, holds: bool) {
    if !holds {
        doc.members.shift_remove(name);
    }
}
