//! Comments to texts, and what is wrong with them in the reference's words and at its place.

use std::fmt::Write as _;
use std::path::Path;

use expect_test::{Expect, expect};

use super::{Block, Fault, Gap, Next, Stage, Subject, expression, resolved, unknown};
use crate::cond::Cond;
use crate::schema::{Doc, Entity, Enum, EnumValue, Feature, Kind};
use crate::source::{Sources, Span};
use crate::syntax::Text;

/// Reads the comments of `text`, which define `name` of kind `subject`, and shows all of it.
#[track_caller]
fn check_definition(text: &str, subject: Option<(Subject, &str)>, want: Expect) {
    let mut sources = Sources::default();
    let file = sources.add(Path::new("t"), text.into(), None);
    let mut gap = Gap::default();
    let mut at = 0;
    while let Some(next) = text[at..].find("##") {
        at = gap.read(file, text, at + next);
    }
    let next = subject.map_or(Next::Other, |_| Next::Definition);
    let found = gap.close(next);
    let mut out = String::new();
    for block in found.free.iter().chain(&found.block) {
        let name = block.symbol.as_ref().map_or("", |symbol| &symbol.text);
        let doc = block.doc();
        let _ = writeln!(out, "{name:?}: {:?}", doc.body);
        for (name, text) in &doc.members {
            let _ = writeln!(out, "  @{name}: {text:?}");
        }
        for (name, text) in &doc.features {
            let _ = writeln!(out, "  feature {name}: {text:?}");
        }
        for section in &doc.sections {
            let _ = writeln!(out, "  {:?}: {:?}", section.kind, section.text);
        }
    }
    let mut faults = found.faults;
    if let Some((subject, name)) = subject {
        let end = text.len();
        let place = Span {
            file,
            start: end,
            end,
        };
        let name = Text {
            span: place,
            text: name.to_owned(),
        };
        faults.extend(expression(
            found.block.as_ref(),
            subject,
            &name,
            place,
            true,
        ));
    }
    for fault in &faults {
        out.push_str(&show(&sources, fault));
    }
    want.assert_eq(&out);
}

fn show(sources: &Sources, fault: &Fault) -> String {
    let Fault {
        problem,
        span,
        reference,
        notes,
    } = fault;
    let at = sources.place(reference.file, reference.start);
    let column = match problem.stage() {
        Stage::Lex => format!(":{}", at.column),
        _ => String::new(),
    };
    let own = &sources.file(span.file).text[span.start..span.end];
    let notes = if notes.is_empty() {
        ""
    } else {
        " (and elsewhere)"
    };
    let (message, reference) = (problem.message(), problem.reference());
    format!(
        "{}{column}: {reference}\n  {message}: {own:?}{notes}\n",
        at.line
    )
}

#[track_caller]
fn check(text: &str, want: Expect) {
    check_definition(text, Some((Subject::Returning, "foo")), want);
}

