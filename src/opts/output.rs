//! `--output`.

/// Who reads what a subcommand prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Text for people
    #[default]
    Human,
    /// JSON for programs
    Json,
}
