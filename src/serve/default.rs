//! What `serve` serves when nobody says what: one disk in `./qblk-data`.
//!
//! Invariant: a second server never takes the sockets of one that lives.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use block_core::error::kernel_text;
use block_schema::types::BlockdevDriver;

use super::Args;
use super::options::Plan;
use crate::create::NewImage;
use crate::human;
use crate::opts::create::CreateOptions;
use crate::opts::image::SessionArgs;
use crate::report::{Failure, outln};
use crate::session::Session;

const FOLDER: &str = "qblk-data";
const SIZE: u64 = 1 << 30;

/// Where the disk and the sockets are.
pub(super) struct Default {
    disk: PathBuf,
    qmp: PathBuf,
    nbd: PathBuf,
}

impl Default {
    /// Makes the folder, and checks that nobody serves from it.
    ///
    /// # Errors
    /// When somebody does; what the kernel says.
    pub(super) fn choose() -> Result<Default, Failure> {
        let folder = Path::new(FOLDER);
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::new(format!(
                "Could not create '{FOLDER}': {}",
                kernel_text(&error)
            ))
        })?;
        let default = Default {
            disk: folder.join("disk.qcow2"),
            qmp: folder.join("qmp.sock"),
            nbd: folder.join("nbd.sock"),
        };
        for socket in [&default.qmp, &default.nbd] {
            if UnixStream::connect(socket).is_ok() {
                let socket = socket.display();
                return Err(Failure::new(format!(
                    "Another server listens on '{socket}'"
                )));
            }
        }
        Ok(default)
    }

    /// The same as options that a user could have given.
    pub(super) fn plan(&self) -> Result<Plan, Failure> {
        let Default { disk, qmp, nbd } = self;
        let (disk, qmp, nbd) = (disk.display(), qmp.display(), nbd.display());
        Plan::parse(&Args {
            blockdev: vec![format!(
                "qcow2,id=drive0,node-name=disk,discard=unmap,file.driver=file,\
                 file.filename={disk}"
            )],
            nbd_server: Some(format!("addr.type=unix,addr.path={nbd}")),
            export: vec!["nbd,id=disk,node-name=disk,name=disk,writable=on".to_owned()],
            chardev: vec![format!("socket,id=qmp,path={qmp},server=on,wait=off")],
            monitor: vec!["qmp".to_owned()],
            pidfile: None,
            qmp_log: None,
            daemonize: false,
            session: SessionArgs::default(),
            background: false,
        })
    }

    /// Makes the disk, unless it is there.
    ///
    /// # Errors
    /// What creating it answers.
    pub(super) async fn make_disk(&self, session: &Session) -> Result<(), Failure> {
        if self.disk.exists() {
            return Ok(());
        }
        let new = NewImage {
            filename: self.disk.display().to_string(),
            format: BlockdevDriver::Qcow2,
            options: CreateOptions {
                size: Some(SIZE),
                ..CreateOptions::default()
            },
        };
        new.create(session)
            .await
            .map_err(|failure| failure.while_doing(&new.filename))
    }

    /// Says what is served, and what can be done with it.
    pub(super) fn introduce(&self) {
        let Default { disk, qmp, nbd } = self;
        let (disk, qmp, nbd) = (disk.display(), qmp.display(), nbd.display());
        let qblk = called();
        outln!(
            "Serving {disk} ({}) as node 'disk': QMP on {qmp}, NBD export 'disk' on {nbd}.\n\
             Ctrl-C flushes, closes and ends.\n\n\
             Try in another terminal, in this folder:\n  \
             {qblk} qmp {qmp} query-block\n  \
             {qblk} qmp {qmp} query-block-exports\n  \
             {qblk} io 'nbd+unix:///disk?socket={nbd}' -f raw -c 'write -P 0xaa 0 64k' \
             -c 'read -P 0xaa 0 64k'\n  \
             {qblk} map --output=json 'nbd+unix:///disk?socket={nbd}'\n  \
             {qblk} info -U {disk}\n  \
             {qblk} qmp {qmp} quit",
            human::size(SIZE)
        );
    }
}

/// How the user called the program.
fn called() -> String {
    if std::env::var_os("CARGO").is_some() {
        return "cargo run --release --".to_owned();
    }
    std::env::args().next().unwrap_or_else(|| "qblk".to_owned())
}
