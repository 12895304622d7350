//! What stands on a command line or in an image's header as the name of an image: lists of options,
//! sizes, and addresses.
//! The parsers are the program's, by path: it is no library. They say why they fail by
//! `crate::report`, which is a smaller one here.

use block_drivers::nbd::uri::ExportAddress;
use block_schema::types::BlockdevOptions;
use block_schema::{Object, Unknown, Value, Wire};

#[path = "../../src/opts/keyval.rs"]
mod keyval;

#[path = "../../src/opts/size.rs"]
mod size;

/// Reads bytes as each of them.
pub(crate) fn parse(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let parts = keyval::split(text);
    assert!(parts.iter().all(|part| !part.is_empty()), "an empty part");
    for implied in [None, Some("driver")] {
        match keyval::parse(text, implied) {
            Ok(object) => given(object),
            Err(failure) => assert!(!failure.text().is_empty(), "a reason without words"),
        }
    }
    // Refused or not: no text is too much for them.
    let _ = size::parse_size(text);
    let _ = ExportAddress::parse(text);
}

fn given(object: Object) {
    drop(keyval::nested_keys(object.clone()));
    let value = Value::from(object);
    let json = value.to_ascii_json();
    let again = Value::from_json(&json);
    assert_eq!(again.as_ref().ok(), Some(&value), "{json}");
    drop(BlockdevOptions::decode(value, Unknown::Refuse));
}
