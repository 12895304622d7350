//! Cargo features decide what generated code has, and what introspection says of it.

use consumer_build_script::conditions::{introspect, types};

#[test]
fn introspection_says_what_is_there() {
    let text = introspect::json();
    let value = introspect::value().unwrap();
    let entries: Vec<String> = value
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry.to_ascii_json())
        .collect();
    assert!(text.starts_with('[') && text.ends_with(']'));
    assert_eq!(
        entries,
        [
            r#"{"name": "SECOND", "meta-type": "event", "arg-type": "0", "features": []}"#,
            r#"{"name": "THIRD", "meta-type": "event", "arg-type": "1"}"#,
            r#"{"name": "0", "meta-type": "object", "members": []}"#,
            concat!(
                r#"{"name": "1", "meta-type": "object", "members": "#,
                r#"[{"name": "b", "type": "2", "default": null}]}"#
            ),
            r#"{"name": "int", "meta-type": "builtin", "json-type": "int"}"#,
            concat!(
                r#"{"name": "2", "meta-type": "enum", "#,
                r#""members": [{"name": "y"}, {"name": "z"}], "values": ["y", "z"]}"#
            ),
        ]
    );
    assert_eq!(types::Choice::VARIANTS.len(), 2);
}
