//! `block-commit` of an image below the active one: what it holds goes down, and it leaves the
//! chain.

use block_core::engine::Ring;
use block_schema::commands::BlockCommit;

use super::{Chain, Meddling, POOL, RINGS};
use crate::support;
use crate::support::load::BACKING;

/// Commits the image in the middle under load, and looks at what is left.
fn check(name: &str, engine: (Ring, &'static str), meddling: Meddling) {
    for _ in 0..support::rounds(1) {
        check_once(name, engine, meddling);
    }
}

fn check_once(name: &str, engine: (Ring, &'static str), meddling: Meddling) {
    let chain = Chain::new(name, engine);
    let mut arguments = BlockCommit::new("disk");
    arguments.top = Some(chain.path("middle.qcow2").display().to_string());
    if meddling != Meddling::None {
        // Slow enough for something to happen meanwhile.
        arguments.speed = Some(64 << 20);
    }
    let starting = chain.layer.block_commit(&chain.queue, arguments);
    let (workers, whole) = chain.carry_out(engine.0, starting, meddling);
    let dir = chain.verify(&workers);
    if whole {
        std::fs::remove_file(dir.path("middle.qcow2")).expect("it was there");
        let base = std::fs::read(dir.path("base.img")).expect("a base");
        assert!(base.iter().all(|&byte| byte == BACKING), "all went down");
    }
    let Some(qemu) = support::qemu_img() else {
        return;
    };
    let top = dir.path("top.qcow2").display().to_string();
    let info = qemu.run(&["info", "--backing-chain", "--output=json", &top]);
    assert!(info.contains("/base.img\""), "{info}");
    assert_eq!(info.contains("/middle.qcow2\""), !whole, "{info}");
}

#[test]
fn a_commit_under_load_takes_the_image_out_of_the_chain() {
    check("commit-rings", RINGS, Meddling::None);
    check("commit-threads", POOL, Meddling::None);
}

#[test]
fn a_commit_that_is_paused_and_slowed_loses_nothing() {
    check("commit-verbs", RINGS, Meddling::Verbs);
}

#[test]
fn a_cancelled_commit_leaves_the_chain_as_it_was() {
    check("commit-cancel", POOL, Meddling::Cancel);
}

fn commit_of(top: &str) -> BlockCommit {
    let mut commit = BlockCommit::new("disk");
    commit.top = Some(top.to_owned());
    commit
}

#[test]
fn what_cannot_be_committed_is_refused() {
    let chain = Chain::new("commit-refused", POOL);
    let refused = |arguments: BlockCommit| {
        let starting = chain.layer.block_commit(&chain.queue, arguments);
        chain
            .queue
            .block_on(starting)
            .expect_err("no job")
            .to_string()
    };
    let middle = chain.path("middle.qcow2").display().to_string();
    let base = chain.path("base.img").display().to_string();
    let text = refused(commit_of("nowhere.img"));
    assert_eq!(text, "Top image file nowhere.img not found");
    let text = refused(commit_of(&base));
    assert_eq!(text, "cannot commit an image into itself");
    let mut upwards = BlockCommit::new("disk");
    upwards.top = Some(base.clone());
    upwards.base = Some(middle.clone());
    let text = refused(upwards);
    assert_eq!(text, format!("Can't find '{middle}' in the backing chain"));
    let mut itself = BlockCommit::new("disk");
    itself.top = Some(middle.clone());
    itself.base = Some(middle.clone());
    let text = refused(itself);
    assert_eq!(text, format!("Can't find '{middle}' in the backing chain"));
    let mut both = BlockCommit::new("disk");
    both.top = Some(middle.clone());
    both.base = Some(base);
    both.base_node = Some("top".to_owned());
    let text = refused(both);
    assert_eq!(text, "'base-node' and 'base' are mutually exclusive");
    let mut nobody = BlockCommit::new("disk");
    nobody.top = Some(middle.clone());
    nobody.base_node = Some("nobody".to_owned());
    let text = refused(nobody);
    assert_eq!(text, "Cannot find device='' nor node-name='nobody'");
    assert!(chain.layer.jobs().is_empty());
}
