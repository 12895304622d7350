//! What a power cut can leave behind.
//!
//! The simulator notes every change of a file in a [`Journal`], in the order of completion. A cut
//! is a place in it. At a cut, a change is *settled* when it was durable by itself or when a sync
//! completed that was submitted after the change had completed; a change that completed and is not
//! settled, or was under way, may be there, be lost, or be torn between sectors.
//! [`CrashStates`] walks the cuts from the last to the first and gives each distinct outcome once,
//! at the latest cut that can leave it: there the most has been promised. Pure.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::disk::Disk;
use super::{Random, Sim};
use crate::engine::SimFile;

/// What a disk writes in one piece.
const SECTOR: u64 = 512;

/// One change of one file.
#[derive(Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    PunchHole(Range<u64>),
    ZeroRange(Range<u64>),
    Allocate { end: u64 },
    SetLen(u64),
    Sync,
}

impl Change {
    pub(super) fn apply(&self, disk: &mut Disk) {
        match self {
            Change::Write { offset, bytes } => disk.write(*offset, bytes),
            Change::PunchHole(range) => disk.punch(range.clone()),
            Change::ZeroRange(range) => {
                disk.punch(range.clone());
                disk.grow_to(range.end);
            }
            Change::Allocate { end } => disk.grow_to(*end),
            Change::SetLen(len) => disk.set_len(*len),
            Change::Sync => {}
        }
    }

    /// Applies some sectors only: those before a random one, or each by chance.
    fn apply_torn(&self, disk: &mut Disk, random: &mut Random) {
        let Change::Write { offset, bytes } = self else {
            return self.apply(disk);
        };
        let end = offset + bytes.len() as u64;
        let first = offset / SECTOR;
        let sectors = end.div_ceil(SECTOR) - first;
        let stop = (random.below(2) == 0).then(|| first + random.below(sectors));
        for sector in first..first + sectors {
            let kept = match stop {
                Some(stop) => sector < stop,
                None => random.below(2) == 0,
            };
            let from = (sector * SECTOR).max(*offset);
            let to = ((sector + 1) * SECTOR).min(end);
            if kept
                && let (Ok(a), Ok(b)) =
                    (usize::try_from(from - offset), usize::try_from(to - offset))
            {
                disk.write(from, &bytes[a..b]);
            }
        }
    }

    fn can_tear(&self) -> bool {
        matches!(self, Change::Write { offset, bytes }
            if offset / SECTOR + 1 < (offset + bytes.len() as u64).div_ceil(SECTOR))
    }
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) file: SimFile,
    pub(super) change: Change,
    /// Length of the journal when the operation was submitted.
    pub(super) submitted: usize,
    /// Durable as soon as it has completed.
    pub(super) durable: bool,
}

/// All changes since the simulator started, and how the files were before.
#[derive(Clone, Default)]
pub(super) struct Journal {
    pub(super) initial: Vec<Disk>,
    pub(super) entries: Vec<Entry>,
}

/// How far [`Sim::crash_states`] goes.
#[derive(Clone, Copy, Debug)]
pub struct CrashOptions {
    /// Outcomes looked at for one cut: all of them where there are no more, else a sample.
    pub outcomes_per_cut: usize,
    /// Whether to look at as many again in which writes are torn between sectors.
    pub torn: bool,
    /// Picks the sample.
    pub seed: u64,
}

impl Default for CrashOptions {
    fn default() -> CrashOptions {
        CrashOptions {
            outcomes_per_cut: 64,
            torn: true,
            seed: 1,
        }
    }
}

/// What became of an unsettled change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Lost,
    Kept,
    Torn(u64),
}

/// Files as a power cut left them.
pub struct CrashState {
    cut: usize,
    disks: Vec<Disk>,
    fates: Vec<(usize, Fate)>,
}

impl fmt::Debug for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cut after {} changes, unsettled: {:?}",
            self.cut, self.fates
        )
    }
}

impl CrashState {
    /// The changes that had completed, as counted by [`Sim::journal_len`]: what was flushed by
    /// then has to be in the files.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// All bytes of a file.
    ///
    /// # Panics
    /// When the file is larger than memory.
    pub fn contents(&self, file: SimFile) -> Vec<u8> {
        self.disks[file.0 as usize].contents()
    }

    /// A simulator that starts with these files, under the numbers they had.
    pub fn boot(&self, seed: u64) -> Sim {
        Sim::with_disks(seed, self.disks.clone())
    }
}

/// The states that a power cut can leave; from [`Sim::crash_states`].
pub struct CrashStates {
    /// Completed changes, then those under way.
    journal: Journal,
    completed: usize,
    options: CrashOptions,
    random: Random,
    next_cut: Option<usize>,
    /// Of the cut that is looked at: the files with all that comes before the first doubt, and
    /// from there on the changes, each settled (`None`) or in doubt by its place in the fates.
    base: Vec<Disk>,
    rest: Vec<(usize, Option<usize>)>,
    cut: usize,
    outcomes: VecDeque<Vec<Fate>>,
    seen: HashSet<u64>,
}

impl CrashStates {
    pub(super) fn new(journal: Journal, under_way: Vec<Entry>, options: CrashOptions) -> Self {
        let completed = journal.entries.len();
        let mut journal = journal;
        journal.entries.extend(under_way);
        CrashStates {
            journal,
            completed,
            options,
            random: Random::new(options.seed),
            next_cut: Some(completed),
            base: Vec::new(),
            rest: Vec::new(),
            cut: 0,
            outcomes: VecDeque::new(),
            seen: HashSet::new(),
        }
    }

