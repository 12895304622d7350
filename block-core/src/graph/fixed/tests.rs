use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::driver::Driver;
use crate::graph::{Draft, Edge, Node, NodeFacts};

/// An image that has one range of its disk, and counts who asks.
struct Toy {
    len: u64,
    own: Range<u64>,
    place: Extent,
    asked: Arc<AtomicUsize>,
}

impl Driver for Toy {
    fn format_name(&self) -> &'static str {
        "toy"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn supports_backing(&self) -> bool {
        true
    }

    fn try_map(&self, _access: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let start = self.own.start.clamp(range.start, range.end);
        let end = self.own.end.clamp(start, range.end);
        let place = self.place.advance(start.saturating_sub(self.own.start));
        for (len, extent) in [
            (start - range.start, Extent::Unallocated),
            (end - start, place),
            (range.end - end, Extent::Unallocated),
        ] {
            if out.push(len, extent) == Lookup::Miss {
                return Lookup::Miss;
            }
        }
        Lookup::Mapped
    }
}

/// What an image of a chain is.
#[derive(Clone)]
struct Image {
    len: u64,
    own: Range<u64>,
    place: Extent,
    read_only: bool,
}

const LEN: u64 = 1 << 20;

/// A read-only image without a byte of its own.
fn empty() -> Image {
    Image {
        len: LEN,
        own: 0..0,
        place: Extent::Zero,
        read_only: true,
    }
}

fn leaf(number: usize, offset: u64) -> Extent {
    let leaf = LeafId::from_index(number).expect("a small number");
    Extent::Leaf { leaf, offset }
}

/// A chain, the lowest image first.
struct Chain {
    graph: Graph,
    top: NodeIndex,
    asked: Arc<AtomicUsize>,
}

impl Chain {
    fn of(images: Vec<Image>) -> Chain {
        let asked = Arc::default();
        let mut draft = Draft::default();
        let mut top = None;
        for (number, image) in images.into_iter().enumerate() {
            let facts = NodeFacts {
                name: format!("image{number}"),
                read_only: image.read_only,
                ..NodeFacts::default()
            };
            let driver = Toy {
                len: image.len,
                own: image.own,
                place: image.place,
                asked: Arc::clone(&asked),
            };
            let edge = |child| Edge {
                name: "backing".to_owned(),
                role: Role::Cow,
                child,
            };
            let edges = top.map(edge).into_iter().collect();
            let added = draft.add(Node::new(facts, Box::new(driver)), edges);
            top = Some(added.expect("a name of its own"));
        }
        Chain {
            graph: draft.finish(),
            top: top.expect("an image"),
            asked,
        }
    }

    /// What a range of the topmost is, and how many images were asked.
    fn read(&self, range: Range<u64>) -> (Option<Vec<(u64, Extent)>>, usize) {
        let before = self.asked.load(Ordering::Relaxed);
        let mut out = Mapping::new();
        let lookup = self.graph.walk(self.top, Access::Read, range, &mut out);
        let pieces = out.pieces().iter().map(|piece| (piece.len, piece.extent));
        let found = (lookup == Lookup::Mapped).then(|| pieces.collect());
        (found, self.asked.load(Ordering::Relaxed) - before)
    }
}

/// Reads twice: both times the same, and the second time so many images are asked.
#[track_caller]
fn check(images: Vec<Image>, range: Range<u64>, want: &[(u64, Extent)], asked_again: usize) {
    let all = images.len();
    let chain = Chain::of(images);
    assert_eq!(chain.read(range.clone()), (Some(want.to_vec()), all));
    assert_eq!(chain.read(range), (Some(want.to_vec()), asked_again));
}

fn writable() -> Image {
    Image {
        read_only: false,
        ..empty()
    }
}

#[test]
fn fixed_images_are_asked_once() {
    let base = Image {
        own: 0..LEN,
        place: leaf(7, 4096),
        ..empty()
    };
    let images = vec![base, empty(), empty(), empty(), writable()];
    check(images, 8192..12288, &[(4096, leaf(7, 12288))], 1);
}

