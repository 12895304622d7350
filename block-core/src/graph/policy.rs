//! Who may open what an image names.
//!
//! The library opens what its caller names, and nothing else: a backing file, data file or extent
//! whose name stands *inside* an image is a byte from outside. Each such name goes to the
//! [`OpenPolicy`] of the layer; the default refuses all of them.

use crate::graph::perm::Role;

/// A name found inside an image.
#[derive(Clone, Copy, Debug)]
pub struct ImplicitOpen<'a> {
    /// The image that holds the name.
    pub referrer: &'a str,
    /// The name, as the image spells it.
    pub name: &'a str,
    /// The format the image gives for it.
    pub format: Option<&'a str>,
    /// What it would be used for.
    pub role: Role,
}

/// What a policy answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Do not open it.
    Deny,
    /// Open it with the format that the image gives; without one, refuse.
    Open,
    /// Open it, and guess the format from its first bytes where the image gives none.
    OpenAndProbe,
}

/// Decides about names found inside images.
pub trait OpenPolicy: Send + Sync {
    /// Whether to open one.
    fn decide(&self, wanted: ImplicitOpen<'_>) -> Decision;
}

/// Opens nothing that the caller did not name; the library's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct DenyAll;

impl OpenPolicy for DenyAll {
    fn decide(&self, _wanted: ImplicitOpen<'_>) -> Decision {
        Decision::Deny
    }
}

/// Follows plain names of local files, never a protocol or `json:` name; the tool's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalFiles;

impl OpenPolicy for LocalFiles {
    fn decide(&self, wanted: ImplicitOpen<'_>) -> Decision {
        if protocol_of(wanted.name).is_none() {
            Decision::OpenAndProbe
        } else {
            Decision::Deny
        }
    }
}

/// Follows every name that a driver understands; only on the user's explicit word.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyName;

impl OpenPolicy for AnyName {
    fn decide(&self, _wanted: ImplicitOpen<'_>) -> Decision {
        Decision::OpenAndProbe
    }
}

/// The protocol that a file name starts with: what stands before its first `:`, when that comes
/// before any `/`.
pub fn protocol_of(name: &str) -> Option<&str> {
    let end = name.find([':', '/'])?;
    name[end..].starts_with(':').then_some(&name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_before_a_slash_is_a_protocol() {
        assert_eq!(protocol_of("nbd://host/x"), Some("nbd"));
        assert_eq!(protocol_of("json:{}"), Some("json"));
        assert_eq!(protocol_of("./a:b"), None);
        assert_eq!(protocol_of("plain.img"), None);
    }

    #[test]
    fn local_files_are_followed_and_nothing_else() {
        let decide = |name| {
            let wanted = ImplicitOpen {
                referrer: "top",
                name,
                format: None,
                role: Role::Cow,
            };
            LocalFiles.decide(wanted)
        };
        assert_eq!(decide("base.img"), Decision::OpenAndProbe);
        assert_eq!(decide("/abs/base.img"), Decision::OpenAndProbe);
        assert_eq!(decide("json:{\"driver\": \"nbd\"}"), Decision::Deny);
        assert_eq!(decide("file:base.img"), Decision::Deny);
    }
}
