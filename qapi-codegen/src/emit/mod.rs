//! Schema to tokens: one emitter a kind of entity, each in its own file.
//! Called by `lib.rs`; the result is a tree of modules that `file.rs` writes out.
//! Invariant: output depends on the schema and the options alone.
//!
//! Shape of what is emitted, relative to the root: `types`, `commands`, `events` and `server` each
//! hold a private module for each schema file, and re-export all of them; `interface` is about the
//! whole and re-exported at the root; `runtime` is the support code.
//! Generated code names what it uses by `runtime::`, `types::` and the prelude, which no name of a
//! schema can hide.

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
use qapi_parser::{Builtin, Cond, Entity, Feature, Kind, Schema, Type};
use quote::quote;

use crate::file::Module;
use crate::hooks::Hooks;
use crate::names::Names;
use crate::options::{Conditions, Options, Runtime, Serde, Unknown, feature_name};
use crate::plan::Plan;
use crate::tokens::{Token, read, read_into, uses};

/// What every emitter reads.
pub(crate) struct Context<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) options: &'a Options,
    pub(crate) names: Names,
    pub(crate) plan: Plan,
    pub(crate) hooks: Hooks,
}

/// Where tokens will stand, which decides how they name a type.
#[derive(Clone, Copy)]
pub(crate) enum Scope<'a> {
    /// In `types`, in the module of this schema file.
    Types(&'a str),
    /// In a module of `commands`.
    Commands,
    /// In a module of `events`.
    Events,
    /// In a module of `server`.
    Server,
    /// In `interface`.
    Interface,
}

