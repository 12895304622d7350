//! The server's side: a trait for each schema file, the table of commands, `dispatch`.
//! Called by `mod.rs` for each file, and for the root.
//! Invariant: a command's number is its place among the schema's commands, whatever is configured.

use proc_macro2::{Literal, TokenStream};
use qapi_parser::{Command, Entity, Kind};
use quote::quote;

use super::{Context, Scope, command, docs};
use crate::options::{Futures, Missing};

/// Whether a trait has the commands that may run out of band, or the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Band {
    In,
    Out,
}

impl Band {
    fn has(self, command: &Command) -> bool {
        command.allow_oob == (self == Self::Out)
    }
}

/// Every command with its number.
fn commands<'a>(context: &Context<'a>) -> Vec<(usize, &'a Entity, &'a Command)> {
    let commands = context.schema.entities.values();
    let commands = commands.filter_map(|entity| match &entity.kind {
        Kind::Command(command) => Some((entity, command)),
        _ => None,
    });
    let numbered = commands.enumerate();
    numbered
        .map(|(number, (entity, command))| (number, entity, command))
        .collect()
}

/// In the module of schema file `stem`: its traits. Empty for a file without commands.
pub(super) fn traits(context: &Context<'_>, stem: &str) -> TokenStream {
    let of_file = |band: Band| {
        let all = commands(context).into_iter();
        let commands =
            all.filter(|(_, entity, command)| entity.module == stem && band.has(command));
        let methods: Vec<_> = commands
            .map(|(_, entity, command)| method(context, entity, command))
            .collect();
        definition(context, stem, band, &methods)
    };
    let (in_band, out_of_band) = (of_file(Band::In), of_file(Band::Out));
    quote!(#in_band #out_of_band)
}

fn definition(
    context: &Context<'_>,
    stem: &str,
    band: Band,
    methods: &[TokenStream],
) -> TokenStream {
    if methods.is_empty() {
        return quote!();
    }
    let (name, summary) = match band {
        Band::In => (
            context.names.server(stem),
            format!(" What a server does for the commands of `{stem}.json`."),
        ),
        Band::Out => (
            context.names.oob_server(stem),
            format!(" What a server does for those of `{stem}.json` that may run out of band."),
        ),
    };
    let missing = match context.options.server.missing {
        Missing::NotFound => " A method that is not written answers that there is no such command.",
        Missing::NotBuiltIn => " A method that is not written answers that it is not built in.",
    };
    let (bound, futures) = match context.options.server.futures {
        Futures::Local => (
            quote!(),
            " Write a method as `async fn`; its future is `Send` if what it holds is.",
        ),
        Futures::Send => (
            quote!(: Sync),
            " Write a method as `async fn`; its future has to be `Send`.",
        ),
    };
    quote! {
        #[doc = #summary]
        #[doc = ""]
        #[doc = #missing]
        #[doc = #futures]
        pub trait #name #bound { #(#methods)* }
    }
}

fn method(context: &Context<'_>, entity: &Entity, command: &Command) -> TokenStream {
    let docs = docs::entity(context, Scope::Server, entity);
    let cfg = context.cfg(&entity.cond);
    let deprecated = context.deprecated(&entity.features, &entity.doc.features);
    let method = context.names.method(&entity.name);
    let ident = context.names.command(&entity.name);
    let ok = command::ok_type(context, Scope::Server, command);
    let send = match context.options.server.futures {
        Futures::Local => quote!(),
        Futures::Send => quote!(+ Send),
    };
    let name = &entity.name;
    let answer = match context.options.server.missing {
        Missing::NotFound => quote!(runtime::not_found(#name)),
        Missing::NotBuiltIn => quote!(runtime::not_built_in(#name)),
    };
    quote! {
        #docs
        #cfg
        #deprecated
        fn #method(
            &self,
            arguments: commands::#ident,
        ) -> impl std::future::Future<Output = Result<#ok, runtime::Error>> #send {
            let _ = arguments;
            std::future::ready(Err(#answer))
        }
    }
}

/// From the root: the table of commands, the traits together, `dispatch` and what goes with it.
pub(super) fn root(context: &Context<'_>) -> TokenStream {
    let commands = commands(context);
    let table = table(context, &commands);
    let server = together(context, &commands, Band::In);
    let server_oob = together(context, &commands, Band::Out);
    quote! {
        #table

        #server
        #server_oob
    }
}

fn table(context: &Context<'_>, commands: &[(usize, &Entity, &Command)]) -> TokenStream {
    let mut sorted = commands.to_vec();
    sorted.sort_by(|(_, a, _), (_, b, _)| a.name.cmp(&b.name));
    let rows = sorted.iter().map(|(number, entity, command)| {
        let (name, number) = (&entity.name, Literal::usize_unsuffixed(*number));
        let oob = command.allow_oob.then(|| quote!(.with_oob()));
        let silent = (!command.answers).then(|| quote!(.without_answer()));
        let cfg = context.cfg(&entity.cond);
        quote!(#cfg runtime::CommandSpec::new(#number, #name)#oob #silent)
    });
    quote! {
        /// Every command.
        pub const COMMANDS: &runtime::Commands = &runtime::Commands::new(&[#(#rows),*]);
    }
}

/// The traits together, and who leads a command to its method. Commands that may run out of band may
/// run in band too.
fn together(
    context: &Context<'_>,
    commands: &[(usize, &Entity, &Command)],
    band: Band,
) -> TokenStream {
    let taken = |command: &Command| band == Band::In || command.allow_oob;
    let taken: Vec<_> = commands
        .iter()
        .filter(|(_, _, command)| taken(command))
        .collect();
    if band == Band::Out && taken.is_empty() {
        return quote!();
    }
    let owner = |entity: &Entity, command: &Command| {
        if command.allow_oob {
            context.names.oob_server(&entity.module)
        } else {
            context.names.server(&entity.module)
        }
    };
    let mut traits = Vec::new();
    for (_, entity, command) in &taken {
        let owner = owner(entity, command);
        if !traits.contains(&owner) {
            traits.push(owner);
        }
    }
    let arms = taken.iter().map(|(number, entity, command)| {
        let owner = owner(entity, command);
        let method = context.names.method(&entity.name);
        let number = Literal::usize_unsuffixed(*number);
        let cfg = context.cfg(&entity.cond);
        quote! {
            #cfg #number => runtime::run(server, arguments, server::#owner::#method).await
        }
    });
    let unused = taken
        .is_empty()
        .then(|| quote!(let _ = (server, arguments);));
    let bounds = if traits.is_empty() {
        quote!()
    } else {
        quote!(: #(server::#traits)+*)
    };
    let definition = |name: TokenStream, doc: &str| {
        let bound = &bounds;
        quote! {
            #[doc = #doc]
            pub trait #name #bound {}

            impl<T #bound> #name for T {}
        }
    };
    match band {
        Band::In => {
            let server = definition(quote!(Server), " What a server does for every command.");
            quote! {
                #server

                /// Checks the arguments of `command`, runs it on `server`, and gives its answer.
                ///
                /// # Errors
                /// That of the command, of its arguments, or that there is none of this name.
                pub async fn dispatch<S: Server>(
                    server: &S,
                    command: &str,
                    arguments: runtime::Object,
                ) -> Result<runtime::Value, runtime::Error> {
                    #unused
                    match COMMANDS.number(command)? {
                        #(#arms,)*
                        _ => Err(runtime::not_found(command)),
                    }
                }

                /// Answers a message, or what was wrong with it; `None` where nothing is to be
                /// answered. Commands that came out of band run like the others.
                pub async fn answer<S: Server>(
                    server: &S,
                    session: runtime::Session,
                    message: Result<runtime::Value, runtime::Error>,
                ) -> Option<runtime::Value> {
                    match runtime::Request::read(message, session, COMMANDS) {
                        Err(refusal) => Some(refusal.into_reply()),
                        Ok(request) => {
                            let runtime::Request { id, command, arguments, .. } = request;
                            let result = dispatch(server, command.name, arguments).await;
                            command.reply(id, result)
                        }
                    }
                }
            }
        }
        Band::Out => {
            let doc = " What a server does for every command that may run out of band.";
            let server = definition(quote!(OobServer), doc);
            quote! {
                #server

                /// As [`dispatch`], for a command that came out of band.
                ///
                /// # Errors
                /// That of the command, of its arguments, or that none of this name may run out of
                /// band.
                pub async fn dispatch_oob<S: OobServer>(
                    server: &S,
                    command: &str,
                    arguments: runtime::Object,
                ) -> Result<runtime::Value, runtime::Error> {
                    match COMMANDS.number(command)? {
                        #(#arms,)*
                        _ => Err(runtime::no_oob(command)),
                    }
                }
            }
        }
    }
}
