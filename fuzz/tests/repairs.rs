//! Damaged qcow2 images, checked and repaired by us and by `qemu-img`: the same verdict and the same
//! figures, repaired images that both call clean, and disks that hold the same. Where the two differ
//! on purpose, [`reason`] says why.
//!
//! Images come from the corpus, from `qemu-img` and `qemu-io`, and from ourselves; a few words of the
//! metadata of each are replaced. The seed is printed; `QBLK_ROUNDS` makes it long.

use std::path::Path;

use block_core::driver::{CheckReport, Repair};
use fuzz::qemu::{self, number, run};
use fuzz::{damage, image};

/// Figures of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    errors: u64,
    corruptions: u64,
    leaks: u64,
    corruptions_fixed: u64,
    leaks_fixed: u64,
}

/// What a program said of an image, and the image that it left.
struct Outcome {
    figures: Option<Figures>,
    said: String,
    image: Vec<u8>,
}

fn ours(bytes: &[u8], repair: Repair) -> Option<Outcome> {
    let figures = |report: &CheckReport| Figures {
        errors: report.check_errors,
        corruptions: report.corruptions,
        leaks: report.leaks,
        corruptions_fixed: report.corruptions_fixed,
        leaks_fixed: report.leaks_fixed,
    };
    let outcome = match image::repaired(bytes, repair)? {
        Ok((report, image)) => Outcome {
            figures: Some(figures(&report)),
            said: report.messages.join("\n"),
            image,
        },
        Err(error) => Outcome {
            figures: None,
            said: error.chain(),
            image: bytes.to_vec(),
        },
    };
    Some(outcome)
}

fn theirs(folder: &Path, bytes: &[u8], repair: Repair) -> Outcome {
    let path = folder.join("theirs");
    std::fs::write(&path, bytes).expect("room for an image");
    let name = path.display().to_string();
    let mut arguments = vec!["check", "-f", "qcow2", "--output=json"];
    match repair {
        Repair::None => {}
        Repair::Leaks => arguments.extend(["-r", "leaks"]),
        Repair::All => arguments.extend(["-r", "all"]),
    }
    arguments.push(&name);
    let said = run("qemu-img", &arguments).unwrap_or_else(|said| said);
    let figure = |key: &str| number(&said, &format!("\"{key}\"")).unwrap_or(0);
    let figures = number(&said, "\"check-errors\"").map(|errors| Figures {
        errors,
        corruptions: figure("corruptions"),
        leaks: figure("leaks"),
        corruptions_fixed: figure("corruptions-fixed"),
        leaks_fixed: figure("leaks-fixed"),
    });
    Outcome {
        figures,
        said,
        image: std::fs::read(&path).expect("the image"),
    }
}

/// Why figures differ, if they may.
fn reason(ours: &Outcome, theirs: &Outcome) -> Option<&'static str> {
    let meant = [
        (
            "L1 entry with reserved bits set",
            "they take whatever such an entry names for a table",
        ),
        (
            "Table is not cluster aligned",
            "they change entries of what cannot be a table",
        ),
        (
            "Flag without a table",
            "they take the header for the table of such an entry",
        ),
        (
            "Repairing refcount block",
            "they lengthen the file where we write counts anew",
        ),
        (
            "overflow cluster offset",
            "they count what a longer file holds by then",
        ),
        (
            "rebuilt refcount structure is still broken",
            "they put a table where an entry points",
        ),
    ];
    let says = |outcome: &Outcome, words: &str| outcome.said.contains(words);
    let meant = meant
        .iter()
        .find(|(words, _)| says(ours, words) || says(theirs, words));
    let reserved = "found l2 entry with reserved bits set";
    if says(ours, reserved) && !says(theirs, reserved) {
        return Some("the zero flag of an entry with subclusters is a reserved bit");
    }
    match (meant, theirs.figures) {
        (Some((_, why)), _) => Some(why),
        (None, None) => Some("they give up"),
        (None, Some(figures)) => (figures.errors > 0).then_some("they give up"),
    }
}

/// Compares what both make of an image; what is wrong, if they differ and should not.
fn compare(folder: &Path, bytes: &[u8], repair: Repair) -> Option<String> {
    let ours = ours(bytes, repair)?;
    let theirs = theirs(folder, bytes, repair);
    let meant = reason(&ours, &theirs);
    if ours.figures != theirs.figures && meant.is_none() {
        return Some(format!(
            "{repair:?}\nwe: {:?}\n{}\nthey: {:?}\n{}",
            ours.figures, ours.said, theirs.figures, theirs.said
        ));
    }
    if repair == Repair::None {
        let same = ours.image == bytes;
        return (!same).then(|| "a check without a repair wrote".to_owned());
    }
    if let Some(why) = meant {
        println!("meant: {why}: {repair:?}");
        return None;
    }
    let again = [&ours.image, &theirs.image].map(|image| self::theirs(folder, image, Repair::None));
    if again[0].figures != again[1].figures {
        return Some(format!(
            "{repair:?}: what we left is {:?}\n{}\nwhat they left is {:?}\n{}",
            again[0].figures, again[0].said, again[1].figures, again[1].said
        ));
    }
    // What they cannot read has no disk.
    let disk = |image: &Vec<u8>| qemu::disk(folder, image).ok();
    let [here, there] = [&ours.image, &theirs.image].map(disk);
    (here != there).then(|| {
        format!(
            "{repair:?}: disks differ\nwe: {}\nthey: {}",
            ours.said, theirs.said
        )
    })
}

#[test]
fn damaged_images_are_repaired_as_qemu_repairs_them() {
    let (mut compared, mut wrong) = (0, Vec::new());
    let test = "damaged_images_are_repaired_as_qemu_repairs_them";
    qemu::each_original(test, |random, folder, original| {
        for _ in 0..3 {
            let bytes = damage::damaged(random, original);
            for repair in [Repair::None, Repair::Leaks, Repair::All] {
                compared += 1;
                if let Some(difference) = compare(folder, &bytes, repair) {
                    let path = std::env::temp_dir().join(format!("repair-{}", wrong.len()));
                    std::fs::write(&path, &bytes).expect("room for an image");
                    wrong.push(format!("{}: {difference}", path.display()));
                }
            }
        }
    });
    println!("{compared} compared");
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n\n"));
}
