//! Unions without a tag: the JSON type tells the branch.

use proc_macro2::TokenStream;
use qapi_parser::{Alternate, Entity, JsonType};
use quote::quote;

use super::{Context, docs, union_};

pub(super) fn emit(context: &Context<'_>, entity: &Entity, alternate: &Alternate) -> TokenStream {
    let docs = docs::entity(entity);
    let ident = context.names.ty(&entity.name);
    let name = &entity.name;
    let mut variants = Vec::new();
    let mut decodes = Vec::new();
    let mut idents = Vec::new();
    for branch in &alternate.branches {
        let doc = docs::member(&entity.doc, &branch.name);
        let variant = context.names.variant(&entity.name, &branch.name);
        let (ty, _) = union_::branch_type(context, entity, branch);
        variants.push(quote!(#doc #variant(#ty)));
        let pattern = pattern(context.schema.json_type(&branch.ty));
        decodes.push(quote!(#pattern => Self::#variant(Wire::read(value, context)?)));
        idents.push(variant);
    }
    quote! {
        #docs
        #[derive(Debug, Clone, PartialEq)]
        pub enum #ident { #(#variants,)* }

        impl Wire for #ident {
            fn read(value: Value, context: Context) -> Result<Self, Invalid> {
                Ok(match value {
                    #(#decodes,)*
                    _ => return Err(Invalid::no_branch(#name)),
                })
            }

            fn encode(&self) -> Value {
                match self { #(Self::#idents(branch) => branch.encode(),)* }
            }
        }
    }
}

fn pattern(json: JsonType) -> TokenStream {
    match json {
        JsonType::String => quote!(Value::String(_)),
        JsonType::Number => quote!(Value::Int(_) | Value::Uint(_) | Value::Float(_)),
        JsonType::Int => quote!(Value::Int(_) | Value::Uint(_)),
        JsonType::Boolean => quote!(Value::Bool(_)),
        JsonType::Null => quote!(Value::Null),
        JsonType::Object => quote!(Value::Object(_)),
        JsonType::Array => quote!(Value::Array(_)),
        JsonType::Value => quote!(_),
    }
}
