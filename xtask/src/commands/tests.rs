//! A small schema, a record, and the page that they make.

use super::*;

const SCHEMA: &str = r#"
{ 'enum': 'Colour', 'data': [ 'red', 'green', 'blue' ] }
{ 'struct': 'Lamp', 'data': { 'colour': 'Colour', '*level': 'int' } }
{ 'struct': 'Never', 'data': { 'x': 'int' } }
{ 'command': 'paint', 'data': { 'lamp': 'Lamp', '*twice': 'bool', '*never': 'Never' } }
{ 'command': 'look', 'returns': [ 'Lamp' ] }
{ 'event': 'PAINTED', 'data': { 'colour': 'Colour' } }
"#;

const RECORD: &str = r#"{"command": "paint", "arguments": {"lamp": {"colour": "red"}}, "reply": {"return": {}}}
{"command": "paint", "arguments": {"lamp": {"colour": "blue"}, "twice": true}, "reply": {"error": {"class": "GenericError", "desc": "Lamp 'a1' has 12 coats"}}}
{"command": "look", "arguments": {}, "reply": {"return": [{"colour": "green", "level": 3}]}}
{"command": "", "arguments": {}, "reply": {"error": {"class": "CommandNotFound", "desc": "no"}}}
"#;

fn made(listed: &str) -> Made {
    let folder = std::env::temp_dir().join(format!("qblk-commands-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // A name of its own, since tests run at once.
    let name = format!("{:?}.json", std::thread::current().id());
    let path = folder.join(name.replace(['(', ')'], ""));
    std::fs::write(&path, SCHEMA).unwrap();
    let schema = qapi_parser::parse(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    make_of(&schema, RECORD, listed).unwrap()
}

#[test]
fn holes_are_reported_where_they_begin() {
    let expect = expect_test::expect![[r#"
        not exercised, and not in docs/commands.holes: paint.twice given
        not exercised, and not in docs/commands.holes: paint.never given
        not exercised, and not in docs/commands.holes: PAINTED
        not exercised, and not in docs/commands.holes: Colour=red returned
        not exercised, and not in docs/commands.holes: Colour=green given
        not exercised, and not in docs/commands.holes: Colour=blue given
        not exercised, and not in docs/commands.holes: Colour=blue returned
        not exercised, and not in docs/commands.holes: Lamp.level given"#]];
    expect.assert_eq(&made("").findings.join("\n"));
}

#[test]
fn a_listed_hole_is_quiet_until_it_is_closed() {
    let listed = "# why\n\nPAINTED: no lamp paints\nColour=red given: wrong\n";
    let findings = made(listed).findings.join("\n");
    assert!(!findings.contains("PAINTED"), "{findings}");
    let closed = "exercised by now, and in docs/commands.holes: Colour=red given";
    assert!(findings.contains(closed), "{findings}");
    assert!(holes::parse("PAINTED\n").is_err());
    assert!(holes::parse("PAINTED: a\nPAINTED: b\n").is_err());
}

#[test]
fn a_tick_that_goes_is_lost_and_one_that_comes_is_not() {
    let page = made("").page;
    assert_eq!(lost(&page, &page), Vec::<String>::new());
    let less = page
        .replace("| ✓ |", "| ○ |")
        .replace("- refused", "- never refused");
    assert_eq!(lost(&less, &page), Vec::<String>::new());
    let lost = lost(&page, &less).join("\n");
    for tick in [
        "`paint`: `twice` bool left out",
        "`paint`: refused: GenericError: Lamp '…' has N coats",
        "Before a command is known: refused: CommandNotFound: no",
    ] {
        assert!(lost.contains(tick), "{tick}: {lost}");
    }
}

#[test]
fn an_error_s_text_loses_names_and_numbers_only() {
    let check = |text: &str, shown: &str| assert_eq!(facts::general(text), shown);
    check("Node 'disk0' is busy", "Node '…' is busy");
    check("offset 0x10000 of 12 in l2", "offset N of N in l2");
    check("can't open \"a b\": it's gone", "can't open '…': it's gone");
}
