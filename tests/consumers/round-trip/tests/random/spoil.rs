//! One thing wrong with a value that was right.

use qapi_parser::{Builtin, Entity, Kind, Schema, Type};
use serde_json::{Value, json};

use crate::draw::Draw;
use crate::shape;

/// A member that no schema has.
const STRANGER: &str = "x-stranger";

/// A value that must be refused.
pub(crate) struct Spoilt {
    pub(crate) value: Value,
    /// Where it was spoilt, as errors name it.
    pub(crate) path: String,
    /// The last name of the path, which every text has.
    pub(crate) last: String,
}

/// A place in a value.
#[derive(Clone)]
struct Site<'a> {
    steps: Vec<Step>,
    what: What<'a>,
}

#[derive(Clone)]
enum Step {
    Member(String),
    Index(usize),
}

#[derive(Clone)]
enum What<'a> {
    /// A value of this type.
    Typed(&'a Type),
    /// A string of an enum.
    Name,
    /// An integer that must fit this.
    Narrow(Value),
    /// A member of an object, which must be there.
    Required(String),
    /// An object.
    Object,
}

/// Spoils one place of a value of definition `name`; nothing where none can be.
pub(crate) fn spoil(draw: &mut Draw<'_>, name: &str, mut value: Value) -> Option<Spoilt> {
    let sites = sites(draw.schema, name, &value);
    if sites.is_empty() {
        return None;
    }
    let Site { mut steps, what } = draw.pick(&sites);
    let wrong: Vec<Value> = match &what {
        What::Typed(ty) => {
            let all = [
                json!(null),
                json!(true),
                json!(7),
                json!(1.5),
                json!("y-no-name"),
                json!([]),
                json!({}),
            ];
            let taken = |value: &Value| shape::takes(draw.schema, ty, value);
            all.into_iter().filter(|value| !taken(value)).collect()
        }
        What::Name => vec![json!("y-no-name")],
        What::Narrow(value) => vec![value.clone()],
        What::Required(_) | What::Object => Vec::new(),
    };
    let place = find(&mut value, &steps)?;
    match what {
        What::Typed(_) | What::Name | What::Narrow(_) => {
            if wrong.is_empty() {
                return None;
            }
            *place = draw.pick(&wrong);
        }
        What::Required(member) => {
            place.as_object_mut()?.remove(&member)?;
            steps.push(Step::Member(member));
        }
        What::Object => {
            let stranger = json!(null);
            place.as_object_mut()?.insert(STRANGER.to_owned(), stranger);
            steps.push(Step::Member(STRANGER.to_owned()));
        }
    }
    let last = steps.iter().rev().find_map(|step| match step {
        Step::Member(name) => Some(name.clone()),
        Step::Index(_) => None,
    });
    Some(Spoilt {
        value,
        path: show(&steps),
        // Elements have no name in texts.
        last: match steps.last() {
            Some(Step::Member(_)) => last.unwrap_or_default(),
            Some(Step::Index(_)) | None => String::new(),
        },
    })
}

/// Adds a member that the schema does not have; nothing where there is no object.
pub(crate) fn grow(draw: &mut Draw<'_>, name: &str, mut value: Value) -> Option<Value> {
    let mut sites = sites(draw.schema, name, &value);
    sites.retain(|site| matches!(site.what, What::Object));
    if sites.is_empty() {
        return None;
    }
    let site = draw.pick(&sites);
    let object = find(&mut value, &site.steps)?.as_object_mut()?;
    object.insert(STRANGER.to_owned(), json!({"new": [1]}));
    Some(value)
}

fn find<'v>(value: &'v mut Value, steps: &[Step]) -> Option<&'v mut Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Member(name) => value.get_mut(name),
        Step::Index(index) => value.get_mut(index),
    })
}

