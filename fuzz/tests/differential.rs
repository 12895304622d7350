//! Damaged qcow2 images, as we and as `qemu-img` see them: whether they open, whether the check finds
//! corruption, and what they hold. Where the two differ on purpose, [`ON_PURPOSE`] says why.
//!
//! Images come from the corpus, from `qemu-img` and `qemu-io`, and from ourselves; a few words of
//! each are replaced. The seed is printed; `QBLK_ROUNDS` makes it long.

use std::path::Path;

use block_core::Error;
use block_core::driver::{CheckReport, Repair};
use fuzz::image::{Access, Opened};
use fuzz::mutate;
use fuzz::qemu::{self, number, run};

/// Disks whose content is compared.
const COMPARED: u64 = 8 << 20;

/// What a program makes of an image it opens. Where something fails, the words of the failure.
#[derive(Debug)]
struct View {
    /// Whether the check finds corruption, or cannot look, and what it says; nothing where it ends
    /// without an answer.
    corrupt: Option<(bool, String)>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    Unreadable(String),
    /// The disk is too large to look at.
    Large,
}

/// What two programs may differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Opens,
    IsCorrupt,
    Reads,
}

/// A difference that is meant: what one of the two says then, and why.
struct Difference {
    question: Question,
    ours: &'static str,
    theirs: &'static str,
    why: &'static str,
}

const ON_PURPOSE: &[Difference] = &[
    Difference {
        question: Question::Opens,
        ours: "ends behind the file's",
        theirs: "",
        why: "tables must lie in the file before memory is taken for them",
    },
    Difference {
        question: Question::Opens,
        ours: "has an end behind the end of the file",
        theirs: "",
        why: "the same for an entry of the snapshot table",
    },
    Difference {
        question: Question::Reads,
        ours: "",
        theirs: "all of 0 bytes",
        why: "they leave out a sector that is not whole, and do not look at its cluster",
    },
    Difference {
        question: Question::Opens,
        ours: "overlaps the",
        theirs: "",
        why: "a table on another one is found before the first write, not by it",
    },
    Difference {
        question: Question::Opens,
        ours: "offset invalid",
        theirs: "",
        why: "tables lie on clusters, also where no reader needs them",
    },
    Difference {
        question: Question::Opens,
        ours: "which is not a multiple of 8",
        theirs: "",
        why: "the specification wants a header length that is a multiple of 8",
    },
    Difference {
        question: Question::Opens,
        ours: "",
        theirs: "Invalid backing file offset",
        why: "a name without a byte is none, wherever it is",
    },
    Difference {
        question: Question::Opens,
        ours: "",
        theirs: "Header extension too large",
        why: "the end of the list needs no length",
    },
    Difference {
        question: Question::Opens,
        ours: "'data-file' is required for this image",
        theirs: "",
        why: "their info opens no data file",
    },
    Difference {
        question: Question::Opens,
        ours: "data-file-raw requires a data file",
        theirs: "",
        why: "their info does not look at the bit",
    },
    Difference {
        question: Question::Opens,
        ours: "is not supported by node",
        theirs: "",
        why: "what the image needs is not known here",
    },
    Difference {
        question: Question::Opens,
        ours: "",
        theirs: "itmap",
        why: "bitmaps that are wrong keep nobody from reading the disk",
    },
    Difference {
        question: Question::IsCorrupt,
        ours: "ERROR bitmap directory",
        theirs: "",
        why: "a directory that only one of bit and extension knows of is lost",
    },
    Difference {
        question: Question::Reads,
        ours: "has reserved bits set",
        theirs: "",
        why: "what a reserved bit means nobody knows: its cluster is an error",
    },
    Difference {
        question: Question::Reads,
        ours: "has an offset",
        theirs: "",
        why: "an entry that points where nothing of its kind can be is an error",
    },
    Difference {
        question: Question::Reads,
        ours: "has the copied flag on a compressed cluster",
        theirs: "",
        why: "the flag has no meaning there: its cluster is an error",
    },
    Difference {
        question: Question::Reads,
        ours: "has the copied flag without an offset",
        theirs: "",
        why: "the flag of nothing: its cluster is an error",
    },
];

/// Asks us.
fn ours(bytes: &[u8]) -> Result<View, String> {
    let said = |error: Error| error.chain();
    let image = Opened::new(bytes, Access::Read).map_err(said)?;
    let found = |report: CheckReport| {
        let bad = report.corruptions + report.check_errors > 0;
        (bad, report.messages.join("\n"))
    };
    let corrupt = match image.check(Repair::None) {
        Ok(report) => Some(found(report)),
        Err(error) => Some((true, said(error))),
    };
    let content = match image.len() {
        len if len > COMPARED => Content::Large,
        len => image
            .read(0..len)
            .map_or_else(|error| Content::Unreadable(said(error)), Content::Bytes),
    };
    Ok(View { corrupt, content })
}

