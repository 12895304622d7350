//! Random values by a schema.
//! Invariant: what is drawn is what encoding gives back: floats have a fraction that JSON text
//! keeps, unsigned members are not negative.

use std::collections::HashMap;

use qapi_parser::{Branch, Builtin, Entity, Kind, Schema, Type};
use serde_json::{Map, Value, json};

use crate::shape;

/// How deep values nest before they end as soon as they may.
const BUDGET: u32 = 5;

/// Draws values; splitmix64 from a seed.
pub(crate) struct Draw<'a> {
    pub(crate) schema: &'a Schema,
    state: u64,
    /// How deep the shortest value of each definition nests.
    depth: HashMap<&'a str, u32>,
}

impl<'a> Draw<'a> {
    pub(crate) fn new(schema: &'a Schema, seed: u64) -> Self {
        let mut draw = Self {
            schema,
            state: seed,
            depth: HashMap::new(),
        };
        draw.measure();
        draw
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.bits() % end).unwrap()
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// A value of definition `name`: of a command its arguments, of an event its data. Nothing,
    /// where no value ever ends.
    pub(crate) fn definition(&mut self, name: &str) -> Option<Value> {
        let entity = self.schema.get(name)?;
        if shape::is_untyped(entity) {
            return Some(Value::Object(self.any_object(2)));
        }
        let entity = shape::stands_for(self.schema, entity);
        self.shortest(entity)?;
        Some(self.entity(entity, BUDGET))
    }

    fn entity(&mut self, entity: &'a Entity, budget: u32) -> Value {
        match &entity.kind {
            Kind::Enum(values) => {
                let names: Vec<&str> = values.names().collect();
                json!(self.pick(&names))
            }
            Kind::Alternate(alternate) => {
                let branches = self.affordable(&alternate.branches, budget);
                let branch = self.pick(&branches);
                self.ty(&branch.ty, budget)
            }
            _ => {
                let mut object = Map::new();
                self.members(entity, budget, &mut object);
                Value::Object(object)
            }
        }
    }

    fn members(&mut self, entity: &'a Entity, budget: u32, out: &mut Map<String, Value>) {
        let schema = self.schema;
        for member in shape::members(schema, entity) {
            let ends = self.known(&member.ty).is_some();
            if !member.optional || (ends && budget > 0 && self.coin()) {
                let value = self.ty(&member.ty, budget.saturating_sub(1));
                out.insert(member.name.clone(), value);
            }
        }
        match &entity.kind {
            Kind::FlatUnion(union) => {
                let mut branches = shape::branches(schema, union);
                let depth = |ty: &Option<&Type>| ty.map_or(0, |ty| self.depth(ty));
                let most = match branches.iter().map(|(_, ty)| depth(ty)).min() {
                    Some(least) if budget == 0 => least,
                    _ => u32::MAX - 1,
                };
                branches.retain(|(_, ty)| depth(ty) <= most);
                let (name, branch) = self.pick(&branches);
                out.insert(union.discriminator.clone(), json!(name));
                if let Some(branch) = branch.and_then(|ty| shape::named(schema, ty)) {
                    self.members(branch, budget, out);
                }
            }
            Kind::SimpleUnion(union) => {
                let branches = self.affordable(&union.branches, budget);
                let branch = self.pick(&branches);
                out.insert("type".to_owned(), json!(branch.name));
                let data = self.ty(&branch.ty, budget.saturating_sub(1));
                out.insert("data".to_owned(), data);
            }
            _ => {}
        }
    }

