//! Structs: the members of the bases, then their own; `new` of the required ones, a setter for each
//! optional one. Also what commands and events have in common with them.

use proc_macro2::{Ident, TokenStream};
use qapi_parser::{Builtin, Entity, Member, Type};
use quote::quote;

use super::{Context, docs, wire_by_fields};

/// A member with the entity that documents it.
pub(super) type Documented<'a> = (&'a Member, &'a Entity);

pub(super) fn emit(context: &Context<'_>, entity: &Entity) -> TokenStream {
    let members = context.schema.members(&entity.name);
    let ident = context.names.ty(&entity.name);
    definition(context, entity, &ident, &members)
}

/// A struct of `members`, which `entity` has.
pub(super) fn definition(
    context: &Context<'_>,
    entity: &Entity,
    ident: &Ident,
    members: &[Documented<'_>],
) -> TokenStream {
    let head = context.head(entity);
    let cfg = context.cfg(&entity.cond);
    let growth = context.growth();
    let fields = members
        .iter()
        .map(|(member, owner)| field(context, entity, member, owner));
    let takes = members.iter().map(|(member, _)| {
        let field = context.names.field(&entity.name, &member.name);
        let cfg = context.cfg(&member.cond);
        let take = take(&crate::names::ident("members"), member);
        quote!(#cfg #field: #take)
    });
    let puts = members
        .iter()
        .map(|(member, _)| put(context, entity, member));
    let default = members.iter().all(|(member, _)| member.optional);
    let default = default.then(|| quote!(, Default));
    let derives = context.derives(entity, &quote!(Clone, PartialEq #default));
    let methods = methods(
        context,
        entity,
        ident,
        members,
        &Given::new(context, entity, members),
    );
    let (members_arg, object_arg) = if members.is_empty() {
        (quote!(_), quote!(_))
    } else {
        (quote!(members), quote!(object))
    };
    let wire = wire_by_fields(&cfg, ident);
    quote! {
        #head
        #derives
        #growth
        pub struct #ident { #(#fields,)* }

        #methods

        #wire

        #cfg
        impl runtime::Fields for #ident {
            fn take(#members_arg: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { #(#takes,)* })
            }

            fn put(&self, #object_arg: &mut runtime::Object) {
                #(#puts)*
            }
        }
    }
}

/// A type around `ty`, whose members are those of `entity`.
pub(super) fn wrapper(
    context: &Context<'_>,
    entity: &Entity,
    ident: &Ident,
    ty: &TokenStream,
) -> TokenStream {
    let head = context.head(entity);
    let cfg = context.cfg(&entity.cond);
    let derives = context.derives(entity, &quote!(Clone, PartialEq));
    let wire = wire_by_fields(&cfg, ident);
    quote! {
        #head
        #derives
        pub struct #ident(
            /// Its members.
            pub #ty,
        );

        #wire

        #cfg
        impl runtime::Fields for #ident {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                runtime::Fields::take(members).map(Self)
            }

            fn put(&self, object: &mut runtime::Object) {
                runtime::Fields::put(&self.0, object);
            }
        }
    }
}

