//! Enums: a variant a value, with its name on the wire, and one more for what a newer peer says.

use proc_macro2::{Ident, TokenStream};
use qapi_parser::{Cond, Entity, Enum};
use quote::quote;

use super::{Context, docs};

/// One variant without content.
pub(super) struct Value<'a> {
    /// What stands before it.
    pub(super) head: TokenStream,
    pub(super) cond: &'a Cond,
    pub(super) ident: Ident,
    /// Name on the wire.
    pub(super) name: &'a str,
}

pub(super) fn emit(context: &Context<'_>, entity: &Entity, values: &Enum) -> TokenStream {
    let ident = context.names.ty(&entity.name);
    let variants = values.values.iter().map(|value| {
        let doc = docs::member(context, entity, entity, &value.name, &value.features);
        let cfg = context.cfg(&value.cond);
        let deprecated = context.deprecated(&value.features, &entity.doc.features);
        let hooks = context.hooks.attributes(&entity.name, Some(&value.name));
        Value {
            head: quote!(#doc #cfg #deprecated #hooks),
            cond: &value.cond,
            ident: context.names.variant(&entity.name, &value.name),
            name: &value.name,
        }
    });
    let variants: Vec<_> = variants.collect();
    let head = context.head(entity);
    definition(context, entity, &head, &ident, &variants)
}

/// An enum with its conversions.
pub(super) fn definition(
    context: &Context<'_>,
    entity: &Entity,
    head: &TokenStream,
    ident: &Ident,
    values: &[Value<'_>],
) -> TokenStream {
    let growth = context.growth();
    let cfg = context.cfg(&entity.cond);
    let heads = values.iter().map(|value| &value.head);
    let cfgs: Vec<_> = values.iter().map(|value| context.cfg(value.cond)).collect();
    let idents: Vec<_> = values.iter().map(|value| &value.ident).collect();
    let names: Vec<_> = values.iter().map(|value| value.name).collect();
    let other = context.is_open().then(|| context.names.other(&entity.name));
    let (copy, this, text) = match other {
        Some(_) => (quote!(), quote!(&self), quote!(&str)),
        None => (quote!(Copy,), quote!(self), quote!(&'static str)),
    };
    let derives = quote!(Debug, Clone, #copy PartialEq, Eq, Hash);
    let derives = context.derives(entity, &derives);
    let other_variant = other.as_ref().map(|other| {
        quote! {
            /// One that the schema does not have, by its name on the wire.
            #other(String),
        }
    });
    let as_str = if values.is_empty() && other.is_none() {
        // A match without arms cannot match on a reference.
        quote!(match self {})
    } else {
        let other = other
            .as_ref()
            .map(|other| quote!(Self::#other(name) => name,));
        quote!(match self { #(#cfgs Self::#idents => #names,)* #other })
    };
    let (find, read) = match &other {
        Some(other) => (
            quote!(runtime::find_open_name(text, Self::VARIANTS, Self::as_str)),
            quote!(runtime::read_open_name(value, context, Self::VARIANTS, Self::as_str, Self::#other)),
        ),
        None => (
            quote!(runtime::find_name(text, Self::VARIANTS, Self::as_str)),
            quote!(runtime::read_name(
                value,
                context,
                Self::VARIANTS,
                Self::as_str
            )),
        ),
    };
    let this_str = quote!(self.as_str());
    quote! {
        #head
        #derives
        #growth
        pub enum #ident {
            #(#heads #idents,)*
            #other_variant
        }

        #cfg
        impl #ident {
            /// Every value of the schema, in its order.
            pub const VARIANTS: &'static [Self] = &[#(#cfgs Self::#idents),*];

            /// Its name on the wire.
            pub fn as_str(#this) -> #text {
                #as_str
            }
        }

        #cfg
        impl std::fmt::Display for #ident {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(#this_str)
            }
        }

        #cfg
        impl std::str::FromStr for #ident {
            type Err = runtime::UnknownName;

            fn from_str(text: &str) -> Result<Self, runtime::UnknownName> {
                #find
            }
        }

        #cfg
        impl runtime::Wire for #ident {
            fn read(
                value: runtime::Value,
                context: runtime::Context,
            ) -> Result<Self, runtime::Invalid> {
                #read
            }

            fn encode(&self) -> runtime::Value {
                runtime::Value::from(#this_str)
            }
        }
    }
}
