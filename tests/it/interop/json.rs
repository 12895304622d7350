//! Two JSON texts, compared member by member.

use block_schema::{Object, Value};

/// What may differ.
#[derive(Clone, Copy, Debug)]
pub(super) enum Free {
    Nothing,
    /// Members of this name.
    Member(&'static str),
    /// Whether a run of `map` with data is a hole in its file: QEMU tells of some, we of none.
    Holes,
}

/// Both must hold the same; the order of members does not count.
#[track_caller]
pub(super) fn assert_same(what: &str, ours: &str, theirs: &str, free: Free) {
    let [ours, theirs] = [ours, theirs].map(|text| {
        let value = Value::from_json(text);
        let value = value.unwrap_or_else(|error| panic!("{what}: {error}: {text}"));
        match free {
            Free::Nothing | Free::Member(_) => value,
            Free::Holes => without_holes(value),
        }
    });
    let mut found = Vec::new();
    differences("", &ours, &theirs, &mut found);
    if let Free::Member(name) = free {
        let name = format!(".{name}:");
        found.retain(|line| !line.contains(&name));
    }
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// A map with the runs joined that only differ in being holes.
fn without_holes(map: Value) -> Value {
    let Value::Array(runs) = map else { return map };
    let mut joined: Vec<Object> = Vec::new();
    for run in runs {
        let Value::Object(mut run) = run else {
            continue;
        };
        let has_data = run.get("data") == Some(&Value::Bool(true));
        if has_data {
            run.insert("zero", false);
        }
        match joined.last_mut() {
            Some(last) if has_data && continues(last, &run) => {
                let len = number(last, "length") + number(&run, "length");
                last.insert("length", len);
            }
            _ => joined.push(run),
        }
    }
    Value::Array(joined.into_iter().map(Value::Object).collect())
}

/// Whether `run` lies where `last` ends, and is else like it.
fn continues(last: &Object, run: &Object) -> bool {
    let mut expected = last.clone();
    let len = number(last, "length");
    expected.insert("start", number(last, "start") + len);
    expected.insert("length", number(run, "length"));
    if last.contains("offset") {
        expected.insert("offset", number(last, "offset") + len);
    }
    expected == *run
}

fn number(object: &Object, name: &str) -> i64 {
    object.get(name).and_then(Value::as_i64).expect("a number")
}

fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a.iter() {
                let path = format!("{path}.{name}");
                match b.get(name) {
                    Some(other) => differences(&path, value, other, found),
                    None => found.push(format!("{path}: only we have {value}")),
                }
            }
            for (name, value) in b.iter().filter(|(name, _)| !a.contains(name)) {
                found.push(format!("{path}.{name}: only QEMU has {value}"));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{path}: we say {a}, QEMU {b}")),
    }
}

#[test]
fn every_difference_is_found() {
    let mut found = Vec::new();
    let [a, b] = [
        r#"{"x": [1, {"y": true}], "ours": 1, "same": null}"#,
        r#"{"same": null, "x": [1, {"y": false}], "theirs": 2}"#,
    ]
    .map(|text| Value::from_json(text).expect("valid JSON"));
    differences("", &a, &b, &mut found);
    let want = [
        ".x[1].y: we say true, QEMU false",
        ".ours: only we have 1",
        ".theirs: only QEMU has 2",
    ];
    assert_eq!(found, want);
}

#[test]
fn holes_join_with_the_data_around_them() {
    let ours = r#"[{"start": 0, "length": 9, "zero": false, "data": true, "offset": 5}]"#;
    let theirs = r#"[{"start": 0, "length": 4, "zero": false, "data": true, "offset": 5},
                     {"start": 4, "length": 5, "zero": true, "data": true, "offset": 9}]"#;
    assert_same("holes", ours, theirs, Free::Holes);
}
