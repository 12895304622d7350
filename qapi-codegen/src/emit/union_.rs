//! Unions with a tag. A flat union is a struct of the base's members; the field that is called
//! like the discriminator holds an enum of branches, so that one `match` gives tag and members. A
//! simple union is that enum itself, or, with a base, a struct that holds it as `data`.

use proc_macro2::{Ident, TokenStream};
use qapi_parser::{Branch, Cond, Entity, FlatUnion, Kind, Member, SimpleUnion, Type};
use quote::{format_ident, quote};

use super::struct_::Given;
use super::{Context, debug, docs, enum_, struct_};

pub(super) fn flat(context: &Context<'_>, entity: &Entity, union: &FlatUnion) -> TokenStream {
    let head = context.head(entity);
    let entity_cfg = context.cfg(&entity.cond);
    let derives = context.derives(entity, &quote!(Clone, PartialEq));
    let growth = context.growth();
    let ident = context.names.ty(&entity.name);
    let branch_ident = context.names.branches(&entity.name);
    let tag_field = context.names.field(&entity.name, &union.discriminator);
    let tag_type = context.ty(entity, &Type::Named(union.tag.clone()));
    let members = context.schema.base_members(entity, union);
    let is_tag = |member: &Member| member.name == union.discriminator;
    let fields = members.iter().map(|(member, owner)| {
        if is_tag(member) {
            let head = struct_::field_head(context, entity, member, owner);
            quote!(#head pub #tag_field: #branch_ident)
        } else {
            struct_::field(context, entity, member, owner)
        }
    });
    let source = struct_::source(context, entity, &members);
    let takes = struct_::takes(context, entity, &source, &members);
    let names = struct_::variables(context, entity, &members);
    let puts = members.iter().map(|(member, _)| {
        if is_tag(member) {
            let name = &member.name;
            quote!(object.put(#name, &self.#tag_field.kind());)
        } else {
            struct_::put(context, entity, member)
        }
    });
    let required = members
        .iter()
        .filter(|(member, _)| is_tag(member) || !member.optional);
    let given: Vec<_> = required
        .map(|(member, owner)| {
            if is_tag(member) {
                Given::plain(tag_field.clone(), quote!(#branch_ident))
            } else {
                Given::of(context, entity, member, owner)
            }
        })
        .collect();
    let others: Vec<_> = members
        .iter()
        .copied()
        .filter(|(member, _)| !is_tag(member))
        .collect();
    let methods = struct_::methods(context, entity, &ident, &others, &given);
    let branches = branches(context, entity, union, &branch_ident, &tag_type);
    let kind_doc = format!(" The value of `{}`.", union.discriminator);
    let debug = debug(&entity_cfg, &ident);
    quote! {
        #head
        #derives
        #growth
        pub struct #ident { #(#fields,)* }

        #methods

        #entity_cfg
        impl #ident {
            #[doc = #kind_doc]
            pub fn kind(&self) -> #tag_type {
                self.#tag_field.kind()
            }
        }

        #debug

        #entity_cfg
        impl runtime::Fields for #ident {
            fn take(#source: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                #takes
                let #tag_field = #branch_ident::take(#tag_field, #source)?;
                Ok(Self { #(#names,)* })
            }

            fn put(&self, object: &mut runtime::Object) {
                #(#puts)*
                self.#tag_field.put(object);
            }
        }

        #branches
    }
}

/// One variant of a flat union's branches, in each place where it occurs.
struct Arm {
    variant: TokenStream,
    take: TokenStream,
    put: TokenStream,
    kind: TokenStream,
}

/// The enum of a flat union's branches.
fn branches(
    context: &Context<'_>,
    entity: &Entity,
    union: &FlatUnion,
    ident: &Ident,
    tag: &TokenStream,
) -> TokenStream {
    let Some(tag_entity) = context.schema.get(&union.tag) else {
        return quote!();
    };
    let Kind::Enum(values) = &tag_entity.kind else {
        return quote!();
    };
    let mut arms = Vec::new();
    for value in &values.values {
        let doc = docs::member(context, entity, tag_entity, &value.name, &value.features);
        let deprecated = context.deprecated(&value.features, &tag_entity.doc.features);
        let variant = context.names.variant(&entity.name, &value.name);
        let tag_variant = context.names.variant(&union.tag, &value.name);
        let branch = union
            .branches
            .iter()
            .find(|branch| branch.name == value.name);
        let without = match branch {
            Some(branch) => {
                let cond = both(&value.cond, &branch.cond);
                let cfg = context.cfg(&cond);
                let (ty, boxed) = branch_type(context, entity, branch);
                let hooks = context.hooks.attributes(&entity.name, Some(&branch.name));
                // Without a value of every branch in this one frame, which is part of every
                // recursion.
                let take = if boxed {
                    quote!(members.branch(|branch| Self::#variant(Box::new(branch))))
                } else {
                    quote!(members.branch(Self::#variant))
                };
                arms.push(Arm {
                    variant: quote!(#doc #cfg #deprecated #hooks #variant(#ty)),
                    take: quote!(#cfg #tag::#tag_variant => #take),
                    put: quote!(#cfg Self::#variant(branch) => runtime::Fields::put(branch, object)),
                    kind: quote!(#cfg Self::#variant(_) => #tag::#tag_variant),
                });
                if branch.cond.is_always() || branch.cond == value.cond {
                    continue;
                }
                Cond::Not(Box::new(branch.cond.clone()))
            }
            None => Cond::Always,
        };
        let cfg = context.cfg(&both(&value.cond, &without));
        if branch.is_some() && cfg.is_empty() {
            continue;
        }
        arms.push(Arm {
            variant: quote!(#doc #cfg #deprecated #variant),
            take: quote!(#cfg #tag::#tag_variant => Ok(Self::#variant)),
            put: quote!(#cfg Self::#variant => {}),
            kind: quote!(#cfg Self::#variant => #tag::#tag_variant),
        });
    }
    if context.is_open() {
        let other = context.names.other(&entity.name);
        let tag_other = context.names.other(&union.tag);
        arms.push(Arm {
            variant: quote! {
                /// One that the schema does not have.
                #other {
                    /// The value of the discriminator.
                    tag: String,
                    /// The members that are not the base's.
                    members: runtime::Object,
                }
            },
            take: quote! {
                #tag::#tag_other(tag) => {
                    let members = runtime::Fields::take(members)?;
                    Ok(Self::#other { tag, members })
                }
            },
            put: quote!(Self::#other { members, .. } => runtime::Fields::put(members, object)),
            kind: quote!(Self::#other { tag, .. } => #tag::#tag_other(tag.clone())),
        });
    }
    let doc = format!(
        " What `{}` holds besides its base, by `{}`.",
        entity.name, union.discriminator
    );
    let kind_doc = format!(" The value of `{}`.", union.discriminator);
    let entity_cfg = context.cfg(&entity.cond);
    let derives = context.derives(entity, &quote!(Debug, Clone, PartialEq));
    let growth = context.growth();
    let variants = arms.iter().map(|arm| &arm.variant);
    let takes = arms.iter().map(|arm| &arm.take);
    let puts = arms.iter().map(|arm| &arm.put);
    let kinds = arms.iter().map(|arm| &arm.kind);
    quote! {
        #[doc = #doc]
        #entity_cfg
        #derives
        #growth
        pub enum #ident { #(#variants,)* }

        #entity_cfg
        impl #ident {
            #[doc = #kind_doc]
            pub fn kind(&self) -> #tag {
                match self { #(#kinds,)* }
            }

            fn take(tag: #tag, members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                match tag { #(#takes,)* }
            }

            fn put(&self, object: &mut runtime::Object) {
                match self { #(#puts,)* }
            }
        }
    }
}

/// When both hold.
fn both(one: &Cond, other: &Cond) -> Cond {
    match (one, other) {
        (Cond::Always, cond) | (cond, Cond::Always) => cond.clone(),
        (one, other) if one == other => one.clone(),
        _ => Cond::All(vec![one.clone(), other.clone()]),
    }
}

/// The Rust type of a branch, and whether it is boxed.
pub(super) fn branch_type(
    context: &Context<'_>,
    entity: &Entity,
    branch: &Branch,
) -> (TokenStream, bool) {
    if let Some(path) = context.hooks.member_replacement(&entity.name, &branch.name) {
        return (path, false);
    }
    let ty = context.ty(entity, &branch.ty);
    let boxed = context.plan.is_boxed(&entity.name, &branch.name);
    (if boxed { quote!(Box<#ty>) } else { ty }, boxed)
}

pub(super) fn simple(context: &Context<'_>, entity: &Entity, union: &SimpleUnion) -> TokenStream {
    let ident = context.names.ty(&entity.name);
    let kind = context.names.tag(&entity.name);
    let values = union.branches.iter().map(|branch| {
        let doc = docs::member(context, entity, entity, &branch.name, &[]);
        let cfg = context.cfg(&branch.cond);
        enum_::Value {
            head: quote!(#doc #cfg),
            cond: &branch.cond,
            ident: context.names.variant(&entity.name, &branch.name),
            name: &branch.name,
        }
    });
    let values: Vec<_> = values.collect();
    let kind_doc = format!(" Which branch `{}` holds.", entity.name);
    let cfg = context.cfg(&entity.cond);
    let kind_head = quote!(#[doc = #kind_doc] #cfg);
    let kind_enum = enum_::definition(context, entity, &kind_head, &kind, &values);
    let head = context.head(entity);
    let Some(base) = &union.base else {
        let branches = simple_branches(context, entity, union, &ident, &head);
        return quote!(#branches #kind_enum);
    };
    let derives = context.derives(entity, &quote!(Clone, PartialEq));
    let growth = context.growth();
    let branch_ident = context.names.branches(&entity.name);
    let branch_doc = format!(" What `{}` holds besides its base.", entity.name);
    let branch_head = quote!(#[doc = #branch_doc] #cfg);
    let branches = simple_branches(context, entity, union, &branch_ident, &branch_head);
    let members = context.schema.members(base);
    let fields = members
        .iter()
        .map(|(member, owner)| struct_::field(context, entity, member, owner));
    let source = struct_::source(context, entity, &members);
    let takes = struct_::takes(context, entity, &source, &members);
    let names = struct_::variables(context, entity, &members);
    let puts = members
        .iter()
        .map(|(member, _)| struct_::put(context, entity, member));
    let required = members.iter().filter(|(member, _)| !member.optional);
    let mut given: Vec<_> = required
        .map(|(member, owner)| Given::of(context, entity, member, owner))
        .collect();
    given.push(Given::plain(format_ident!("data"), quote!(#branch_ident)));
    let methods = struct_::methods(context, entity, &ident, &members, &given);
    let debug = debug(&cfg, &ident);
    quote! {
        #head
        #derives
        #growth
        pub struct #ident {
            #(#fields,)*
            /// Its branch.
            pub data: #branch_ident,
        }

        #methods

        #debug

        #cfg
        impl runtime::Fields for #ident {
            fn take(#source: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                #takes
                Ok(Self { #(#names,)* data: runtime::Fields::take(#source)? })
            }

            fn put(&self, object: &mut runtime::Object) {
                #(#puts)*
                runtime::Fields::put(&self.data, object);
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
    head: &TokenStream,
) -> TokenStream {
    let kind = context.names.tag(&entity.name);
    let derives = context.derives(entity, &quote!(Clone, PartialEq));
    let growth = context.growth();
    let branches = &union.branches;
    let idents: Vec<_> = branches
        .iter()
        .map(|branch| context.names.variant(&entity.name, &branch.name))
        .collect();
    let cfgs: Vec<_> = branches
        .iter()
        .map(|branch| context.cfg(&branch.cond))
        .collect();
    let variants = branches.iter().zip(&idents).map(|(branch, variant)| {
        let doc = docs::member(context, entity, entity, &branch.name, &[]);
        let cfg = context.cfg(&branch.cond);
        let hooks = context.hooks.attributes(&entity.name, Some(&branch.name));
        let (ty, _) = branch_type(context, entity, branch);
        quote!(#doc #cfg #hooks #variant(#ty))
    });
    let other = context.is_open().then(|| context.names.other(&entity.name));
    let (mut variant, mut kinds, mut take, mut put) = (None, None, None, None);
    if let Some(other) = &other {
        variant = Some(quote! {
            /// One that the schema does not have.
            #other {
                /// The value of `type`.
                tag: String,
                /// The value of `data`.
                data: runtime::Value,
            },
        });
        kinds = Some(quote!(Self::#other { tag, .. } => #kind::#other(tag.clone()),));
        take = Some(quote! {
            #kind::#other(tag) => Self::#other { tag, data: members.req("data")? },
        });
        put = Some(quote!(Self::#other { data, .. } => object.put("data", data),));
    }
    let cfg = context.cfg(&entity.cond);
    let debug = debug(&cfg, ident);
    quote! {
        #head
        #derives
        #growth
        pub enum #ident { #(#variants,)* #variant }

        #cfg
        impl #ident {
            /// Which branch it is.
            pub fn kind(&self) -> #kind {
                match self { #(#cfgs Self::#idents(_) => #kind::#idents,)* #kinds }
            }
        }

        #debug

        #cfg
        impl runtime::Fields for #ident {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(match members.req("type")? {
                    #(#cfgs #kind::#idents => Self::#idents(members.req("data")?),)*
                    #take
                })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("type", &self.kind());
                match self { #(#cfgs Self::#idents(data) => object.put("data", data),)* #put }
            }
        }
    }
}
