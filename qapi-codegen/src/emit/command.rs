//! Commands: a type each for the arguments, which says what is known of the command.
//! Not here: what a server does with them (`server.rs`).

use proc_macro2::TokenStream;
use qapi_parser::{Arguments, Command, Entity, Type};
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

/// What a command answers, where `types` is the path of the types.
pub(super) fn ok_type(
    context: &Context<'_>,
    command: &Command,
    types: &TokenStream,
) -> TokenStream {
    match &command.returns {
        _ if !command.typed => quote!(Value),
        Some(ty) => context.ty_from(ty, types),
        None => quote!(()),
    }
}
