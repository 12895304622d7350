//! Structs: the members of the bases, then their own.

use proc_macro2::TokenStream;
use qapi_parser::{Entity, Member};
use quote::quote;

use super::{Context, docs, wire_by_fields};
use crate::names;

pub(super) fn emit(context: &Context<'_>, entity: &Entity) -> TokenStream {
    let members = context.schema.members(&entity.name);
    let docs = docs::entity(entity);
    let ident = context.names.ty(&entity.name);
    definition(context, entity, &docs, &ident, &members)
}

/// A struct of `members`, which `entity` has, each with the entity that documents it.
pub(super) fn definition(
    context: &Context<'_>,
    entity: &Entity,
    docs: &TokenStream,
    ident: &proc_macro2::Ident,
    members: &[(&Member, &Entity)],
) -> TokenStream {
    let fields = members
        .iter()
        .map(|(member, owner)| field(context, entity, member, owner));
    let takes = members.iter().map(|(member, _)| {
        let field = context.names.field(&entity.name, &member.name);
        let take = take(member);
        quote!(#field: #take)
    });
    let puts = members
        .iter()
        .map(|(member, _)| put(context, entity, member));
    let default = members.iter().all(|(member, _)| member.optional);
    let default = default.then(|| quote!(, Default));
    let new = new(context, entity, members);
    let new = new.map(|new| quote!(impl #ident { #new }));
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

        #new

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

/// How many parameters a constructor may have; with more, fields are better set by name.
pub(super) const MAX_PARAMETERS: usize = 7;

/// A constructor from the required members, where that saves writing.
pub(super) fn new(
    context: &Context<'_>,
    entity: &Entity,
    members: &[(&Member, &Entity)],
) -> Option<TokenStream> {
    let (optional, required): (Vec<_>, Vec<_>) =
        members.iter().partition(|(member, _)| member.optional);
    if optional.is_empty() || required.is_empty() || required.len() > MAX_PARAMETERS {
        return None;
    }
    let parameters = required.iter().map(|(member, owner)| {
        let (name, ty) = (
            context.names.field(&entity.name, &member.name),
            field_type(context, member, owner),
        );
        quote!(#name: #ty)
    });
    let fields = members.iter().map(|(member, _)| {
        let name = context.names.field(&entity.name, &member.name);
        if member.optional {
            quote!(#name: None)
        } else {
            quote!(#name)
        }
    });
    Some(quote! {
        /// One with no optional member.
        pub fn new(#(#parameters),*) -> Self {
            Self { #(#fields,)* }
        }
    })
}

/// A member of `entity`, which is documented in `owner`, as a field.
pub(super) fn field(
    context: &Context<'_>,
    entity: &Entity,
    member: &Member,
    owner: &Entity,
) -> TokenStream {
    let doc = docs::member(&owner.doc, &member.name);
    let name = context.names.field(&entity.name, &member.name);
    let ty = field_type(context, member, owner);
    quote!(#doc pub #name: #ty)
}

pub(super) fn field_type(context: &Context<'_>, member: &Member, owner: &Entity) -> TokenStream {
    let mut ty = context.ty(&member.ty);
    if context.plan.is_boxed(&owner.name, &member.name) {
        ty = quote!(Box<#ty>);
    }
    if member.optional {
        quote!(Option<#ty>)
    } else {
        ty
    }
}

/// The expression that takes a member out of `members`.
pub(super) fn take(member: &Member) -> TokenStream {
    take_from(&names::ident("members"), member)
}

/// The expression that takes a member out of `source`.
pub(super) fn take_from(source: &proc_macro2::Ident, member: &Member) -> TokenStream {
    let name = &member.name;
    if member.optional {
        quote!(#source.opt(#name)?)
    } else {
        quote!(#source.req(#name)?)
    }
}

/// The statement that puts a member into `object`.
pub(super) fn put(context: &Context<'_>, entity: &Entity, member: &Member) -> TokenStream {
    let name = &member.name;
    let field = context.names.field(&entity.name, name);
    if member.optional {
        quote!(object.put_opt(#name, &self.#field);)
    } else {
        quote!(object.put(#name, &self.#field);)
    }
}
