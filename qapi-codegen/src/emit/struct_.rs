//! Structs: the members of the bases, then their own.

use proc_macro2::TokenStream;
use qapi_parser::{Entity, Member};
use quote::quote;

use super::{Context, docs, wire_by_fields};
use crate::names;

pub(super) fn emit(context: &Context<'_>, entity: &Entity) -> TokenStream {
    let members = context.schema.members(&entity.name);
    let docs = docs::entity(entity);
    let ident = names::type_ident(&entity.name);
    definition(context, &docs, &ident, &members)
}

/// A struct of `members`, each with the entity that documents it.
pub(super) fn definition(
    context: &Context<'_>,
    docs: &TokenStream,
    ident: &proc_macro2::Ident,
    members: &[(&Member, &Entity)],
) -> TokenStream {
    let fields = members
        .iter()
        .map(|(member, owner)| field(context, member, owner));
    let takes = members.iter().map(|(member, _)| {
        let field = names::field(&member.name);
        let take = take(member);
        quote!(#field: #take)
    });
    let puts = members.iter().map(|(member, _)| put(member));
    let default = members.iter().all(|(member, _)| member.optional);
    let default = default.then(|| quote!(, Default));
    let (members_arg, object_arg) = if members.is_empty() {
        (quote!(_), quote!(_))
    } else {
        (quote!(members), quote!(object))
    };
    let wire = wire_by_fields(ident);
    quote! {
        #docs
        #[derive(Debug, Clone, PartialEq #default)]
        pub struct #ident { #(#fields,)* }

        #wire

        impl Fields for #ident {
            fn take(#members_arg: &mut Members) -> Result<Self, Invalid> {
                Ok(Self { #(#takes,)* })
            }

            fn put(&self, #object_arg: &mut Object) {
                #(#puts)*
            }
        }
    }
}

/// A member as a field.
pub(super) fn field(context: &Context<'_>, member: &Member, owner: &Entity) -> TokenStream {
    let doc = docs::member(&owner.doc, &member.name);
    let name = names::field(&member.name);
    let mut ty = context.ty(&member.ty);
    if context.plan.is_boxed(&owner.name, &member.name) {
        ty = quote!(Box<#ty>);
    }
    if member.optional {
        ty = quote!(Option<#ty>);
    }
    quote!(#doc pub #name: #ty)
}

/// The expression that takes a member out of `members`.
pub(super) fn take(member: &Member) -> TokenStream {
    let name = &member.name;
    if member.optional {
        quote!(members.opt(#name)?)
    } else {
        quote!(members.req(#name)?)
    }
}

/// The statement that puts a member into `object`.
pub(super) fn put(member: &Member) -> TokenStream {
    let name = &member.name;
    let field = names::field(name);
    if member.optional {
        quote!(object.put_opt(#name, &self.#field);)
    } else {
        quote!(object.put(#name, &self.#field);)
    }
}
