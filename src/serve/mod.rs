//! `serve`: the storage daemon. Opens nodes, serves them over NBD, takes commands over QMP.
//!
//! Runs until QMP says `quit` or a signal comes; then exports end, nodes are flushed and closed,
//! and sockets go. Not here: what the options mean (`options.rs`), what is served without any
//! (`default.rs`).

mod background;
mod default;
mod log;
pub(crate) mod nbd;
mod options;
mod signals;
mod threads;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use block_core::error::kernel_text;
use block_core::export::Exports;
use block_core::qmp::{Daemon, Monitor};
use block_core::sync::first;
use block_drivers::export::BuiltInExports;

use crate::opts::image::SessionArgs;
use crate::report::{Failure, Outcome};
use crate::session::{self, Session};

use default::Default;
use options::{Chardev, Plan};
use signals::Signals;
use threads::Threads;

/// Serve images: NBD exports, and QMP to change everything while it runs
///
/// Without options, makes a disk in ./qblk-data, serves it, and says what to do next.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Open a node: driver=qcow2,node-name=disk,file.driver=file,… or JSON; may be repeated
    #[arg(long, value_name = "OPTIONS")]
    blockdev: Vec<String>,
    /// Start the NBD server: addr.type=unix,addr.path=… or addr.type=inet,addr.host=…,addr.port=…
    #[arg(long, value_name = "OPTIONS")]
    nbd_server: Option<String>,
    /// Export a node: type=nbd,id=…,node-name=…,name=…,writable=on; may be repeated
    #[arg(long, value_name = "OPTIONS")]
    export: Vec<String>,
    /// Make a socket for a monitor: socket,id=…,path=…,server=on,wait=off; may be repeated
    #[arg(long, value_name = "OPTIONS")]
    chardev: Vec<String>,
    /// Take QMP commands on a socket: chardev=ID; may be repeated
    #[arg(long, value_name = "OPTIONS")]
    monitor: Vec<String>,
    /// Write the process's number to a file, which goes in the end
    #[arg(long, value_name = "PATH")]
    pidfile: Option<PathBuf>,
    /// Append each QMP request with its reply, and each event, to a file, a JSON value a line;
    /// passphrases are left out. The environment's QBLK_QMP_LOG does the same
    #[arg(long, value_name = "PATH")]
    qmp_log: Option<PathBuf>,
    /// Go on in the background when everything is served
    #[arg(long)]
    daemonize: bool,
    #[command(flatten)]
    session: SessionArgs,
    /// Set by the foreground process for the one in the background
    #[arg(long, hide = true)]
    background: bool,
}

impl Args {
    fn names_nothing(&self) -> bool {
        let lists = [&self.blockdev, &self.export, &self.chardev, &self.monitor];
        lists.iter().all(|list| list.is_empty()) && self.nbd_server.is_none()
    }
}

pub(crate) fn run(args: Args) -> Outcome {
    if args.daemonize && !args.background {
        return background::start();
    }
    log::start(args.qmp_log.as_deref())?;
    // Before any thread is there, so that no other thread gets them.
    let signals = Signals::catch()?;
    let default = args.names_nothing().then(Default::choose).transpose()?;
    let plan = match &default {
        Some(default) => default.plan()?,
        None => Plan::parse(&args)?,
    };
    let pidfile = PidFile::default();
    let outcome = session::run(&args.session, async |session| {
        let threads = Threads::start(session)?;
        let exports = Exports::new(
            session.queue(),
            Box::new(BuiltInExports::new(threads.handles())),
        );
        let daemon = Daemon::new(session.queue(), exports);
        if let Some(default) = &default {
            default.make_disk(session).await?;
        }
        let served = serve(session, &daemon, plan).await;
        let served = match &args.pidfile {
            Some(path) => served.and_then(|()| pidfile.write(path)),
            None => served,
        };
        if served.is_ok() {
            if let Some(default) = &default {
                default.introduce();
            }
            if args.background {
                background::detach()?;
            }
            first(daemon.ended(), signals.received(session.queue())).await;
        }
        daemon.end();
        daemon.exports().close_all().await;
        // It may not run.
        daemon.exports().stop_server().await.ok();
        served.map(|()| 0)
    });
    drop(pidfile);
    outcome
}

/// The file that holds the process's number; it goes when everything is closed.
#[derive(Default)]
struct PidFile(RefCell<Option<PathBuf>>);

impl PidFile {
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = format!("{}\n", std::process::id());
        std::fs::write(path, text).map_err(|error| {
            let why = kernel_text(&error);
            Failure::new(format!("cannot create PID file: {}: {why}", path.display()))
        })?;
        self.0.replace(Some(path.to_owned()));
        Ok(())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // Somebody else may have removed it.
            std::fs::remove_file(path).ok();
        }
    }
}

/// Does what the plan says, in the order in which one thing needs another.
async fn serve(session: &Session, daemon: &Rc<Daemon>, plan: Plan) -> Result<(), Failure> {
    for options in plan.nodes {
        session
            .layer()
            .blockdev_add(session.queue(), options)
            .await?;
    }
    if let Some(server) = &plan.nbd_server {
        daemon.exports().start_server(server)?;
    }
    for export in &plan.exports {
        daemon.exports().add(export).await?;
    }
    for chardev in plan.monitors {
        start_monitor(chardev, daemon)?;
    }
    Ok(())
}

fn start_monitor(chardev: Chardev, daemon: &Rc<Daemon>) -> Result<(), Failure> {
    let place = chardev.to_string();
    let started = match chardev {
        Chardev::ListenUnix(path) => Monitor::bind(&path).map(|monitor| monitor.run(daemon)),
        Chardev::ListenInet(address) => std::net::TcpListener::bind(&address)
            .and_then(|socket| Monitor::on(socket.into()))
            .map(|monitor| monitor.run(daemon)),
        Chardev::ConnectUnix(path) => std::os::unix::net::UnixStream::connect(&path)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map(|socket| Monitor::run_connected(socket.into(), daemon)),
    };
    started.map_err(|error| {
        Failure::new(format!(
            "Failed to open the socket '{place}': {}",
            kernel_text(&error)
        ))
    })
}
