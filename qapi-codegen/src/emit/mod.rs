//! Schema to tokens: one emitter a kind of entity, each in its own file.
//! Called by `lib.rs`; the result is a tree of modules that `file.rs` writes out.
//! Invariant: output depends on the schema and the options alone.
//!
//! Shape of what is emitted, relative to the root: `modules::<schema file>::{types, commands,
//! events, server}` hold the definitions; `types`, `commands` and `events` at the root re-export all of
//! them, as `server` does the traits of servers; `runtime` is the support code.

mod alternate;
mod command;
mod docs;
mod enum_;
mod event;
mod introspect;
mod runtime;
mod server;
mod struct_;
mod union_;

use indexmap::IndexMap;
use proc_macro2::{Ident, TokenStream};
use qapi_parser::{Builtin, Entity, Kind, Schema, Type};
use quote::{format_ident, quote};

use crate::file::Module;
use crate::names::{self, Names};
use crate::options::{Options, Runtime, Serde};
use crate::plan::Plan;

/// What every emitter reads.
pub(crate) struct Context<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) options: &'a Options,
    pub(crate) names: Names,
    pub(crate) plan: Plan,
}

/// The whole tree.
pub(crate) fn emit(context: &Context<'_>) -> Module {
    let (schema, options) = (context.schema, context.options);
    let mut files: IndexMap<&str, Spaces> = IndexMap::new();
    for entity in schema.entities.values() {
        let spaces = files.entry(&entity.module).or_default();
        let (space, tokens) = context.entity(entity);
        match space {
            Space::Types => spaces.types.extend(tokens),
            Space::Commands => spaces.commands.extend(tokens),
            Space::Events => spaces.events.extend(tokens),
        }
    }
    let mut modules = Module::new("modules", "Definitions, a module for each schema file.");
    let mut exports = Spaces::default();
    for (stem, spaces) in files {
        let ident = context.names.module(stem);
        exports.add(&spaces, &ident);
        let doc = format!("From `{stem}.json`.");
        let server = server::traits(context, stem);
        let mut definitions = spaces.into_modules();
        definitions.extend(server_module(server));
        modules.add(Module::new(&ident.to_string(), &doc).with(definitions));
    }
    let mut root = Module::new("", "");
    root.add(modules);
    root.add(introspect::emit(context));
    let runtime_use = match &options.runtime {
        Runtime::Inline => {
            root.add(runtime::emit(&options.serde));
            quote!()
        }
        Runtime::Path(path) => match path.parse::<TokenStream>() {
            Ok(path) => quote!(use #path as runtime;),
            Err(_) => quote!(compile_error!("the path of the runtime is not one");),
        },
    };
    let types = exports.types;
    let commands = exports.commands;
    let events = exports.events;
    let server = server::root(context);
    let event = event::event(context);
    let serde = serde_adapters(context, &options.serde);
    root.with(quote! {
        #runtime_use
        #[doc = " Every type of the schema."]
        pub mod types { #types }
        #[doc = " Every command of the schema: its arguments, as a type."]
        pub mod commands { #commands }
        #[doc = " Every event of the schema: its data, as a type."]
        pub mod events { #events }
        #server
        #event
        #serde
    })
}

/// Namespaces of generated names.
enum Space {
    Types,
    Commands,
    Events,
}

/// Tokens by namespace.
#[derive(Default)]
struct Spaces {
    types: TokenStream,
    commands: TokenStream,
    events: TokenStream,
}

impl Spaces {
    /// Re-exports `of`, the spaces of module `file`.
    fn add(&mut self, of: &Self, file: &Ident) {
        let export = |tokens: &TokenStream, space: &str| {
            let space = format_ident!("{space}");
            (!tokens.is_empty()).then(|| quote!(pub use super::modules::#file::#space::*;))
        };
        self.types.extend(export(&of.types, "types"));
        self.commands.extend(export(&of.commands, "commands"));
        self.events.extend(export(&of.events, "events"));
    }

    fn into_modules(self) -> TokenStream {
        let module = |tokens: TokenStream, name: &str, doc: &str, extra: &[&str]| {
            let name = format_ident!("{name}");
            let imports = imports(&tokens, extra);
            (!tokens.is_empty())
                .then(|| quote!(#[doc = #doc] pub(crate) mod #name { #imports #tokens }))
        };
        let types = module(self.types, "types", " Types.", &[]);
        let commands = module(self.commands, "commands", " Commands.", &["Command"]);
        let events = module(self.events, "events", " Events.", &[]);
        quote!(#types #commands #events)
    }
}

/// The module of a file's server traits.
fn server_module(traits: TokenStream) -> TokenStream {
    if traits.is_empty() {
        return traits;
    }
    let imports = imports(&traits, &[]);
    quote! {
        /// What a server does.
        pub(crate) mod server {
            #imports
            use super::super::super::runtime;
            use super::commands;
            #traits
        }
    }
}

/// Imports of what `tokens` use of the root and the runtime, and `extra` of the runtime. A name that may be a variant's is either
/// written with its path or in `extra`.
fn imports(tokens: &TokenStream, extra: &[&str]) -> TokenStream {
    const NAMES: [&str; 12] = [
        "Context",
        "Fields",
        "Invalid",
        "Members",
        "Object",
        "UnknownName",
        "Value",
        "Wire",
        "read_fields",
        "read_name",
        "encode_fields",
        "find_name",
    ];
    let mut used = std::collections::BTreeSet::new();
    collect_idents(tokens.clone(), &mut used);
    let names: Vec<Ident> = NAMES
        .iter()
        .filter(|name| used.contains(**name))
        .chain(extra)
        .map(|name| names::ident(name))
        .collect();
    let types = used.contains("types").then(|| {
        quote!(
            use super::super::super::types;
        )
    });
    let names =
        (!names.is_empty()).then(|| quote!(use super::super::super::runtime::{#(#names),*};));
    quote!(#names #types)
}

fn collect_idents(tokens: TokenStream, out: &mut std::collections::BTreeSet<String>) {
    for token in tokens {
        match token {
            proc_macro2::TokenTree::Ident(ident) => drop(out.insert(ident.to_string())),
            proc_macro2::TokenTree::Group(group) => collect_idents(group.stream(), out),
            proc_macro2::TokenTree::Punct(_) | proc_macro2::TokenTree::Literal(_) => {}
        }
    }
}

/// From the root: adapters to serde for every type, where asked.
fn serde_adapters(context: &Context<'_>, serde: &Serde) -> TokenStream {
    let condition = match serde {
        Serde::Off => return quote!(),
        Serde::On => quote!(),
        Serde::Feature(feature) => quote!(#[cfg(feature = #feature)]),
    };
    let types = context
        .schema
        .entities
        .values()
        .filter(|entity| entity.kind.is_type());
    let types = types.map(|entity| context.names.ty(&entity.name));
    quote!(#condition runtime::serde_adapters! { #(types::#types),* })
}

impl Context<'_> {
    /// The schema files that have commands, in schema order.
    fn modules_with_commands(&self) -> Vec<&str> {
        let mut modules: Vec<&str> = Vec::new();
        for entity in self.schema.entities.values() {
            if matches!(entity.kind, Kind::Command(_)) && !modules.contains(&&*entity.module) {
                modules.push(&entity.module);
            }
        }
        modules
    }

    fn entity(&self, entity: &Entity) -> (Space, TokenStream) {
        match &entity.kind {
            Kind::Enum(values) => (Space::Types, enum_::emit(self, entity, values)),
            Kind::Struct(_) => (Space::Types, struct_::emit(self, entity)),
            Kind::FlatUnion(union) => (Space::Types, union_::flat(self, entity, union)),
            Kind::SimpleUnion(union) => (Space::Types, union_::simple(self, entity, union)),
            Kind::Alternate(alternate) => (Space::Types, alternate::emit(self, entity, alternate)),
            Kind::Command(command) => (Space::Commands, command::emit(self, entity, command)),
            Kind::Event(event) => (Space::Events, event::emit(self, entity, event)),
        }
    }

    /// The Rust type of `ty`, seen from a module of definitions.
    fn ty(&self, ty: &Type) -> TokenStream {
        self.ty_from(ty, &quote!(types))
    }

    /// The Rust type of `ty` where `types` is the path of the types.
    fn ty_from(&self, ty: &Type, types: &TokenStream) -> TokenStream {
        match ty {
            Type::Builtin(builtin) => builtin_type(*builtin),
            Type::List(element) => {
                let element = self.ty_from(element, types);
                quote!(Vec<#element>)
            }
            Type::Named(name) if self.schema.get(name).is_none() => {
                // One of the escape types, which the parser lets through for untyped commands.
                quote!(Value)
            }
            Type::Named(name) => {
                let ident = self.names.ty(name);
                quote!(#types::#ident)
            }
        }
    }
}

/// The conversion of a type that implements `Fields`.
fn wire_by_fields(ident: &Ident) -> TokenStream {
    quote! {
        impl Wire for #ident {
            fn read(value: Value, context: Context) -> Result<Self, Invalid> {
                read_fields(value, context)
            }

            fn encode(&self) -> Value {
                encode_fields(self)
            }
        }
    }
}

fn builtin_type(builtin: Builtin) -> TokenStream {
    match builtin {
        Builtin::Str | Builtin::QType => quote!(String),
        Builtin::Int | Builtin::Int64 => quote!(i64),
        Builtin::Number => quote!(f64),
        Builtin::Bool => quote!(bool),
        Builtin::Int8 => quote!(i8),
        Builtin::Int16 => quote!(i16),
        Builtin::Int32 => quote!(i32),
        Builtin::Uint8 => quote!(u8),
        Builtin::Uint16 => quote!(u16),
        Builtin::Uint32 => quote!(u32),
        Builtin::Uint64 | Builtin::Size => quote!(u64),
        Builtin::Null => quote!(super::super::super::runtime::Null),
        Builtin::Any => quote!(Value),
    }
}
