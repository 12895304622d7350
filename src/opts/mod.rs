//! Shapes of the command line that subcommands share.

pub(crate) mod cache;
pub(crate) mod create;
pub(crate) mod create_help;
pub(crate) mod encrypt;
pub(crate) mod image;
pub(crate) mod keyval;
pub(crate) mod number;
pub(crate) mod output;
pub(crate) mod size;
pub(crate) mod typed;
