//! A crate of an older edition that compiles a schema by the macro, and one from its build script.
#![forbid(unsafe_code)]

/// By the macro.
pub mod paint {
    qapi_macros::schema!("../../macro/qapi/paint.json");
}

/// By the build script.
pub mod seed {
    include!(concat!(env!("OUT_DIR"), "/qapi.rs"));
}