#[test]
fn parts_are_told_apart_and_dedented() {
    check(
        "##\n# @foo:\n#\n# One\n# line.\n#\n#\n# Two.\n#\n# @a: first\n#     rest\n#\n#       deeper\n#\n\
         # @b:\n#     below\n#\n# Features:\n#\n# @f: what\n#     it is\n#\n# .. note:: N\n#    more\n#\n\
         # Returns: it\n#\n# Errors:\n#   - one\n#   - two\n#\n# TODO: x\n# TODO: y\n#\n# Since: 1.0\n##\n",
        expect![[r#"
            "foo": "One\nline.\n\nTwo."
              @a: "first\nrest\n\n  deeper"
              @b: "below"
              feature f: "what\nit is"
              Plain: ".. note:: N\n   more"
              Returns: "it"
              Errors: "- one\n- two"
              Todo: "x"
              Todo: "y"
              Since: "1.0"
        "#]],
    );
}

#[test]
fn tags_inside_a_paragraph_or_with_two_colons_are_text() {
    check(
        "##\n# @foo: \n# Text\n# Returns: no\n# @a: no\n#\n# Example::\n#\n#   Since: no\n##",
        expect![[r#"
            "foo": "Text\nReturns: no\n@a: no\n\nExample::\n\n  Since: no"
        "#]],
    );
}

#[test]
fn marks_stand_alone() {
    check(
        "## a\n# text\n##\n",
        expect![[r###"
        "": "text"
        1:1: junk after '##' at start of documentation comment
          a documentation comment starts with `##` alone: "## a"
        1: definition documentation required
          documentation before a definition must start with its name: "## a"
        4: documentation comment required
          a documentation comment is required before it: ""
    "###]],
    );
}

#[test]
fn a_banner_is_one_fault() {
    check(
        "####\n# text\n####\n",
        expect![[r#####"
        "": "text"
        1:1: junk after '##' at start of documentation comment
          a documentation comment starts with `##` alone: "####"
        1: definition documentation required
          documentation before a definition must start with its name: "####"
        4: documentation comment required
          a documentation comment is required before it: ""
    "#####]],
    );
}

#[test]
fn junk_after_the_last_mark() {
    check(
        "##\n# @foo:\n##x\n",
        expect![[r###"
        "foo": ""
        3:1: junk after '##' at end of documentation comment
          a documentation comment ends with `##` alone: "##x"
    "###]],
    );
}

#[test]
fn a_block_that_ends_with_the_file_is_never_ended() {
    check(
        "##\n# @foo:\n#\n",
        expect![[r###"
        "foo": ""
        3:2: documentation comment must end with '##'
          this documentation comment is not ended by `##`: "##"
    "###]],
    );
}

#[test]
fn a_block_that_ends_with_code_is_never_ended() {
    check(
        "\n##\n# @foo:\n  { }\n",
        expect![[r###"
        "foo": ""
        4:3: documentation comment must end with '##'
          this documentation comment is not ended by `##`: "##"
    "###]],
    );
}

#[test]
fn a_space_follows_the_mark() {
    check(
        "##\n# @foo:\n#text\n#\ttab\n##\n",
        expect![[r##"
        "foo": "text\n\ttab"
        3:1: missing space after #
          a line of documentation needs a space after `#`: "#text"
        4:1: missing space after #
          a line of documentation needs a space after `#`: "#\ttab"
    "##]],
    );
}

#[test]
fn a_title_ends_with_a_colon() {
    check(
        "##\n# @foo\n##\n",
        expect![[r#"
        "foo": ""
        2:1: line should end with ':'
          the name that is documented needs a `:` after it: "@foo"
    "#]],
    );
}

#[test]
fn a_title_has_a_name() {
    check(
        "##\n# @:\n##\n",
        expect![[r#"
        "": ""
        2:1: name required after '@'
          the name that is documented is missing: "@:"
        4: documentation comment is for ''
          the documentation before it is about ``: ""
    "#]],
    );
}

#[test]
fn features_are_given_once_and_not_empty() {
    check(
        "##\n# @foo:\n#\n# Features:\n# @f: x\n#\n# Features:\n##\n##\n# @foo:\n#\n# Features:\n#\n# text\n##\n##\n# @foo:\n#\n# Features:\n##\n",
        expect![[r#"
            "foo": ""
            7:1: duplicated 'Features:' line
              `Features:` is given twice: "Features:"
            1: documentation for 'foo' is not followed by the definition
              the definition of `foo` does not follow its documentation: "foo"
            14:1: feature descriptions expected
              `Features:` must be followed by `@feature:` lines: "Features:"
            9: documentation for 'foo' is not followed by the definition
              the definition of `foo` does not follow its documentation: "foo"
            20:1: feature descriptions expected
              `Features:` must be followed by `@feature:` lines: "Features:"
        "#]],
    );
}

#[test]
fn members_stand_before_sections() {
    check(
        "##\n# @foo:\n#\n# Since: 1\n#\n# @a: x\n##\n",
        expect![[r#"
            "foo": ""
              @a: "x"
              Since: "1"
            6:1: description of '@a:' follows a section
              `@a:` must stand before every section: "@a: "
        "#]],
    );
}

#[test]
fn a_text_between_members_is_a_section() {
    check(
        "##\n# @foo:\n#\n# @a: x\n#\n# Text.\n#\n# More.\n#\n# Since: 1\n#\n# Last.\n##\n",
        expect![[r#"
            "foo": ""
              @a: "x"
              Plain: "Text.\n\nMore."
              Since: "1"
              Plain: "Last."
        "#]],
    );
}

#[test]
fn notes_and_examples_are_retired() {
    check(
        "##\n# @foo:\n#\n# Notes: x\n#\n# Example:\n#\n#    -> y\n##\n",
        expect![[r#"
            "foo": ""
              Plain: "x"
              Plain: "-> y"
            4:1: The 'Notes' section is no longer supported. Please use rST's '.. note::' or '.. admonition:: notes' directives, or another suitable admonition instead.
              a note is written `.. note::`, not as a section: "Notes"
            6:1: The 'Example' section is no longer supported. Please use the '.. qmp-example::' directive, or other suitable markup instead.
              an example is written `.. qmp-example::`, not as a section: "Example"
        "#]],
    );
}

#[test]
fn headings_stand_first_in_free_text_only() {
    check(
        "##\n# = One\n#\n# = Two\n##\n##\n# @foo:\n#\n# = No\n##\n",
        expect![[r#"
            "": "= One\n\n= Two"
            "foo": "= No"
            4:1: '=' heading must come first in a comment block
              a heading must be the first line of its comment: "= Two"
            9:1: unexpected '=' markup in definition documentation
              a heading cannot stand in a definition's documentation: "= No"
        "#]],
    );
}

#[test]
fn the_second_line_is_not_less_indented() {
    check(
        "##\n# @foo:\n# @a: x\n#   y\n# z\n##\n",
        expect![[r#"
        "foo": ""
          @a: "x\ny"
          Plain: "z"
        5:1: unexpected de-indent (expected at least 2 spaces)
          this line is indented less than the one before it (2 columns): "z"
    "#]],
    );
}

#[test]
fn a_later_line_begins_a_paragraph() {
    check(
        "##\n# @foo:\n# @a: x\n#   y\n#   y\n#  z\n##\n",
        expect![[r#"
            "foo": ""
              @a: "x\ny\ny"
              Plain: " z"
        "#]],
    );
}

#[test]
fn names_are_given_once_and_not_empty() {
    check(
        "##\n# @foo:\n# @: x\n# @a: y\n# @a: z\n##\n",
        expect![[r#"
        "foo": ""
          @: "x"
          @a: "y"
        3: invalid parameter name
          a name is missing between `@` and `:`: "@:"
        5: 'a' parameter name duplicated
          `@a:` is given twice: "@a:" (and elsewhere)
    "#]],
    );
}

#[test]
fn sections_are_given_once_and_not_empty() {
    check(
        "##\n# @foo:\n#\n# Returns: 1\n#\n# Errors:\n#\n# Returns: 2\n#\n# TODO:\n##\n",
        expect![[r#"
            "foo": ""
              Returns: "1"
              Errors: ""
              Todo: ""
            8: duplicated 'Returns' section
              `Returns:` is given twice: "Returns" (and elsewhere)
            6: text required after 'Errors:'
              `Errors:` has no text: "Errors"
            10: text required after 'Todo:'
              `Todo:` has no text: "TODO"
        "#]],
    );
}

#[test]
fn members_and_features_are_not_empty() {
    check(
        "##\n# @foo:\n# @a:\n#\n# Features:\n# @f:\n##\n",
        expect![[r#"
            "foo": ""
              @a: ""
              feature f: ""
            3: text required after 'Member:'
              a member's documentation is empty: "a"
            6: text required after 'Feature:'
              a feature's documentation is empty: "f"
        "#]],
    );
}

#[test]
fn members_stand_in_no_free_text() {
    check(
        "##\n# text\n# @a b: x\n##\n##\n# @foo:\n##\n",
        expect![[r#"
            "": "text\n@a b: x"
            "foo": ""
            3:1: '@a b:' not allowed in free-form documentation
              `@a b:` cannot stand in documentation about no definition: "@a b: "
        "#]],
    );
}

#[test]
fn free_text_is_no_documentation_of_a_definition() {
    check(
        "##\n# text\n##\n",
        expect![[r###"
        "": "text"
        1: definition documentation required
          documentation before a definition must start with its name: "##"
        4: documentation comment required
          a documentation comment is required before it: ""
    "###]],
    );
}

#[test]
fn documentation_has_its_definition_right_after_it() {
    check(
        "##\n# @bar:\n##\n##\n# @foo:\n##\n",
        expect![[r#"
        "foo": ""
        1: documentation for 'bar' is not followed by the definition
          the definition of `bar` does not follow its documentation: "bar"
    "#]],
    );
}

#[test]
fn documentation_is_about_what_follows() {
    check(
        "##\n# @bar:\n##\n",
        expect![[r#"
        "bar": ""
        4: documentation comment is for 'bar'
          the documentation before it is about `bar`: "bar"
    "#]],
    );
}

#[test]
fn documentation_may_be_required() {
    check(
        "# text\n",
        expect![[r#"
        2: documentation comment required
          a documentation comment is required before it: ""
    "#]],
    );
}

#[test]
fn wide_characters_and_line_ends_of_other_systems_are_read() {
    check(
        "##\r\n# @foo:\r\n#\r\n# Größe\u{a0}\r\n# @é: x\r\n#\u{2003} y\r\n##\r\n",
        expect![[r##"
            "foo": "Größe\n@é: x\n\u{2003} y"
            6:1: missing space after #
              a line of documentation needs a space after `#`: "#\u{2003} y"
        "##]],
    );
}

#[test]
fn sections_fit_the_definition() {
    let text = "##\n# @foo:\n#\n# Returns: x\n#\n# Errors: y\n##\n";
    check_definition(
        text,
        Some((Subject::Silent, "foo")),
        expect![[r#"
        "foo": ""
          Returns: "x"
          Errors: "y"
        4: 'Returns' section, but command doesn't return anything
          the command returns nothing: "Returns"
    "#]],
    );
    check_definition(
        text,
        Some((Subject::Type, "foo")),
        expect![[r#"
        "foo": ""
          Returns: "x"
          Errors: "y"
        4: 'Returns' section is only valid for commands
          only a command has `Returns:`: "Returns"
        6: 'Errors' section is only valid for commands
          only a command has `Errors:`: "Errors"
    "#]],
    );
    check_definition(
        text,
        None,
        expect![[r#"
        1: documentation for 'foo' is not followed by the definition
          the definition of `foo` does not follow its documentation: "foo"
    "#]],
    );
}

/// Holds an enum `E` with value `a`, both with feature `f`, against documentation `text`.
#[track_caller]
fn check_members(text: &str, exceptions: &[String], want: Expect) {
    let mut sources = Sources::default();
    let file = sources.add(Path::new("t"), text.into(), None);
    let mut gap = Gap::default();
    gap.read(file, text, 0);
    let block: Block = gap.close(Next::Definition).block.expect("there is a block");
    let (start, end) = (text.len(), text.len());
    let place = Span { file, start, end };
    let features = vec![Feature {
        name: "f".to_owned(),
        cond: Cond::Always,
    }];
    let value = EnumValue {
        name: "a".to_owned(),
        cond: Cond::Always,
        features: features.clone(),
        span: place,
    };
    let entity = Entity {
        name: "E".to_owned(),
        module: String::new(),
        span: place,
        cond: Cond::Always,
        features,
        doc: Doc::default(),
        kind: Kind::Enum(Enum {
            values: vec![value],
            prefix: None,
        }),
    };
    let mut faults = resolved(
        &entity,
        &block,
        place,
        &exceptions.iter().cloned().collect(),
    );
    faults.extend(unknown(&entity, &block));
    want.assert_eq(
        &faults
            .iter()
            .map(|fault| show(&sources, fault))
            .collect::<String>(),
    );
}

#[test]
fn all_is_documented_and_exists() {
    check_members(
        "##\n# @E:\n# @a: x\n#\n# Features:\n# @f: x\n##\n",
        &[],
        expect![[""]],
    );
}

#[test]
fn what_is_not_documented_is_named() {
    check_members(
        "##\n# @E:\n##\n",
        &[],
        expect![[r#"
        4: feature 'f' lacks documentation
          feature `f` is not documented: ""
        4: value 'a' lacks documentation
          value `a` is not documented: ""
        4: feature 'f' lacks documentation
          feature `f` is not documented: ""
    "#]],
    );
    check_members(
        "##\n# @E:\n##\n",
        &["E".to_owned()],
        expect![[r#"
        4: feature 'f' lacks documentation
          feature `f` is not documented: ""
        4: feature 'f' lacks documentation
          feature `f` is not documented: ""
    "#]],
    );
}

#[test]
fn what_does_not_exist_is_named() {
    let text = "##\n# @E:\n# @a: x\n# @b: x\n# @c: x\n#\n# Features:\n# @f: x\n# @g: x\n##\n";
    check_members(
        text,
        &[],
        expect![[r#"
        4: documented members 'b', 'c' do not exist
          there is no member `b`, `c` to document: "b" (and elsewhere)
        9: documented feature 'g' does not exist
          there is no feature `g` to document: "g"
    "#]],
    );
}
