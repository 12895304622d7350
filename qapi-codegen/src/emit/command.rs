//! Commands: a type each for the arguments; one server trait and one `dispatch` for all.

use proc_macro2::TokenStream;
use qapi_parser::{Arguments, Command, Entity, Kind, Type};
use quote::quote;

use super::{Context, docs, struct_, wire_by_fields};

pub(super) fn emit(context: &Context<'_>, entity: &Entity, command: &Command) -> TokenStream {
    let ident = context.names.command(&entity.name);
    let docs = docs::entity(entity);
    let definition = match &command.arguments {
        _ if !command.typed => wrapper(&docs, &ident, &quote!(Object)),
        Arguments::Type(name) => {
            let ty = context.ty(&Type::Named(name.clone()));
            wrapper(&docs, &ident, &ty)
        }
        Arguments::Members(members) => match &command.flat {
            Some(flat) => flat_or_boxed(context, entity, &docs, members, flat),
            None => {
                let members: Vec<_> = members.iter().map(|member| (member, entity)).collect();
                struct_::definition(context, entity, &docs, &ident, &members)
            }
        },
    };
    let name = &entity.name;
    let allow_oob = command.allow_oob;
    let answers = (!command.answers).then(|| {
        quote!(
            const ANSWERS: bool = false;
        )
    });
    let ok = ok_type(context, command, &quote!(types));
    let out_of_band =
        allow_oob.then(|| quote!(impl super::super::super::runtime::OutOfBand for #ident {}));
    quote! {
        #definition

        impl Command for #ident {
            const NAME: &'static str = #name;
            const ALLOW_OOB: bool = #allow_oob;
            #answers
            type Ok = #ok;
        }

        #out_of_band
    }
}

/// A type around the type that the command's data names.
pub(super) fn wrapper(
    docs: &TokenStream,
    ident: &proc_macro2::Ident,
    ty: &TokenStream,
) -> TokenStream {
    let wire = wire_by_fields(ident);
    quote! {
        #docs
        #[derive(Debug, Clone, PartialEq)]
        pub struct #ident(
            /// Its members.
            pub #ty,
        );

        #wire

        impl Fields for #ident {
            fn take(members: &mut Members) -> Result<Self, Invalid> {
                Fields::take(members).map(Self)
            }

            fn put(&self, object: &mut Object) {
                self.0.put(object);
            }
        }
    }
}

/// A command whose only argument's members may stand in its place.
fn flat_or_boxed(
    context: &Context<'_>,
    entity: &Entity,
    docs: &TokenStream,
    members: &[qapi_parser::Member],
    flat: &str,
) -> TokenStream {
    let ident = context.names.command(&entity.name);
    let fields = members
        .iter()
        .map(|member| struct_::field(context, entity, member, entity));
    let field = context.names.field(&entity.name, flat);
    let wire = wire_by_fields(&ident);
    quote! {
        #docs
        #[derive(Debug, Clone, PartialEq)]
        pub struct #ident { #(#fields,)* }

        #wire

        impl Fields for #ident {
            fn take(members: &mut Members) -> Result<Self, Invalid> {
                let #field = if members.has(#flat) {
                    members.req(#flat)?
                } else {
                    Fields::take(members)?
                };
                Ok(Self { #field })
            }

            fn put(&self, object: &mut Object) {
                self.#field.put(object);
            }
        }
    }
}

fn ok_type(context: &Context<'_>, command: &Command, types: &TokenStream) -> TokenStream {
    match &command.returns {
        _ if !command.typed => quote!(Value),
        Some(ty) => context.ty_from(ty, types),
        None => quote!(()),
    }
}

/// From the root: the list of commands, the server trait and `dispatch`.
pub(super) fn server(context: &Context<'_>) -> TokenStream {
    let commands: Vec<(&Entity, &Command)> = context
        .schema
        .entities
        .values()
        .filter_map(|entity| match &entity.kind {
            Kind::Command(command) => Some((entity, command)),
            _ => None,
        })
        .collect();
    let specs = commands.iter().map(|(entity, command)| {
        let (name, oob, answers) = (&entity.name, command.allow_oob, command.answers);
        quote!(runtime::CommandSpec { name: #name, allow_oob: #oob, answers: #answers })
    });
    let methods = commands.iter().map(|(entity, _)| {
        let docs = docs::entity(entity);
        let method = context.names.method(&entity.name);
        let ident = context.names.command(&entity.name);
        let name = &entity.name;
        quote! {
            #docs
            fn #method(
                &self,
                arguments: commands::#ident,
            ) -> impl Future<Output = Result<<commands::#ident as runtime::Command>::Ok, runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_built_in(#name)))
            }
        }
    });
    let arms = commands.iter().map(|(entity, _)| {
        let method = context.names.method(&entity.name);
        let name = &entity.name;
        quote!(#name => run(arguments, |command| server.#method(command)).await)
    });
    let body = if commands.is_empty() {
        quote!({
            let _ = (server, arguments);
            Err(not_found(command))
        })
    } else {
        quote!(match command { #(#arms,)* _ => Err(not_found(command)) })
    };
    let run = (!commands.is_empty()).then(|| {
        quote! {
            async fn run<C, F>(
                arguments: runtime::Object,
                call: impl FnOnce(C) -> F,
            ) -> Result<runtime::Value, runtime::Error>
            where
                C: runtime::Command,
                F: Future<Output = Result<C::Ok, runtime::Error>>,
            {
                use runtime::Wire as _;
                let arguments = runtime::Value::Object(arguments);
                let command = C::decode(arguments, runtime::Unknown::Refuse)?;
                Ok(call(command).await?.encode())
            }
        }
    });
    quote! {
        /// Every command, in schema order.
        pub const COMMANDS: &[runtime::CommandSpec] = &[#(#specs),*];

        /// What a server does for each command.
        ///
        /// A method that is not written answers that the command is not built in. Write a method
        /// as `async fn`; its future is `Send` if what it holds is.
        pub trait Server {
            #(#methods)*
        }

        /// Checks the arguments of `command`, runs it on `server`, and gives its answer.
        ///
        /// # Errors
        /// That of the command, of its arguments, or that there is none of this name.
        pub async fn dispatch<S: Server>(
            server: &S,
            command: &str,
            arguments: runtime::Object,
        ) -> Result<runtime::Value, runtime::Error> {
            #body
        }

        #run

        fn not_found(command: &str) -> runtime::Error {
            runtime::Error::command_not_found(format!("The command {command} has not been found"))
        }
    }
}
