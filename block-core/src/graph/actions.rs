//! `transaction`: what its actions do, each as one can have it alone.
//!
//! All disks are drained from the first action to the last, so that all of it happens at one point in
//! time. Actions on bitmaps and images cannot wait for the commit, since later ones build on them:
//! each leaves word of how to take it back.

use std::sync::Arc;
use std::time::SystemTime;

use block_schema::commands::{BlockdevSnapshotInternalSync, Transaction as Command};
use block_schema::types::{
    ActionCompletionMode, BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge,
    BlockDirtyBitmapOrStr, BlockdevSnapshotInternal, SnapshotInfo, TransactionAction,
};

use crate::bitmap::{BitmapName, DirtyBitmap, NewBitmap, Purpose, SavedBits};
use crate::driver::{SnapshotChange, SnapshotKey};
use crate::error::{Error, Result};
use crate::graph::transaction::Transaction;
use crate::graph::{Node, NodeId};
use crate::job::Backups;
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};

/// Bytes of a snapshot's name at most; longer ones are cut.
const MAX_NAME: usize = 255;

/// How to take back what an action did outside the draft.
pub(super) enum Undo {
    /// A bitmap is there.
    Added(Arc<Node>, String),
    /// It is not, in the image neither.
    Removed(Arc<Node>, Arc<DirtyBitmap>),
    /// It tracks, or not, as it did not before.
    Tracks(Arc<DirtyBitmap>, bool),
    /// Its bits were these.
    Bits(Arc<DirtyBitmap>, SavedBits),
    /// An internal snapshot is there.
    Snapshot(NodeId, SnapshotKey),
}

impl Layer {
    /// Does several things at one point in time: all of them, or none.
    ///
    /// # Errors
    /// That of the first action that cannot be done, or of the graph that all of them would make.
    pub async fn transaction(&self, queue: &LocalQueue, arguments: Command) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let mode = arguments.properties.and_then(|p| p.completion_mode);
            let mode = mode.unwrap_or(ActionCompletionMode::Individual);
            let mut actions = arguments.actions.iter();
            if mode == ActionCompletionMode::Grouped
                && let Some(action) = actions.find(|action| !makes_job(action))
            {
                let reason = format!(
                    "Action '{}' does not support transaction property completion-mode = grouped",
                    action.kind()
                );
                return Err(Error::invalid("properties", reason));
            }
            let mut backups = Backups::open(&layer, &queue, &arguments.actions, mode).await?;
            let mut transaction = Transaction::begin(&layer, &queue).await;
            transaction.drain_all().await;
            let mut done = Ok(());
            for (place, action) in arguments.actions.into_iter().enumerate() {
                done = transaction.act(place, action, &mut backups).await;
                if done.is_err() {
                    backups.give_up();
                    break;
                }
            }
            match transaction.finish(done).await {
                Ok(()) => {
                    backups.start(&queue);
                    Ok(())
                }
                Err(error) => {
                    backups.abort(&layer, &queue).await;
                    Err(error)
                }
            }
        })
        .await
    }

    /// Takes a snapshot inside an image.
    ///
    /// # Errors
    /// `InvalidOption` for a name that is taken or empty, or an image that can have none.
    pub async fn blockdev_snapshot_internal_sync(
        &self,
        queue: &LocalQueue,
        arguments: BlockdevSnapshotInternalSync,
    ) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let BlockdevSnapshotInternalSync { device, name } = arguments;
            let mut transaction = Transaction::begin(&layer, &queue).await;
            let wanted = BlockdevSnapshotInternal { device, name };
            let taken = transaction.take_snapshot(&wanted).await;
            transaction.finish(taken).await
        })
        .await
    }
}

fn makes_job(action: &TransactionAction) -> bool {
    use TransactionAction as Action;
    matches!(action, Action::BlockdevBackup(_) | Action::DriveBackup(_))
}