/// The whole tree.
pub(crate) fn emit(context: &Context<'_>) -> Module {
    let mut types = Space::new("types", "Every type of the schema.");
    let mut commands = Space::new(
        "commands",
        "Every command of the schema: its arguments, as a type.",
    );
    let mut events = Space::new("events", "Every event of the schema: its data, as a type.");
    for entity in context.schema.entities.values() {
        let space = match entity.kind {
            Kind::Command(_) => &mut commands,
            Kind::Event(_) => &mut events,
            _ => &mut types,
        };
        space.add(&entity.module, context.entity(entity));
    }
    let mut server = Space::new(
        "server",
        "What a server does, a trait for each schema file.",
    );
    for stem in context.modules_with_commands() {
        server.add(stem, server::traits(context, stem));
    }
    let mut root = Module::new("", "");
    for space in [types, commands, events, server] {
        root.add(space.into_module(context));
    }
    root.add(introspect::emit(context));
    let runtime_use = match &context.options.runtime {
        Runtime::Inline => {
            root.add(runtime::emit(
                &context.options.serde,
                &context.options.client,
            ));
            quote!()
        }
        Runtime::Path(path) => match path.parse::<TokenStream>() {
            Ok(path) => quote!(use #path as runtime;),
            Err(_) => quote!(compile_error!("the path of the runtime is not one");),
        },
    };
    root.add(interface(context));
    root.with(read(quote! {
        #runtime_use
        #[allow(clippy::allow_attributes, unused_imports)]
        pub use self::interface::*;
    }))
}

/// What is about the schema as a whole.
fn interface(context: &Context<'_>) -> Module {
    let server = server::root(context);
    let event = event::event(context);
    let serde = context.serde_adapters();
    let tokens = read(quote!(#server #event #serde));
    let spaces = ["runtime", "types", "commands", "events", "server"];
    let uses = spaces.into_iter().filter(|name| uses(&tokens, name));
    let uses = uses.map(crate::names::ident);
    let mut all = read(quote!(#(use super::#uses;)*));
    all.extend(tokens);
    Module::new("interface", "The schema as a whole: server, events, names.").with(all)
}

/// One of the three namespaces, by schema file.
struct Space {
    name: &'static str,
    module: Module,
    files: IndexMap<String, Vec<Token>>,
}

impl Space {
    fn new(name: &'static str, doc: &str) -> Self {
        Self {
            name,
            module: Module::new(name, doc).public(),
            files: IndexMap::new(),
        }
    }

    fn add(&mut self, file: &str, tokens: TokenStream) {
        match self.files.get_mut(file) {
            Some(all) => read_into(tokens, all),
            None => drop(self.files.insert(file.to_owned(), read(tokens))),
        }
    }

    fn into_module(mut self, context: &Context<'_>) -> Module {
        let mut exports = TokenStream::new();
        for (stem, tokens) in self.files {
            let name = context.names.module(&stem);
            exports.extend(quote!(pub use self::#name::*;));
            let mut all = imports(&tokens);
            all.extend(tokens);
            let mut doc = format!("From `{stem}.json`.");
            if let Some(said) = context.schema.modules.get(&stem)
                && !said.doc.is_empty()
                && self.name == "types"
            {
                doc.push_str("\n\n");
                doc.push_str(&docs::file(&said.doc));
            }
            let file = Module::new(&name.to_string(), &doc).private();
            self.module.add(file.with(all));
        }
        self.module.with(read(exports))
    }
}

/// Imports of the root's modules that `tokens` name.
fn imports(tokens: &[Token]) -> Vec<Token> {
    let names = ["runtime", "types", "commands"].into_iter();
    let names = names.filter(|name| uses(tokens, name));
    let names = names.map(crate::names::ident);
    read(quote!(#(use super::super::#names;)*))
}

impl Context<'_> {
    fn entity(&self, entity: &Entity) -> TokenStream {
        if self.hooks.replacement(&entity.name).is_some() {
            return TokenStream::new();
        }
        match &entity.kind {
            Kind::Enum(values) => enum_::emit(self, entity, values),
            Kind::Struct(_) => struct_::emit(self, entity),
            Kind::FlatUnion(union) => union_::flat(self, entity, union),
            Kind::SimpleUnion(union) => union_::simple(self, entity, union),
            Kind::Alternate(alternate) => alternate::emit(self, entity, alternate),
            Kind::Command(command) => command::emit(self, entity, command),
            Kind::Event(event) => event::emit(self, entity, event),
        }
    }

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

    /// The scope in which `entity` is defined.
    fn scope<'e>(&self, entity: &'e Entity) -> Scope<'e> {
        match entity.kind {
            Kind::Command(_) => Scope::Commands,
            Kind::Event(_) => Scope::Events,
            _ => Scope::Types(&entity.module),
        }
    }

    /// The Rust type of `ty`, as `entity` names it.
    fn ty(&self, entity: &Entity, ty: &Type) -> TokenStream {
        self.ty_from(self.scope(entity), ty)
    }

    /// The Rust type of `ty`, as it is named in `scope`.
    fn ty_from(&self, scope: Scope<'_>, ty: &Type) -> TokenStream {
        match ty {
            Type::Builtin(builtin) => builtin_type(*builtin),
            Type::List(element) => {
                let element = self.ty_from(scope, element);
                quote!(Vec<#element>)
            }
            Type::Named(name) => match self.schema.get(name) {
                Some(entity) => self.named(scope, entity),
                // One of the escape types, which the parser lets through for untyped commands.
                None => quote!(runtime::Value),
            },
        }
    }

    /// The path of the type that `entity` defines.
    fn named(&self, scope: Scope<'_>, entity: &Entity) -> TokenStream {
        if let Some(path) = self.hooks.replacement(&entity.name) {
            return path;
        }
        let ident = self.names.ty(&entity.name);
        self.local(scope, entity, &ident)
    }

    /// The path of `ident`, which stands where `entity` is defined.
    fn local(&self, scope: Scope<'_>, entity: &Entity, ident: &Ident) -> TokenStream {
        match scope {
            Scope::Types(file) if file == entity.module => quote!(#ident),
            Scope::Types(_) => quote!(super::#ident),
            Scope::Commands | Scope::Events | Scope::Server | Scope::Interface => {
                quote!(types::#ident)
            }
        }
    }

    /// What stands before the definition of `entity`: documentation and attributes.
    fn head(&self, entity: &Entity) -> TokenStream {
        let docs = docs::entity(self, self.scope(entity), entity);
        let cfg = self.cfg(&entity.cond);
        let deprecated = self.deprecated(&entity.features, &entity.doc.features);
        let hooks = self.hooks.attributes(&entity.name, None);
        quote!(#docs #cfg #deprecated #hooks)
    }

    /// The traits that `entity` derives besides what hooks add, as an attribute.
    fn derives(&self, entity: &Entity, traits: &TokenStream) -> TokenStream {
        let more = self.hooks.derives(&entity.name);
        quote!(#[derive(#traits #(, #more)*)])
    }

    /// `#[cfg(…)]` for `cond`, where conditions are kept.
    pub(crate) fn cfg(&self, cond: &Cond) -> TokenStream {
        match self.options.conditions {
            Conditions::Features if !cond.is_always() => {
                let predicate = predicate(cond);
                quote!(#[cfg(#predicate)])
            }
            _ => quote!(),
        }
    }

    /// `#[deprecated]`, where `features` says so; `docs` has the reason.
    pub(crate) fn deprecated(
        &self,
        features: &[Feature],
        docs: &IndexMap<String, String>,
    ) -> TokenStream {
        if !features.iter().any(|feature| feature.name == "deprecated") {
            return quote!();
        }
        match docs.get("deprecated").map(|text| docs::plain(text)) {
            Some(note) if !note.is_empty() => quote!(#[deprecated(note = #note)]),
            _ => quote!(#[deprecated]),
        }
    }

    /// `#[non_exhaustive]`, where asked.
    fn growth(&self) -> TokenStream {
        if self.options.is_non_exhaustive() {
            quote!(#[non_exhaustive])
        } else {
            quote!()
        }
    }

    fn is_open(&self) -> bool {
        self.options.unknown == Unknown::Open
    }

    /// From the root: adapters to serde for every type, where asked.
    fn serde_adapters(&self) -> TokenStream {
        let condition = match &self.options.serde {
            Serde::Off => return quote!(),
            Serde::On => quote!(),
            Serde::Feature(feature) => quote!(#[cfg(feature = #feature)]),
        };
        let mut plain = Vec::new();
        let mut others = TokenStream::new();
        for entity in self.schema.entities.values() {
            if !entity.kind.is_type() || self.hooks.replacement(&entity.name).is_some() {
                continue;
            }
            let ident = self.names.ty(&entity.name);
            let cfg = self.cfg(&entity.cond);
            if cfg.is_empty() {
                plain.push(ident);
            } else {
                others.extend(quote!(#condition #cfg runtime::serde_adapters! { types::#ident }));
            }
        }
        quote!(#condition runtime::serde_adapters! { #(types::#plain),* } #others)
    }
}

/// `cond` as the predicate of a `cfg`.
fn predicate(cond: &Cond) -> TokenStream {
    match cond {
        Cond::Always => quote!(all()),
        Cond::Symbol(symbol) => {
            let feature = feature_name(symbol);
            quote!(feature = #feature)
        }
        Cond::Not(cond) => {
            let inner = predicate(cond);
            quote!(not(#inner))
        }
        Cond::All(conds) => {
            let conds = conds.iter().map(predicate);
            quote!(all(#(#conds),*))
        }
        Cond::Any(conds) => {
            let conds = conds.iter().map(predicate);
            quote!(any(#(#conds),*))
        }
    }
}

/// `Debug` of a type that has a form on the wire, by that form: what is derived is a good part of
/// what a compiler does with the whole.
fn debug(cfg: &TokenStream, ident: &Ident) -> TokenStream {
    let name = ident.to_string();
    quote! {
        #cfg
        impl std::fmt::Debug for #ident {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug(#name, self, f)
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
        Builtin::Null => quote!(runtime::Null),
        Builtin::Any => quote!(runtime::Value),
    }
}
