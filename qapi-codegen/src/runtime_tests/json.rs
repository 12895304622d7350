//! The JSON stream: what it reads, what it refuses, and its limits.

use crate::runtime::{JsonStream, Value};

/// What `input` gives, a line a value: JSON, or `!` and the error's text.
fn read(input: &[u8]) -> Vec<String> {
    show(JsonStream::new().feed(input))
}

fn show(outcomes: Vec<Result<Value, crate::runtime::Error>>) -> Vec<String> {
    let line = |outcome: Result<Value, crate::runtime::Error>| match outcome {
        Ok(value) => value.to_ascii_json(),
        Err(error) => format!("!{}", error.desc),
    };
    outcomes.into_iter().map(line).collect()
}

#[track_caller]
fn check(input: &[u8], want: &[&str]) {
    let shown = String::from_utf8_lossy(input);
    assert_eq!(read(input), want, "reading {shown} at once");
    // Where the input is cut makes no difference.
    let mut stream = JsonStream::new();
    let outcomes = input
        .iter()
        .flat_map(|&byte| stream.feed(&[byte]))
        .collect();
    assert_eq!(show(outcomes), want, "reading {shown} byte by byte");
}

#[test]
fn values_need_no_frames() {
    check(
        b"{}{\"a\": [1, -2, 1.5]}\r\n\ttrue null\n",
        &["{}", r#"{"a": [1, -2, 1.5]}"#, "true", "null"],
    );
    check(b"\xef\xbb\xbf{}", &["{}"]);
    check(b"1 2\n", &["1", "2"]);
    check(b"'it\\'s' \"a'b\"", &[r#""it's""#, r#""a'b""#]);
}

#[test]
fn numbers_are_integers_while_they_fit() {
    check(
        b"9223372036854775807 9223372036854775808 ",
        &["9223372036854775807", "9223372036854775808"],
    );
    assert_eq!(
        Value::from_json("18446744073709551615"),
        Ok(Value::Uint(u64::MAX))
    );
    assert_eq!(
        Value::from_json("18446744073709551616"),
        Ok(Value::Float(18446744073709551616.0))
    );
    assert_eq!(
        Value::from_json("-9223372036854775808"),
        Ok(Value::Int(i64::MIN))
    );
    assert_eq!(Value::from_json("1.0"), Ok(Value::Float(1.0)));
    assert_eq!(Value::from_json("1e3"), Ok(Value::Float(1000.0)));
    assert_eq!(Value::from(7_u64), Value::Int(7));
}

#[test]
fn strings_come_out_in_ascii() {
    check(
        "\"é😀\\u00e9\\ud83d\\ude00\\u007f\\/\"".as_bytes(),
        &[r#""\u00e9\ud83d\ude00\u00e9\ud83d\ude00\u007f/""#],
    );
    check(br#""\b\f\n\r\t\"\\\u0000""#, &[r#""\b\f\n\r\t\"\\\u0000""#]);
}

#[test]
fn broken_values_give_one_error_each() {
    let cases: [(&[u8], &str); 26] = [
        (b"{\"execute\": }", "expecting value"),
        (b"{\"execute\" 1}", "missing : in object pair"),
        (b"{1: 2}", "key is not a string in object"),
        (b"{{}: 1}", "key is not a string in object"),
        (b"{\"a\": 1 \"b\": 2}", "expected separator in dict"),
        (b"{\"a\": 1: 2}", "expected separator in dict"),
        (b"[1 2]", "expected separator in list"),
        (b"[true [1]]", "expected separator in list"),
        (b"[1,]", "expecting value"),
        (b"{\"a\": 1,}", "expecting value"),
        (b"{,}", "expecting value"),
        (b"{hello}", "invalid keyword 'hello'"),
        (b"trueish ", "invalid keyword 'trueish'"),
        (b"\"\\q\"", "invalid escape sequence in string"),
        (b"\"\xc3\x28\"", "invalid UTF-8 sequence in string"),
        (b"\"\\ud800\"", "\\ud800 is not a valid Unicode character"),
        (b"\"\\ufdd0\"", "\\ufdd0 is not a valid Unicode character"),
        (b"{\"a\": 1, \"a\": 2}", "duplicate key"),
        (b"{\"a\": 01, \"b\": [{}]}", "stray '01'"),
        (b"{\"a\": &, \"b\": [1, \"}\"]}", "stray '&'"),
        (b"&", "stray '&'"),
        (b"}", "expecting value"),
        (b"{]", "expecting value"),
        (b",", "expecting value"),
        (b"{\"a\x01", "stray '\"a\x01'"),
        (b"{\"a\": \x01", "stray '\x01'"),
    ];
    for (input, want) in cases {
        let want = format!("!JSON parse error, {want}");
        check(input, &[&want]);
        // The stream can be used afterwards.
        check(&[input, b"\n{}"].concat(), &[&want, "{}"]);
    }
}

#[test]
fn a_line_break_in_a_string_ends_what_was_read() {
    check(
        b"{\"a: 1}\n{\"b\": 1}",
        &["!JSON parse error, stray '\"a: 1}\n'", r#"{"b": 1}"#],
    );
}

#[test]
fn limits_give_one_error_and_the_stream_goes_on() {
    let deep = [
        vec![b'['; 1025],
        b"\"]\"".to_vec(),
        vec![b']'; 1025],
        b"{}".to_vec(),
    ]
    .concat();
    check(&deep, &["!JSON nesting depth limit exceeded", "{}"]);
    let fits = [vec![b'['; 1024], vec![b']'; 1024]].concat();
    assert_eq!(read(&fits).len(), 1);
    assert!(!read(&fits)[0].starts_with('!'));
    let many = [b"[".to_vec(), b"1,".repeat(1 << 20), b"1]{}".to_vec()].concat();
    assert_eq!(read(&many), ["!JSON token count limit exceeded", "{}"]);
    let long = [b"[\"".to_vec(), vec![b'x'; 64 << 20], b"\"]{}".to_vec()].concat();
    assert_eq!(read(&long), ["!JSON token size limit exceeded", "{}"]);
}

#[test]
fn many_keys_are_compared_too() {
    let keys: Vec<String> = (0..100).map(|n| format!("\"k{n}\": {n}")).collect();
    let object = format!("{{{}}}", keys.join(", "));
    check(object.as_bytes(), &[&object]);
    let twice = format!("{{{}, \"k50\": 1}}", keys.join(", "));
    check(twice.as_bytes(), &["!JSON parse error, duplicate key"]);
}

#[test]
fn the_end_of_the_stream_completes_or_cuts_off() {
    assert_eq!(Value::from_json("12"), Ok(Value::Int(12)));
    for cut in ["[1", "{\"a\": \"b", "'"] {
        let error = Value::from_json(cut).unwrap_err();
        assert_eq!(error.desc, "JSON parse error, premature EOI", "for {cut}");
    }
    assert_eq!(
        Value::from_json("").unwrap_err().desc,
        "JSON parse error, expecting value"
    );
    assert_eq!(
        Value::from_json("1 2").unwrap_err().desc,
        "JSON parse error, more than one value"
    );
}

#[test]
fn pretty_text_is_indented_by_four() {
    let value = Value::from_json(r#"{"a": [], "b": [1, {"c": {}}]}"#).unwrap();
    let want = "{\n    \"a\": [],\n    \"b\": [\n        1,\n        {\n            \"c\": {}\n        }\n    ]\n}";
    assert_eq!(value.to_pretty_json(), want);
    assert_eq!(Value::from_json(want), Ok(value));
}
