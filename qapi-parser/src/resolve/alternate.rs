//! Alternates: branches told apart by the JSON type of what came.

use std::collections::HashMap;

use crate::check::draft::{Language, Origin};
use crate::error::{Described, Diagnostic};
use crate::resolve::{Found, Part, Resolver, branch, describe, describe_builtin, described};
use crate::schema::{Alternate, Branch, Builtin, Entity, JsonType, Kind, Type};

impl<'a> Resolver<'a> {
    pub(super) fn alternate(
        &mut self,
        entity: &'a Entity,
        origin: &'a Origin,
        alternate: &'a Alternate,
    ) {
        self.own_features(entity, origin);
        self.type_features(entity, origin);
        let mut branches: Vec<(&'a Branch, Option<Found<'a>>)> = Vec::new();
        for branch in &alternate.branches {
            let part = self::branch(entity, branch);
            let found = self.branch_type(&branch.ty, branch.ty_span, origin, &part);
            branches.push((branch, found));
        }
        let mut names = HashMap::new();
        let mut types: HashMap<JsonType, Part<'a>> = HashMap::new();
        for (branch, found) in branches {
            let part = self::branch(entity, branch);
            self.distinct(&mut names, part, origin);
            let json = match (&branch.ty, found) {
                (Type::List(_), _) => Ok(JsonType::Array),
                (_, Some(found)) => json_type(found),
                // It was not found, which was reported.
                (_, None) => continue,
            };
            let json = match json {
                Ok(json) => json,
                Err(described) => {
                    let (scope, span) = (&origin.scope, branch.ty_span);
                    let error = Diagnostic::branch_no_json_type(scope, span, &part, &described);
                    self.diagnostics.push(error);
                    continue;
                }
            };
            let taken = claims(json, found, origin.language);
            if let Some(other) = taken.iter().find_map(|json| types.get(json)) {
                let error = Diagnostic::json_clash(&origin.scope, &part, other);
                self.diagnostics.push(error);
            }
            types.extend(taken.into_iter().map(|json| (json, part)));
        }
    }
}

/// The JSON type of what comes for `found`; both kinds of numbers are one.
fn json_type(found: Found<'_>) -> Result<JsonType, Described> {
    match found {
        Found::Builtin(builtin) => match builtin.json_type() {
            JsonType::Int => Ok(JsonType::Number),
            JsonType::Value => Err(described(
                builtin.name(),
                &describe_builtin(builtin.name(), builtin),
            )),
            json => Ok(json),
        },
        Found::Entity(entity) => match &entity.kind {
            Kind::Enum(_) => Ok(JsonType::String),
            Kind::Alternate(_) => Err(describe(entity)),
            _ => Ok(JsonType::Object),
        },
    }
}

/// The JSON types that a branch takes from others: with today's rules a string must not look
/// like what a command line could mean as a number or boolean.
fn claims(json: JsonType, found: Option<Found<'_>>, language: Language) -> Vec<JsonType> {
    let mut claims = vec![json];
    if json != JsonType::String || language == Language::Legacy {
        return claims;
    }
    let values: Vec<&str> = match found {
        Some(Found::Entity(entity)) => match &entity.kind {
            Kind::Enum(values) => values.names().collect(),
            _ => Vec::new(),
        },
        Some(Found::Builtin(Builtin::QType)) => Vec::new(),
        _ => {
            claims.extend([JsonType::Number, JsonType::Boolean]);
            return claims;
        }
    };
    if values.iter().any(|value| matches!(*value, "on" | "off")) {
        claims.push(JsonType::Boolean);
    }
    let numeric = |first: char| first.is_ascii_digit() || matches!(first, '-' | '+' | '.');
    if values.iter().any(|value| value.starts_with(numeric)) {
        claims.push(JsonType::Number);
    }
    claims
}
