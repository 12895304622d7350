//! Maintenance: verbs on one image as a whole, which its driver does while the node is drained.
//!
//! Called by QMP, and by the program's subcommands. Invariant: while a driver works, no other verb
//! changes the graph, and no request is under way on the node. Who changes what a read-only node
//! reads as has the graph published once more. Not here: verbs that move edges (`graph/`).

use block_schema::types::SnapshotInfo;

use super::{Change, Layer};
use crate::driver::{
    AmendOptions, BackingName, CheckReport, KeySlotChange, Preallocation, Repair, SnapshotChange,
};
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::queue::{LocalQueue, shield};
use crate::request::cx::Child;
use crate::secret::Secret;

/// Runs what a verb does with one node: under the lock of changes, if `admit` lets it, with the node
/// drained.
async fn maintain<T: 'static>(
    queue: &LocalQueue,
    id: NodeId,
    admit: impl FnOnce(&Child) -> Result<()> + 'static,
    work: impl AsyncFnOnce(&Child, &Change<'_>) -> Result<T> + 'static,
) -> Result<T> {
    shield(queue, async move |layer, queue| {
        let change = layer.change().await;
        let node = layer.node(&queue, id)?;
        admit(&node)?;
        let _drained = layer.drain(&[id]).await;
        work(&node, &change).await
    })
    .await
}

/// Lets any node be worked on, also one that only reads, or that a job uses.
fn any(_: &Child) -> Result<()> {
    Ok(())
}

/// Lets a node be worked on while nothing else depends on what it is.
fn unblocked(node: &Child) -> Result<()> {
    node.node().check_unblocked()
}

/// Lets an image be changed: it can be written, and nothing else depends on what it is.
fn changeable(node: &Child) -> Result<()> {
    if node.is_read_only() {
        return Err(Error::ReadOnly {
            node: node.node_name().to_owned(),
        });
    }
    unblocked(node)
}

impl Layer {
    /// Sets the length of a node, drained.
    ///
    /// # Errors
    /// `ReadOnly`, `PermissionConflict`; what the driver answers.
    pub async fn resize(
        &self,
        queue: &LocalQueue,
        id: NodeId,
        len: u64,
        preallocation: Preallocation,
    ) -> Result<()> {
        maintain(queue, id, changeable, async move |node, change| {
            let layer = change.layer;
            layer.check_bitmaps_resize(id, len)?;
            let driver = node.node().driver();
            driver.resize(&node.cx(), len, preallocation).await?;
            layer.bitmaps_follow_resize(id)
        })
        .await
    }

    /// Gives an image that was opened without its key a passphrase.
    ///
    /// # Errors
    /// `InvalidOption` when the passphrase is wrong, or the image is not encrypted.
    pub async fn unlock(&self, queue: &LocalQueue, id: NodeId, passphrase: Secret) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let _change = layer.change().await;
            // Not drained: until then, requests for data fail.
            let node = layer.node(&queue, id)?;
            let driver = node.node().driver();
            driver.unlock(&node.cx(), passphrase).await
        })
        .await
    }

    /// Checks, and repairs, an image, drained.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn check(
        &self,
        queue: &LocalQueue,
        id: NodeId,
        repair: Repair,
    ) -> Result<CheckReport> {
        maintain(queue, id, any, async move |node, change| {
            let report = node.node().driver().check(&node.cx(), repair).await;
            if repair != Repair::None && node.is_read_only() {
                change.publish_again();
            }
            report
        })
        .await
    }

    /// Takes, applies, deletes or shows an internal snapshot, drained; returns the one concerned.
    ///
    /// # Errors
    /// `ReadOnly`, `PermissionConflict`; what the driver answers.
    pub async fn snapshot(
        &self,
        queue: &LocalQueue,
        id: NodeId,
        wanted: SnapshotChange,
    ) -> Result<SnapshotInfo> {
        let admit = match wanted {
            SnapshotChange::Show(_) => unblocked,
            SnapshotChange::Create(_) | SnapshotChange::Apply(_) | SnapshotChange::Delete(_) => {
                changeable
            }
        };
        let is_applied = matches!(wanted, SnapshotChange::Apply(_));
        maintain(queue, id, admit, async move |node, change| {
            let snapshot = node.node().driver().snapshot(&node.cx(), wanted).await;
            if node.is_read_only() {
                change.publish_again();
            }
            let snapshot = snapshot?;
            if is_applied {
                change.layer.bitmaps_follow_change(id)?;
            }
            Ok(snapshot)
        })
        .await
    }

    /// Names another backing file in an image, or none, drained; the one that is open stays open.
    ///
    /// # Errors
    /// `ReadOnly`, `PermissionConflict`; what the driver answers.
    pub async fn name_backing(
        &self,
        queue: &LocalQueue,
        id: NodeId,
        backing: Option<BackingName>,
    ) -> Result<()> {
        maintain(queue, id, changeable, async move |node, _| {
            let driver = node.node().driver();
            driver.name_backing(&node.cx(), backing).await
        })
        .await
    }

    /// Lets an image forget what it holds itself, drained: its backing file shows through.
    ///
    /// # Errors
    /// `ReadOnly`, `PermissionConflict`; what the driver answers.
    pub async fn make_empty(&self, queue: &LocalQueue, id: NodeId) -> Result<()> {
        maintain(queue, id, changeable, async move |node, change| {
            node.node().driver().make_empty(&node.cx()).await?;
            change.layer.bitmaps_follow_change(id)
        })
        .await
    }

    /// Changes the format of an image, drained; afterwards the node only reads.
    ///
    /// # Errors
    /// `ReadOnly`, `PermissionConflict`; what the driver answers.
    pub async fn amend(&self, queue: &LocalQueue, id: NodeId, options: AmendOptions) -> Result<()> {
        maintain(queue, id, changeable, async move |node, _| {
            node.node().driver().amend(&node.cx(), options).await
        })
        .await
    }

    /// Changes the passphrases of a node's image, drained.
    ///
    /// # Errors
    /// `ReadOnly`, `PermissionConflict`; what the driver answers: `InvalidOption` for what does not fit, `Encrypted` without
    /// the key.
    pub async fn change_key_slots(
        &self,
        queue: &LocalQueue,
        id: NodeId,
        slots: KeySlotChange,
    ) -> Result<()> {
        maintain(queue, id, changeable, async move |node, _| {
            let driver = node.node().driver();
            driver.change_key_slots(&node.cx(), slots).await
        })
        .await
    }
}
