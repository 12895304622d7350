//! Events: a type each for the data; one enum for all, which becomes a message.

use proc_macro2::TokenStream;
use qapi_parser::{Arguments, Entity, Event, Kind, Type};
use quote::quote;

use super::{Context, Scope, docs, struct_};

pub(super) fn emit(context: &Context<'_>, entity: &Entity, event: &Event) -> TokenStream {
    let ident = context.names.event(&entity.name);
    match &event.data {
        Arguments::Type(name) => {
            let ty = context.ty(entity, &Type::Named(name.clone()));
            struct_::wrapper(context, entity, &ident, &ty)
        }
        Arguments::Members(members) => {
            let members: Vec<_> = members.iter().map(|member| (member, entity)).collect();
            struct_::definition(context, entity, &ident, &members)
        }
    }
}

/// From the root: the enum of all events.
pub(super) fn event(context: &Context<'_>) -> TokenStream {
    let events: Vec<&Entity> = context
        .schema
        .entities
        .values()
        .filter(|entity| matches!(entity.kind, Kind::Event(_)))
        .collect();
    if events.is_empty() {
        return quote!();
    }
    let idents: Vec<_> = events
        .iter()
        .map(|entity| context.names.event(&entity.name))
        .collect();
    let names: Vec<_> = events.iter().map(|entity| entity.name.as_str()).collect();
    let docs = events
        .iter()
        .map(|entity| docs::entity(context, Scope::Interface, entity));
    let cfgs: Vec<_> = events
        .iter()
        .map(|entity| context.cfg(&entity.cond))
        .collect();
    let growth = context.growth();
    quote! {
        /// Any event of the schema.
        #[derive(Clone, PartialEq)]
        #growth
        pub enum Event {
            #(#docs #cfgs #idents(events::#idents),)*
        }

        impl Event {
            /// Names of all events, in schema order.
            pub const NAMES: &'static [&'static str] = &[#(#cfgs #names),*];

            /// Its name on the wire.
            pub fn name(&self) -> &'static str {
                match *self { #(#cfgs Self::#idents(_) => #names,)* }
            }

            /// What it carries.
            pub fn data(&self) -> runtime::Object {
                use runtime::Fields as _;
                let mut object = runtime::Object::new();
                match *self { #(#cfgs Self::#idents(ref data) => data.put(&mut object),)* }
                object
            }

            /// The message that tells clients, for something that happened at `at`.
            pub fn to_value(&self, at: runtime::Timestamp) -> runtime::Value {
                at.event(self.name(), self.data())
            }

            /// Reads event `name` with `data`; `None` for one that the schema does not have.
            ///
            /// # Errors
            /// When the data does not fit the schema. Members it does not have are skipped.
            pub fn decode(
                name: &str,
                data: runtime::Object,
            ) -> Result<Option<Self>, runtime::Invalid> {
                use runtime::Wire as _;
                let data = runtime::Value::Object(data);
                let unknown = runtime::Unknown::Ignore;
                Ok(Some(match name {
                    #(#cfgs #names => Self::#idents(events::#idents::decode(data, unknown)?),)*
                    _ => return Ok(None),
                }))
            }
        }

        impl std::fmt::Debug for Event {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug_object(self.name(), &self.data(), f)
            }
        }

        impl runtime::Events for Event {
            fn decode(
                name: &str,
                data: runtime::Object,
            ) -> Result<Option<Self>, runtime::Invalid> {
                Self::decode(name, data)
            }
        }

        #(
            #cfgs
            impl From<events::#idents> for Event {
                fn from(data: events::#idents) -> Self {
                    Self::#idents(data)
                }
            }
        )*
    }
}