fn show(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Member(name) if path.is_empty() => path.push_str(name),
            Step::Member(name) => path.push_str(&format!(".{name}")),
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

fn sites<'a>(schema: &'a Schema, name: &str, value: &Value) -> Vec<Site<'a>> {
    let entity = schema.get(name).unwrap();
    let mut walk = Walk {
        schema,
        steps: Vec::new(),
        out: Vec::new(),
    };
    if !shape::is_untyped(entity) {
        walk.entity(shape::stands_for(schema, entity), value);
    }
    walk.out
}

/// A walk over a value by its schema.
struct Walk<'a> {
    schema: &'a Schema,
    steps: Vec<Step>,
    out: Vec<Site<'a>>,
}

impl<'a> Walk<'a> {
    fn push(&mut self, what: What<'a>) {
        let steps = self.steps.clone();
        self.out.push(Site { steps, what });
    }

    fn ty(&mut self, ty: &'a Type, value: &Value) {
        self.push(What::Typed(ty));
        match ty {
            Type::Builtin(builtin) => {
                if let Some(beyond) = beyond(*builtin) {
                    self.push(What::Narrow(beyond));
                }
            }
            Type::List(element) => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.steps.push(Step::Index(index));
                    self.ty(element, item);
                    self.steps.pop();
                }
            }
            Type::Named(name) => {
                if let Some(entity) = self.schema.get(name) {
                    self.entity(entity, value);
                }
            }
        }
    }

    fn entity(&mut self, entity: &'a Entity, value: &Value) {
        match &entity.kind {
            Kind::Enum(_) => self.push(What::Name),
            Kind::Alternate(alternate) => {
                let mut branches = alternate.branches.iter();
                let branch = branches.find(|branch| shape::takes(self.schema, &branch.ty, value));
                if let Some(branch) = branch {
                    // What is wrong for the branch may be right for another.
                    let before = self.out.len();
                    self.ty(&branch.ty, value);
                    self.out.remove(before);
                }
            }
            _ => {
                self.push(What::Object);
                self.members(entity, value);
            }
        }
    }

    fn members(&mut self, entity: &'a Entity, value: &Value) {
        let schema = self.schema;
        for member in shape::members(schema, entity) {
            if !member.optional {
                self.push(What::Required(member.name.clone()));
            }
            if let Some(value) = value.get(&member.name) {
                self.member(&member.name, &member.ty, value);
            }
        }
        match &entity.kind {
            Kind::FlatUnion(union) => {
                let chosen = value.get(&union.discriminator).and_then(Value::as_str);
                let branches = shape::branches(schema, union);
                let branch = branches.into_iter().find(|(name, _)| Some(*name) == chosen);
                let branch = branch.and_then(|(_, ty)| shape::named(schema, ty?));
                if let Some(branch) = branch {
                    self.members(branch, value);
                }
            }
            Kind::SimpleUnion(union) => {
                self.push(What::Required("type".to_owned()));
                self.push(What::Required("data".to_owned()));
                let chosen = value.get("type").and_then(Value::as_str);
                let mut branches = union.branches.iter();
                let branch = branches.find(|branch| Some(branch.name.as_str()) == chosen);
                if let (Some(branch), Some(data)) = (branch, value.get("data")) {
                    self.member("data", &branch.ty, data);
                }
            }
            _ => {}
        }
    }

    fn member(&mut self, name: &str, ty: &'a Type, value: &Value) {
        self.steps.push(Step::Member(name.to_owned()));
        self.ty(ty, value);
        self.steps.pop();
    }
}

/// An integer that just does not fit.
fn beyond(builtin: Builtin) -> Option<Value> {
    Some(match builtin {
        Builtin::Int | Builtin::Int64 => json!(1_u64 << 63),
        Builtin::Int8 => json!(-129),
        Builtin::Int16 => json!(1 << 15),
        Builtin::Int32 => json!(1_i64 << 31),
        Builtin::Uint8 => json!(256),
        Builtin::Uint16 => json!(1 << 16),
        Builtin::Uint32 => json!(1_i64 << 32),
        _ => return None,
    })
}
