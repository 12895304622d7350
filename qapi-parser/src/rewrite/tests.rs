//! Layout: what comes out, and that nothing else than the layout changes.

use expect_test::{Expect, expect};

use super::format;
use super::tree::{Container, File, Lead, Node, Pair, Value};

/// Formats `text`; what comes out reads as the same tree and stays as it is.
#[track_caller]
fn formatted(text: &str) -> String {
    let once = format("t.json", text).unwrap_or_else(|errors| panic!("{errors}"));
    let twice = format("t.json", &once).unwrap_or_else(|errors| panic!("{once}\n{errors}"));
    assert_eq!(once, twice, "formatting again changes it");
    assert!(
        !once.lines().any(|line| line.ends_with(' ')),
        "space at an end: {once}"
    );
    assert_eq!(bare(text), bare(&once), "the tree changes: {once}");
    once
}

#[track_caller]
fn check(text: &str, want: Expect) {
    want.assert_eq(&formatted(text));
}

/// The tree of `text` without what layout may change.
fn bare(text: &str) -> File {
    fn lead(lead: &mut Lead) {
        lead.gap = false;
        for comment in &mut lead.comments {
            comment.gap = false;
            comment.alone = true;
        }
    }
    fn value(of: &mut Value) {
        lead(&mut of.before);
        match &mut of.node {
            Node::String(_) | Node::Bool(_) => {}
            Node::List(list) => {
                list.items.iter_mut().for_each(value);
                lead(&mut list.end);
            }
            Node::Object(own) => object(own),
        }
    }
    fn object(own: &mut Container<Pair>) {
        for pair in &mut own.items {
            lead(&mut pair.before);
            value(&mut pair.value);
        }
        lead(&mut own.end);
    }
    let mut file = File::read(&text.replace("\r\n", "\n"));
    for item in &mut file.items {
        lead(&mut item.before);
        object(&mut item.object);
    }
    let mut end = Lead {
        comments: std::mem::take(&mut file.end),
        gap: false,
    };
    lead(&mut end);
    file.end = end.comments;
    file
}

