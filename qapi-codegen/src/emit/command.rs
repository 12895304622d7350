//! Commands: a type each for the arguments, which says what is known of the command.
//! Not here: what a server does with them (`server.rs`).

use proc_macro2::TokenStream;
use qapi_parser::{Arguments, Command, Entity, Type};
use quote::quote;

use super::{Context, Scope, struct_};

pub(super) fn emit(context: &Context<'_>, entity: &Entity, command: &Command) -> TokenStream {
    let ident = context.names.command(&entity.name);
    let definition = match &command.arguments {
        _ if !command.typed => struct_::wrapper(context, entity, &ident, &quote!(runtime::Object)),
        Arguments::Type(name) => {
            let ty = context.ty(entity, &Type::Named(name.clone()));
            struct_::wrapper(context, entity, &ident, &ty)
        }
        Arguments::Members(members) => {
            let members: Vec<_> = members.iter().map(|member| (member, entity)).collect();
            match &command.flat {
                Some(flat) => struct_::flat(context, entity, &ident, &members, flat),
                None => struct_::definition(context, entity, &ident, &members),
            }
        }
    };
    let name = &entity.name;
    let allow_oob = command.allow_oob;
    let answers = (!command.answers).then(|| {
        quote!(
            const ANSWERS: bool = false;
        )
    });
    let ok = ok_type(context, Scope::Commands, command);
    let cfg = context.cfg(&entity.cond);
    let out_of_band = allow_oob.then(|| quote!(#cfg impl runtime::OutOfBand for #ident {}));
    quote! {
        #definition

        #cfg
        impl runtime::Command for #ident {
            const NAME: &'static str = #name;
            const ALLOW_OOB: bool = #allow_oob;
            #answers
            type Ok = #ok;
        }

        #out_of_band
    }
}

/// What a command answers, as it is named in `scope`.
pub(super) fn ok_type(context: &Context<'_>, scope: Scope<'_>, command: &Command) -> TokenStream {
    match &command.returns {
        _ if !command.typed => quote!(runtime::Value),
        Some(ty) => context.ty_from(scope, ty),
        None => quote!(()),
    }
}
