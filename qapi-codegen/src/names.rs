//! Schema names to Rust names: the one place that knows both.
//! Called by `plan.rs` and every emitter.
//! Invariant: an identifier made here is valid Rust, and does not hide a name of the prelude or of
//! the runtime that generated code uses.

use proc_macro2::{Ident, Span};

/// Type names that generated code or the prelude gives another meaning.
const TAKEN: [&str; 30] = [
    "Box",
    "CallError",
    "Clone",
    "Command",
    "CommandSpec",
    "Copy",
    "Debug",
    "Default",
    "Err",
    "Error",
    "Event",
    "Fields",
    "FromStr",
    "Invalid",
    "Members",
    "None",
    "Null",
    "Object",
    "Ok",
    "Option",
    "Refusal",
    "Request",
    "Result",
    "Server",
    "Session",
    "Some",
    "String",
    "Value",
    "Vec",
    "Wire",
];

/// The name of a type, enum variant, command or event.
pub(crate) fn pascal(name: &str) -> String {
    // Event names are upper case throughout; what has a lower-case letter keeps its case.
    let shouting = name.chars().any(char::is_uppercase) && !name.chars().any(char::is_lowercase);
    let mut out = String::new();
    let mut boundary = true;
    for character in name.chars() {
        if !character.is_alphanumeric() {
            boundary = true;
            continue;
        }
        // `1.2` and `12` stay apart.
        if boundary
            && character.is_ascii_digit()
            && out
                .chars()
                .next_back()
                .is_some_and(|last| last.is_ascii_digit())
        {
            out.push('_');
        }
        if boundary {
            out.extend(character.to_uppercase());
        } else if shouting {
            out.extend(character.to_lowercase());
        } else {
            out.push(character);
        }
        boundary = false;
    }
    if out.is_empty() || out.starts_with(|first: char| first.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

/// The name of a field, method or module.
pub(crate) fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut lower_before = false;
    for character in name.chars() {
        if !character.is_alphanumeric() {
            out.push('_');
            lower_before = false;
            continue;
        }
        if character.is_uppercase() && lower_before {
            out.push('_');
        }
        lower_before = character.is_lowercase() || character.is_ascii_digit();
        out.extend(character.to_lowercase());
    }
    if out.is_empty() || out.starts_with(|first: char| first.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

/// `name` as an identifier, whatever keyword it may be.
pub(crate) fn ident(name: &str) -> Ident {
    match name {
        // Those cannot be raw.
        "self" | "Self" | "super" | "crate" | "_" => {
            Ident::new(&format!("{name}_"), Span::call_site())
        }
        _ => match syn::parse_str::<Ident>(name) {
            Ok(ident) => ident,
            Err(_) => Ident::new_raw(name, Span::call_site()),
        },
    }
}

/// The identifier of type `name`.
pub(crate) fn type_ident(name: &str) -> Ident {
    let name = pascal(name);
    if TAKEN.contains(&name.as_str()) {
        ident(&format!("{name}_"))
    } else {
        ident(&name)
    }
}

/// The identifier of enum value or branch `name`.
pub(crate) fn variant(name: &str) -> Ident {
    ident(&pascal(name))
}

/// The identifier of member, method or module `name`.
pub(crate) fn field(name: &str) -> Ident {
    ident(&snake(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_valid_rust() {
        assert_eq!(pascal("l1_grow.alloc_table"), "L1GrowAllocTable");
        assert_eq!(pascal("BLOCK_JOB_COMPLETED"), "BlockJobCompleted");
        assert_eq!(pascal("ImageInfoSpecificQCow2"), "ImageInfoSpecificQCow2");
        assert_eq!(pascal("1.2"), "_1_2");
        assert_eq!(snake("tray_open"), "tray_open");
        assert_eq!(snake("node-name"), "node_name");
        assert_eq!(field("type").to_string(), "r#type");
        assert_eq!(field("self").to_string(), "self_");
        assert_eq!(type_ident("String").to_string(), "String_");
    }
}
