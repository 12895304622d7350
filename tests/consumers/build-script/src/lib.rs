//! A crate that compiles schemas from its build script.
#![forbid(unsafe_code)]

/// The seed, without overlays.
pub mod seed {
    include!(concat!(env!("OUT_DIR"), "/seed.rs"));
}

/// A schema whose conditions are cargo features.
pub mod conditions {
    include!(concat!(env!("OUT_DIR"), "/by_feature.rs"));
}

/// A schema that newer ones extend, and whose servers' futures run anywhere.
pub mod open {
    include!(concat!(env!("OUT_DIR"), "/open.rs"));
}

/// Every valid case of the schema tests: that it compiles is the test.
pub mod cases {
    include!(concat!(env!("OUT_DIR"), "/cases.rs"));
}
