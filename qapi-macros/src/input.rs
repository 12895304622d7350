//! What stands between the macro's parentheses: a path, then options.
//! Called by `lib.rs`. Invariant: an option that is not known, or given twice, is an error where it
//! stands.

use std::path::Path;

use qapi_codegen::{Builder, Conditions, Dialect, Growth, Runtime, Serde, Unknown};
use syn::parse::{Parse, ParseStream};
use syn::{Ident, LitStr, Token, bracketed};

/// What an option does to the builder; paths are relative to the folder.
pub(crate) type Apply = Box<dyn FnOnce(Builder, &Path) -> Builder>;

/// The macro's arguments.
pub(crate) struct Input {
    pub(crate) schema: LitStr,
    pub(crate) options: Vec<Apply>,
}

const OPTIONS: &str = "`dialect`, `overlays`, `conditions`, `unknown`, `growth`, `only`, `derive`, \
                       `attribute`, `replace`, `serde` or `runtime`";

impl Parse for Input {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let schema = input.parse()?;
        let mut options = Vec::new();
        let mut given: Vec<Ident> = Vec::new();
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let name: Ident = input.parse()?;
            if given.contains(&name) {
                let message = format!("`{name}` is given twice");
                return Err(syn::Error::new(name.span(), message));
            }
            input.parse::<Token![=]>()?;
            options.push(option(&name, input)?);
            given.push(name);
        }
        Ok(Self { schema, options })
    }
}

fn option(name: &Ident, input: ParseStream<'_>) -> syn::Result<Apply> {
    Ok(match name.to_string().as_str() {
        "dialect" => {
            let dialect = word(
                input,
                &[
                    ("auto", Dialect::Auto),
                    ("legacy", Dialect::Legacy),
                    ("modern", Dialect::Modern),
                ],
            )?;
            Box::new(move |builder, _| builder.dialect(dialect))
        }
        "overlays" => {
            let files = texts(input)?;
            Box::new(move |builder, folder| {
                let add = |builder: Builder, file| builder.overlay(folder.join(file));
                files.into_iter().fold(builder, add)
            })
        }
        "conditions" => {
            let conditions = if input.peek(syn::token::Bracket) {
                Conditions::Resolved(texts(input)?.into_iter().collect())
            } else {
                let words = [
                    ("all_on", Conditions::AllOn),
                    ("features", Conditions::Features),
                ];
                word(input, &words)?
            };
            Box::new(move |builder, _| builder.conditions(conditions))
        }
        "unknown" => {
            let words = [("open", Unknown::Open), ("closed", Unknown::Closed)];
            let unknown = word(input, &words)?;
            Box::new(move |builder, _| builder.unknown(unknown))
        }
        "growth" => {
            let words = [
                ("non_exhaustive", Growth::NonExhaustive),
                ("exhaustive", Growth::Exhaustive),
            ];
            let growth = word(input, &words)?;
            Box::new(move |builder, _| builder.growth(growth))
        }
        "only" => {
            let names = texts(input)?;
            Box::new(move |builder, _| builder.only(names))
        }
        "derive" => hooks(input, Builder::derive)?,
        "attribute" => hooks(input, Builder::attribute)?,
        "replace" => hooks(input, Builder::replace)?,
        "serde" => {
            let serde = if input.peek(LitStr) {
                Serde::Feature(input.parse::<LitStr>()?.value())
            } else {
                word(input, &[("off", Serde::Off), ("on", Serde::On)])?
            };
            Box::new(move |builder, _| builder.serde(serde))
        }
        "runtime" => {
            let path = input.parse::<LitStr>()?.value();
            Box::new(move |builder, _| builder.runtime(Runtime::Path(path)))
        }
        _ => {
            let message = format!("there is no option `{name}`: expected {OPTIONS}");
            return Err(syn::Error::new(name.span(), message));
        }
    })
}

/// One of `words`.
fn word<T: Clone>(input: ParseStream<'_>, words: &[(&str, T)]) -> syn::Result<T> {
    let word: Ident = input.parse()?;
    let found = words.iter().find(|(name, _)| word == name);
    found.map(|(_, value)| value.clone()).ok_or_else(|| {
        let names: Vec<String> = words.iter().map(|(name, _)| format!("`{name}`")).collect();
        syn::Error::new(word.span(), format!("expected {}", names.join(" or ")))
    })
}

/// `["…", …]`
fn texts(input: ParseStream<'_>) -> syn::Result<Vec<String>> {
    let list;
    bracketed!(list in input);
    let list = list.parse_terminated(<LitStr as Parse>::parse, Token![,])?;
    Ok(list.iter().map(LitStr::value).collect())
}

/// `["…" => "…", …]`
fn hooks(
    input: ParseStream<'_>,
    add: fn(Builder, String, String) -> Builder,
) -> syn::Result<Apply> {
    let list;
    bracketed!(list in input);
    let pair = |input: ParseStream<'_>| {
        let path: LitStr = input.parse()?;
        input.parse::<Token![=>]>()?;
        let text: LitStr = input.parse()?;
        Ok((path.value(), text.value()))
    };
    let pairs = list.parse_terminated(pair, Token![,])?;
    Ok(Box::new(move |builder, _| {
        let add = |builder, (path, text)| add(builder, path, text);
        pairs.into_iter().fold(builder, add)
    }))
}
