//! The seed alone gives the seed's types, and nothing of what overlays add.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use consumer_build_script::cases;
use consumer_build_script::seed::runtime::{Error, Object, Unknown, Value, Wire};
use consumer_build_script::seed::types::{
    BlockdevDriver, BlockdevOptions, BlockdevOptionsBranch, BlockdevRef, ImageInfoSpecificQCow2,
};
use consumer_build_script::seed::{COMMANDS, commands, dispatch, server};

fn decode<T: Wire>(json: &str) -> Result<T, String> {
    let value = Value::from_json(json).map_err(|error| error.to_string())?;
    T::decode(value, Unknown::Refuse).map_err(|error| error.to_string())
}

#[test]
fn only_the_seed_is_there() {
    // 18 of its own, and two of common.json.
    assert_eq!(COMMANDS.len(), 20);
    assert_eq!(BlockdevDriver::VARIANTS.len(), 26);
    // No member was added: this names all of them.
    let ImageInfoSpecificQCow2 {
        compat,
        lazy_refcounts,
    } = decode(r#"{"compat": "1.1"}"#).unwrap();
    assert_eq!((compat.as_str(), lazy_refcounts), ("1.1", None));
    assert_eq!(
        decode::<BlockdevOptions>(r#"{"driver": "nbd"}"#),
        Err("Parameter 'driver' does not accept value 'nbd'".to_owned())
    );
}

#[test]
fn a_reference_breaks_the_cycle_with_one_box() {
    let options: BlockdevOptions =
        decode(r#"{"driver": "raw", "file": {"driver": "file", "filename": "a"}}"#).unwrap();
    let BlockdevOptionsBranch::Raw(raw) = options.driver else {
        panic!("not raw")
    };
    let BlockdevRef::Definition(definition) = raw.file else {
        panic!("not a definition")
    };
    let unboxed: BlockdevOptions = *definition;
    assert_eq!(unboxed.kind(), BlockdevDriver::File);
}

struct Daemon;

impl server::Common for Daemon {}

impl server::BlockCore for Daemon {
    async fn blockdev_add(&self, arguments: commands::BlockdevAdd) -> Result<(), Error> {
        Err(Error::generic(arguments.options.kind().as_str()))
    }
}

#[test]
fn only_the_spelling_of_the_seed_is_taken() {
    let call = |json: &str| {
        let Ok(Value::Object(arguments)) = Value::from_json(json) else {
            panic!("no object")
        };
        let call = dispatch(&Daemon, "blockdev-add", arguments);
        match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result.unwrap_err().desc,
            Poll::Pending => panic!("the call waits"),
        }
    };
    assert_eq!(
        call(r#"{"options": {"driver": "file", "filename": "a"}}"#),
        "file"
    );
    assert_eq!(
        call(r#"{"driver": "file", "filename": "a"}"#),
        "Parameter 'options' is missing"
    );
    assert!(Object::new().is_empty());
}

#[test]
fn simple_unions_with_a_base_keep_it_beside_the_tag() {
    use cases::simple_union::runtime::{Unknown, Value, Wire};
    use cases::simple_union::types::{V, VBranch};
    let json = r#"{"x": 1, "type": "a", "data": "text"}"#;
    let value = Value::from_json(json).unwrap();
    let union = V::decode(value, Unknown::Refuse).unwrap();
    assert_eq!(
        union,
        V {
            x: 1,
            data: VBranch::A("text".to_owned())
        }
    );
    assert_eq!(union.encode().to_ascii_json(), json);
}

#[test]
fn values_without_a_branch_add_nothing() {
    use cases::flat_union::runtime::{Unknown, Value, Wire};
    use cases::flat_union::types::{U, UBranch};
    let read = |json| U::decode(Value::from_json(json).unwrap(), Unknown::Refuse);
    assert_eq!(
        read(r#"{"kind": "none"}"#),
        Ok(U {
            x: None,
            kind: UBranch::None
        })
    );
    let error = read(r#"{"kind": "none", "a": "x"}"#).unwrap_err();
    assert_eq!(error.to_string(), "Parameter 'a' is unexpected");
}

#[test]
fn anonymous_unions_go_by_json_type() {
    use cases::anonymous_union::runtime::{Unknown, Value, Wire};
    use cases::anonymous_union::types::{E, S, U};
    let read = |json| U::decode(Value::from_json(json).unwrap(), Unknown::Refuse);
    assert_eq!(read("{}"), Ok(U::S(S {})));
    assert_eq!(read("\"x\""), Ok(U::E(E::X)));
    assert_eq!(read("-3"), Ok(U::N(-3)));
    assert_eq!(read("true"), Ok(U::B(true)));
    assert_eq!(read("[\"a\"]"), Ok(U::L(vec!["a".to_owned()])));
    assert!(read("null").is_err());
}