/// A struct whose only member's members may stand in its place.
pub(super) fn flat(
    context: &Context<'_>,
    entity: &Entity,
    ident: &Ident,
    members: &[Documented<'_>],
    flat: &str,
) -> TokenStream {
    let head = context.head(entity);
    let cfg = context.cfg(&entity.cond);
    let derives = context.derives(entity, &quote!(Clone, PartialEq));
    let fields = members
        .iter()
        .map(|(member, owner)| field(context, entity, member, owner));
    let field = context.names.field(&entity.name, flat);
    let wire = wire_by_fields(&cfg, ident);
    quote! {
        #head
        #derives
        pub struct #ident { #(#fields,)* }

        #wire

        #cfg
        impl runtime::Fields for #ident {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let #field = if members.has(#flat) {
                    members.req(#flat)?
                } else {
                    runtime::Fields::take(members)?
                };
                Ok(Self { #field })
            }

            fn put(&self, object: &mut runtime::Object) {
                runtime::Fields::put(&self.#field, object);
            }
        }
    }
}

/// A value that a constructor is given.
pub(super) struct Given {
    cfg: TokenStream,
    name: Ident,
    ty: TokenStream,
    value: TokenStream,
}

impl Given {
    /// Those of the required ones among `members`.
    fn new(context: &Context<'_>, entity: &Entity, members: &[Documented<'_>]) -> Vec<Self> {
        let required = members.iter().filter(|(member, _)| !member.optional);
        required
            .map(|(member, owner)| Self::of(context, entity, member, owner))
            .collect()
    }

    /// That of one member.
    pub(super) fn of(
        context: &Context<'_>,
        entity: &Entity,
        member: &Member,
        owner: &Entity,
    ) -> Self {
        let name = context.names.field(&entity.name, &member.name);
        let ty = bare_type(context, entity, member, owner);
        let cfg = context.cfg(&member.cond);
        let (ty, value) = if is_converted(context, member, owner) {
            (quote!(impl Into<#ty>), quote!(#name.into()))
        } else {
            (ty, quote!(#name))
        };
        Self {
            cfg,
            name,
            ty,
            value,
        }
    }

    /// One that is `ty` as it stands.
    pub(super) fn plain(name: Ident, ty: TokenStream) -> Self {
        let value = quote!(#name);
        let cfg = TokenStream::new();
        Self {
            cfg,
            name,
            ty,
            value,
        }
    }
}

/// Whether a member is given as what becomes its type: texts as `&str`, boxes as what they hold.
fn is_converted(context: &Context<'_>, member: &Member, owner: &Entity) -> bool {
    member.ty == Type::Builtin(Builtin::Str) || context.plan.is_boxed(&owner.name, &member.name)
}

/// How many parameters a constructor has at most where fields can be given by name instead.
const FEW: usize = 7;

/// A constructor from the required members, and a setter for each optional one.
pub(super) fn methods(
    context: &Context<'_>,
    entity: &Entity,
    ident: &Ident,
    members: &[Documented<'_>],
    given: &[Given],
) -> TokenStream {
    let constructor = (context.options.is_non_exhaustive() || given.len() <= FEW).then(|| {
        let parameters = given
            .iter()
            .map(|Given { cfg, name, ty, .. }| quote!(#cfg #name: #ty));
        let values = given.iter().map(
            |Given {
                 cfg, name, value, ..
             }| {
                if name == &value.to_string() {
                    quote!(#cfg #name)
                } else {
                    quote!(#cfg #name: #value)
                }
            },
        );
        let optional = members.iter().filter(|(member, _)| member.optional);
        let nones = optional.map(|(member, _)| {
            let name = context.names.field(&entity.name, &member.name);
            let cfg = context.cfg(&member.cond);
            quote!(#cfg #name: None)
        });
        quote! {
            /// One with its required members alone.
            pub fn new(#(#parameters),*) -> Self {
                Self { #(#values,)* #(#nones,)* }
            }
        }
    });
    let optional = members.iter().filter(|(member, _)| member.optional);
    let setters = optional.map(|(member, owner)| {
        let name = context.names.setter(&entity.name, &member.name);
        let field = context.names.field(&entity.name, &member.name);
        let ty = bare_type(context, entity, member, owner);
        let cfg = context.cfg(&member.cond);
        let deprecated = context.deprecated(&member.features, &owner.doc.features);
        let doc = format!(" Sets `{}`.", member.name);
        let (ty, value) = if is_converted(context, member, owner) {
            (quote!(impl Into<#ty>), quote!(value.into()))
        } else {
            (ty, quote!(value))
        };
        quote! {
            #[doc = #doc]
            #cfg
            #deprecated
            #[must_use]
            pub fn #name(mut self, value: #ty) -> Self {
                self.#field = Some(#value);
                self
            }
        }
    });
    let cfg = context.cfg(&entity.cond);
    quote!(#cfg impl #ident { #constructor #(#setters)* })
}

/// A member of `entity`, which is documented in `owner`, as a field.
pub(super) fn field(
    context: &Context<'_>,
    entity: &Entity,
    member: &Member,
    owner: &Entity,
) -> TokenStream {
    let head = field_head(context, entity, member, owner);
    let name = context.names.field(&entity.name, &member.name);
    let mut ty = bare_type(context, entity, member, owner);
    if member.optional {
        ty = quote!(Option<#ty>);
    }
    quote!(#head pub #name: #ty)
}

/// What stands before a field.
pub(super) fn field_head(
    context: &Context<'_>,
    entity: &Entity,
    member: &Member,
    owner: &Entity,
) -> TokenStream {
    let doc = docs::member(context, entity, owner, &member.name, &member.features);
    let cfg = context.cfg(&member.cond);
    let deprecated = context.deprecated(&member.features, &owner.doc.features);
    let hooks = context.hooks.attributes(&owner.name, Some(&member.name));
    quote!(#doc #cfg #deprecated #hooks)
}

/// The type of a member that is there.
fn bare_type(
    context: &Context<'_>,
    entity: &Entity,
    member: &Member,
    owner: &Entity,
) -> TokenStream {
    if let Some(path) = context.hooks.member_replacement(&owner.name, &member.name) {
        return path;
    }
    let ty = context.ty(entity, &member.ty);
    if context.plan.is_boxed(&owner.name, &member.name) {
        quote!(Box<#ty>)
    } else {
        ty
    }
}

/// The expression that takes a member out of `source`.
pub(super) fn take(source: &Ident, member: &Member) -> TokenStream {
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
    let cfg = context.cfg(&member.cond);
    if member.optional {
        quote!(#cfg object.put_opt(#name, &self.#field);)
    } else {
        quote!(#cfg object.put(#name, &self.#field);)
    }
}
