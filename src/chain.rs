//! Backing chains, image by image: for what writes below an image (`commit`).
//! Each image is opened alone, without what lies behind it. Invariant: names found inside images are
//! followed only as the policy says.

use block_core::driver::StatusKind;
use block_core::error::Result;
use block_core::graph::info::name_from;
use block_core::graph::policy::protocol_of;

use crate::image::Image;
use crate::opts::image::{Access, Backing, ImageArgs, ImageName, OpenHow};
use crate::report::Failure;
use crate::session::{ImplicitOpen, Session};

/// The images above a base.
pub(crate) struct Overlays {
    /// The top first.
    pub(crate) images: Vec<Image>,
    /// The image behind the last of them.
    pub(crate) base: ImageName,
}

/// What a run of bytes is, as far as overlays decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Above {
    /// The overlay of this place stores it.
    Data(usize),
    /// An overlay says that it is zeroes.
    Zero,
    /// It is the base's.
    Base,
}

impl Overlays {
    /// Opens an image and what lies behind it, down to `base`, or to the first backing file.
    ///
    /// # Errors
    /// What opening answers; a chain that does not lead to the base.
    pub(crate) async fn open(
        session: &Session,
        top: &ImageName,
        base: Option<&str>,
        how: OpenHow,
        args: &ImageArgs,
    ) -> Result<Overlays, Failure> {
        let mut images: Vec<Image> = Vec::new();
        let mut next = top.clone();
        loop {
            let below = !images.is_empty();
            let how = OpenHow {
                access: if below { Access::Read } else { how.access },
                backing: Backing::Ignore,
                ..how
            };
            let node = format!("overlay{}", images.len());
            let image = Image::open(session, &next, &node, how).await?;
            let described = image.node()?.node().driver().describe();
            let filename = image.node()?.node().facts().filename.clone();
            images.push(image);
            let Some(backing) = described.backing else {
                return Err(Failure::new(match base {
                    Some(base) => {
                        format!(
                            "Did not find '{base}' in the backing chain of '{}'",
                            top.text
                        )
                    }
                    None => "Image does not have a backing file".to_owned(),
                }));
            };
            let full = name_from(&filename, &backing.filename);
            check_policy(&filename, &full, args.session.policy)?;
            // As in images, names are relative to the overlay that would hold them.
            let found = base.is_none_or(|base| {
                let base = name_from(&filename, base);
                base == full || is_same_file(&base, &full)
            });
            if images.iter().any(|image| image.name() == full) {
                let text = format!("Backing file '{full}' creates an infinite loop.");
                return Err(Failure::new(text));
            }
            let name = ImageName {
                text: full,
                format: backing.format,
                is_options: false,
                encrypt: None,
                encrypt_formats: Vec::new(),
            };
            if found {
                return Ok(Overlays { images, base: name });
            }
            next = name;
        }
    }

    /// What the first bytes from `at` to `end`, the end of the top, are.
    ///
    /// # Errors
    /// What an image answers.
    pub(crate) async fn status(&self, at: u64, end: u64) -> Result<(u64, Above)> {
        let mut end = end;
        for (place, image) in self.images.iter().enumerate() {
            let node = image.node()?;
            let there = node.len().min(end);
            if at >= there {
                // What lies behind is hidden by this image's end.
                return Ok((end - at, Above::Zero));
            }
            let run = node.chain_status(at..there).await?;
            match run.kind {
                StatusKind::Data => return Ok((run.len, Above::Data(place))),
                StatusKind::Zero => return Ok((run.len, Above::Zero)),
                StatusKind::Unallocated => end = at + run.len,
            }
        }
        Ok((end - at, Above::Base))
    }
}

fn check_policy(referrer: &str, name: &str, policy: ImplicitOpen) -> Result<(), Failure> {
    let allowed = match policy {
        ImplicitOpen::None => false,
        ImplicitOpen::Local => protocol_of(name).is_none(),
        ImplicitOpen::Any => true,
    };
    match allowed {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "'{referrer}' names '{name}', which --implicit-open={policy:?} does not allow"
        ))),
    }
}

fn is_same_file(a: &str, b: &str) -> bool {
    let real = std::fs::canonicalize(a).ok();
    real.is_some() && real == std::fs::canonicalize(b).ok()
}
