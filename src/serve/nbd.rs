//! `nbd`: serves one image over NBD until a signal comes or, unless it is to go on, the last client has
//! left, as `qemu-nbd` does.
//!
//! Not here: several images, QMP (`mod.rs`).

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::task::Poll;

use block_core::export::Exports;
use block_drivers::export::BuiltInExports;
use block_schema::{Object, Value};

use super::signals::Signals;
use super::threads::Threads;
use super::{PidFile, background, options};
use crate::convert::show_snapshot;
use crate::image::Image;
use crate::opts::cache::CacheMode;
use crate::opts::image::{Access, ImageArgs, ImageName, OpenHow, one_name};
use crate::opts::typed;
use crate::report::{Failure, Outcome};
use crate::session::{self, Session};

/// Serve one image over NBD
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Listen on this socket of the file system
    #[arg(short = 'k', long, value_name = "PATH")]
    socket: Option<String>,
    /// Listen on this port
    #[arg(short, long, value_name = "PORT", default_value = "10809")]
    port: String,
    /// Listen on this address
    #[arg(short, long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    bind: String,
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Let no client write
    #[arg(short, long)]
    read_only: bool,
    /// The export's name
    #[arg(short = 'x', long, value_name = "NAME", default_value = "")]
    export_name: String,
    /// What the export says of itself
    #[arg(short = 'D', long, value_name = "TEXT")]
    description: Option<String>,
    /// Clients at a time at most; 0 for any number
    #[arg(short = 'e', long, value_name = "NUM", default_value_t = 1)]
    shared: u32,
    /// Go on when the last client has left
    #[arg(short = 't', long)]
    persistent: bool,
    /// Say more; there is nothing more to say
    #[arg(short, long)]
    verbose: bool,
    /// Offer this bitmap; may be repeated
    #[arg(short = 'B', long, value_name = "NAME")]
    bitmap: Vec<String>,
    /// Serve what the disk was in this snapshot, read-only
    #[arg(short, long, value_name = "SNAPSHOT")]
    load_snapshot: Option<String>,
    /// Cache mode
    #[arg(long, value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Bypass the host's page cache
    #[arg(short, long)]
    nocache: bool,
    /// How I/O reaches the kernel: threads, native, io_uring
    #[arg(long, value_name = "AIO")]
    aio: Option<String>,
    /// What becomes of discards: unmap, ignore
    #[arg(long, value_name = "MODE", default_value = "unmap")]
    discard: String,
    /// What becomes of zeroes that are written: off, on, unmap
    #[arg(long, value_name = "MODE")]
    detect_zeroes: Option<String>,
    /// Write the process's number to a file, which goes in the end
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// Go on in the background when the image is served
    #[arg(long)]
    fork: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// Set by the foreground process for the one in the background
    #[arg(long, hide = true)]
    background: bool,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

pub(crate) fn run(args: Args) -> Outcome {
    let filename = one_name(&args.filename)?;
    if args.fork && !args.background {
        return background::start();
    }
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    let how = how(&args)?;
    // Before any thread is there, so that no other thread gets them.
    let signals = Signals::catch()?;
    let pidfile = PidFile::default();
    let outcome = session::run(&args.image.session, async |session| {
        let threads = Threads::start(session)?;
        let drivers = BuiltInExports::new(threads.handles());
        let clients = drivers.nbd_clients();
        let exports = Exports::new(session.queue(), Box::new(drivers));
        open(session, &name, how, &args).await?;
        let server = typed::arguments_of("nbd-server-start", server(&args))?;
        exports.start_server(&options::decode(server)?)?;
        let export = typed::arguments_of("block-export-add", export(&args))?;
        let served = exports.add(&options::decode(export)?).await;
        if served.is_ok() {
            if let Some(path) = &args.pid_file {
                pidfile.write(path)?;
            }
            if args.background {
                background::detach()?;
            }
            let signal = pin!(signals.received(session.queue()));
            match args.persistent {
                true => signal.await,
                false => first(signal, pin!(clients.left())).await,
            }
        }
        exports.close_all().await;
        exports.stop_server().await.ok();
        served?;
        Ok(0)
    });
    drop(pidfile);
    outcome
}