#[test]
fn a_key_a_line_and_a_member_a_line() {
    check(
        "{'struct':'X','data':{'a':'int','*b':['str'],'c':{'type':'bool','features':['unstable']}}}",
        expect![[r#"
            { 'struct': 'X',
              'data': { 'a': 'int',
                        '*b': ['str'],
                        'c': { 'type': 'bool', 'features': [ 'unstable' ] } } }
        "#]],
    );
}

#[test]
fn short_expressions_stay_on_a_line() {
    check(
        "{'include':'x.json'}\n\n\n\n{'command':'stop'}\n{'command':'go','returns':['X']}{ 'command':'end',\n'data':'X'}",
        expect![[r#"
            { 'include': 'x.json' }

            { 'command': 'stop' }
            { 'command': 'go', 'returns': ['X'] }
            { 'command': 'end', 'data': 'X' }
        "#]],
    );
}

#[test]
fn lists_are_filled() {
    check(
        "{'enum':'ABlockdevDriver','data':['one-value','two-values','three-values','four-values','five-values',{'name':'six','if':'X'},'seven']}",
        expect![[r#"
            { 'enum': 'ABlockdevDriver',
              'data': [ 'one-value', 'two-values', 'three-values', 'four-values',
                        'five-values',
                        { 'name': 'six', 'if': 'X' },
                        'seven' ] }
        "#]],
    );
}

#[test]
fn wide_members_move_to_the_left() {
    check(
        "{'command':'c','data':{'a-very-long-name-of-a-member-that-goes-on':'AVeryLongNameOfATypeThatGoesOn','b':'X'}}",
        expect![[r#"
            { 'command': 'c',
              'data': {
                  'a-very-long-name-of-a-member-that-goes-on': 'AVeryLongNameOfATypeThatGoesOn',
                  'b': 'X'
              } }
        "#]],
    );
}

#[test]
fn comments_stay_where_they_are() {
    check(
        "# first\n\n\n# second\n{ 'enum' : 'Status',             # right of code\n  # indented\n  'data': [ 'good' # g\n , 'bad', # b\n # before\n 'ugly' ] } # after\n# last\n",
        expect![[r#"
            # first

            # second
            { 'enum': 'Status', # right of code
              # indented
              'data': [ 'good', # g
                        'bad', # b
                        # before
                        'ugly' ] } # after
            # last
        "#]],
    );
}

#[test]
fn comments_in_odd_places_stay() {
    check(
        "{ # a\n 'struct' # b\n : # c\n 'X', 'data' : { # d\n # e\n } # f\n}\n",
        expect![[r#"
            { # a
              'struct': # b
                  # c
                  'X',
              'data': { # d
                  # e
              } # f
            }
        "#]],
    );
}

#[test]
fn a_comment_before_the_last_bracket_stays() {
    check(
        "{ 'struct': 'X', 'data': { 'a': 'int' # last\n } }",
        expect![[r#"
            { 'struct': 'X',
              'data': { 'a': 'int' # last
              } }
        "#]],
    );
}

#[test]
fn documentation_is_followed_by_its_definition() {
    check(
        "##\n# @X:\n##\n\n{ 'struct': 'X', 'data': {} }\n\n##\n# = free\n##\n\n\n{ 'include': 'x' }",
        expect![[r#"
            ##
            # @X:
            ##
            { 'struct': 'X', 'data': {} }

            ##
            # = free
            ##

            { 'include': 'x' }
        "#]],
    );
}

#[test]
fn empty_lines_between_members_stay() {
    check(
        "{ 'struct': 'X', 'data': { 'a': 'int',\n\n\n 'b': 'int',\n\n # c\n\n 'c': 'int' } }",
        expect![[r#"
            { 'struct': 'X',
              'data': { 'a': 'int',

                        'b': 'int',

                        # c

                        'c': 'int' } }
        "#]],
    );
}

#[test]
fn conditions_are_kept_together() {
    check(
        "{'struct':'X','if':{'all':['A',{'not':'B'}]},'features':['f',{'name':'g','if':'C'}],'data':{}}",
        expect![[r#"
            { 'struct': 'X',
              'if': { 'all': [ 'A', { 'not': 'B' } ] },
              'features': [ 'f', { 'name': 'g', 'if': 'C' } ],
              'data': {} }
        "#]],
    );
}

#[test]
fn pragmas_are_filled() {
    check(
        "{'pragma':{'doc-required':true,'command-name-exceptions':['add_client','block_passwd','block_resize','block_set_io_throttle']}}",
        expect![[r#"
            { 'pragma': { 'doc-required': true,
                          'command-name-exceptions': [
                              'add_client', 'block_passwd', 'block_resize',
                              'block_set_io_throttle'
                          ] } }
        "#]],
    );
}

#[test]
fn inline_structs_of_the_old_dialect_are_laid_out() {
    check(
        "{'type':'X','data':{'a':{'b':'int','*c':['str']},'d':'int'}}",
        expect![[r#"
            { 'type': 'X',
              'data': { 'a': { 'b': 'int', '*c': ['str'] },
                        'd': 'int' } }
        "#]],
    );
}

#[test]
fn empty_files_stay_empty() {
    check("", expect![[""]]);
}

#[test]
fn line_ends_of_other_systems_become_ours() {
    check(
        "# a\r\n\r\n{'command':'x'}\r\n",
        expect![[r#"
        # a

        { 'command': 'x' }
    "#]],
    );
}

#[test]
fn what_is_no_schema_is_refused_with_the_place() {
    let errors = format("t.json", "{ 'struct': 'X', }")
        .unwrap_err()
        .to_string();
    assert!(errors.contains("t.json:1:18"), "{errors}");
}

/// Random trees with random comments and space survive; the seed is printed when one does not.
#[test]
fn any_layout_of_any_tree_is_kept() {
    for seed in 0..200 {
        let text = scrambled(seed);
        let outcome = std::panic::catch_unwind(|| formatted(&text));
        assert!(outcome.is_ok(), "seed {seed}: {text}");
    }
}

/// A schema of random tokens, comments and space.
fn scrambled(seed: u64) -> String {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut out = String::new();
    for _ in 0..random.below(4) {
        random.space(&mut out);
        random.object(&mut out, 0);
    }
    random.space(&mut out);
    out
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn space(&mut self, out: &mut String) {
        for _ in 0..self.below(3) {
            let pieces = [
                " ",
                "\n",
                "\n\n",
                "\t",
                "# c\n",
                "  #  d  \n",
                "##\n# @a:\n##\n",
                "",
            ];
            let piece = usize::try_from(self.below(24)).unwrap_or(0);
            out.push_str(pieces.get(piece).unwrap_or(&""));
        }
    }

    fn string(&mut self, out: &mut String) {
        let names = [
            "data",
            "a",
            "*type",
            "features",
            "x-long-name-exceptions",
            "é#{",
        ];
        let name = names[usize::try_from(self.below(6)).unwrap_or(0)];
        let number = self.0 % 100_000;
        out.push_str(&format!("'{name}{number}'"));
    }

    fn object(&mut self, out: &mut String, depth: u32) {
        out.push('{');
        let count = self.below(4);
        for index in 0..count {
            self.space(out);
            self.string(out);
            self.space(out);
            out.push(':');
            self.space(out);
            self.value(out, depth);
            self.space(out);
            if index + 1 < count {
                out.push(',');
            }
        }
        self.space(out);
        out.push('}');
    }

    fn value(&mut self, out: &mut String, depth: u32) {
        match self.below(if depth > 3 { 3 } else { 6 }) {
            0 => out.push_str("true"),
            1 | 2 => self.string(out),
            3 => self.object(out, depth + 1),
            _ => {
                out.push('[');
                let count = self.below(8);
                for index in 0..count {
                    self.space(out);
                    self.value(out, depth + 1);
                    self.space(out);
                    if index + 1 < count {
                        out.push(',');
                    }
                }
                self.space(out);
                out.push(']');
            }
        }
    }
}
