//! Jobs as servers tell them, and what is shown of them.

use super::job::{Job, Pace, duration};
use super::*;

fn job(text: &str) -> Job {
    Job::from(&Value::from_json(text).expect("valid JSON"))
}

#[test]
fn a_table_lines_its_columns_up() {
    let jobs = [
        job(
            r#"{"device": "drive0", "type": "stream", "len": 4194304, "offset": 1048576,
                "speed": 65536, "status": "running", "io-status": "ok"}"#,
        ),
        job(
            r#"{"device": "m", "type": "mirror", "len": 0, "offset": 0, "speed": 0,
                "status": "paused", "io-status": "nospace"}"#,
        ),
    ];
    let shown = "
JOB     TYPE    STATUS                 PROGRESS       LIMIT
drive0  stream  running          25 %  1 MiB / 4 MiB  64 KiB/s
m       mirror  paused, nospace   0 %  0 B / 0 B      -
";
    assert_eq!(show::table(&jobs), shown.trim_start_matches('\n'));
}

#[test]
fn a_server_of_old_tells_the_status_by_flags() {
    let check = |flags: &str, status: &str| {
        let job = job(&format!(r#"{{"device": "d", "type": "mirror"{flags}}}"#));
        assert_eq!(job.status, status);
    };
    check(r#", "ready": true, "paused": true"#, "ready");
    check(r#", "paused": true"#, "paused");
    check("", "running");
}

#[test]
fn a_rate_is_of_the_last_seconds_and_begins_anew_with_the_job() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut pace = Pace::default();
    assert_eq!(pace.rate(), None);
    pace.note(at(0), 0);
    assert_eq!(pace.rate(), None);
    pace.note(at(1), 1000);
    assert_eq!(pace.rate(), Some(1000));
    for second in 2..60 {
        pace.note(at(second), 1000);
    }
    assert_eq!(pace.rate(), Some(0));
    pace.note(at(60), 10);
    assert_eq!(pace.rate(), None);
}

#[test]
fn times_and_shares_have_no_edge_to_fall_from() {
    assert_eq!(duration(59), "59 s");
    assert_eq!(duration(125), "2 min 5 s");
    assert_eq!(duration(3 * 3600 + 600), "3 h 10 min");
    let huge = job(r#"{"device": "d", "len": 9223372036854775807, "offset": 9223372036854775807}"#);
    assert_eq!(huge.percent(), 100);
    assert_eq!(huge.left(0), None);
    let negative = job(r#"{"device": "d", "len": -1, "offset": -5}"#);
    assert_eq!((negative.percent(), negative.done), (0, 0));
}
