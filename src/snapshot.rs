//! `snapshot`: lists, takes, applies and deletes internal snapshots.

use std::time::SystemTime;

use block_core::driver::{SnapshotChange, SnapshotKey};
use block_core::error::Error;
use block_schema::types::SnapshotInfo;

use crate::human;
use crate::image::{Image, errno_text};
use crate::opts::image::{Access, ImageArgs, ImageName, OpenHow, one_name};
use crate::report::{Failure, Outcome, outln};
use crate::session::{self, Session};

/// List, take, apply or delete internal snapshots
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// List the snapshots (what is done without any of these options, too)
    #[arg(short)]
    list: bool,
    /// Make the disk what it was in a snapshot, by its ID or name
    #[arg(short, value_name = "SNAPSHOT")]
    apply: Option<String>,
    /// Take a snapshot
    #[arg(short, value_name = "SNAPSHOT")]
    create: Option<String>,
    /// Delete a snapshot, by its name
    #[arg(short, value_name = "SNAPSHOT")]
    delete: Option<String>,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

/// What is to be done.
enum Action {
    List,
    Apply(String),
    Create(String),
    Delete(String),
}

/// Bytes of a name at most; tools have always cut longer ones.
const MAX_NAME: usize = 255;

pub(crate) fn run(args: Args) -> Outcome {
    let action = action(&args)?;
    let filename = one_name(&args.filename)?;
    let name = ImageName::new(filename, None, &args.image)?;
    let mut how = OpenHow::read(&args.image).metadata_only();
    if !matches!(action, Action::List) {
        how.access = Access::Write;
    }
    session::run(&args.image.session, async |session| {
        let image = Image::open(session, &name, "image", how).await?;
        match action {
            Action::List => list(&image)?,
            Action::Create(snapshot) => create(session, &image, &snapshot).await?,
            Action::Apply(snapshot) => apply(session, &image, &snapshot).await?,
            Action::Delete(snapshot) => delete(session, &image, &snapshot).await?,
        }
        Ok(0)
    })
}

fn action(args: &Args) -> Result<Action, Failure> {
    let mut actions = Vec::new();
    if args.list {
        actions.push(Action::List);
    }
    actions.extend(args.apply.clone().map(Action::Apply));
    actions.extend(args.create.clone().map(Action::Create));
    actions.extend(args.delete.clone().map(Action::Delete));
    match (actions.pop(), actions.is_empty()) {
        (Some(action), true) => Ok(action),
        (None, _) => Ok(Action::List),
        (Some(_), false) => Err(Failure::usage("Cannot mix '-l', '-a', '-c', '-d'")),
    }
}

fn snapshots(image: &Image) -> Result<Vec<SnapshotInfo>, Failure> {
    Ok(image.node()?.node().driver().describe().snapshots)
}

fn list(image: &Image) -> Result<(), Failure> {
    let snapshots = snapshots(image)?;
    if !snapshots.is_empty() {
        outln!("Snapshot list:");
        for row in human::snapshot_table(&snapshots) {
            outln!("{row}");
        }
    }
    Ok(())
}

/// The snapshot of this ID, or else of this name.
pub(crate) fn by_id_or_name(image: &Image, text: &str) -> Result<Option<SnapshotKey>, Failure> {
    let snapshots = snapshots(image)?;
    let by_id = snapshots.iter().find(|s| s.id == text);
    let found = by_id.or_else(|| snapshots.iter().find(|s| s.name == text));
    Ok(found.map(SnapshotKey::from))
}

async fn create(session: &Session, image: &Image, name: &str) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let end = name.floor_char_boundary(MAX_NAME);
    let info = SnapshotInfo {
        id: String::new(),
        name: name[..end].to_owned(),
        vm_state_size: 0,
        date_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        date_nsec: i64::from(now.subsec_micros()) * 1000,
        vm_clock_sec: 0,
        vm_clock_nsec: 0,
        icount: Some(0),
    };
    change(session, image, SnapshotChange::Create(info))
        .await
        .map_err(|why| Failure::new(format!("Could not create snapshot '{name}': {why}")))
}

async fn apply(session: &Session, image: &Image, name: &str) -> Result<(), Failure> {
    let failed = |why: &str| Failure::new(format!("Could not apply snapshot '{name}': {why}"));
    let found = by_id_or_name(image, name)?;
    let key = found.clone().unwrap_or_else(|| SnapshotKey {
        id: None,
        name: Some(name.to_owned()),
    });
    let (layer, queue) = (session.layer(), session.queue());
    match layer
        .snapshot(queue, image.id(), SnapshotChange::Apply(key))
        .await
    {
        Ok(_) => Ok(()),
        Err(Error::Unsupported { .. }) if found.is_none() => {
            Err(failed("Block driver does not support snapshots"))
        }
        Err(_) if found.is_none() => {
            Err(failed("Failed to load snapshot: No such file or directory"))
        }
        Err(error) => Err(failed(&format!(
            "Failed to load snapshot: {}",
            reason(&error)
        ))),
    }
}

async fn delete(session: &Session, image: &Image, name: &str) -> Result<(), Failure> {
    let failed = |why: &str| Failure::new(format!("Could not delete snapshot '{name}': {why}"));
    let snapshots = snapshots(image)?;
    let Some(found) = snapshots.iter().find(|s| s.name == name) else {
        return Err(failed("snapshot not found"));
    };
    change(session, image, SnapshotChange::Delete(found.into()))
        .await
        .map_err(|why| failed(&why))
}

async fn change(session: &Session, image: &Image, change: SnapshotChange) -> Result<(), String> {
    let changed = session
        .layer()
        .snapshot(session.queue(), image.id(), change)
        .await;
    changed.map(drop).map_err(|error| reason(&error))
}

/// The kernel's word for an error, and behind it what else is known.
fn reason(error: &Error) -> String {
    match error {
        Error::Corrupt { .. } => format!("{}: {}", errno_text(error), error.chain()),
        _ => errno_text(error),
    }
}
