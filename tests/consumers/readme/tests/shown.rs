//! The READMEs show the files of this crate, and those do what is said.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use consumer_readme::built::qapi::types::{Colour, Lamp};
use consumer_readme::built::{House, qapi};
use consumer_readme::expanded;

#[track_caller]
fn check(document: &str, files: &[&str]) {
    for file in files {
        assert!(document.contains(file.trim_end()), "not shown:\n{file}");
    }
}

#[test]
fn the_generators_readme_shows_what_compiles() {
    check(
        include_str!("../../../../qapi-codegen/README.md"),
        &[
            include_str!("../qapi/lamp.json"),
            include_str!("../build.rs"),
            include_str!("../src/built.rs"),
        ],
    );
}

#[test]
fn the_macros_readme_shows_what_compiles() {
    check(
        include_str!("../../../../qapi-macros/README.md"),
        &[include_str!("../src/expanded.rs")],
    );
}

#[test]
fn the_guide_from_qapi_rs_shows_what_compiles() {
    check(
        include_str!("../../../../docs/from-qapi-rs.md"),
        &[include_str!("../build.rs"), include_str!("../src/moved.rs")],
    );
}

#[test]
fn a_house_answers() {
    let mut lamp = Lamp::new("desk".to_owned(), Colour::Warm);
    lamp.percent = Some(40);
    let house = House { lamps: vec![lamp] };
    let call = qapi::dispatch(&house, "query-lamps", qapi::runtime::Object::new());
    let Poll::Ready(Ok(answer)) = pin!(call).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("no answer")
    };
    assert_eq!(
        answer.to_ascii_json(),
        r#"[{"name": "desk", "colour": "warm", "percent": 40}]"#
    );
}

#[test]
fn the_macro_reads_what_the_build_script_writes() {
    let read = |json: &str| {
        let value = expanded::qapi::runtime::Value::from_json(json).unwrap();
        expanded::is_warm(value).map_err(|error| error.to_string())
    };
    let lamp = r#"{"name": "desk", "colour": "warm", "new-in-version-2": true}"#;
    assert_eq!(read(lamp), Ok(true));
    assert_eq!(
        read(r#"{"name": "desk", "colour": "cold", "percent": 256}"#),
        Err("Parameter 'percent' expects uint8_t".to_owned())
    );
}
