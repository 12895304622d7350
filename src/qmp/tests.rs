//! Lines, completion and help, on the schema of our own daemon.

use block_schema::{Value, introspect};

use super::complete;
use super::help::help;
use super::line::{self, Line};
use super::schema::Schema;

fn schema() -> Schema {
    Schema::from_answer(&introspect::value().expect("a schema"))
}

/// What a line sends, or why it does not.
#[track_caller]
fn check(line: &str, want: &str) {
    let said = match line::parse(&schema(), line) {
        Ok(Line::Call(call)) => {
            let oob = if call.oob { "oob " } else { "" };
            format!("{oob}{} {}", call.name, Value::Object(call.arguments))
        }
        Ok(Line::Wait(wait)) => {
            format!(
                "wait {} {} {:?}",
                wait.event,
                Value::Object(wait.data),
                wait.timeout
            )
        }
        Ok(other) => format!("{other:?}"),
        Err(complaint) => complaint.0,
    };
    assert_eq!(said, want, "{line}");
}

/// What Tab offers at the end of a line; `|` is where it would go in.
#[track_caller]
fn check_completion(line: &str, want: &str) {
    let completion = complete::complete(&schema(), line);
    let shown: Vec<&str> = completion
        .candidates
        .iter()
        .map(|c| c.shown.as_str())
        .collect();
    let (before, replaced) = line.split_at(completion.start);
    let said = format!("{before}|{replaced}: {}", shown.join(" "));
    assert_eq!(said, want);
}

#[test]
fn values_get_the_types_of_the_schema() {
    check("query-block", "query-block {}");
    check(
        "block_resize node-name=disk size=64k",
        r#"block_resize {"node-name": "disk", "size": 65536}"#,
    );
    check(
        "block_resize node-name=12 size=-1",
        r#"block_resize {"node-name": "12", "size": -1}"#,
    );
    check(
        "blockdev-add driver=qcow2 node-name='a b' read-only=on lazy-refcounts=false file.driver=file \
         file.filename=x.qcow2 file.cache.direct=on",
        concat!(
            r#"blockdev-add {"driver": "qcow2", "node-name": "a b", "read-only": true, "#,
            r#""lazy-refcounts": false, "file": {"driver": "file", "filename": "x.qcow2", "#,
            r#""cache": {"direct": true}}}"#
        ),
    );
    check(
        "blockdev-add driver=qcow2 file=node0 backing=null",
        r#"blockdev-add {"driver": "qcow2", "file": "node0", "backing": null}"#,
    );
    check(
        r#"blockdev-add driver=qcow2 file=node0 backing="null""#,
        r#"blockdev-add {"driver": "qcow2", "file": "node0", "backing": "null"}"#,
    );
}

#[test]
fn lists_are_written_in_brackets_or_by_number() {
    check(
        "qmp_capabilities enable=[oob]",
        r#"qmp_capabilities {"enable": ["oob"]}"#,
    );
    check(
        "qmp_capabilities enable.0=oob",
        r#"qmp_capabilities {"enable": ["oob"]}"#,
    );
    check(
        r#"blockdev-add driver=quorum vote-threshold=1 children=[a, "b", {"driver": "null-co"}]"#,
        concat!(
            r#"blockdev-add {"driver": "quorum", "vote-threshold": 1, "#,
            r#""children": ["a", "b", {"driver": "null-co"}]}"#
        ),
    );
    check(
        "qmp_capabilities enable=oob",
        "Parameter 'enable' expects a list such as [a, b], not 'oob'",
    );
}

