//! Long chains of images: opened by the names in them, read through, and closed.

use std::sync::Arc;

use block_core::engine::Ring;
use block_core::{Backend, IoBuf, LocalQueue, Request};

use crate::support::{self, Scratch, load};

const LAYERS: u64 = 200;
/// No more than any thread has: neither opening nor cold reads may need a level's stack a level.
const STACK: usize = 2 << 20;
const CLUSTER: u64 = 65536;
/// One cluster a layer, and one that no layer has.
const SIZE: u64 = (LAYERS + 1) * CLUSTER;

fn options(file: &str) -> String {
    format!(
        r#"{{"driver": "qcow2", "id": "disk",
            "file": {{"driver": "file", "filename": "{file}"}}}}"#
    )
}

fn read(queue: &LocalQueue, disk: &Arc<Backend>, cluster: u64) -> u8 {
    let slot = queue.attach(disk);
    let buf = IoBuf::zeroed(512);
    let read = queue.request(slot, Request::read(cluster * CLUSTER, buf));
    queue.block_on(read).expect("a read").to_vec()[511]
}

#[test]
fn two_hundred_layers_are_opened_and_read_through() {
    let thread = std::thread::Builder::new().stack_size(STACK);
    let thread = thread.spawn(open_and_read).expect("a thread");
    thread.join().expect("all layers are read");
}

fn open_and_read() {
    let dir = Scratch::new("chain");
    let layer = support::layer();
    let queue = layer.new_queue(load::engine(Ring::Off)).start();
    let path = |number: u64| dir.path(&format!("{number}.qcow2"));
    for number in 0..LAYERS {
        let below = number.checked_sub(1).map(&path);
        let backing = below.as_deref().map(|below| (below, "qcow2"));
        support::create_qcow2(&queue, &path(number), SIZE, backing);
        // Written without what is below, so that making the chain is not what takes time.
        let alone =
            options(&path(number).display().to_string()).replacen('{', r#"{"backing": null, "#, 1);
        let disk = support::open(&queue, &alone, "disk");
        let slot = queue.attach(&disk);
        let byte = u8::try_from(number % 251 + 1).expect("it is small");
        let buf = IoBuf::copy_of(&vec![byte; support::usize(CLUSTER)]);
        let write = queue.request(slot, Request::write(number * CLUSTER, buf));
        queue.block_on(write).expect("a write");
        let root = disk.root();
        queue.block_on(async {
            layer.remove_backend(&disk).await;
            layer
                .remove_node(&queue, root)
                .await
                .expect("a clean close");
        });
    }
    let top = path(LAYERS - 1).display().to_string();
    let disk = support::open(&queue, &options(&top), "disk");
    assert_eq!(layer.graph().entries().count(), support::usize(2 * LAYERS));
    for _cold_and_warm in 0..2 {
        for number in 0..LAYERS {
            let want = u8::try_from(number % 251 + 1).expect("it is small");
            assert_eq!(read(&queue, &disk, number), want, "cluster {number}");
        }
        assert_eq!(read(&queue, &disk, LAYERS), 0);
    }
    let closed = layer.close_all(&queue);
    queue.block_on(closed).expect("a clean close");
}
