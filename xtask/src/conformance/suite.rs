//! QEMU's own test suite of schemas: whether our compiler and QEMU's judge them alike, and say the
//! same of those that both refuse.
//! Called by `conformance`. Invariant: fails below the bounds that stand here, so agreement cannot
//! get worse unseen.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use qapi_parser::{Dialect, Loader};

/// How many schemas must be judged as QEMU's compiler does: all there are.
const MIN_VERDICTS: usize = 207;

/// How many refused ones must be refused in the same words, at the same place.
const MIN_TEXTS: usize = 190;

/// Judges the suite in QEMU's source `tree`, and that of QEMU 2.1 in the folder `legacy`; gives
/// what came of them, with both texts of each case that differs where `detail` says so.
pub(super) fn run(tree: &Path, legacy: Option<&Path>, detail: Detail) -> Result<String, String> {
    let modern = judge(&listed(&tree.join("tests/qapi-schema"))?, modern_case)?;
    let mut shown = modern.show("today's dialect", detail);
    let mut wrong = modern.verdicts < MIN_VERDICTS || modern.texts < MIN_TEXTS;
    if let Some(folder) = legacy {
        let legacy = judge(&beside_status(folder)?, legacy_case)?;
        shown.push_str(&legacy.show("QEMU 2.1's dialect", detail));
        wrong |= legacy.verdicts < legacy.count;
    }
    if wrong {
        return Err(format!(
            "{shown}fewer than {MIN_VERDICTS} verdicts or {MIN_TEXTS} texts agree"
        ));
    }
    Ok(shown)
}

/// How much is said of cases that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    Names,
    Texts,
}

/// What came of one case.
struct Outcome {
    name: String,
    /// Whether both accept or both refuse it.
    same_verdict: bool,
    /// Of one that is to be refused: what the reference says, and what we say it says.
    texts: Option<(String, String)>,
}

/// What came of a suite.
struct Summary {
    count: usize,
    verdicts: usize,
    refused: usize,
    texts: usize,
    differing: Vec<Outcome>,
}

impl Summary {
    fn show(&self, suite: &str, detail: Detail) -> String {
        let mut out = format!(
            "{suite}: {} of {} verdicts agree; {} of {} refusals in the same words\n",
            self.verdicts, self.count, self.texts, self.refused
        );
        for outcome in &self.differing {
            let what = if outcome.same_verdict {
                "text"
            } else {
                "verdict"
            };
            // Writing to a string does not fail.
            let _ = writeln!(out, "  {}: another {what}", outcome.name);
            if let (Some((theirs, ours)), Detail::Texts) = (&outcome.texts, detail) {
                for (mark, text) in [("-", theirs), ("+", ours)] {
                    for line in text.lines() {
                        let _ = writeln!(out, "    {mark} {line}");
                    }
                }
            }
        }
        out
    }
}

/// The schemas of today's suite in `folder`: those that its build file lists, since files of cases
/// that were given up lie there too.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let build = read(&folder.join("meson.build"))?;
    let list = build
        .lines()
        .skip_while(|line| !line.starts_with("schemas = ["))
        .take_while(|line| !line.starts_with(']'));
    let cases: Vec<PathBuf> = list
        .filter_map(|line| line.trim().strip_prefix('\'')?.split_once('\''))
        .map(|(name, _)| folder.join(name))
        .collect();
    if cases.is_empty() {
        return Err(format!(
            "{}: meson.build lists no schemas",
            folder.display()
        ));
    }
    // What is said of a schema that is not there is a case apart.
    let missing = folder.join("missing-schema.json");
    Ok(cases.into_iter().chain([missing]).collect())
}

/// The schemas in `folder` that a file with the compiler's status stands beside.
fn beside_status(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let describe = |error| format!("cannot list {}: {error}", folder.display());
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(describe)? {
        let path = entry.map_err(describe)?.path();
        if path.extension().is_some_and(|found| found == "exit") {
            cases.push(path.with_extension("json"));
        }
    }
    cases.sort();
    Ok(cases)
}

fn judge(
    cases: &[PathBuf],
    judge: fn(&Path) -> Result<Outcome, String>,
) -> Result<Summary, String> {
    let mut summary = Summary {
        count: cases.len(),
        verdicts: 0,
        refused: 0,
        texts: 0,
        differing: Vec::new(),
    };
    for case in cases {
        let outcome = judge(case)?;
        let same_text = outcome
            .texts
            .as_ref()
            .is_none_or(|(theirs, ours)| theirs == ours);
        summary.verdicts += usize::from(outcome.same_verdict);
        summary.refused += usize::from(outcome.texts.is_some());
        summary.texts += usize::from(outcome.texts.is_some() && same_text);
        if !outcome.same_verdict || !same_text {
            summary.differing.push(outcome);
        }
    }
    Ok(summary)
}

/// A case of today's suite: `.err` holds what is printed, nothing if the schema is accepted.
fn modern_case(case: &Path) -> Result<Outcome, String> {
    let folder = format!("{}/", case.parent().unwrap_or(case).display());
    let theirs = read(&case.with_extension("err"))?;
    let loaded = Loader::new().dialect(Dialect::Modern).load(case);
    let ours = loaded
        .as_ref()
        .map_or_else(|errors| errors.reference(), |_| String::new());
    Ok(Outcome {
        name: name(case),
        same_verdict: theirs.is_empty() == loaded.is_ok(),
        texts: (!theirs.is_empty()).then(|| (theirs, ours.replace(&folder, ""))),
    })
}

/// A case of the suite of QEMU 2.1: `.exit` holds the compiler's status.
fn legacy_case(case: &Path) -> Result<Outcome, String> {
    let accepted = read(&case.with_extension("exit"))?.trim() == "0";
    let loaded = Loader::new().dialect(Dialect::Legacy).load(case);
    Ok(Outcome {
        name: name(case),
        same_verdict: accepted == loaded.is_ok(),
        texts: None,
    })
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn name(case: &Path) -> String {
    let stem = case.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}
