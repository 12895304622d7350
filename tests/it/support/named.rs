//! Files of the simulator by their names, for verbs that make images and open what images name.
//!
//! The name of file `n` is `file-n`, in any folder; a file must be there, empty, before a verb makes
//! an image in it. Invariant: all else is the drivers' as they are.

use std::path::Path;
use std::sync::Arc;

use block_core::driver::{Driver, Pending};
use block_core::engine::SimFile;
use block_core::engine::sim::Sim;
use block_core::graph::create::NewImage;
use block_core::graph::open::Opener;
use block_core::graph::policy::LocalFiles;
use block_core::graph::registry::Registry;
use block_core::graph::{Node, NodeFacts};
use block_core::{Error, Layer, LocalQueue, Result};
use block_drivers::Drivers;
use block_drivers::format::qcow2;
use block_drivers::protocol::file::FileDriver;
use block_schema::types::{BlockdevDriver, BlockdevOptionsBranch, BlockdevRef};

use super::machine::CLUSTER;

/// A layer whose files are those of a simulator.
pub(crate) fn layer(sim: &Sim) -> Layer {
    super::record::start();
    Layer::with_drivers(Arc::new(Named(sim.clone())), Arc::new(LocalFiles))
}

/// The name of a file.
pub(crate) fn name(file: SimFile) -> String {
    format!("file-{}", file.0)
}

struct Named(Sim);

impl Named {
    fn open_file(&self, path: &str) -> Result<FileDriver> {
        let name = Path::new(path).file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix("file-")?.parse().ok());
        let file = SimFile(number.ok_or_else(|| Error::Open {
            path: path.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?);
        Ok(FileDriver::from_leaf(self.0.open(file)))
    }

    async fn format(&self, queue: &LocalQueue, image: NewImage) -> Result<()> {
        assert_eq!(image.format, BlockdevDriver::Qcow2, "{image:?}");
        let facts = NodeFacts {
            name: format!("#new:{}", image.filename),
            ..NodeFacts::default()
        };
        let driver = self.open_file(&image.filename)?;
        let file = queue
            .layer()
            .apart(queue, Node::new(facts, Box::new(driver)))?;
        let backing = image
            .backing
            .map(|backing| (backing.filename, backing.format));
        let (backing_file, backing_format) = backing.unzip();
        let options = qcow2::CreateOptions {
            size: image.size,
            cluster_size: CLUSTER,
            backing_file,
            backing_format: backing_format.flatten(),
            ..qcow2::CreateOptions::default()
        };
        qcow2::create(queue, file.child().clone(), &options).await?;
        file.child().flush().await
    }
}

impl Registry for Named {
    fn open<'a>(
        &'a self,
        opener: &'a mut Opener,
        options: BlockdevOptionsBranch,
    ) -> Pending<'a, Box<dyn Driver>> {
        match options {
            BlockdevOptionsBranch::File(file) => Box::pin(async move {
                let driver = self.open_file(&file.filename)?;
                opener.set_filename(file.filename);
                Ok(Box::new(driver) as Box<dyn Driver>)
            }),
            options => Drivers.open(opener, options),
        }
    }

    fn probe(&self, head: &[u8]) -> BlockdevDriver {
        Drivers.probe(head)
    }

    fn format_over(
        &self,
        format: BlockdevDriver,
        file: BlockdevRef,
    ) -> Option<BlockdevOptionsBranch> {
        Drivers.format_over(format, file)
    }

    fn parse_filename(&self, name: &str) -> Result<BlockdevOptionsBranch> {
        Drivers.parse_filename(name)
    }

    fn create<'a>(&'a self, queue: &'a LocalQueue, image: NewImage) -> Pending<'a> {
        Box::pin(self.format(queue, image))
    }
}