impl Transaction<'_> {
    async fn act(
        &mut self,
        place: usize,
        action: TransactionAction,
        backups: &mut Backups,
    ) -> Result<()> {
        match &action {
            TransactionAction::BlockdevBackup(wanted) => backups.begin(self, wanted.clone()),
            TransactionAction::DriveBackup(wanted) => backups.begin_drive(self, place, wanted),
            TransactionAction::Abort(_) => Err(Error::invalid(
                "abort",
                "Transaction aborted using Abort action",
            )),
            TransactionAction::BlockDirtyBitmapAdd(new) => self.add_bitmap(new),
            TransactionAction::BlockDirtyBitmapRemove(bitmap) => self.remove_bitmap(bitmap).await,
            TransactionAction::BlockDirtyBitmapClear(bitmap) => self.clear_bitmap(bitmap),
            TransactionAction::BlockDirtyBitmapEnable(bitmap) => self.set_tracking(bitmap, true),
            TransactionAction::BlockDirtyBitmapDisable(bitmap) => self.set_tracking(bitmap, false),
            TransactionAction::BlockDirtyBitmapMerge(merge) => self.merge_bitmaps(merge),
            TransactionAction::BlockdevSnapshot(wanted) => self.snapshot(wanted).await,
            TransactionAction::BlockdevSnapshotSync(wanted) => self.snapshot_sync(wanted).await,
            TransactionAction::BlockdevSnapshotInternalSync(wanted) => {
                self.take_snapshot(wanted).await
            }
        }
    }

    fn add_bitmap(&mut self, wanted: &BlockDirtyBitmapAdd) -> Result<()> {
        let new = NewBitmap {
            granularity: wanted.granularity,
            persistent: wanted.persistent.unwrap_or(false),
            disabled: wanted.disabled.unwrap_or(false),
        };
        let place = self.place(&wanted.node);
        let made = {
            let draft = self.draft();
            let name = BitmapName {
                node: &wanted.node,
                name: &wanted.name,
            };
            new.make(draft.graph(), place, name)?
        };
        let (node, bitmap) = made;
        node.bitmaps().add(Arc::new(bitmap));
        self.undo(Undo::Added(node, wanted.name.clone()));
        Ok(())
    }

    async fn remove_bitmap(&mut self, wanted: &BlockDirtyBitmap) -> Result<()> {
        let (node, bitmap) = self.bitmap(&wanted.node, &wanted.name)?;
        bitmap.check(Purpose::Remove)?;
        if bitmap.is_persistent() {
            let child = self.child(node.id())?;
            let driver = child.node().driver();
            driver.remove_bitmap(&child.cx(), bitmap.name()).await?;
        }
        node.bitmaps().remove(bitmap.name());
        self.undo(Undo::Removed(node, bitmap));
        Ok(())
    }

    fn clear_bitmap(&mut self, wanted: &BlockDirtyBitmap) -> Result<()> {
        let (_, bitmap) = self.bitmap(&wanted.node, &wanted.name)?;
        bitmap.check(Purpose::Change)?;
        let before = bitmap.copy_bits()?;
        bitmap.clear();
        self.undo(Undo::Bits(bitmap, before));
        Ok(())
    }

    fn set_tracking(&mut self, wanted: &BlockDirtyBitmap, enabled: bool) -> Result<()> {
        let (_, bitmap) = self.bitmap(&wanted.node, &wanted.name)?;
        bitmap.check(Purpose::Use)?;
        let before = bitmap.is_enabled();
        bitmap.set_enabled(enabled);
        self.undo(Undo::Tracks(bitmap, before));
        Ok(())
    }

    fn merge_bitmaps(&mut self, wanted: &BlockDirtyBitmapMerge) -> Result<()> {
        let (_, into) = self.bitmap(&wanted.node, &wanted.target)?;
        let mut from = Vec::new();
        for source in &wanted.bitmaps {
            let (node, name) = match source {
                BlockDirtyBitmapOrStr::Local(name) => (&wanted.node, name),
                BlockDirtyBitmapOrStr::External(other) => (&other.node, &other.name),
            };
            let (_, bitmap) = self.bitmap(node, name)?;
            into.check_merge(&bitmap)?;
            from.push(bitmap);
        }
        let before = into.copy_bits()?;
        for bitmap in from {
            into.merge(&bitmap);
        }
        self.undo(Undo::Bits(into, before));
        Ok(())
    }

    async fn take_snapshot(&mut self, wanted: &BlockdevSnapshotInternal) -> Result<()> {
        let BlockdevSnapshotInternal { device, name } = wanted;
        let refuse = |reason: String| Err(Error::invalid("device", reason));
        let Some(node) = self.place(device).and_then(|id| self.node(id).ok()) else {
            return refuse(format!(
                "Cannot find device='{device}' nor node-name='{device}'"
            ));
        };
        if self.draft().has_parent(node.id()) {
            return refuse("Need a root block node".to_owned());
        }
        node.check_unblocked()?;
        let driver = node.driver();
        if node.is_read_only() {
            return refuse(format!("Device '{device}' is read only"));
        }
        if name.is_empty() {
            return Err(Error::invalid("name", "Name is empty"));
        }
        let snapshots = driver.describe().snapshots;
        if snapshots.iter().any(|snapshot| snapshot.name == *name) {
            return refuse(format!(
                "Snapshot with name '{name}' already exists on device '{device}'"
            ));
        }
        self.drain(node.id()).await;
        let child = self.child(node.id())?;
        let change = SnapshotChange::Create(snapshot_now(name));
        match driver.snapshot(&child.cx(), change).await {
            Ok(taken) => {
                self.undo(Undo::Snapshot(node.id(), SnapshotKey::from(&taken)));
                Ok(())
            }
            Err(Error::Unsupported { .. }) => refuse(format!(
                "Block format '{}' used by device '{device}' does not support internal snapshots",
                driver.format_name()
            )),
            Err(error) => Err(error),
        }
    }

    fn bitmap(&self, node: &str, name: &str) -> Result<(Arc<Node>, Arc<DirtyBitmap>)> {
        let draft = self.draft();
        let place = self.place(node);
        BitmapName { node, name }.find(draft.graph(), place)
    }

    /// Takes back what one action did.
    pub(super) async fn take_back(&self, undo: Undo) -> Result<()> {
        match undo {
            Undo::Added(node, name) => node.bitmaps().remove(&name),
            Undo::Removed(node, bitmap) => node.bitmaps().add(bitmap),
            Undo::Tracks(bitmap, enabled) => bitmap.set_enabled(enabled),
            Undo::Bits(bitmap, bits) => bitmap.put_back(&bits),
            Undo::Snapshot(id, key) => {
                let child = self.child(id)?;
                let change = SnapshotChange::Delete(key);
                let driver = child.node().driver();
                driver.snapshot(&child.cx(), change).await?;
            }
        }
        Ok(())
    }
}

/// A snapshot of this moment.
fn snapshot_now(name: &str) -> SnapshotInfo {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    SnapshotInfo {
        id: String::new(),
        name: name[..name.floor_char_boundary(MAX_NAME)].to_owned(),
        vm_state_size: 0,
        date_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        date_nsec: i64::from(now.subsec_micros()) * 1000,
        vm_clock_sec: 0,
        vm_clock_nsec: 0,
        icount: None,
    }
}
