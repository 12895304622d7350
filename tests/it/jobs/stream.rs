//! `block-stream`: the active image gets what shows through, and needs its backing files no longer.

use block_core::Error;
use block_core::engine::Ring;
use block_schema::commands::BlockStream;
use block_schema::types::BlockdevOnError;

use super::{Chain, Meddling, POOL, RINGS};
use crate::support;

/// Streams under load, down to `base` if there is one, and looks at the chain that is left.
fn check(name: &str, engine: (Ring, &'static str), base: bool, meddling: Meddling) {
    for _ in 0..support::rounds(1) {
        check_once(name, engine, base, meddling);
    }
}

fn check_once(name: &str, engine: (Ring, &'static str), base: bool, meddling: Meddling) {
    let chain = Chain::new(name, engine);
    let mut arguments = BlockStream::new("disk");
    if base {
        arguments.base = Some(chain.path("base.img").display().to_string());
    }
    if meddling != Meddling::None {
        // Slow enough for something to happen meanwhile.
        arguments.speed = Some(64 << 20);
    }
    let starting = chain.layer.block_stream(&chain.queue, arguments);
    let (workers, whole) = chain.carry_out(engine.0, starting, meddling);
    let dir = chain.verify(&workers);
    let left = match (whole, base) {
        (false, _) => Some("middle.qcow2"),
        (true, true) => Some("base.img"),
        (true, false) => None,
    };
    for gone in ["middle.qcow2", "base.img"] {
        if whole && left != Some(gone) {
            std::fs::remove_file(dir.path(gone)).expect("it was there");
        }
    }
    let Some(qemu) = support::qemu_img() else {
        return;
    };
    let top = dir.path("top.qcow2").display().to_string();
    let info = qemu.run(&["info", "--backing-chain", "--output=json", &top]);
    let named = left.is_some_and(|left| info.contains(&format!("/{left}\"")));
    assert!(named == left.is_some(), "{left:?}: {info}");
}

#[test]
fn a_stream_under_load_makes_the_image_stand_alone() {
    check("stream-rings", RINGS, false, Meddling::None);
}

#[test]
fn a_stream_under_load_goes_down_to_its_base() {
    check("stream-base", POOL, true, Meddling::None);
}

#[test]
fn a_stream_that_is_paused_and_slowed_loses_nothing() {
    check("stream-verbs", RINGS, false, Meddling::Verbs);
}

#[test]
fn a_cancelled_stream_keeps_its_backing_file() {
    check("stream-cancel", POOL, false, Meddling::Cancel);
}

#[test]
fn what_cannot_be_streamed_is_refused() {
    let chain = Chain::new("stream-refused", POOL);
    let refused = |arguments: BlockStream| {
        let starting = chain.layer.block_stream(&chain.queue, arguments);
        chain.queue.block_on(starting).expect_err("no job")
    };
    assert!(matches!(
        refused(BlockStream::new("nobody")),
        Error::DeviceNotFound { .. }
    ));
    let mut elsewhere = BlockStream::new("disk");
    elsewhere.base = Some("nowhere.img".to_owned());
    let text = refused(elsewhere).to_string();
    assert_eq!(text, "Can't find 'nowhere.img' in the backing chain");
    let mut negative = BlockStream::new("disk");
    negative.speed = Some(-1);
    let text = refused(negative).to_string();
    assert_eq!(text, "Parameter 'speed' expects a non-negative value");
    // A device that never stops would not show that it has.
    std::fs::write(chain.path("plain.img"), [0; 4096]).expect("a file");
    let json = format!(
        r#"{{"driver": "file", "id": "plain", "filename": "{}",
            "rerror": "report", "werror": "report"}}"#,
        chain.path("plain.img").display()
    );
    support::open(&chain.queue, &json, "plain");
    for policy in [BlockdevOnError::Stop, BlockdevOnError::Enospc] {
        let mut stopping = BlockStream::new("plain");
        stopping.on_error = Some(policy);
        assert_eq!(
            refused(stopping).to_string(),
            "Invalid parameter 'on-error'"
        );
    }
    assert!(chain.layer.jobs().is_empty());
}