#[test]
fn a_writable_image_among_them_is_asked_each_time() {
    let base = Image {
        own: 0..LEN,
        place: leaf(7, 0),
        ..empty()
    };
    let three = || vec![empty(); 3];
    let images = [vec![base; 3], vec![writable()], three(), vec![writable()]].concat();
    // Only the uppermost of the three at the bottom is asked at all.
    let chain = Chain::of(images);
    let want = Some(vec![(4096, leaf(7, 0))]);
    assert_eq!(chain.read(0..4096), (want.clone(), 6));
    assert_eq!(chain.read(0..4096), (want, 2));
}

#[test]
fn two_are_asked_each_time() {
    check(
        vec![empty(), empty(), writable()],
        0..512,
        &[(512, Extent::Zero)],
        3,
    );
}

#[test]
fn behind_the_end_of_a_shorter_image_there_are_zeroes() {
    let base = Image {
        own: 0..LEN,
        place: leaf(7, 0),
        ..empty()
    };
    let short = Image {
        len: 6144,
        ..empty()
    };
    let images = vec![base, short, empty(), empty(), writable()];
    let want = [(2048, leaf(7, 4096)), (2048, Extent::Zero)];
    let chain = Chain::of(images);
    // One by the way down, one that ends above the short image.
    assert_eq!(chain.read(4096..8192), (Some(want.to_vec()), 1 + 4 + 2));
    assert_eq!(chain.read(0..512).0, Some(vec![(512, leaf(7, 0))]));
    assert_eq!(chain.read(0..512).1, 1);
}

#[test]
fn a_run_is_no_longer_than_the_images_say() {
    let middle = Image {
        own: 1024..2048,
        place: leaf(3, 0),
        ..empty()
    };
    let base = Image {
        own: 0..LEN,
        place: leaf(7, 0),
        ..empty()
    };
    let chain = Chain::of(vec![base, empty(), middle, empty(), writable()]);
    let want = [
        (1024, leaf(7, 0)),
        (1024, leaf(3, 0)),
        (2048, leaf(7, 2048)),
    ];
    for _first_and_later in 0..3 {
        assert_eq!(chain.read(0..4096).0, Some(want.to_vec()));
        assert_eq!(chain.read(1536..1600).0, Some(vec![(64, leaf(3, 512))]));
        assert_eq!(chain.read(1023..1024).0, Some(vec![(1, leaf(7, 1023))]));
    }
}

#[test]
fn what_an_image_must_produce_is_no_mapping() {
    let packed = Image {
        own: 0..65536,
        place: Extent::Transform,
        ..empty()
    };
    let chain = Chain::of(vec![packed, empty(), empty(), empty()]);
    assert_eq!(chain.read(0..512).0, None);
    assert_eq!(chain.read(0..512), (None, 0));
    let start = chain.graph.start_through(chain.top, 512..1024);
    let lowest = NodeIndex(0);
    assert!(matches!(start, Some(Start::Known(512, Place::Inside(image, 512))) if image == lowest));
}

#[test]
fn a_draft_knows_nothing() {
    let chain = Chain::of(vec![empty(); 4]);
    assert_eq!((chain.read(0..512).1, chain.read(0..512).1), (4, 0));
    let draft = Draft::from(&chain.graph);
    assert!(!draft.graph().has_fixed(chain.top));
    let again = Chain {
        graph: draft.finish(),
        ..chain
    };
    assert_eq!((again.read(0..512).1, again.read(0..512).1), (4, 0));
}

#[test]
fn a_run_is_what_it_was_after_it_was_packed() {
    let leaf = LeafId::from_index(u32::MAX as usize).expect("a leaf's number");
    let node = NodeIndex(511);
    for place in [
        Place::Zero,
        Place::Leaf(leaf, u64::MAX - (1 << 21)),
        Place::Behind(node, 1 << 62),
        Place::Inside(node, 4096),
    ] {
        for range in [0..1 << 21, (1 << 62)..(1 << 62) + 512] {
            let run = Run { range, place };
            assert_eq!(Run::decode(run.encode()), run);
        }
    }
}

#[test]
fn a_slot_that_was_never_used_holds_no_byte() {
    let run = Run::decode([0; 3]);
    assert!(!run.range.contains(&0));
}
