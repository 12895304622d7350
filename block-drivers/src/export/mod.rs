//! Exports: nodes served outwards.

mod address;
pub mod nbd;
mod served;

pub use served::{BuiltInExports, NbdClients};
