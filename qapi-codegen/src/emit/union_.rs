//! Unions with a tag. A flat union is a struct of the base's members; the field that is called
//! like the discriminator holds an enum of branches, so that one `match` gives tag and members. A
//! simple union is that enum itself, or, with a base, a struct that holds it as `data`.

use proc_macro2::{Ident, TokenStream};
use qapi_parser::{Branch, Entity, FlatUnion, Kind, Member, SimpleUnion, Type};
use quote::{format_ident, quote};

use super::{Context, docs, enum_, struct_, wire_by_fields};

pub(super) fn flat(context: &Context<'_>, entity: &Entity, union: &FlatUnion) -> TokenStream {
    let docs = docs::entity(entity);
    let ident = context.names.ty(&entity.name);
    let branch_ident = context.names.branches(&entity.name);
    let tag_field = context.names.field(&entity.name, &union.discriminator);
    let tag_type = context.ty(&Type::Named(union.tag.clone()));
    let members = context.schema.base_members(entity, union);
    let is_tag = |member: &Member| member.name == union.discriminator;
    let fields = members.iter().map(|(member, owner)| {
        if is_tag(member) {
            let doc = docs::member(&owner.doc, &member.name);
            quote!(#doc pub #tag_field: #branch_ident)
        } else {
            struct_::field(context, entity, member, owner)
        }
    });
    // The members become variables, one of which may have the usual name of their source.
    let taken = members
        .iter()
        .any(|(member, _)| context.names.field(&entity.name, &member.name) == "members");
    let source = format_ident!("{}", if taken { "members_" } else { "members" });
    let takes = members.iter().map(|(member, _)| {
        let name = context.names.field(&entity.name, &member.name);
        let take = struct_::take_from(&source, member);
        if is_tag(member) {
            quote!(let #name: #tag_type = #take;)
        } else {
            quote!(let #name = #take;)
        }
    });
    let names: Vec<_> = members
        .iter()
        .map(|(member, _)| context.names.field(&entity.name, &member.name))
        .collect();
    let puts = members.iter().map(|(member, _)| {
        if is_tag(member) {
            let name = &member.name;
            quote!(object.put(#name, &self.#tag_field.kind());)
        } else {
            struct_::put(context, entity, member)
        }
    });
    let new = flat_new(
        context,
        entity,
        &members,
        &union.discriminator,
        &branch_ident,
    );
    let branches = branches(context, entity, union, &branch_ident, &tag_type);
    let tag = &union.discriminator;
    let kind_doc = format!(" The value of `{tag}`.");
    let wire = wire_by_fields(&ident);
    quote! {
        #docs
        #[derive(Debug, Clone, PartialEq)]
        pub struct #ident { #(#fields,)* }

        impl #ident {
            #new

            #[doc = #kind_doc]
            pub fn kind(&self) -> #tag_type {
                self.#tag_field.kind()
            }
        }

        #wire

        impl Fields for #ident {
            fn take(#source: &mut Members) -> Result<Self, Invalid> {
                #(#takes)*
                let #tag_field = #branch_ident::take(#tag_field, #source)?;
                Ok(Self { #(#names,)* })
            }

            fn put(&self, object: &mut Object) {
                #(#puts)*
                self.#tag_field.put(object);
            }
        }

        #branches
    }
}

/// A constructor from the branch and the other required members.
fn flat_new(
    context: &Context<'_>,
    entity: &Entity,
    members: &[(&Member, &Entity)],
    discriminator: &str,
    branch: &Ident,
) -> Option<TokenStream> {
    let (mut parameters, mut fields) = (Vec::new(), Vec::new());
    for (member, owner) in members {
        let name = context.names.field(&entity.name, &member.name);
        if member.name == discriminator {
            parameters.push(quote!(#name: #branch));
            fields.push(quote!(#name));
        } else if member.optional {
            fields.push(quote!(#name: None));
        } else {
            let ty = struct_::field_type(context, member, owner);
            parameters.push(quote!(#name: #ty));
            fields.push(quote!(#name));
        }
    }
    (parameters.len() <= struct_::MAX_PARAMETERS).then(|| {
        quote! {
            /// One with no optional member of the base.
            pub fn new(#(#parameters),*) -> Self {
                Self { #(#fields,)* }
            }
        }
    })
}

/// The enum of a flat union's branches.
fn branches(
    context: &Context<'_>,
    entity: &Entity,
    union: &FlatUnion,
    ident: &Ident,
    tag: &TokenStream,
) -> TokenStream {
    let Some(Kind::Enum(values)) = context.schema.get(&union.tag).map(|entity| &entity.kind) else {
        return quote!();
    };
    let tag_doc = context.schema.get(&union.tag).map(|tag| &tag.doc);
    let mut variants = Vec::new();
    let mut takes = Vec::new();
    let mut puts = Vec::new();
    let mut kinds = Vec::new();
    for value in values.names() {
        let doc = tag_doc.map(|doc| docs::member(doc, value));
        let variant = context.names.variant(&entity.name, value);
        let Some(branch) = union.branches.iter().find(|branch| branch.name == value) else {
            variants.push(quote!(#doc #variant));
            takes.push(quote!(#tag::#variant => Ok(Self::#variant)));
            puts.push(quote!(Self::#variant => {}));
            kinds.push(quote!(Self::#variant => #tag::#variant));
            continue;
        };
        let (ty, boxed) = branch_type(context, entity, branch);
        // Without a value of every branch in this one frame, which is part of every recursion.
        let take = if boxed {
            quote!(members.branch(|branch| Self::#variant(Box::new(branch))))
        } else {
            quote!(members.branch(Self::#variant))
        };
        variants.push(quote!(#doc #variant(#ty)));
        takes.push(quote!(#tag::#variant => #take));
        puts.push(quote!(Self::#variant(branch) => branch.put(object)));
        kinds.push(quote!(Self::#variant(_) => #tag::#variant));
    }
    let doc = format!(
        " What `{}` holds besides its base, by `{}`.",
        entity.name, union.discriminator
    );
    let kind_doc = format!(" The value of `{}`.", union.discriminator);
    quote! {
        #[doc = #doc]
        #[derive(Debug, Clone, PartialEq)]
        pub enum #ident { #(#variants,)* }

        impl #ident {
            #[doc = #kind_doc]
            pub fn kind(&self) -> #tag {
                match self { #(#kinds,)* }
            }

            fn take(tag: #tag, members: &mut Members) -> Result<Self, Invalid> {
                match tag { #(#takes,)* }
            }

            fn put(&self, object: &mut Object) {
                match self { #(#puts,)* }
            }
        }
    }
}

/// The Rust type of a branch, and whether it is boxed.
pub(super) fn branch_type(
    context: &Context<'_>,
    entity: &Entity,
    branch: &Branch,
) -> (TokenStream, bool) {
    let ty = context.ty(&branch.ty);
    let boxed = context.plan.is_boxed(&entity.name, &branch.name);
    (if boxed { quote!(Box<#ty>) } else { ty }, boxed)
}

pub(super) fn simple(context: &Context<'_>, entity: &Entity, union: &SimpleUnion) -> TokenStream {
    let ident = context.names.ty(&entity.name);
    let kind = context.names.tag(&entity.name);
    let docs = docs::entity(entity);
    let values: Vec<String> = union
        .branches
        .iter()
        .map(|branch| branch.name.clone())
        .collect();
    let kind_doc = format!(" Which branch `{}` holds.", entity.name);
    let idents: Vec<_> = values
        .iter()
        .map(|value| context.names.variant(&entity.name, value))
        .collect();
    let kind_variants = values.iter().zip(&idents).map(|(value, variant)| {
        let doc = docs::member(&entity.doc, value);
        quote!(#doc #variant)
    });
    let kind_doc = quote!(#[doc = #kind_doc]);
    let kind_enum = enum_::definition(&kind_doc, &kind, kind_variants, &idents, &values);
    let Some(base) = &union.base else {
        let branches = simple_branches(context, entity, union, &ident, &docs);
        return quote!(#branches #kind_enum);
    };
    let branch_ident = context.names.branches(&entity.name);
    let branch_doc = format!(" What `{}` holds besides its base.", entity.name);
    let branches = simple_branches(
        context,
        entity,
        union,
        &branch_ident,
        &quote!(#[doc = #branch_doc]),
    );
    let members = context.schema.members(base);
    let fields = members
        .iter()
        .map(|(member, owner)| struct_::field(context, entity, member, owner));
    let takes = members.iter().map(|(member, _)| {
        let (field, take) = (
            context.names.field(&entity.name, &member.name),
            struct_::take(member),
        );
        quote!(#field: #take)
    });
    let puts = members
        .iter()
        .map(|(member, _)| struct_::put(context, entity, member));
    let wire = wire_by_fields(&ident);
    quote! {
        #docs
        #[derive(Debug, Clone, PartialEq)]
        pub struct #ident {
            #(#fields,)*
            /// Its branch.
            pub data: #branch_ident,
        }

        #wire

        impl Fields for #ident {
            fn take(members: &mut Members) -> Result<Self, Invalid> {
                Ok(Self { #(#takes,)* data: Fields::take(members)? })
            }

            fn put(&self, object: &mut Object) {
                #(#puts)*
                self.data.put(object);
            }
        }

        #branches
        #kind_enum
    }
}

/// The enum of a simple union's branches, `{"type": …, "data": …}` on the wire.
fn simple_branches(
    context: &Context<'_>,
    entity: &Entity,
    union: &SimpleUnion,
    ident: &Ident,
    docs: &TokenStream,
) -> TokenStream {
    let kind = context.names.tag(&entity.name);
    let idents: Vec<_> = union
        .branches
        .iter()
        .map(|branch| context.names.variant(&entity.name, &branch.name))
        .collect();
    let variants = union.branches.iter().map(|branch| {
        let doc = docs::member(&entity.doc, &branch.name);
        let variant = context.names.variant(&entity.name, &branch.name);
        let (ty, _) = branch_type(context, entity, branch);
        quote!(#doc #variant(#ty))
    });
    let wire = wire_by_fields(ident);
    quote! {
        #docs
        #[derive(Debug, Clone, PartialEq)]
        pub enum #ident { #(#variants,)* }

        impl #ident {
            /// Which branch it is.
            pub fn kind(&self) -> #kind {
                match self { #(Self::#idents(_) => #kind::#idents,)* }
            }
        }

        #wire

        impl Fields for #ident {
            fn take(members: &mut Members) -> Result<Self, Invalid> {
                Ok(match members.req("type")? {
                    #(#kind::#idents => Self::#idents(members.req("data")?),)*
                })
            }

            fn put(&self, object: &mut Object) {
                object.put("type", &self.kind());
                match self { #(Self::#idents(data) => object.put("data", data),)* }
            }
        }
    }
}
