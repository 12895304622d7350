//! Backups of one transaction: they begin at one moment, work when all of it is done, and where
//! that is asked for end together.
//!
//! Files are made and opened before the transaction holds up any request. A backup of a node that
//! the same transaction makes cannot be: its users enter the graph that is in force.

use std::sync::Arc;

use block_schema::types::{ActionCompletionMode, BlockdevBackup, DriveBackup, TransactionAction};

use super::Backup;
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::graph::transaction::Transaction;
use crate::job::Group;
use crate::layer::Layer;
use crate::queue::LocalQueue;

/// The backups of a transaction so far.
#[derive(Default)]
pub(crate) struct Backups {
    /// Targets that were opened, by the places of their actions.
    opened: Vec<(usize, NodeId)>,
    begun: Vec<Backup>,
    /// What they end in, if that is together.
    group: Option<Arc<Group>>,
}

impl Backups {
    /// Opens the targets of all actions that are backups to files.
    ///
    /// # Errors
    /// What the first one answers; nothing is open then.
    pub(crate) async fn open(
        layer: &Layer,
        queue: &LocalQueue,
        actions: &[TransactionAction],
        mode: ActionCompletionMode,
    ) -> Result<Backups> {
        let group = match mode {
            ActionCompletionMode::Individual => None,
            ActionCompletionMode::Grouped => Some(Arc::default()),
        };
        let mut backups = Backups {
            group,
            ..Backups::default()
        };
        for (place, action) in actions.iter().enumerate() {
            let TransactionAction::DriveBackup(wanted) = action else {
                continue;
            };
            match layer.open_copy(queue, wanted).await {
                Ok(id) => backups.opened.push((place, id)),
                Err(error) => {
                    backups.abort(layer, queue).await;
                    return Err(error);
                }
            }
        }
        Ok(backups)
    }

    /// Lets a backup to a node begin. Everything is drained.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) fn begin(&mut self, all: &Transaction<'_>, wanted: BlockdevBackup) -> Result<()> {
        let backup = Backup::to_node(all.change(), all.layer(), wanted, self.group.clone())?;
        self.add(backup)
    }

    /// Lets a backup to a file begin, that was opened for the action at this place.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) fn begin_drive(
        &mut self,
        all: &Transaction<'_>,
        place: usize,
        wanted: &DriveBackup,
    ) -> Result<()> {
        let opened = self.opened.iter().position(|(at, _)| *at == place);
        let opened = opened.ok_or(Error::ShutDown)?;
        let target = self.opened[opened].1;
        let backup = Backup::to_file(
            all.change(),
            all.layer(),
            wanted,
            target,
            self.group.clone(),
        )?;
        // From now on it goes with the backup.
        self.opened.swap_remove(opened);
        self.add(backup)
    }

    fn add(&mut self, mut backup: Backup) -> Result<()> {
        let begun = backup.begin();
        self.begun.push(backup);
        begun
    }

    /// Says that nothing will come of it, before requests go on.
    pub(crate) fn give_up(&self) {
        for backup in &self.begun {
            backup.saver.set_over();
        }
    }

    /// Lets all work.
    pub(crate) fn start(self, queue: &LocalQueue) {
        for backup in self.begun {
            backup.start(queue);
        }
    }

    /// Leaves everything as it was; the transaction is over.
    pub(crate) async fn abort(self, layer: &Layer, queue: &LocalQueue) {
        for backup in self.begun {
            backup.abort(queue).await;
        }
        for (_, target) in self.opened {
            if let Err(error) = layer.remove_node(queue, target).await {
                tracing::warn!("closing a target: {}", error.chain());
            }
        }
    }
}
