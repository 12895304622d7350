//! New images that verbs ask the registry for.

use block_core::driver::BackingName;
use block_core::engine::Ring;
use block_core::graph::create::NewImage;
use block_schema::types::BlockdevDriver;

use crate::support::{self, Scratch};

/// Makes an image, opens it, and tells its length and the backing file that it names.
#[track_caller]
fn check(make: impl FnOnce(&Scratch) -> NewImage, want: Result<(u64, Option<&str>), &str>) {
    let dir = Scratch::new("create");
    let layer = support::layer();
    let queue = layer.new_queue(support::load::engine(Ring::Off)).start();
    let image = make(&dir);
    let work = async {
        let (name, format) = (image.filename.clone(), image.format);
        layer.create_image(&queue, image).await?;
        let mut options = layer.image_options(&name, format)?;
        options.node_name = Some("new".to_owned());
        let id = layer.blockdev_add(&queue, options).await?;
        let node = layer.node(&queue, id)?;
        Ok((node.len(), node.node().driver().describe().backing))
    };
    let made: block_core::Result<_> = queue.block_on(work);
    let made = made.map_err(|error| without_folder(&error.chain(), &dir));
    match (made, want) {
        (Err(error), Err(want)) => assert_eq!(error, want),
        (made, want) => {
            let (len, backing) = made.unwrap_or_else(|error| panic!("{error}"));
            let backing = backing.map(|backing| backing.filename);
            assert_eq!(Ok((len, backing.as_deref())), want);
            // What made it is not in the graph.
            assert_eq!(layer.graph().entries().count(), 2);
        }
    }
}

fn without_folder(text: &str, dir: &Scratch) -> String {
    text.replace(&dir.path("").display().to_string(), "")
}

fn image(dir: &Scratch, name: &str, format: BlockdevDriver) -> NewImage {
    NewImage {
        filename: dir.path(name).display().to_string(),
        format,
        size: 1 << 20,
        backing: None,
    }
}

#[test]
fn a_raw_image_is_a_file_of_its_length() {
    check(
        |dir| image(dir, "x", BlockdevDriver::Raw),
        Ok((1 << 20, None)),
    );
}

#[test]
fn a_qcow2_image_takes_the_place_of_what_was_there() {
    let make = |dir: &Scratch| {
        std::fs::write(dir.path("x"), [1; 1000]).expect("a file");
        image(dir, "x", BlockdevDriver::Qcow2)
    };
    check(make, Ok((1 << 20, None)));
}

#[test]
fn an_overlay_names_what_is_behind_it() {
    let make = |dir: &Scratch| {
        std::fs::write(dir.path("base"), [1; 1024]).expect("a file");
        let filename = format!("file:{}", dir.path("x").display());
        let backing = BackingName {
            filename: "base".to_owned(),
            format: Some("raw".to_owned()),
        };
        NewImage {
            filename,
            backing: Some(backing),
            ..image(dir, "x", BlockdevDriver::Qcow2)
        }
    };
    let dir = Scratch::new("create-overlay");
    let layer = support::layer();
    let queue = layer.new_queue(support::load::engine(Ring::Off)).start();
    let new = make(&dir);
    let made = queue.block_on(layer.create_image(&queue, new));
    made.unwrap_or_else(|error| panic!("{}", error.chain()));
    let Some(qemu) = support::qemu_img() else {
        return;
    };
    let info = qemu.run(&["info", &dir.path("x").display().to_string()]);
    assert!(info.contains("backing file: base"), "{info}");
    assert!(info.contains("backing file format: raw"), "{info}");
}

#[test]
fn what_cannot_be_made_is_refused_by_name() {
    check(
        |dir| image(dir, "x", BlockdevDriver::Vdi),
        Err("Format driver 'vdi' does not support image creation"),
    );
    check(
        |dir| image(dir, "none/x", BlockdevDriver::Raw),
        Err("Could not create 'none/x': No such file or directory"),
    );
    let elsewhere = |dir: &Scratch| NewImage {
        filename: "nbd://host/x".to_owned(),
        ..image(dir, "x", BlockdevDriver::Qcow2)
    };
    check(
        elsewhere,
        Err("Protocol driver 'nbd' does not support image creation"),
    );
}