    /// All branches that end, or, where the budget is spent, those that end soonest.
    fn affordable(&self, branches: &'a [Branch], budget: u32) -> Vec<&'a Branch> {
        let depth = |branch: &Branch| self.depth(&branch.ty);
        let most = match branches.iter().map(depth).min() {
            Some(least) if budget == 0 => least,
            _ => u32::MAX - 1,
        };
        let fits = |branch: &&Branch| depth(branch) <= most;
        branches.iter().filter(fits).collect()
    }

    fn ty(&mut self, ty: &'a Type, budget: u32) -> Value {
        match ty {
            Type::Builtin(builtin) => self.builtin(*builtin),
            Type::List(element) => {
                let ends = self.known(element).is_some();
                let count = if budget == 0 || !ends {
                    0
                } else {
                    self.below(4)
                };
                let item = |_| self.ty(element, budget.saturating_sub(1));
                Value::Array((0..count).map(item).collect())
            }
            Type::Named(name) => match self.schema.get(name) {
                Some(entity) => self.entity(entity, budget),
                None => self.any(2),
            },
        }
    }

    fn builtin(&mut self, builtin: Builtin) -> Value {
        match builtin {
            Builtin::Str => json!(self.text()),
            Builtin::Int | Builtin::Int64 => json!(self.signed(64)),
            Builtin::Int8 => json!(self.signed(8)),
            Builtin::Int16 => json!(self.signed(16)),
            Builtin::Int32 => json!(self.signed(32)),
            Builtin::Uint8 => json!(self.unsigned(8)),
            Builtin::Uint16 => json!(self.unsigned(16)),
            Builtin::Uint32 => json!(self.unsigned(32)),
            Builtin::Uint64 | Builtin::Size => json!(self.unsigned(64)),
            Builtin::Number => json!(self.fraction()),
            Builtin::Bool => json!(self.coin()),
            Builtin::Null => Value::Null,
            Builtin::Any => self.any(2),
            Builtin::QType => json!(self.pick(&["none", "qnull", "qnum", "qstring", "qdict"])),
        }
    }

    fn signed(&mut self, bits: u32) -> i64 {
        let all = self.bits().cast_signed() >> (64 - bits);
        let most = i64::MAX >> (64 - bits);
        self.pick(&[0, 1, -1, most, -most - 1, all])
    }

    fn unsigned(&mut self, bits: u32) -> u64 {
        let all = self.bits() >> (64 - bits);
        let most = u64::MAX >> (64 - bits);
        self.pick(&[0, 1, most, most / 2 + 1, all])
    }

    fn fraction(&mut self) -> f64 {
        let eighths = i32::try_from(self.below(1 << 20)).unwrap() - (1 << 19);
        f64::from(eighths) / 8.0
    }

    fn text(&mut self) -> String {
        let parts = [
            "",
            "a",
            "disk.qcow2",
            "\"",
            "\\",
            "/",
            "\n",
            "\u{1}",
            "\u{7f}",
            "ä",
            "€",
            "𝄞",
            " ",
        ];
        (0..self.below(4)).map(|_| self.pick(&parts)).collect()
    }

    fn any(&mut self, budget: u32) -> Value {
        match self.below(if budget == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.coin()),
            2 => json!(self.signed(64)),
            3 => json!(self.unsigned(64)),
            4 => json!(self.fraction()),
            5 => json!(self.text()),
            6 => (0..self.below(3)).map(|_| self.any(budget - 1)).collect(),
            _ => Value::Object(self.any_object(budget - 1)),
        }
    }

    fn any_object(&mut self, budget: u32) -> Map<String, Value> {
        let mut object = Map::new();
        for _ in 0..self.below(4) {
            object.insert(self.text(), self.any(budget));
        }
        object
    }

    /// Fills in `depth`: of what contains itself, by going round until nothing changes.
    fn measure(&mut self) {
        let schema = self.schema;
        loop {
            let before: u64 = self.depth.values().map(|depth| u64::from(*depth)).sum();
            let known = self.depth.len();
            for entity in schema.entities.values() {
                if let Some(depth) = self.shortest(entity) {
                    self.depth.insert(&entity.name, depth);
                }
            }
            let after: u64 = self.depth.values().map(|depth| u64::from(*depth)).sum();
            if (before, known) == (after, self.depth.len()) {
                break;
            }
        }
    }

    fn depth(&self, ty: &Type) -> u32 {
        self.known(ty).unwrap_or(u32::MAX)
    }

    /// How deep the shortest value of `ty` nests, as far as is known.
    fn known(&self, ty: &Type) -> Option<u32> {
        match ty {
            Type::Builtin(_) | Type::List(_) => Some(0),
            Type::Named(name) if self.schema.get(name).is_none() => Some(0),
            Type::Named(name) => self.depth.get(name.as_str()).copied(),
        }
    }

    fn shortest(&self, entity: &Entity) -> Option<u32> {
        let mut depth = 0;
        for member in shape::members(self.schema, entity) {
            if !member.optional {
                depth = depth.max(self.known(&member.ty)? + 1);
            }
        }
        let least = |branches: &[Branch]| {
            let known = branches.iter().filter_map(|branch| self.known(&branch.ty));
            known.min()
        };
        Some(match &entity.kind {
            Kind::FlatUnion(union) => {
                let branches = shape::branches(self.schema, union);
                let known =
                    |(_, ty): &(&str, Option<&Type>)| ty.map_or(Some(0), |ty| self.known(ty));
                depth.max(branches.iter().filter_map(known).min()?)
            }
            Kind::SimpleUnion(union) => depth.max(least(&union.branches)? + 1),
            Kind::Alternate(alternate) => least(&alternate.branches)?,
            Kind::Enum(values) if values.values.is_empty() => return None,
            _ => depth,
        })
    }
}
