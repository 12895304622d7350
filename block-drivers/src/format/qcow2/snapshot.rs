//! Internal snapshots: taking, applying, deleting and showing them.
//! Called by the driver, drained. Each change is one [`switch`](super::switch): it decides which
//! tables gain and lose references, and the switch does the rest.
//! Invariant: an L1 table is within the file and the format's limits before it is read.
//! Spec: qcow2 "Snapshots". Not here: the snapshot table's bytes (`snapshot_table.rs`).

use block_core::driver::{SnapshotChange, SnapshotKey};
use block_core::{Error, Result};
use block_schema::types::SnapshotInfo;
use rustix::io::Errno;

use super::error::ImageError;
use super::header::{MAX_L1_BYTES, MAX_SNAPSHOTS};
use super::image::Image;
use super::layout::L1Entry;
use super::snapshot_table::Snapshot;
use super::switch::Next;
use crate::kit::image_file::{ImageFile, Surroundings};

impl Image {
    /// Changes the snapshots; returns the one concerned.
    ///
    /// # Errors
    /// `InvalidOption` when there is no such snapshot or no room for another; `Corrupt` when tables
    /// are wrong; errors of the file. The image is unchanged then.
    pub(super) async fn snapshot<E: Surroundings>(
        &self,
        env: &E,
        change: SnapshotChange,
    ) -> Result<SnapshotInfo> {
        self.need_own_clusters("internal snapshots with an external data file")?;
        match change {
            SnapshotChange::Create(info) => self.take_snapshot(env, info).await,
            SnapshotChange::Apply(key) => self.apply_snapshot(env, &key).await,
            SnapshotChange::Delete(key) => self.delete_snapshot(env, &key).await,
            SnapshotChange::Show(key) => self.show_snapshot(env, &key).await,
        }
    }

    async fn take_snapshot<E: Surroundings>(
        &self,
        env: &E,
        mut info: SnapshotInfo,
    ) -> Result<SnapshotInfo> {
        let now = self.snapshots.lock().clone();
        if now.entries.len() >= usize::try_from(MAX_SNAPSHOTS).unwrap_or(usize::MAX) {
            return Err(self.no_space(Errno::FBIG));
        }
        if info.vm_state_size != 0 {
            let what = "storing the state of a virtual machine";
            return Err(self.error(ImageError::NotBuiltIn { what }));
        }
        if info.id.is_empty() {
            info.id = now.next_id();
        }
        let mut snapshots = now.entries;
        snapshots.push(Snapshot::new(info.clone(), self.size())?);
        let l1 = self.active_l1();
        let next = Next {
            size: self.size(),
            gained: vec![l1.clone()],
            lost: Vec::new(),
            l1,
            snapshots,
            taken: true,
            given_up: None,
        };
        self.switch(env, next).await?;
        Ok(info)
    }

    async fn apply_snapshot<E: Surroundings>(
        &self,
        env: &E,
        key: &SnapshotKey,
    ) -> Result<SnapshotInfo> {
        let (index, snapshot) = self.find_snapshot(key)?;
        let size = snapshot.disk_size.unwrap_or_else(|| self.size());
        let mut l1 = self.snapshot_l1(env, index, &snapshot).await?;
        let gained = vec![l1.clone()];
        let needed = usize::try_from(self.geometry.l1_entries(size)).unwrap_or(usize::MAX);
        // Bounded by MAX_L1_BYTES; see `snapshot_l1`.
        l1.resize(l1.len().max(needed), L1Entry(0));
        let next = Next {
            size,
            l1,
            gained,
            lost: vec![self.active_l1()],
            snapshots: self.snapshots.lock().entries.clone(),
            taken: false,
            given_up: None,
        };
        self.switch(env, next).await?;
        Ok(snapshot.info)
    }

    async fn delete_snapshot<E: Surroundings>(
        &self,
        env: &E,
        key: &SnapshotKey,
    ) -> Result<SnapshotInfo> {
        let (index, snapshot) = self.find_snapshot(key)?;
        let lost = vec![self.snapshot_l1(env, index, &snapshot).await?];
        let mut snapshots = self.snapshots.lock().entries.clone();
        snapshots.remove(index);
        let next = Next {
            size: self.size(),
            l1: self.active_l1(),
            gained: Vec::new(),
            lost,
            snapshots,
            taken: false,
            given_up: Some((snapshot.l1_table, snapshot.l1_bytes())),
        };
        self.switch(env, next).await?;
        Ok(snapshot.info)
    }

    /// Lets a read-only image be what a snapshot holds.
    async fn show_snapshot<E: Surroundings>(
        &self,
        env: &E,
        key: &SnapshotKey,
    ) -> Result<SnapshotInfo> {
        let (index, snapshot) = self.find_snapshot(key)?;
        if self.options.writable {
            let what = ImageError::NotBuiltIn {
                what: "showing a snapshot of an image that is open for writing",
            };
            return Err(self.error(what));
        }
        let mut l1 = self.snapshot_l1(env, index, &snapshot).await?;
        let size = snapshot.disk_size.unwrap_or_else(|| self.size());
        let needed = usize::try_from(self.geometry.l1_entries(size)).unwrap_or(usize::MAX);
        l1.truncate(needed);
        self.l2.forget();
        self.l1.replace(&l1);
        self.set_size(size);
        Ok(snapshot.info)
    }

    fn find_snapshot(&self, key: &SnapshotKey) -> Result<(usize, Snapshot)> {
        let snapshots = self.snapshots.lock();
        let found = snapshots.find(key);
        let found = found.and_then(|index| Some((index, snapshots.entries.get(index)?.clone())));
        found.ok_or_else(|| Error::invalid("name", "Can't find the snapshot"))
    }

    /// The L1 table of a snapshot, after its place and the disk's size have been checked.
    async fn snapshot_l1<E: Surroundings>(
        &self,
        env: &E,
        index: usize,
        snapshot: &Snapshot,
    ) -> Result<Vec<L1Entry>> {
        let (at, len) = (snapshot.l1_table, snapshot.l1_bytes());
        let wrong = |what| {
            self.error(ImageError::Snapshot {
                index: u32::try_from(index).unwrap_or(u32::MAX),
                offset: self.header.lock().snapshots.0,
                what,
            })
        };
        let size = snapshot.disk_size.unwrap_or(0);
        if !size.is_multiple_of(512) || self.geometry.l1_entries(size) > MAX_L1_BYTES / 8 {
            return Err(wrong("a disk size beyond the format's reach"));
        }
        if len > MAX_L1_BYTES {
            return Err(wrong("an L1 table of more than 32 MiB"));
        }
        if len == 0 {
            return Ok(Vec::new());
        }
        if self.geometry.within(at.0) != 0 {
            return Err(wrong("an L1 table off a cluster boundary"));
        }
        if at
            .0
            .checked_add(len)
            .is_none_or(|end| end > env.file().len())
        {
            return Err(wrong("an L1 table that ends behind the end of the file"));
        }
        let clusters = self.geometry.clusters(len);
        let mut places = (0..clusters).map(|n| at.plus(n << self.geometry.cluster_bits));
        if places.any(|at| self.in_fixed_metadata(at)) {
            return Err(wrong(
                "an L1 table inside the header, the active L1 table or the refcount table",
            ));
        }
        self.read_l1(env, at, snapshot.l1_size).await
    }
}
