//! Bitmaps without a node: what is dirty after which marks.
#![expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges may have one"
)]

use super::*;

const ENABLED: State = State {
    enabled: true,
    persistent: false,
    inconsistent: false,
    read_only: false,
};

fn bitmap(len: u64) -> Arc<DirtyBitmap> {
    Arc::new(DirtyBitmap::new("b", 512, len, ENABLED).unwrap())
}

/// Dirty runs after marks on a node of `len` bytes.
#[track_caller]
fn check(len: u64, marks: &[Range<u64>], want: &[Range<u64>]) -> Arc<DirtyBitmap> {
    let bitmap = bitmap(len);
    let node = Bitmaps::loaded(vec![Arc::clone(&bitmap)]);
    for range in marks {
        node.mark(range);
    }
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), want);
    bitmap
}

#[test]
fn marks_cover_whole_granules_up_to_the_end() {
    check(4096, &[0..1, 511..513], &[0..1024]);
    check(4096, &[1024..1024], &[]);
    let last = check(1000, &[600..601], &[512..1000]);
    assert_eq!(last.count(), 512);
}

#[test]
fn what_is_written_behind_the_end_is_dirty() {
    check(1024, &[4000..4100], &[1024..4100]);
    let bitmap = check(1024, &[600..700, 2048..2049], &[512..2049]);
    assert_eq!((bitmap.len(), bitmap.count()), (2049, 512 + 1536));
    bitmap.resize(4096).unwrap();
    assert_eq!(bitmap.next_dirty(0..600), Some(512..600));
}

#[test]
fn a_disabled_bitmap_is_not_marked() {
    let bitmap = bitmap(4096);
    let node = Bitmaps::loaded(vec![Arc::clone(&bitmap)]);
    bitmap.set_enabled(false);
    node.mark(&(0..512));
    assert_eq!(bitmap.count(), 0);
    bitmap.set_enabled(true);
    node.mark(&(512..513));
    assert_eq!(bitmap.next_dirty(0..u64::MAX), Some(512..1024));
}

#[test]
fn what_was_taken_comes_back_unless_it_was_copied() {
    let bitmap = check(4096, &[0..512], &[0..512]);
    let taken = bitmap.take().unwrap();
    assert!(bitmap.is_busy() && bitmap.take().is_err() && !bitmap.is_whole());
    bitmap.set(&(1024..1025));
    assert_eq!(taken.bitmap().next_dirty(0..4096), Some(0..512));
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [1024..1536]);
    drop(taken);
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [0..512, 1024..1536]);
    bitmap.take().unwrap().commit();
    assert!(bitmap.count() == 0 && !bitmap.is_busy() && bitmap.is_whole());
}

#[test]
fn bitmaps_of_different_granularity_merge() {
    let coarse = Arc::new(DirtyBitmap::new("c", 4096, 16384, ENABLED).unwrap());
    let fine = check(16384, &[5000..5001], &[4608..5120]);
    coarse.merge(&fine);
    assert_eq!(coarse.runs().collect::<Vec<_>>(), [4096..8192]);
    fine.merge(&coarse);
    assert_eq!(fine.runs().collect::<Vec<_>>(), [4096..8192]);
}

#[test]
fn new_bytes_are_dirty_and_old_bits_stay() {
    let bitmap = check(4096, &[0..1, 4000..4001], &[0..512, 3584..4096]);
    bitmap.resize(2048).unwrap();
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [0..512]);
    bitmap.resize(3000).unwrap();
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [0..512, 2048..3000]);
}

#[test]
fn what_cannot_be_is_refused() {
    let new = |name: &str, granularity, len| DirtyBitmap::new(name, granularity, len, ENABLED);
    assert!(new("b", 256, 0).is_err() && new("b", 768, 0).is_err());
    assert!(new(&"n".repeat(1024), 512, 0).is_err() && new(&"n".repeat(1023), 512, 0).is_ok());
    assert!(new("b", 512, 1 << 62).is_err());
    let lost = State {
        inconsistent: true,
        ..ENABLED
    };
    // It takes no memory, whatever the disk's length.
    let lost = DirtyBitmap::new("b", 512, 1 << 62, lost).unwrap();
    assert!(!lost.is_enabled() && lost.check(Purpose::Use).is_err());
    lost.check(Purpose::Remove).unwrap();
}