fn how(args: &Args) -> Result<OpenHow, Failure> {
    let cache = match args.nocache {
        true => "none",
        false => &args.cache,
    };
    let discard = match args.discard.as_str() {
        "unmap" | "on" => true,
        "ignore" | "off" => false,
        other => return Err(Failure::new(format!("Invalid discard mode \"{other}\""))),
    };
    let access = match args.is_read_only() {
        true => Access::Read,
        false => Access::Write,
    };
    let aio = match args.aio.as_deref() {
        None => None,
        Some("threads") => Some("threads"),
        Some("native") => Some("native"),
        Some("io_uring") => Some("io_uring"),
        Some(other) => return Err(Failure::new(format!("Invalid aio mode '{other}'"))),
    };
    let detect_zeroes = match args.detect_zeroes.as_deref() {
        None => None,
        Some("off") => Some("off"),
        Some("on") => Some("on"),
        Some("unmap") => Some("unmap"),
        Some(other) => {
            let text =
                format!("Failed to parse detect_zeroes mode: invalid parameter value: {other}");
            return Err(Failure::new(text));
        }
    };
    if detect_zeroes == Some("unmap") && !discard {
        let text = "setting detect-zeroes to unmap is not allowed without setting discard \
                    operation to unmap";
        return Err(Failure::new(text));
    }
    Ok(OpenHow {
        access,
        aio,
        detect_zeroes,
        discard,
        ..OpenHow::read(&args.image).with_cache(CacheMode::parse(cache, "cache mode")?)
    })
}

/// Waits for whichever comes first.
async fn first(
    mut one: Pin<&mut impl Future<Output = ()>>,
    mut two: Pin<&mut impl Future<Output = ()>>,
) {
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => two.as_mut().poll(cx),
    })
    .await;
}

impl Args {
    fn is_read_only(&self) -> bool {
        self.read_only || self.load_snapshot.is_some()
    }
}

/// The name of the image's node.
const NODE: &str = "disk";

/// Opens the image; the export will be its only user.
async fn open(
    session: &Session,
    name: &ImageName,
    how: OpenHow,
    args: &Args,
) -> Result<(), Failure> {
    let image = Image::open_unprefixed(session, name, NODE, how).await;
    let image = image.map_err(|failure| {
        failure.while_doing(&format!("Failed to blk_new_open '{}'", name.text))
    })?;
    if let Some(snapshot) = &args.load_snapshot {
        show_snapshot(session, &image, snapshot).await?;
    }
    session.layer().remove_backend(image.backend()).await;
    Ok(())
}

/// Where to listen, as `nbd-server-start` has it.
fn server(args: &Args) -> Object {
    let (mut address, mut data, mut server) = (Object::new(), Object::new(), Object::new());
    match &args.socket {
        Some(path) => {
            address.insert("type", "unix");
            data.insert("path", path.as_str());
        }
        None => {
            address.insert("type", "inet");
            data.insert("host", args.bind.as_str());
            data.insert("port", args.port.as_str());
        }
    }
    address.insert("data", data);
    server.insert("addr", address);
    server.insert("max-connections", i64::from(args.shared));
    server
}

/// The export, as `block-export-add` has it.
fn export(args: &Args) -> Object {
    let mut export = Object::new();
    export.insert("type", "nbd");
    export.insert("id", "nbd");
    export.insert("node-name", NODE);
    export.insert("name", args.export_name.as_str());
    export.insert("writable", !args.is_read_only());
    if let Some(description) = &args.description {
        export.insert("description", description.as_str());
    }
    if !args.bitmap.is_empty() {
        let names = args.bitmap.iter().map(|name| Value::from(name.as_str()));
        export.insert("bitmaps", Value::Array(names.collect()));
    }
    export
}
