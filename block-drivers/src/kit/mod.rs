//! What drivers share; no format is named here.

#[cfg(test)]
pub(crate) mod script;
