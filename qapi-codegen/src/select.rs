//! The part of a schema that options ask for: conditions decided, commands filtered.
//! Called by `lib.rs` before names are allocated. Invariant: what is left refers to nothing that is
//! gone; what would is refused by name.

use std::borrow::Cow;
use std::collections::BTreeSet;

use qapi_parser::{Arguments, Base, Cond, Entity, Kind, Member, Schema, Type};

use crate::options::{Conditions, Only, Options, feature_name};

/// What of `schema` is generated, or why that cannot be.
pub(crate) fn select<'a>(
    schema: &'a Schema,
    options: &Options,
) -> Result<Cow<'a, Schema>, Vec<String>> {
    let configured = match &options.conditions {
        Conditions::AllOn | Conditions::Features => Cow::Borrowed(schema),
        Conditions::Resolved(symbols) => {
            Cow::Owned(schema.configured(&|symbol| symbols.contains(symbol)))
        }
    };
    let errors = dangling(schema, &configured);
    if !errors.is_empty() {
        return Err(errors);
    }
    match &options.only {
        Only::Everything => Ok(configured),
        Only::Named(names) => reached(&configured, names).map(Cow::Owned),
    }
}

/// Uses of types that `configured` does not have and `schema` does.
fn dangling(schema: &Schema, configured: &Schema) -> Vec<String> {
    let mut errors = Vec::new();
    for entity in configured.entities.values() {
        uses(entity, &mut |name| {
            if configured.get(name).is_none() && schema.get(name).is_some() {
                let place = schema.locate(entity.span);
                errors.push(format!(
                    "`{}` needs `{name}`, which these conditions leave out\n --> {place}",
                    entity.name
                ));
            }
        });
    }
    errors
}

/// The definitions that `names` reach.
fn reached(schema: &Schema, names: &BTreeSet<String>) -> Result<Schema, Vec<String>> {
    let mut errors = Vec::new();
    let mut work = Vec::new();
    for name in names {
        match schema.get(name) {
            Some(entity) if !entity.kind.is_type() => work.push(entity),
            _ => errors.push(format!("the schema has no command or event `{name}`")),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    while let Some(entity) = work.pop() {
        if kept.insert(&entity.name) {
            uses(entity, &mut |name| work.extend(schema.get(name)));
        }
    }
    let mut part = Schema {
        modules: schema.modules.clone(),
        files: schema.files.clone(),
        ..Schema::default()
    };
    for (name, entity) in &schema.entities {
        if kept.contains(name.as_str()) {
            part.entities.insert(name.clone(), entity.clone());
        }
    }
    Ok(part)
}

/// Calls `each` for every definition that `entity` names.
fn uses<'a>(entity: &'a Entity, each: &mut impl FnMut(&'a str)) {
    fn named<'a>(ty: &'a Type, each: &mut impl FnMut(&'a str)) {
        match ty {
            Type::Builtin(_) => {}
            Type::Named(name) => each(name),
            Type::List(element) => named(element, each),
        }
    }
    fn members<'a>(list: &'a [Member], each: &mut impl FnMut(&'a str)) {
        list.iter().for_each(|member| named(&member.ty, each));
    }
    fn arguments<'a>(arguments: &'a Arguments, each: &mut impl FnMut(&'a str)) {
        match arguments {
            Arguments::Members(list) => members(list, each),
            Arguments::Type(name) => each(name),
        }
    }
    match &entity.kind {
        Kind::Enum(_) => {}
        Kind::Struct(structure) => {
            structure.base.iter().for_each(|base| each(base));
            members(&structure.members, each);
        }
        Kind::FlatUnion(union) => {
            match &union.base {
                Base::Named(name) => each(name),
                Base::Inline(list) => members(list, each),
            }
            each(&union.tag);
            union
                .branches
                .iter()
                .for_each(|branch| named(&branch.ty, each));
        }
        Kind::SimpleUnion(union) => {
            union.base.iter().for_each(|base| each(base));
            union
                .branches
                .iter()
                .for_each(|branch| named(&branch.ty, each));
        }
        Kind::Alternate(alternate) => {
            alternate
                .branches
                .iter()
                .for_each(|branch| named(&branch.ty, each));
        }
        Kind::Command(command) => {
            arguments(&command.arguments, each);
            command
                .returns
                .iter()
                .for_each(|returns| named(returns, each));
        }
        Kind::Event(event) => arguments(&event.data, each),
    }
}

/// The cargo features that code generated with [`Conditions::Features`] asks for: what
/// `Cargo.toml` must declare, in order of their names.
pub fn features(schema: &Schema) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    schema.conditions(&mut |cond: &Cond| {
        cond.symbols(&mut |symbol| {
            out.insert(feature_name(symbol));
        });
    });
    out
}
