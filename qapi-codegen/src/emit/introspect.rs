//! The module that answers `query-qmp-schema`.
//! Called by `mod.rs`. Not here: what the answer is (`crate::introspect`).

use proc_macro2::{Literal, TokenStream};
use quote::quote;

use super::Context;
use crate::file::Module;
use crate::introspect::{Config, Documented, TypeNames, documentation, introspect, pieces};
use crate::options::Conditions;
use crate::runtime::Value;
use crate::tokens::read;

pub(super) fn emit(context: &Context<'_>) -> Module {
    let docs = documentation(context.schema, TypeNames::Masked);
    let docs = docs.iter().map(|doc| {
        let Documented {
            entry,
            member,
            text,
        } = doc;
        quote!((#entry, #member, #text))
    });
    let text = match context.options.conditions {
        Conditions::AllOn | Conditions::Resolved(_) => whole(context),
        Conditions::Features => in_pieces(context),
    };
    Module::new("introspect", "The schema as `query-qmp-schema` tells it.")
        .public()
        .with(read(quote! {
            use super::runtime::{Error, Value};

            #text

            /// What the schema's documentation says: the name of an entry of [`value`], the name
            /// of its member or value, or nothing for the entry itself, and the text.
            pub const DOCS: &[(&str, &str, &str)] = &[#(#docs),*];
        }))
}

fn whole(context: &Context<'_>) -> TokenStream {
    let mut text = String::from("[");
    let answer = introspect(context.schema, TypeNames::Masked, &Config::Everything);
    for (index, entry) in answer.as_array().unwrap_or_default().iter().enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&Value::to_ascii_json(entry));
    }
    text.push_str("\n]");
    let literal = raw(&text);
    quote! {
        /// The schema, as JSON text.
        pub const JSON: &str = #literal;

        /// The schema, as a value: an array of `SchemaInfo`.
        ///
        /// # Errors
        /// None: the text is JSON.
        pub fn value() -> Result<Value, Error> {
            Value::from_json(JSON)
        }
    }
}

/// Where conditions are cargo features, they decide here too.
fn in_pieces(context: &Context<'_>) -> TokenStream {
    let pieces = pieces(context.schema, TypeNames::Masked);
    let pieces = pieces.iter().map(|(cond, text)| {
        let cfg = context.cfg(cond);
        let text = raw(text);
        quote!(#cfg #text)
    });
    quote! {
        const PIECES: &[&str] = &[#(#pieces),*];

        /// The schema, as JSON text.
        pub fn json() -> String {
            let mut text = String::new();
            for piece in PIECES {
                // Nothing of the list came before.
                if *piece == "," && text.ends_with('[') {
                    continue;
                }
                text.push_str(piece);
            }
            text
        }

        /// The schema, as a value: an array of `SchemaInfo`.
        ///
        /// # Errors
        /// None: the text is JSON.
        pub fn value() -> Result<Value, Error> {
            Value::from_json(&json())
        }
    }
}

fn raw(text: &str) -> Literal {
    match format!("r####\"{text}\"####").parse() {
        Ok(literal) => literal,
        Err(_) => Literal::string(text),
    }
}
