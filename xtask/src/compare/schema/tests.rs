use super::crates::compilation;
use super::row::{Row, Unit, bench_lines};
use super::*;

fn side(result: Result<f64, &'static str>) -> Side<'static> {
    Box::new(move || {
        let cpu_seconds = result.map_err(str::to_owned)?;
        Ok(Cost {
            amount: 1.0,
            seconds: cpu_seconds * 2.0,
            cpu_seconds,
            max_rss_mib: 3.0,
            file_mib: 0.0,
            guest_share: 0.0,
        })
    })
}

#[track_caller]
fn check(row: &Row, wanted: expect_test::Expect) {
    wanted.assert_eq(&row.line());
}

#[test]
fn ratios_above_one_are_in_our_favour_in_either_unit() {
    let row = |unit, ours, peer| Row::of("a", unit, 3).compare(side(Ok(ours)), side(Ok(peer)));
    check(
        &row(Unit::Milliseconds, 0.5, 1.0),
        expect_test::expect![
            "a                            ms            500.0       1000   2.0x        1000       2000   2.0x     3.0    3.0"
        ],
    );
    check(
        &row(Unit::PerSecond, 0.5, 1.0).aim_factor(3.0),
        expect_test::expect![
            "a                            a second        2.0        1.0   2.0x         1.0        0.5   2.0x     3.0    3.0  ≥ 3x: behind"
        ],
    );
}

#[test]
fn a_failing_side_is_told_and_does_not_hide_the_other() {
    let row = Row::of("a", Unit::Milliseconds, 3);
    let row = row.compare(side(Ok(0.5)), side(Err("does not build: no\nmore")));
    assert!(!row.failed());
    check(
        &row,
        expect_test::expect![
            "a                            ms            500.0          –      –        1000          –      –     3.0      –  peer: does not build: no"
        ],
    );
    let row = Row::of("a", Unit::Milliseconds, 3).compare(side(Err("no")), side(Ok(1.0)));
    assert!(row.failed());
}

#[test]
fn the_command_of_a_crate_is_found_in_the_log() {
    let log = "   Compiling x\n     Running `A='b c' rustc --crate-name xy -C a`\n     \
               Running `A=b rustc --crate-name x --edition=2018 lib.rs`\n";
    assert_eq!(
        compilation(log, "x"),
        Some("A=b rustc --crate-name x --edition=2018 lib.rs")
    );
    assert_eq!(compilation(log, "z"), None);
}

#[test]
fn lines_of_a_benchmark_have_a_name_and_nanoseconds() {
    let text = "running\nquery_version_ns: 830, 1204819 a second\n";
    assert_eq!(bench_lines(text), [("query_version".to_owned(), 830.0)]);
}
