//! The same schema by the macro.

/// What `qapi/lamp.json` defines.
pub mod qapi {
    qapi_macros::schema!("../qapi/lamp.json");
}

use qapi::runtime::{Invalid, Unknown, Value, Wire};
use qapi::types::{Colour, Lamp};

/// Whether a lamp that came as JSON is warm.
pub fn is_warm(lamp: Value) -> Result<bool, Invalid> {
    let lamp = Lamp::decode(lamp, Unknown::Ignore)?;
    Ok(lamp.colour == Colour::Warm)
}
