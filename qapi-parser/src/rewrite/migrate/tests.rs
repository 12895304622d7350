//! One rule a case: 2.1 text to today's text, which is read again as today's and migrates to itself.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use expect_test::{Expect, expect};

use super::{Migration, migrate};
use crate::{Dialect, Loader};

/// A folder of its own that goes when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("qapi-migrate-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("the folder can be made");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the file can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn migrated(folder: &Folder, root: &Path) -> Migration {
    let migration = migrate(root).unwrap_or_else(|errors| panic!("{errors}"));
    for file in &migration.files {
        let name = file.path.file_name().expect("it has a name");
        folder.write(&name.to_string_lossy(), &file.text);
    }
    migration
}

/// Migrates `files`, the first of which is the root.
#[track_caller]
fn check_files(files: &[(&str, &str)], want: Expect) {
    let folder = Folder::new();
    let paths: Vec<PathBuf> = files
        .iter()
        .map(|(name, text)| folder.write(name, text))
        .collect();
    let first = migrated(&folder, &paths[0]);
    let mut out = String::new();
    for file in &first.files {
        if files.len() > 1 {
            let name = file.path.file_name().expect("it has a name");
            out.push_str(&format!("==> {}\n", name.display()));
        }
        out.push_str(&file.text);
    }
    for note in &first.notes {
        out.push_str(&format!("note: {note}\n"));
    }
    want.assert_eq(&out);
    let modern = Loader::new().dialect(Dialect::Modern).load(&paths[0]);
    assert!(modern.is_ok(), "{out}{}", modern.unwrap_err());
    let again = migrated(&folder, &paths[0]);
    for (one, two) in first.files.iter().zip(&again.files) {
        assert_eq!(one.text, two.text, "migrating again changes it");
    }
}

#[track_caller]
fn check(text: &str, want: Expect) {
    check_files(&[("t.json", text)], want);
}

