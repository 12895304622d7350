//! Structs: the members of the bases, then their own; `new` of the required ones, a setter for each
//! optional one. Also what commands and events have in common with them.

use proc_macro2::{Ident, TokenStream};
use qapi_parser::{Builtin, Entity, Member, Type};
use quote::{format_ident, quote};

use super::{Context, debug, docs};

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
    let source = source(context, entity, members);
    let take = take(context, entity, &source, members);
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
        (quote!(#source), quote!(object))
    };
    let debug = debug(&cfg, ident);
    quote! {
        #head
        #derives
        #growth
        pub struct #ident { #(#fields,)* }

        #methods

        #debug

        #cfg
        impl runtime::Fields for #ident {
            fn take(#members_arg: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                #take
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
    let debug = debug(&cfg, ident);
    quote! {
        #head
        #derives
        pub struct #ident(
            /// Its members.
            pub #ty,
        );

        #debug

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
    let debug = debug(&cfg, ident);
    quote! {
        #head
        #derives
        pub struct #ident { #(#fields,)* }

        #debug

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

/// How many members are taken at once, which is what the runtime has tuples for.
const TAKEN_AT_ONCE: usize = 6;

/// What members are taken from: a name that no member has, since they become variables.
pub(super) fn source(context: &Context<'_>, entity: &Entity, members: &[Documented<'_>]) -> Ident {
    let mut name = "members".to_owned();
    while members
        .iter()
        .any(|(member, _)| context.names.field(&entity.name, &member.name) == name)
    {
        name.push('_');
    }
    format_ident!("{name}")
}

/// The value whose fields are `members`, taken out of `source`.
fn take(
    context: &Context<'_>,
    entity: &Entity,
    source: &Ident,
    members: &[Documented<'_>],
) -> TokenStream {
    match members {
        [(member, _)] => {
            let field = context.names.field(&entity.name, &member.name);
            let cfg = context.cfg(&member.cond);
            let value = take_one(source, member);
            quote!(Ok(Self { #cfg #field: #value }))
        }
        _ => {
            let takes = takes(context, entity, source, members);
            let names = variables(context, entity, members);
            quote!(#takes Ok(Self { #(#names,)* }))
        }
    }
}

/// The variables that [`takes`] makes, as fields.
pub(super) fn variables(
    context: &Context<'_>,
    entity: &Entity,
    members: &[Documented<'_>],
) -> Vec<TokenStream> {
    let variable = |(member, _): &Documented<'_>| {
        let name = context.names.field(&entity.name, &member.name);
        let cfg = context.cfg(&member.cond);
        quote!(#cfg #name)
    };
    members.iter().map(variable).collect()
}

/// Statements that take `members` out of `source`, in their order, into variables called like the
/// fields. A condition stands on a statement of its own.
pub(super) fn takes(
    context: &Context<'_>,
    entity: &Entity,
    source: &Ident,
    members: &[Documented<'_>],
) -> TokenStream {
    let field = |member: &Member| context.names.field(&entity.name, &member.name);
    let cfgs: Vec<_> = members
        .iter()
        .map(|(member, _)| context.cfg(&member.cond))
        .collect();
    let mut out = TokenStream::new();
    let mut at = 0;
    while at < members.len() {
        let together = cfgs[at..]
            .iter()
            .take(TAKEN_AT_ONCE)
            .take_while(|cfg| cfg.is_empty())
            .count();
        let run = &members[at..at + together.max(1)];
        at += run.len();
        if let [(member, _)] = run {
            let (name, cfg) = (field(member), &cfgs[at - 1]);
            let value = take_one(source, member);
            out.extend(quote!(#cfg let #name = #value;));
        } else {
            let fields = run.iter().map(|(member, _)| field(member));
            let names = run.iter().map(|(member, _)| &member.name);
            out.extend(quote!(let (#(#fields),*) = #source.take([#(#names),*])?;));
        }
    }
    out
}

/// The expression that takes a member out of `source`.
fn take_one(source: &Ident, member: &Member) -> TokenStream {
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