#[test]
fn json_goes_as_it_is() {
    check(
        r#"{"execute": "nope", "arguments": {"a": [1]}, "id": 7}"#,
        r#"nope {"a": [1]}"#,
    );
    check("{'exec-oob': 'nope'}", "oob nope {}");
    check(
        r#"block_resize {"size": "no check"}"#,
        r#"block_resize {"size": "no check"}"#,
    );
    check(
        r#"{"arguments": {}}"#,
        "A QMP command has a member 'execute'",
    );
    check(
        r#"{"execute": "x", "y": 1}"#,
        "Member 'y' is wrong in a QMP command",
    );
    check(r#"{"execute": "#, "JSON parse error, premature EOI");
}

#[test]
fn what_the_schema_refuses_is_told_with_what_was_meant() {
    check(
        "qurey-block",
        "CommandNotFound: The command qurey-block has not been found; did you mean 'query-block'?",
    );
    check(
        "migrate",
        "CommandNotFound: The command migrate has not been found",
    );
    check(
        "block_resize node_name=x size=1",
        "Parameter 'node_name' is unexpected; did you mean 'node-name'?",
    );
    check(
        "block_resize size=big",
        "Parameter 'size' expects an integer, not 'big'",
    );
    check(
        "blockdev-add driver=qcow2 read-only=maybe",
        "Parameter 'read-only' expects true or false, not 'maybe'",
    );
    check(
        "blockdev-add driver=qcow3",
        "Parameter 'driver' does not accept value 'qcow3'; did you mean 'qcow2'?",
    );
    check(
        "blockdev-add driver=file filename=x discard=x",
        "Parameter 'discard' does not accept value 'x', but ignore, unmap",
    );
    check(
        "blockdev-add file.filename=x",
        "Parameter 'file' depends on 'driver', which is missing",
    );
    check(
        "blockdev-add driver=qcow2 file.filename=x",
        "Parameter 'file.filename' depends on 'file.driver', which is missing",
    );
    check(
        "block_resize size=1 size=2",
        "Parameter 'size' is given twice",
    );
    check("block_resize size.x=2", "Parameter 'size' has no members");
    check("block_resize size", "Expected '=' after 'size'");
    check("block_resize device='x", "Nothing closes '");
    let deep = format!("blockdev-add {}=x", ["file"; 65].join("."));
    check(&deep, "Too many dots in a key");
}

#[test]
fn the_client_has_lines_of_its_own() {
    check("  # nothing", "Blank");
    check("exit", "Exit");
    check("help block_resize", r#"Help(["block_resize"])"#);
    check(
        "wait BLOCK_JOB_READY device=x timeout=1.5s",
        r#"wait BLOCK_JOB_READY {"device": "x"} Some(1.5s)"#,
    );
    check(
        "wait BLOCK_JOB_REDY",
        "The server has no event BLOCK_JOB_REDY; did you mean 'BLOCK_JOB_READY'?",
    );
    check(
        "wait BLOCK_JOB_READY timeout=soon",
        "'soon' is no number of seconds",
    );
    check(
        "oob query-block",
        "The command query-block does not support OOB",
    );
}

#[test]
fn waits_take_events_that_have_what_is_asked_for() {
    let takes = |line: &str, data: &str| {
        let Ok(Line::Wait(wait)) = line::parse(&schema(), line) else {
            panic!("{line} is no wait");
        };
        let Ok(Value::Object(data)) = Value::from_json(data) else {
            panic!("{data} is no object");
        };
        wait.takes("BLOCK_JOB_READY", &data)
    };
    let data = r#"{"type": "mirror", "device": "x", "len": 1}"#;
    assert!(takes("wait BLOCK_JOB_READY", data));
    assert!(takes("wait BLOCK_JOB_READY len=1 device=x", data));
    assert!(!takes("wait BLOCK_JOB_READY device=y", data));
    assert!(!takes("wait BLOCK_JOB_READY speed=0", data));
    assert!(!takes("wait BLOCK_JOB_COMPLETED", data));
}

#[test]
fn commands_and_events_complete() {
    check_completion("block-str", "|block-str: block-stream");
    check_completion("help BLOCK_JOB_RE", "help |BLOCK_JOB_RE: BLOCK_JOB_READY");
    check_completion("wait BLOCK_JOB_RE", "wait |BLOCK_JOB_RE: BLOCK_JOB_READY");
    check_completion("nope ", "|nope : ");
    check_completion(
        r#"{"execute": "block-str"#,
        r#"{"execute": "|block-str: block-stream"#,
    );
    check_completion(
        r#"{"arguments": "block-str"#,
        r#"|{"arguments": "block-str: "#,
    );
}

#[test]
fn members_complete_without_those_that_are_there() {
    check_completion(
        "block_resize ",
        "block_resize |: size= [device=] [node-name=]",
    );
    check_completion(
        "block_resize size=1 ",
        "block_resize size=1 |: [device=] [node-name=]",
    );
    check_completion("block_resize d", "block_resize |d: [device=]");
    check_completion(
        "wait BLOCK_JOB_READY t",
        "wait BLOCK_JOB_READY |t: type= timeout=",
    );
}

#[test]
fn a_tag_brings_the_members_of_its_variant() {
    check_completion("blockdev-add lazy", "blockdev-add |lazy: ");
    check_completion(
        "blockdev-add driver=qcow2 lazy",
        "blockdev-add driver=qcow2 |lazy: [lazy-refcounts=]",
    );
    check_completion(
        "blockdev-add driver=qcow2 file.driver=file file.f",
        "blockdev-add driver=qcow2 file.driver=file |file.f: file.filename= [file.force-share=]",
    );
    check_completion(
        "blockdev-add driver=qcow2 cache.d",
        "blockdev-add driver=qcow2 |cache.d: [cache.direct=]",
    );
}

#[test]
fn values_complete_where_there_are_few() {
    check_completion(
        "drive-backup sync=",
        "drive-backup sync=|: top full none incremental bitmap",
    );
    check_completion("drive-backup sync=f", "drive-backup sync=|f: full");
    check_completion(
        "blockdev-add driver=qcow2 read-only=",
        "blockdev-add driver=qcow2 read-only=|: true false",
    );
    check_completion(
        "blockdev-add driver=qco",
        "blockdev-add driver=|qco: qcow qcow2",
    );
    check_completion(
        "qmp_capabilities enable=[",
        "qmp_capabilities enable=[|: oob",
    );
    check_completion("block_resize size=", "block_resize size=|: ");
    check_completion("block_resize device='a b", "|block_resize device='a b: ");
}

#[test]
fn what_is_missing_is_hinted_behind_a_blank() {
    let schema = schema();
    let missing = |line| complete::missing(&schema, line);
    let all = "device= image-node-name= backing-file=";
    let last = "change-backing-file device=x image-node-name=y ";
    assert_eq!(missing("change-backing-file "), Some(all.to_owned()));
    assert_eq!(missing(last), Some("backing-file=".to_owned()));
    assert_eq!(missing("block-commit device=x "), None);
    assert_eq!(missing("block-commit"), None);
    assert_eq!(missing("nope "), None);
}

#[test]
fn help_shows_types_marks_values_and_what_our_schema_says() {
    let schema = schema();
    let text = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        help(&schema, &words).unwrap_or_else(|complaint| complaint.0)
    };
    assert_eq!(
        text(&["block-job-set-speed"]),
        "block-job-set-speed device= speed=\n\n  Limits a job.\n\n  \
         device  str  the job's name\n  \
         speed   int  bytes a second; 0 is no limit\n\nAnswers nothing.\n"
    );
    let add = text(&["blockdev-add"]);
    assert!(
        add.contains("More members depend on driver: help blockdev-add driver=…"),
        "{add}"
    );
    let qcow2 = text(&["blockdev-add", "driver=qcow2"]);
    assert!(qcow2.contains("\n  lazy-refcounts "), "{qcow2}");
    assert!(text(&["BLOCK_JOB_READY"]).starts_with("BLOCK_JOB_READY, an event\n"));
    assert!(text(&[]).contains("  block-commit"));
    assert_eq!(
        text(&["block-comit"]),
        "CommandNotFound: The command block-comit has not been found; did you mean 'block-commit'?"
    );
}

#[test]
fn a_schema_full_of_nonsense_is_still_one() {
    let nonsense = r#"[1, {"meta-type": "command"}, {"name": "c", "meta-type": "command",
        "arg-type": "o"}, {"name": "o", "meta-type": "object", "tag": "t", "members": [
        {"name": "t", "type": "e"}, {"name": "a", "type": "a"}, {"name": "l", "type": "l"}],
        "variants": [{"case": "x", "type": "o"}]},
        {"name": "e", "meta-type": "enum", "members": [{"name": "x"}]},
        {"name": "a", "meta-type": "alternate", "members": [{"type": "a"}]},
        {"name": "l", "meta-type": "array", "element-type": "l"}]"#;
    let schema = Schema::from_answer(&Value::from_json(nonsense).expect("JSON"));
    for line in [
        "c t=x a=1",
        "c t=x l=[[[1]]]",
        "c l.0.0.0=[]",
        "c a.b.c=1",
        "c zz=1",
    ] {
        // No line ends the program.
        line::parse(&schema, line).ok();
        complete::complete(&schema, line);
    }
    assert!(help(&schema, &["c".to_owned()]).is_ok());
}
