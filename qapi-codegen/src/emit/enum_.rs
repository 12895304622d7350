//! Enums: a variant a value, with its name on the wire.

use proc_macro2::{Ident, TokenStream};
use qapi_parser::{Entity, Enum};
use quote::quote;

use super::{Context, docs};

pub(super) fn emit(context: &Context<'_>, entity: &Entity, values: &Enum) -> TokenStream {
    let docs = docs::entity(entity);
    let ident = context.names.ty(&entity.name);
    let names: Vec<String> = values.names().map(str::to_owned).collect();
    let idents = names
        .iter()
        .map(|value| context.names.variant(&entity.name, value));
    let idents: Vec<_> = idents.collect();
    let variants = names.iter().zip(&idents).map(|(value, variant)| {
        let doc = docs::member(&entity.doc, value);
        quote!(#doc #variant)
    });
    definition(&docs, &ident, variants, &idents, &names)
}

/// An enum with its conversions; `variants` are documented already.
pub(super) fn definition(
    docs: &TokenStream,
    ident: &Ident,
    variants: impl Iterator<Item = TokenStream>,
    idents: &[Ident],
    values: &[String],
) -> TokenStream {
    // A match without arms cannot match on a reference.
    let as_str = if values.is_empty() {
        quote!(match self {})
    } else {
        quote!(match self { #(Self::#idents => #values,)* })
    };
    quote! {
        #docs
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum #ident { #(#variants,)* }

        impl #ident {
            /// Every value, in schema order.
            pub const VARIANTS: &'static [Self] = &[#(Self::#idents),*];

            /// Its name on the wire.
            pub fn as_str(self) -> &'static str {
                #as_str
            }
        }

        impl std::fmt::Display for #ident {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for #ident {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                find_name(text, Self::VARIANTS, Self::as_str)
            }
        }

        impl Wire for #ident {
            fn read(value: Value, context: Context) -> Result<Self, Invalid> {
                read_name(value, context, Self::VARIANTS, Self::as_str)
            }

            fn encode(&self) -> Value {
                Value::from(self.as_str())
            }
        }
    }
}