    /// Looks at the next cut; `false` behind the first.
    fn prepare(&mut self) -> bool {
        let Some(cut) = self.next_cut else {
            return false;
        };
        self.next_cut = cut.checked_sub(1);
        self.cut = cut;
        let entries = &self.journal.entries;
        // What completed before these places in the journal, the files' syncs have covered.
        let mut covered = vec![0; self.journal.initial.len()];
        for sync in entries[..cut]
            .iter()
            .filter(|e| matches!(e.change, Change::Sync))
        {
            let covered = &mut covered[sync.file.0 as usize];
            *covered = sync.submitted.max(*covered);
        }
        let settled = |index: usize| {
            let entry = &entries[index];
            entry.durable || index < covered[entry.file.0 as usize]
        };
        let mut places = 0..;
        self.rest.clear();
        self.base = self.journal.initial.clone();
        for (index, entry) in entries.iter().enumerate() {
            if matches!(entry.change, Change::Sync) || (index >= cut && entry.submitted > cut) {
                continue;
            }
            let sure = index < cut && settled(index);
            if sure && self.rest.is_empty() {
                entry.change.apply(&mut self.base[entry.file.0 as usize]);
            } else {
                let place = if sure { None } else { places.next() };
                self.rest.push((index, place));
            }
        }
        self.outcomes = outcomes(places.start, &self.options, &mut self.random);
        if self.options.torn {
            self.tear(places.start);
        }
        true
    }

    /// Adds outcomes in which writes are torn.
    fn tear(&mut self, doubts: usize) {
        let entries = &self.journal.entries;
        let can: Vec<usize> = self
            .rest
            .iter()
            .filter(|(index, _)| entries[*index].change.can_tear())
            .filter_map(|(_, place)| *place)
            .collect();
        if can.is_empty() {
            return;
        }
        for _ in 0..self.options.outcomes_per_cut {
            let mut fates = some_fates(doubts, &mut self.random);
            let torn = can[self.random.index(can.len())];
            fates[torn] = Fate::Torn(self.random.next());
            self.outcomes.push_back(fates);
        }
    }

    fn build(&self, fates: &[Fate]) -> CrashState {
        let mut disks = self.base.clone();
        for &(index, place) in &self.rest {
            let Entry { file, change, .. } = &self.journal.entries[index];
            let disk = &mut disks[file.0 as usize];
            match place.map_or(Fate::Kept, |place| fates[place]) {
                Fate::Lost => {}
                Fate::Kept => change.apply(disk),
                Fate::Torn(seed) => change.apply_torn(disk, &mut Random::new(seed)),
            }
        }
        CrashState {
            cut: self.cut.min(self.completed),
            disks,
            fates: self.names(fates),
        }
    }

    /// The fates by the numbers of their changes.
    fn names(&self, fates: &[Fate]) -> Vec<(usize, Fate)> {
        let doubts = self.rest.iter().filter(|(_, place)| place.is_some());
        doubts
            .map(|(index, _)| *index)
            .zip(fates.iter().copied())
            .collect()
    }

    /// What tells one outcome from another: which changes are in the files, in order.
    fn identity(&self, fates: &[Fate]) -> u64 {
        let mut hasher = DefaultHasher::new();
        let first = self
            .rest
            .first()
            .map_or(self.journal.entries.len(), |(index, _)| *index);
        for index in 0..first.min(self.cut) {
            self.mix(index, Fate::Kept, &mut hasher);
        }
        for &(index, place) in &self.rest {
            self.mix(
                index,
                place.map_or(Fate::Kept, |place| fates[place]),
                &mut hasher,
            );
        }
        hasher.finish()
    }

    fn mix(&self, index: usize, fate: Fate, hasher: &mut DefaultHasher) {
        let is_sync = matches!(self.journal.entries[index].change, Change::Sync);
        if fate != Fate::Lost && !is_sync {
            (index, fate).hash(hasher);
        }
    }
}

impl Iterator for CrashStates {
    type Item = CrashState;

    fn next(&mut self) -> Option<CrashState> {
        loop {
            while let Some(fates) = self.outcomes.pop_front() {
                let identity = self.identity(&fates);
                if self.seen.insert(identity) {
                    return Some(self.build(&fates));
                }
            }
            if !self.prepare() {
                return None;
            }
        }
    }
}

/// All combinations where there are few; else none, all, each alone, each missing, and a sample.
fn outcomes(doubts: usize, options: &CrashOptions, random: &mut Random) -> VecDeque<Vec<Fate>> {
    let most = options.outcomes_per_cut.max(1);
    let fate = |kept: bool| if kept { Fate::Kept } else { Fate::Lost };
    let count = u32::try_from(doubts)
        .ok()
        .and_then(|doubts| 1usize.checked_shl(doubts));
    if let Some(count) = count
        && count <= most
    {
        let pick = |set: usize| {
            (0..doubts)
                .map(|place| fate(set >> place & 1 == 1))
                .collect()
        };
        return (0..count).map(pick).collect();
    }
    let mut all = VecDeque::from([vec![Fate::Kept; doubts], vec![Fate::Lost; doubts]]);
    for odd in 0..doubts {
        all.push_back((0..doubts).map(|place| fate(place == odd)).collect());
        all.push_back((0..doubts).map(|place| fate(place != odd)).collect());
    }
    while all.len() > most.max(2) {
        all.swap_remove_back(random.index(all.len()));
    }
    while all.len() < most {
        all.push_back(some_fates(doubts, random));
    }
    all
}

fn some_fates(doubts: usize, random: &mut Random) -> Vec<Fate> {
    (0..doubts)
        .map(|_| {
            if random.below(2) == 0 {
                Fate::Kept
            } else {
                Fate::Lost
            }
        })
        .collect()
}
