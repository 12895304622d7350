//! What drivers share; no format is named here.

pub(crate) mod addr;
pub(crate) mod compress;
pub(crate) mod crypto;
pub(crate) mod image_file;
pub(crate) mod layout;
pub(crate) mod rounds;
#[cfg(test)]
pub(crate) mod script;
pub(crate) mod table_cache;
#[cfg(test)]
pub(crate) mod testing;
