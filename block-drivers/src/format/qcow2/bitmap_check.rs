//! Check: what stored bitmaps refer to.
//! Called by `check` for each window of host clusters. Counts the directory, the tables and the
//! clusters of bits; a directory, a table or an entry that cannot be is a corruption. What several
//! structures share shows in the counts. Spec: qcow2 "Bitmaps". Not here: what the bits say.

use block_core::{Error, Result};

use super::bitmaps::{read_directory, read_entries};
use super::check::Census;
use super::error::ImageError;
use super::image::Image;
use crate::kit::image_file::{ImageFile, Surroundings};

impl Image {
    /// Counts what the bitmaps extension refers to, if the image vouches for it.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn walk_bitmaps<E: Surroundings>(
        &self,
        env: &E,
        census: &mut Census,
    ) -> Result<()> {
        let header = self.header.lock().clone();
        let directory = match read_directory(env.file(), &header, &self.node).await {
            Ok(directory) => directory,
            Err(error @ Error::Corrupt { .. }) => {
                census.corrupt(format!("ERROR {}", cause(&error)));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some((place, entries)) = directory.parts() else {
            return Ok(());
        };
        census.refer(place.offset, place.len);
        for stored in entries {
            if let Err(error) = stored.check_table(self.geometry, env.file().len()) {
                census.corrupt(format!("ERROR {error}"));
                continue;
            }
            census.refer(stored.table, stored.table_bytes());
            for entry in read_entries(env.file(), stored).await? {
                if entry.cannot_be(self.geometry, env.file().len()) {
                    let name = stored.shown_name();
                    let what = "a table entry that cannot be";
                    census.corrupt(format!("ERROR {}", ImageError::Bitmap { name, what }));
                } else if let Some(at) = entry.data() {
                    census.refer(at, self.geometry.cluster_size());
                }
            }
        }
        Ok(())
    }
}

/// What is wrong, without the node.
fn cause(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}
