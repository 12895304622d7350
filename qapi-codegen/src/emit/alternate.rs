//! Unions without a tag: the JSON type tells the branch.

use proc_macro2::TokenStream;
use qapi_parser::{Alternate, Entity, JsonType};
use quote::quote;

use super::{Context, debug, docs, union_};

pub(super) fn emit(context: &Context<'_>, entity: &Entity, alternate: &Alternate) -> TokenStream {
    let head = context.head(entity);
    let entity_cfg = context.cfg(&entity.cond);
    let derives = context.derives(entity, &quote!(Clone, PartialEq));
    let growth = context.growth();
    let ident = context.names.ty(&entity.name);
    let name = &entity.name;
    let mut variants = Vec::new();
    let mut reads = Vec::new();
    let mut encodes = Vec::new();
    let takes_ints = alternate
        .branches
        .iter()
        .any(|branch| context.schema.json_type(&branch.ty) == JsonType::Int);
    for branch in &alternate.branches {
        let doc = docs::member(context, entity, entity, &branch.name, &[]);
        let cfg = context.cfg(&branch.cond);
        let hooks = context.hooks.attributes(&entity.name, Some(&branch.name));
        let variant = context.names.variant(&entity.name, &branch.name);
        let (ty, _) = union_::branch_type(context, entity, branch);
        variants.push(quote!(#doc #cfg #hooks #variant(#ty)));
        let pattern = match context.schema.json_type(&branch.ty) {
            // An integer is a number too, if nothing wants it more.
            JsonType::Number if takes_ints => quote!(runtime::Value::Float(_)),
            json => pattern(json),
        };
        let read = quote!(runtime::Wire::read(value, context));
        reads.push(quote!(#cfg #pattern => Ok(Self::#variant(#read?))));
        encodes.push(quote!(#cfg Self::#variant(branch) => runtime::Wire::encode(branch)));
    }
    // After a branch that takes everything nothing is left to refuse.
    let takes_all = alternate
        .branches
        .iter()
        .any(|branch| context.schema.json_type(&branch.ty) == JsonType::Value);
    let refuse = (!takes_all).then(|| quote!(_ => Err(runtime::Invalid::no_branch(#name)),));
    let debug = debug(&entity_cfg, &ident);
    let boxed = context.plan.has_box_of(&entity.name).then(|| {
        quote! {
            #entity_cfg
            impl runtime::Wire for Box<#ident> {
                fn read(
                    value: runtime::Value,
                    context: runtime::Context,
                ) -> Result<Self, runtime::Invalid> {
                    runtime::Wire::read(value, context).map(Self::new)
                }

                fn encode(&self) -> runtime::Value {
                    runtime::Wire::encode(&**self)
                }
            }
        }
    });
    quote! {
        #head
        #derives
        #growth
        pub enum #ident { #(#variants,)* }

        #debug

        #entity_cfg
        impl runtime::Wire for #ident {
            fn read(
                value: runtime::Value,
                context: runtime::Context,
            ) -> Result<Self, runtime::Invalid> {
                match value { #(#reads,)* #refuse }
            }

            fn encode(&self) -> runtime::Value {
                match self { #(#encodes,)* }
            }
        }

        #boxed
    }
}

fn pattern(json: JsonType) -> TokenStream {
    match json {
        JsonType::String => quote!(runtime::Value::String(_)),
        JsonType::Number => {
            quote!(runtime::Value::Int(_) | runtime::Value::Uint(_) | runtime::Value::Float(_))
        }
        JsonType::Int => quote!(runtime::Value::Int(_) | runtime::Value::Uint(_)),
        JsonType::Boolean => quote!(runtime::Value::Bool(_)),
        JsonType::Null => quote!(runtime::Value::Null),
        JsonType::Object => quote!(runtime::Value::Object(_)),
        JsonType::Array => quote!(runtime::Value::Array(_)),
        JsonType::Value => quote!(_),
    }
}
