//! What a schema says of the members of an object, in one list; and what JSON a type takes.

use qapi_parser::{Arguments, Base, Builtin, Entity, FlatUnion, Kind, Member, Schema, Type};
use serde_json::Value;

/// The members of a struct, or those that all branches of a union have.
pub(crate) fn members<'a>(schema: &'a Schema, entity: &'a Entity) -> Vec<&'a Member> {
    let named = |name: &str| schema.members(name).into_iter().map(|(m, _)| m).collect();
    match &entity.kind {
        Kind::Struct(_) => named(&entity.name),
        Kind::FlatUnion(union) => match &union.base {
            Base::Named(name) => named(name),
            Base::Inline(members) => members.iter().collect(),
        },
        Kind::SimpleUnion(union) => union.base.as_deref().map_or_else(Vec::new, named),
        Kind::Command(command) => listed(&command.arguments),
        Kind::Event(event) => listed(&event.data),
        Kind::Enum(_) | Kind::Alternate(_) => Vec::new(),
    }
}

fn listed(arguments: &Arguments) -> Vec<&Member> {
    match arguments {
        Arguments::Members(members) => members.iter().collect(),
        Arguments::Type(_) => Vec::new(),
    }
}

/// The definition whose members stand for those of `entity`: of a command or event, that of its
/// data; of a command whose only argument may be left out, that of the argument.
pub(crate) fn stands_for<'a>(schema: &'a Schema, entity: &'a Entity) -> &'a Entity {
    let arguments = match &entity.kind {
        Kind::Command(command) => match (&command.flat, &command.arguments) {
            (Some(_), Arguments::Members(members)) => {
                let ty = members.first().map(|member| &member.ty);
                return ty.and_then(|ty| named(schema, ty)).unwrap_or(entity);
            }
            (_, arguments) => arguments,
        },
        Kind::Event(event) => &event.data,
        _ => return entity,
    };
    match arguments {
        Arguments::Type(name) => schema.get(name).unwrap_or(entity),
        Arguments::Members(_) => entity,
    }
}

pub(crate) fn named<'a>(schema: &'a Schema, ty: &Type) -> Option<&'a Entity> {
    match ty {
        Type::Named(name) => schema.get(name),
        Type::Builtin(_) | Type::List(_) => None,
    }
}

/// The values of a union's discriminator, each with its branch, if it has one.
pub(crate) fn branches<'a>(
    schema: &'a Schema,
    union: &'a FlatUnion,
) -> Vec<(&'a str, Option<&'a Type>)> {
    let Some(Kind::Enum(tag)) = schema.get(&union.tag).map(|tag| &tag.kind) else {
        return Vec::new();
    };
    let branch = |name: &str| union.branches.iter().find(|branch| branch.name == name);
    let values = tag.names();
    values
        .map(|name| (name, branch(name).map(|branch| &branch.ty)))
        .collect()
}

/// Whether arguments are whatever JSON says.
pub(crate) fn is_untyped(entity: &Entity) -> bool {
    matches!(&entity.kind, Kind::Command(command) if !command.typed)
}

/// Whether `value` is of a JSON type that `ty` takes.
pub(crate) fn takes(schema: &Schema, ty: &Type, value: &Value) -> bool {
    match ty {
        Type::List(_) => value.is_array(),
        Type::Builtin(Builtin::Any) => true,
        Type::Builtin(Builtin::Null) => value.is_null(),
        Type::Builtin(Builtin::Bool) => value.is_boolean(),
        Type::Builtin(Builtin::Number) => value.is_number(),
        Type::Builtin(Builtin::Str | Builtin::QType) => value.is_string(),
        Type::Builtin(_) => value.is_i64() || value.is_u64(),
        Type::Named(name) => match schema.get(name).map(|entity| &entity.kind) {
            Some(Kind::Enum(_)) => value.is_string(),
            Some(Kind::Alternate(alternate)) => {
                let mut branches = alternate.branches.iter();
                branches.any(|branch| takes(schema, &branch.ty, value))
            }
            Some(_) => value.is_object(),
            // An escape type.
            None => true,
        },
    }
}
