//! serde's traits, which go through the same checks as the wire.
#![cfg(feature = "serde")]

use block_schema::Value;
use block_schema::types::{BlockdevOptions, BlockdevOptionsBranch};

#[test]
fn types_pass_through_serde() {
    let json = r#"{"driver":"raw","node-name":"n","file":{"driver":"file","filename":"é"}}"#;
    let options: BlockdevOptions = serde_json::from_str(json).unwrap();
    assert!(matches!(options.driver, BlockdevOptionsBranch::Raw(_)));
    assert_eq!(serde_json::to_string(&options).unwrap(), json);
}

#[test]
fn errors_name_the_member() {
    let json = r#"{"driver": "raw", "file": {"driver": "file"}}"#;
    let error = serde_json::from_str::<BlockdevOptions>(json).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Parameter 'file.filename' is missing"),
        "{error}"
    );
}

#[test]
fn values_keep_numbers_and_order() {
    let json = r#"{"z":[null,true,-1,18446744073709551615,1.5],"a":"\n"}"#;
    let value: Value = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_string(&value).unwrap(), json);
    assert!(serde_json::from_str::<Value>(r#"{"a": 1, "a": 2}"#).is_err());
}
