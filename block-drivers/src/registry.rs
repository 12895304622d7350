//! The list of drivers: from a branch of the schema's `BlockdevOptions` to the code that opens it.
//!
//! The list expands to a `match` without a catch-all over the generated enum, so a driver that the
//! schema names and this list does not is an error of the compiler. One that nobody wrote yet
//! stands under `absent` and answers that it is not built in.

use block_core::driver::{Driver, Pending};
use block_core::error::Error;
use block_core::graph::create::NewImage;
use block_core::graph::open::Opener;
use block_core::graph::policy::protocol_of;
use block_core::graph::registry::Registry;
use block_core::{LocalQueue, Result};
use block_schema::types::{
    BlockdevDriver, BlockdevOptionsBranch, BlockdevOptionsFile, BlockdevOptionsGenericCOWFormat,
    BlockdevOptionsGenericFormat, BlockdevOptionsQcow, BlockdevOptionsQcow2, BlockdevOptionsRaw,
    BlockdevRef,
};

use crate::create;
use crate::format::{qcow2, raw};
use crate::protocol::{file, nbd};

macro_rules! drivers {
    (built_in { $($variant:ident => $open:path,)* } absent { $($absent:ident,)* }) => {
        /// The drivers of the schema that are not built in.
        pub const ABSENT: &[BlockdevDriver] = &[$(BlockdevDriver::$absent,)*];

        fn open_branch<'a>(
            opener: &'a mut Opener,
            options: BlockdevOptionsBranch,
        ) -> Pending<'a, Box<dyn Driver>> {
            match options {
                $(BlockdevOptionsBranch::$variant(options) => {
                    Box::pin($open(opener, options))
                })*
                $(BlockdevOptionsBranch::$absent(_) => {
                    Box::pin(async { Err(opener.not_built_in(BlockdevDriver::$absent)) })
                })*
            }
        }
    };
}

drivers! {
    built_in {
        Raw => raw::open,
        Qcow2 => qcow2::open,
        File => file::open_file,
        HostDevice => file::open_host_device,
        Nbd => nbd::open,
    }
    absent {
        HostCdrom, HostFloppy, Http, Https, Ftp, Ftps, Tftp, Vvfat, Blkdebug,
        Blkverify, Bochs, Cloop, Cow, Dmg, Parallels, Qcow, Qed, Vdi, Vhdx, Vmdk, Vpc, Quorum,
        NullCo, NullAio,
    }
}

/// A format and how to tell it from its first bytes.
type Probe = (BlockdevDriver, fn(&[u8]) -> bool);

/// Formats that can be told by their first bytes; raw is what is left.
const PROBES: &[Probe] = &[(BlockdevDriver::Qcow2, qcow2::probe)];

/// The drivers of this crate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drivers;

impl Registry for Drivers {
    fn open<'a>(
        &'a self,
        opener: &'a mut Opener,
        options: BlockdevOptionsBranch,
    ) -> Pending<'a, Box<dyn Driver>> {
        open_branch(opener, options)
    }

    fn probe(&self, head: &[u8]) -> BlockdevDriver {
        let found = PROBES.iter().find(|(_, probe)| probe(head));
        found.map_or(BlockdevDriver::Raw, |(format, _)| *format)
    }

    fn format_over(
        &self,
        format: BlockdevDriver,
        file: BlockdevRef,
    ) -> Option<BlockdevOptionsBranch> {
        use BlockdevOptionsBranch as Branch;
        let branch = match format {
            BlockdevDriver::Raw => Branch::Raw(BlockdevOptionsRaw::new(file)),
            BlockdevDriver::Qcow2 => Branch::Qcow2(BlockdevOptionsQcow2::new(file)),
            BlockdevDriver::Qcow => Branch::Qcow(BlockdevOptionsQcow::new(file)),
            BlockdevDriver::Cow => Branch::Cow(BlockdevOptionsGenericCOWFormat::new(file)),
            BlockdevDriver::Qed => Branch::Qed(BlockdevOptionsGenericCOWFormat::new(file)),
            BlockdevDriver::Vmdk => Branch::Vmdk(BlockdevOptionsGenericCOWFormat::new(file)),
            BlockdevDriver::Bochs => Branch::Bochs(BlockdevOptionsGenericFormat { file }),
            BlockdevDriver::Cloop => Branch::Cloop(BlockdevOptionsGenericFormat { file }),
            BlockdevDriver::Dmg => Branch::Dmg(BlockdevOptionsGenericFormat { file }),
            BlockdevDriver::Parallels => Branch::Parallels(BlockdevOptionsGenericFormat { file }),
            BlockdevDriver::Vdi => Branch::Vdi(BlockdevOptionsGenericFormat { file }),
            BlockdevDriver::Vhdx => Branch::Vhdx(BlockdevOptionsGenericFormat { file }),
            BlockdevDriver::Vpc => Branch::Vpc(BlockdevOptionsGenericFormat { file }),
            BlockdevDriver::File
            | BlockdevDriver::HostDevice
            | BlockdevDriver::HostCdrom
            | BlockdevDriver::HostFloppy
            | BlockdevDriver::Http
            | BlockdevDriver::Https
            | BlockdevDriver::Ftp
            | BlockdevDriver::Ftps
            | BlockdevDriver::Tftp
            | BlockdevDriver::Vvfat
            | BlockdevDriver::Blkdebug
            | BlockdevDriver::Blkverify
            | BlockdevDriver::Quorum
            | BlockdevDriver::Nbd
            | BlockdevDriver::NullCo
            | BlockdevDriver::NullAio => return None,
        };
        Some(branch)
    }

    fn parse_filename(&self, name: &str) -> Result<BlockdevOptionsBranch> {
        match protocol_of(name) {
            None => Ok(file_named(name)),
            Some("nbd" | "nbd+tcp" | "nbd+unix") => {
                nbd::parse_filename(name).map(BlockdevOptionsBranch::Nbd)
            }
            Some("file") => {
                let path = &name["file:".len()..];
                // A path that could be taken for a protocol's is shown so that it cannot.
                match protocol_of(path) {
                    None => Ok(file_named(path)),
                    Some(_) => Ok(file_named(&format!("./{path}"))),
                }
            }
            Some(protocol) => Err(Error::invalid(
                "filename",
                format!("Unknown protocol '{protocol}'"),
            )),
        }
    }

    fn create<'a>(&'a self, queue: &'a LocalQueue, image: NewImage) -> Pending<'a> {
        Box::pin(create::create(self, queue, image))
    }
}

fn file_named(path: &str) -> BlockdevOptionsBranch {
    BlockdevOptionsBranch::File(BlockdevOptionsFile::new(path))
}