/// Asks `qemu-img`.
fn theirs(folder: &Path, bytes: &[u8]) -> Result<View, String> {
    let image = folder.join("image");
    std::fs::write(&image, bytes).expect("room for an image");
    let name = image.display().to_string();
    let info = run("qemu-img", &["info", "-f", "qcow2", "--output=json", &name])?;
    let check = run(
        "qemu-img",
        &["check", "-f", "qcow2", "--output=json", &name],
    );
    // Its exit code tells of corruption; the figures are there in any case.
    let told = check.unwrap_or_else(|told| told);
    let corrupt = number(&told, "\"check-errors\"").map(|errors| {
        let corruptions = number(&told, "\"corruptions\"");
        (errors > 0 || corruptions.is_some_and(|n| n > 0), told)
    });
    let content = if number(&info, "\"virtual-size\"").is_none_or(|size| size > COMPARED) {
        Content::Large
    } else {
        qemu::disk(folder, bytes).map_or_else(Content::Unreadable, Content::Bytes)
    };
    Ok(View { corrupt, content })
}

/// Compares two views of an image: in what they differ, and the words of those who fail.
fn difference(
    ours: Result<View, String>,
    theirs: Result<View, String>,
) -> Option<(Question, String, String)> {
    let opens = || "opens".to_owned();
    let (ours, theirs) = match (ours, theirs) {
        (Err(_), Err(_)) => return None,
        (Err(said), Ok(_)) => return Some((Question::Opens, said, opens())),
        (Ok(_), Err(said)) => return Some((Question::Opens, opens(), said)),
        (Ok(ours), Ok(theirs)) => (ours, theirs),
    };
    if let (Some((a, our_words)), Some((b, their_words))) = (ours.corrupt, theirs.corrupt)
        && a != b
    {
        return Some((Question::IsCorrupt, our_words, their_words));
    }
    let words = |content| match content {
        Content::Bytes(bytes) => format!("all of {} bytes", bytes.len()),
        Content::Unreadable(said) => said,
        Content::Large => "a large disk".to_owned(),
    };
    match (ours.content, theirs.content) {
        // They count in sectors, and leave out one that is not whole.
        (Content::Bytes(a), Content::Bytes(b)) if a[..a.len() / 512 * 512] == b => None,
        (Content::Bytes(a), Content::Bytes(b)) => {
            let first = a.iter().zip(&b).position(|(a, b)| a != b);
            let ours = format!("{} bytes, another at {first:?}", a.len());
            Some((Question::Reads, ours, format!("{} bytes", b.len())))
        }
        (Content::Unreadable(_), Content::Unreadable(_)) | (Content::Large, Content::Large) => None,
        (a, b) => Some((Question::Reads, words(a), words(b))),
    }
}

/// Why a difference is meant, if it is.
fn reason(question: Question, ours: &str, theirs: &str) -> Option<&'static str> {
    let meant = ON_PURPOSE.iter().find(|meant| {
        meant.question == question && ours.contains(meant.ours) && theirs.contains(meant.theirs)
    });
    meant.map(|meant| meant.why)
}

/// Compares what both make of an image; what is wrong, if they differ and should not.
fn compare(folder: &Path, bytes: &[u8]) -> Option<String> {
    let (question, ours, theirs) = difference(ours(bytes), theirs(folder, bytes))?;
    match reason(question, &ours, &theirs) {
        Some(why) => {
            println!("meant: {why}: we: {ours}; they: {theirs}");
            None
        }
        None => Some(format!("{question:?}\nwe: {ours}\nthey: {theirs}")),
    }
}

#[test]
fn damaged_images_are_the_same_to_both() {
    let (mut compared, mut wrong) = (0, Vec::new());
    let test = "damaged_images_are_the_same_to_both";
    qemu::each_original(test, |random, folder, original| {
        for number in 0..6 {
            // As it is, first.
            let bytes = match number {
                0 => original.to_vec(),
                _ => mutate::damaged(random, original),
            };
            compared += 1;
            if let Some(difference) = compare(folder, &bytes) {
                let path = std::env::temp_dir().join(format!("difference-{}", wrong.len()));
                std::fs::write(&path, &bytes).expect("room for an image");
                println!("{}:\n{difference}\n", path.display());
                wrong.push(path);
            }
        }
    });
    println!("{compared} images compared");
    assert!(wrong.is_empty(), "{} images differ: {wrong:?}", wrong.len());
}