#[test]
fn types_are_structs() {
    check(
        "{ 'type': 'Apple', 'data': { 'x': 'int' } }\n{ 'type': 'Basis', 'base': 'Apple', 'data': {} }\n",
        expect![[r#"
            { 'struct': 'Apple',
              'data': { 'x': 'int' } }
            { 'struct': 'Basis',
              'base': 'Apple',
              'data': {} }
        "#]],
    );
}

#[test]
fn inline_structs_get_names() {
    check(
        "{ 'type': 'Outer', 'data': { 'in': { 'a-b': { 'x': 'int' }, '*y': 'str' }, '*z': 'int' } }\n{ 'command': 'do-it', 'data': { 'arg': { 'x': 'int' } } }\n",
        expect![[r#"
            { 'struct': 'OuterInAB',
              'data': { 'x': 'int' } }

            { 'struct': 'OuterIn',
              'data': { 'a-b': 'OuterInAB',
                        '*y': 'str' } }

            { 'struct': 'Outer',
              'data': { 'in': 'OuterIn',
                        '*z': 'int' } }

            { 'struct': 'DoItArg',
              'data': { 'x': 'int' } }

            { 'command': 'do-it',
              'data': { 'arg': 'DoItArg' } }
        "#]],
    );
}

#[test]
fn unions_by_json_type_are_alternates() {
    check(
        "{ 'union': 'Ref', 'discriminator': {}, 'data': { 'by_name': 'str', 'By_Value': 'Apple' } }\n{ 'type': 'Apple', 'data': { 'x': 'int' } }\n",
        expect![[r#"
            { 'alternate': 'Ref',
              'data': { 'by-name': 'str',
                        'by-value': 'Apple' } }
            { 'struct': 'Apple',
              'data': { 'x': 'int' } }
        "#]],
    );
}

#[test]
fn simple_unions_are_tagged() {
    check(
        "{ 'union': 'Either', 'data': { 'a': 'Apple', 'b': ['Apple'], 'c': 'str', 'd': 'Apple' } }\n{ 'type': 'Apple', 'data': { 'x': 'int' } }\n{ 'union': 'Variant', 'data': { 'a': 'Apple' } }\n",
        expect![[r#"
            { 'enum': 'EitherKind',
              'data': [ 'a', 'b', 'c', 'd' ] }

            { 'struct': 'AppleWrapper',
              'data': { 'data': 'Apple' } }

            { 'struct': 'AppleListWrapper',
              'data': { 'data': ['Apple'] } }

            { 'struct': 'StrWrapper',
              'data': { 'data': 'str' } }

            { 'union': 'Either',
              'base': { 'type': 'EitherKind' },
              'discriminator': 'type',
              'data': { 'a': 'AppleWrapper',
                        'b': 'AppleListWrapper',
                        'c': 'StrWrapper',
                        'd': 'AppleWrapper' } }
            { 'struct': 'Apple',
              'data': { 'x': 'int' } }

            { 'enum': 'VariantKind',
              'data': [ 'a' ] }

            { 'union': 'Variant',
              'base': { 'type': 'VariantKind' },
              'discriminator': 'type',
              'data': { 'a': 'AppleWrapper' } }
        "#]],
    );
}

#[test]
fn a_simple_unions_base_holds_the_tag() {
    check(
        "{ 'type': 'Apple', 'data': { 'x': 'int' } }\n{ 'union': 'Either', 'base': 'Apple', 'data': { 'a': 'Apple' } }\n",
        expect![[r#"
            { 'struct': 'Apple',
              'data': { 'x': 'int' } }

            { 'enum': 'EitherKind',
              'data': [ 'a' ] }

            { 'struct': 'AppleWrapper',
              'data': { 'data': 'Apple' } }

            { 'struct': 'EitherBase',
              'base': 'Apple',
              'data': { 'type': 'EitherKind' } }

            { 'union': 'Either',
              'base': 'EitherBase',
              'discriminator': 'type',
              'data': { 'a': 'AppleWrapper' } }
        "#]],
    );
}

#[test]
fn flat_unions_stay() {
    check(
        "{ 'enum': 'Choice', 'data': ['p', 'q'] }\n{ 'type': 'Basis', 'data': { 'kind': 'Choice' } }\n{ 'type': 'Pear', 'data': {} }\n{ 'union': 'Either', 'base': 'Basis', 'discriminator': 'kind', 'data': { 'p': 'Pear' } }\n{ 'command': 'use', 'data': 'Either' }\n",
        expect![[r#"
            { 'enum': 'Choice',
              'data': [ 'p', 'q' ] }
            { 'struct': 'Basis',
              'data': { 'kind': 'Choice' } }
            { 'struct': 'Pear', 'data': {} }
            { 'union': 'Either',
              'base': 'Basis',
              'discriminator': 'kind',
              'data': { 'p': 'Pear' } }
            { 'command': 'use',
              'data': 'Either',
              'boxed': true }
        "#]],
    );
}

#[test]
fn flags_are_booleans_and_any_type_is_any() {
    check(
        "{ 'type': 'Apple', 'data': {} }\n{ 'command': 'get', 'data': { 'path': 'str', '*props': 'dict' }, 'returns': 'visitor', 'gen': 'no' }\n{ 'command': 'quit', 'success-response': 'no' }\n{ 'command': 'add', 'data': '**', 'gen': 'no' }\n",
        expect![[r#"
            { 'pragma': { 'command-returns-exceptions': [ 'get' ] } }

            { 'struct': 'Apple', 'data': {} }
            { 'command': 'get',
              'data': { 'path': 'str',
                        '*props': 'any' },
              'returns': 'any',
              'gen': false }
            { 'command': 'quit', 'success-response': false }
            { 'command': 'add', 'gen': false }
            note: `add` takes any arguments, which cannot be said: none are
        "#]],
    );
}

#[test]
fn names_that_break_the_rules_are_excepted() {
    check(
        "{ 'enum': 'Choice', 'data': [ 'a_b', 'A', '1x' ] }\n{ 'type': 'Thing', 'data': { 'x_y': 'int' } }\n{ 'command': 'do_it', 'data': { 'plain': 'int' }, 'returns': ['str'] }\n",
        expect![[r#"
            { 'pragma': { 'command-name-exceptions': [ 'do_it' ],
                          'command-returns-exceptions': [ 'do_it' ],
                          'member-name-exceptions': [ 'Choice', 'Thing' ] } }

            { 'enum': 'Choice',
              'data': [ 'a_b', 'A', '1x' ] }
            { 'struct': 'Thing',
              'data': { 'x_y': 'int' } }
            { 'command': 'do_it',
              'data': { 'plain': 'int' },
              'returns': ['str'] }
        "#]],
    );
}

#[test]
fn arguments_that_break_the_rules_move_to_a_struct() {
    check(
        "##\n# @set-it:\n#\n# Sets it.\n#\n# @a_b: one\n#\n# Returns: nothing on success\n#          If there is none, DeviceNotFound\n#\n# Since 1.2\n##\n{ 'command': 'set-it', 'data': { 'a_b': 'int', '*c': 'int' } }\n",
        expect![[r#"
            { 'pragma': { 'documentation-exceptions': [ 'SetItArguments' ],
                          'member-name-exceptions': [ 'SetItArguments' ] } }

            ##
            # @SetItArguments:
            #
            # Arguments of @set-it.
            #
            # @a_b: one
            #
            # Since: 1.2
            ##
            { 'struct': 'SetItArguments',
              'data': { 'a_b': 'int',
                        '*c': 'int' } }

            ##
            # @set-it:
            #
            # Sets it.
            #
            # Errors:
            #     - If there is none, DeviceNotFound
            #
            # Since: 1.2
            ##
            { 'command': 'set-it', 'data': 'SetItArguments' }
        "#]],
    );
}

#[test]
fn dots_become_underscores() {
    check(
        "{ 'enum': 'Choice', 'data': [ 'a.b', '__org.x_c' ] }\n{ 'type': 'Basis', 'data': { 'k': 'Choice' } }\n{ 'type': 'Pear', 'data': {} }\n{ 'union': 'Either', 'base': 'Basis', 'discriminator': 'k', 'data': { 'a.b': 'Pear' } }\n",
        expect![[r#"
            { 'pragma': { 'member-name-exceptions': [ 'Choice' ] } }

            { 'enum': 'Choice',
              'data': [ 'a_b', '__org.x_c' ] }
            { 'struct': 'Basis',
              'data': { 'k': 'Choice' } }
            { 'struct': 'Pear', 'data': {} }
            { 'union': 'Either',
              'base': 'Basis',
              'discriminator': 'k',
              'data': { 'a_b': 'Pear' } }
            note: `a.b` of `Choice` is called `a_b`: names have no such characters
            note: `a.b` of `Either` is called `a_b`: names have no such characters
        "#]],
    );
}

#[test]
fn types_that_break_the_rules_are_renamed() {
    check(
        "{ 'type': 'my_type', 'data': {} }\n{ 'type': 'FooList', 'data': { 'x': 'my_type', '*y': ['my_type'] } }\n",
        expect![[r#"
            { 'struct': 'MyType', 'data': {} }
            { 'struct': 'FooListType',
              'data': { 'x': 'MyType',
                        '*y': ['MyType'] } }
            note: type `my_type` is called `MyType`
            note: type `FooList` is called `FooListType`
        "#]],
    );
}

#[test]
fn names_that_are_taken_are_not_taken_again() {
    check(
        "{ 'enum': 'EitherKind', 'data': [] }\n{ 'type': 'AppleWrapper', 'data': {} }\n{ 'type': 'Apple', 'data': {} }\n{ 'union': 'Either', 'data': { 'a': 'Apple' } }\n",
        expect![[r#"
            { 'enum': 'EitherKind', 'data': [] }
            { 'struct': 'AppleWrapper', 'data': {} }
            { 'struct': 'Apple', 'data': {} }

            { 'enum': 'EitherKind2',
              'data': [ 'a' ] }

            { 'struct': 'AppleWrapper2',
              'data': { 'data': 'Apple' } }

            { 'union': 'Either',
              'base': { 'type': 'EitherKind2' },
              'discriminator': 'type',
              'data': { 'a': 'AppleWrapper2' } }
        "#]],
    );
}

#[test]
fn comments_are_sorted_into_sections() {
    check(
        "# Plain.\n\n##\n# @Thing\n#\n# Body.\n#\n# @a: #optional first\n#     goes on\n#         deeper\n#\n# Between.\n#\n# @b, @c: both\n# lazy\n#\n# @none: not there\n# @d:\n#\n# Notes: look\n#   out\n#\n# Example:\n#\n# -> x\n# <- y\n#\n# TODO: more\n#\n# Since: 1.0\n# Since 2.0\n#\n##\n\n{ 'type': 'Thing', 'data': { '*a': 'int', 'b': 'int', 'c': 'int', 'd': 'int' } }\n",
        expect![[r#"
            # Plain.

            { 'pragma': { 'documentation-exceptions': [ 'Thing' ] } }

            ##
            # @Thing:
            #
            # Body.
            #
            # @a: first
            #     goes on
            #         deeper
            #
            # @b: both
            #     lazy
            #
            # @c: both
            #     lazy
            #
            # none: not there
            #
            # Between.
            #
            # .. note:: look
            #     out
            #
            # Example::
            #
            #     -> x
            #     <- y
            #
            # TODO: more
            #
            # Since: 1.0
            #     2.0
            ##
            { 'struct': 'Thing',
              'data': { '*a': 'int',
                        'b': 'int',
                        'c': 'int',
                        'd': 'int' } }
        "#]],
    );
}

#[test]
fn what_a_command_returns_stays() {
    check(
        "##\n# @get:\n#\n# Returns: the list\n#          of all\n#\n# Since: 1.0\n##\n{ 'command': 'get', 'returns': ['Thing'] }\n{ 'type': 'Thing', 'data': {} }\n",
        expect![[r#"
            ##
            # @get:
            #
            # Returns: the list
            #     of all
            #
            # Since: 1.0
            ##
            { 'command': 'get', 'returns': ['Thing'] }
            { 'struct': 'Thing', 'data': {} }
        "#]],
    );
}

#[test]
fn branches_are_documented_with_the_tag() {
    check(
        "##\n# @Either:\n#\n# One of two.\n#\n# @a: the first\n# @b: the second\n##\n{ 'union': 'Either', 'data': { 'a': 'str', 'b': 'int' } }\n",
        expect![[r#"
            ##
            # @EitherKind:
            #
            # @a: the first
            #
            # @b: the second
            ##
            { 'enum': 'EitherKind',
              'data': [ 'a', 'b' ] }

            { 'struct': 'StrWrapper',
              'data': { 'data': 'str' } }

            { 'struct': 'IntWrapper',
              'data': { 'data': 'int' } }

            ##
            # @Either:
            #
            # One of two.
            #
            # @type: which of @EitherKind it is
            ##
            { 'union': 'Either',
              'base': { 'type': 'EitherKind' },
              'discriminator': 'type',
              'data': { 'a': 'StrWrapper',
                        'b': 'IntWrapper' } }
        "#]],
    );
}

#[test]
fn comments_about_nothing_are_no_documentation() {
    check(
        "##\n# @Gone:\n##\n\n##\n# Free.\n##\n\n## banner\n{ 'type': 'Thing', 'data': {} }\n##\n# Also free.\n##\n",
        expect![[r#"
            #
            # @Gone:
            #

            #
            # Free.
            #

            # banner
            { 'struct': 'Thing', 'data': {} }
            ##
            # Also free.
            ##
        "#]],
    );
}

#[test]
fn comments_inside_stay() {
    check(
        "{ 'type': 'Thing', # a\n  'data': { # b\n    'x': 'int', # c\n    # d\n    '*y': { 'z': 'int' # e\n } } }\n",
        expect![[r#"
            { 'struct': 'ThingY',
              'data': { 'z': 'int' # e
              } }

            { 'struct': 'Thing', # a
              'data': { # b
                  'x': 'int', # c
                  # d
                  '*y': 'ThingY'
              } }
        "#]],
    );
}

#[test]
fn paragraphs_mean_nothing_else() {
    check(
        "##\n# @Thing:\n#\n# = Heading\n#\n# Features:\n#\n# Errors: none\n##\n{ 'type': 'Thing', 'data': {} }\n",
        expect![[r#"
            ##
            # @Thing:
            #
            # Heading
            #
            #  Features:
            #
            #  Errors: none
            ##
            { 'struct': 'Thing', 'data': {} }
        "#]],
    );
}

#[test]
fn files_of_both_dialects_live_together() {
    check_files(
        &[
            (
                "root.json",
                "# Root.\n\n{ 'pragma': { 'member-name-exceptions': [ 'Newer' ] } }\n{ 'include': 'old.json' }\n{ 'include': 'new.json' }\n",
            ),
            (
                "old.json",
                "{ 'type': 'Thing', 'data': { 'a_b': 'int' } }\n",
            ),
            (
                "new.json",
                "{ 'struct':  'Newer', 'data': { 'c_d': 'int' } }\n",
            ),
        ],
        expect![[r#"
            ==> root.json
            # Root.

            { 'pragma': { 'member-name-exceptions': [ 'Newer' ] } }
            { 'include': 'old.json' }
            { 'include': 'new.json' }

            { 'pragma': { 'member-name-exceptions': [ 'Thing', 'Newer' ] } }
            ==> old.json
            { 'struct': 'Thing',
              'data': { 'a_b': 'int' } }
            ==> new.json
            { 'struct':  'Newer', 'data': { 'c_d': 'int' } }
        "#]],
    );
}

#[test]
fn expressions_of_both_dialects_live_together() {
    check(
        "##\n# @New:\n#\n# @x: said\n#\n# Features:\n# @old: said\n##\n{ 'struct': 'New', 'data': { 'x': 'int' }, 'features': ['old'] }\n{ 'union': 'Old', 'data': { 'a': 'New' } }\n",
        expect![[r#"
            ##
            # @New:
            #
            # @x: said
            #
            # Features:
            # @old: said
            ##
            { 'struct': 'New',
              'data': { 'x': 'int' },
              'features': [ 'old' ] }

            { 'enum': 'OldKind',
              'data': [ 'a' ] }

            { 'struct': 'NewWrapper',
              'data': { 'data': 'New' } }

            { 'union': 'Old',
              'base': { 'type': 'OldKind' },
              'discriminator': 'type',
              'data': { 'a': 'NewWrapper' } }
        "#]],
    );
}

#[test]
fn a_schema_of_today_stays_byte_for_byte() {
    check(
        "{ 'struct':   'Thing', 'data': {'x': 'int'}}",
        expect!["{ 'struct':   'Thing', 'data': {'x': 'int'}}"],
    );
}
