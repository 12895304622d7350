//! A crate that compiles a schema by the macro.
#![forbid(unsafe_code)]

/// The schema of this crate.
pub mod qapi {
    qapi_macros::schema!("../qapi/paint.json", unknown = closed);
}
