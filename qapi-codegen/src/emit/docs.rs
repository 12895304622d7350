//! Documentation to `///` attributes. What has none gets a line that says what it is, so that
//! generated code passes `missing_docs`.

use proc_macro2::TokenStream;
use qapi_parser::{Doc, Entity};
use quote::quote;

/// The documentation of a whole entity.
pub(super) fn entity(entity: &Entity) -> TokenStream {
    let fallback = format!("`{}`.", entity.name);
    lines(&entity.doc.body, &fallback)
}

/// The documentation of member, value or branch `name`.
pub(super) fn member(doc: &Doc, name: &str) -> TokenStream {
    let text = doc.members.get(name).map_or("", String::as_str);
    lines(text, &format!("`{name}`."))
}

fn lines(text: &str, fallback: &str) -> TokenStream {
    let text = if text.is_empty() {
        fallback.to_owned()
    } else {
        sentence(escape(text))
    };
    let lines = text.lines().map(|line| match line {
        "" => String::new(),
        _ => format!(" {line}"),
    });
    quote!(#(#[doc = #lines])*)
}

/// A phrase as a sentence.
fn sentence(mut text: String) -> String {
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if text.ends_with(|last: char| last.is_alphanumeric() || matches!(last, '`' | ')')) {
        text.push('.');
    }
    text
}

/// Keeps rustdoc from reading links and tags into plain text.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut code = false;
    for character in text.chars() {
        if character == '`' {
            code = !code;
        }
        if !code && matches!(character, '[' | ']' | '<' | '>' | '*') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}
