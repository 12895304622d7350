use std::process::Command;

use expect_test::expect;

use super::measure::{Cost, run};
use super::rows::{Aim, Row, Work};
use super::*;

fn cost(amount: f64, seconds: f64, cpu_seconds: f64) -> Cost {
    Cost {
        amount,
        seconds,
        cpu_seconds,
        max_rss_mib: 3.0,
        file_mib: 0.0,
        guest_share: 0.0,
    }
}

fn row(name: &str, aim: Aim) -> Row {
    Row {
        name: name.to_owned(),
        aim,
        work: Work::Nbd {
            pattern: "randread",
            block_size: "4k",
            depth: 1,
            seconds: 1,
        },
    }
}

fn text(results: &[(&Row, Outcome)]) -> String {
    let table = Table::of(results.iter().map(|(row, _)| *row));
    let lines = results
        .iter()
        .map(|(row, outcome)| table.line(row, outcome));
    table.head() + &lines.collect::<String>()
}

#[test]
fn rows_say_whether_they_reach_their_aim() {
    let rounds = || {
        // One round of three was disturbed: medians do not see it.
        let ours = [
            cost(100.0, 1.0, 0.5),
            cost(100.0, 9.0, 0.5),
            cost(100.0, 1.0, 0.5),
        ];
        Outcome::Measured(ours.map(|ours| (ours, cost(100.0, 1.0, 1.0))).into())
    };
    let rows = [
        row("a", Aim::PerCpuSecond(1.9)),
        row("b", Aim::PerCpuSecond(2.1)),
        row("c", Aim::PerSecond(1.0)),
        row("d", Aim::PerSecond(1.0)),
    ];
    let [a, b, c, d] = &rows;
    let results = [
        (a, rounds()),
        (b, rounds()),
        (c, Outcome::NoPeer("x is not installed".to_owned())),
        (d, rounds()),
    ];
    expect![[r#"
        row       unit       ours       peer  speed   CPU s    peer /CPU s    MiB   peer  aim
        a   requests/s        100        100  1.00x    0.50    1.00  2.00x    3.0    3.0  ≥ 1.9 /CPU s
        b   requests/s        100        100  1.00x    0.50    1.00  2.00x    3.0    3.0  ≥ 2.1 /CPU s: behind
        c   no peer: x is not installed
        d   requests/s        100        100  1.00x    0.50    1.00  2.00x    3.0    3.0  ≥ 1.0 speed
    "#]]
    .assert_eq(&text(&results));
}

#[test]
fn a_failing_program_is_not_a_measurement() {
    let error = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).err();
    assert_eq!(error.as_deref(), Some("sh: exit status: 3: no"));
    let ended = run(Command::new("sh").args(["-c", "echo yes"])).unwrap();
    assert_eq!(ended.stdout, "yes\n");
    assert!(
        ended.seconds > 0.0 && ended.max_rss_mib > 0.1,
        "{}",
        ended.max_rss_mib
    );
}

#[test]
fn rows_have_names_of_their_own() {
    let mut names: Vec<String> = rows(Size::Full).into_iter().map(|row| row.name).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}
