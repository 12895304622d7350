//! Text for people: sizes, times, image information, check results.
//!
//! The texts are those that programs which read `qemu-img`'s and `qemu-io`'s output know.
//! Not here: JSON output (the schema's types write themselves), progress (`progress.rs`).

use std::fmt::Write as _;
use std::time::Duration;

use block_schema::types::{BlockChildInfo, ImageCheck, ImageInfo, SnapshotInfo};
use block_schema::{Object, Value, Wire};

use crate::order;

const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Bytes in three significant digits: `10 MiB`, `12.5 KiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = as_float(bytes);
    let mut unit = 0;
    // Three digits end at 999: 1000 bytes are 0.977 KiB.
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}B", three_digits(value), UNITS[unit])
}

/// As C's `%0.3g` prints numbers below 1000.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Bytes with three decimals, as I/O reports have them: `64 KiB`, `1.500 MiB`.
pub(crate) fn io_size(bytes: f64) -> String {
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let (text, suffix) = match unit {
        0 => (format!("{value:.6}"), " bytes".to_owned()),
        _ => (format!("{value:.3}"), format!(" {}B", UNITS[unit])),
    };
    match text.find(".000") {
        Some(end) => format!("{}{suffix}", &text[..end]),
        None => text + &suffix,
    }
}

/// What an I/O command did, in two lines, or one for programs.
pub(crate) struct IoReport<'a> {
    /// The verb: `read`, `wrote` …
    pub(crate) verb: &'a str,
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// How long it took.
    pub(crate) time: Duration,
}

impl IoReport<'_> {
    /// Two lines for people.
    pub(crate) fn text(&self) -> String {
        let IoReport {
            verb,
            offset,
            len,
            time,
        } = self;
        let (bytes, seconds) = (as_float(*len), time.as_secs_f64());
        format!(
            "{verb} {len}/{len} bytes at offset {offset}\n\
             {}, 1 ops; {} ({}/sec and {:.4} ops/sec)\n",
            io_size(bytes),
            self.clock(),
            io_size(bytes / seconds),
            1.0 / seconds
        )
    }

    /// One line: bytes, requests, time, bytes a second, requests a second.
    pub(crate) fn machine_text(&self) -> String {
        let seconds = self.time.as_secs_f64();
        let rate = as_float(self.len) / seconds;
        format!(
            "{},1,{},{rate:.3},{:.3}\n",
            self.len,
            clock_with_hours(self.time),
            1.0 / seconds
        )
    }

    fn clock(&self) -> String {
        match self.time.as_secs() {
            0 => format!("{:05.2} sec", self.time.as_secs_f64()),
            _ => clock_with_hours(self.time),
        }
    }
}

fn clock_with_hours(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    let seconds = time - Duration::from_secs(minutes * 60);
    format!(
        "{}:{:02}:{:05.2}",
        minutes / 60,
        minutes % 60,
        seconds.as_secs_f64()
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the number is rounded for print anyway"
)]
pub(crate) fn as_float(number: u64) -> f64 {
    number as f64
}

/// Bytes in hexadecimal and ASCII, 16 a line, from an offset.
pub(crate) fn hex_dump(bytes: &[u8], offset: u64) -> String {
    let mut text = String::new();
    for (line, at) in bytes.chunks(16).zip((offset..).step_by(16)) {
        let hex: String = line.iter().map(|byte| format!("{byte:02x} ")).collect();
        let ascii = line.iter().map(|&byte| match char::from(byte) {
            c if c.is_ascii_alphanumeric() => c,
            _ => '.',
        });
        put(
            &mut text,
            format_args!("{at:08x}:  {hex} {}\n", ascii.collect::<String>()),
        );
    }
    text
}

/// `info` of one image, with what its children store.
pub(crate) fn image_info(info: &ImageInfo) -> String {
    let mut text = String::new();
    node_info(&mut text, info, 0, Words::Image);
    children_info(
        &mut text,
        info.children.as_deref().unwrap_or_default(),
        "/",
        0,
    );
    text
}

/// How a node is called.
#[derive(Clone, Copy)]
enum Words {
    /// A guest's disk.
    Image,
    /// Storage of one.
    Storage,
}

fn children_info(text: &mut String, children: &[BlockChildInfo], path: &str, level: usize) {
    for child in children {
        let below = child.info.children.as_deref().unwrap_or_default();
        let words = if below.is_empty() {
            Words::Storage
        } else {
            Words::Image
        };
        let indent = "    ".repeat(level);
        put(
            text,
            format_args!("{indent}Child node '{path}{}':\n", child.name),
        );
        node_info(text, &child.info, level + 1, words);
        children_info(text, below, &format!("{path}{}/", child.name), level + 1);
    }
}

fn node_info(text: &mut String, info: &ImageInfo, level: usize, words: Words) {
    let indent = "    ".repeat(level);
    let (name, format, length) = match words {
        Words::Image => ("image", "file format", "virtual size"),
        Words::Storage => ("filename", "protocol type", "file length"),
    };
    let bytes = info.virtual_size.unsigned_abs();
    let disk_size = info.actual_size.map(|bytes| size(bytes.unsigned_abs()));
    let mut line = |args: std::fmt::Arguments<'_>| put(text, format_args!("{indent}{args}\n"));
    line(format_args!("{name}: {}", info.filename));
    line(format_args!("{format}: {}", info.format));
    line(format_args!("{length}: {} ({bytes} bytes)", size(bytes)));
    line(format_args!(
        "disk size: {}",
        disk_size.as_deref().unwrap_or("unavailable")
    ));
    if info.encrypted == Some(true) {
        line(format_args!("encrypted: yes"));
    }
    if let Some(cluster_size) = info.cluster_size {
        line(format_args!("cluster_size: {cluster_size}"));
    }
    if info.dirty_flag == Some(true) {
        line(format_args!("cleanly shut down: no"));
    }
    if let Some(backing) = &info.backing_filename {
        line(format_args!(
            "backing file: {backing}{}",
            actual_path(info, backing)
        ));
        if let Some(format) = &info.backing_filename_format {
            line(format_args!("backing file format: {format}"));
        }
    }
    if let Some(snapshots) = &info.snapshots {
        line(format_args!("Snapshot list:"));
        for row in snapshot_table(snapshots) {
            line(format_args!("{row}"));
        }
    }
    if let Some(specific) = &info.format_specific {
        format_specific(text, &specific.encode(), level);
    }
}

fn actual_path(info: &ImageInfo, backing: &str) -> String {
    match &info.full_backing_filename {
        None => " (cannot determine actual path)".to_owned(),
        Some(full) if full != backing => format!(" (actual path: {full})"),
        Some(_) => String::new(),
    }
}

/// The part that only one format has, under its heading; nothing when there is none.
pub(crate) fn format_specific(text: &mut String, specific: &Value, level: usize) {
    if let Some(Value::Object(data)) = specific.get("data")
        && !data.is_empty()
    {
        let indent = "    ".repeat(level);
        put(text, format_args!("{indent}Format specific information:\n"));
        tree(text, members_in_order(data).into_iter(), level + 1);
    }
}

fn members_in_order(object: &Object) -> Vec<(String, &Value)> {
    let members = order::members(object).into_iter();
    members
        .map(|(name, value)| (name.replace('-', " "), value))
        .collect()
}

fn tree<'a>(text: &mut String, members: impl Iterator<Item = (String, &'a Value)>, level: usize) {
    let indent = "    ".repeat(level);
    for (name, value) in members {
        match value {
            Value::Object(object) => {
                put(text, format_args!("{indent}{name}:\n"));
                tree(text, members_in_order(object).into_iter(), level + 1);
            }
            Value::Array(items) => {
                put(text, format_args!("{indent}{name}:\n"));
                let items = items
                    .iter()
                    .enumerate()
                    .map(|(i, item)| (format!("[{i}]"), item));
                tree(text, &mut items.collect::<Vec<_>>().into_iter(), level + 1);
            }
            Value::String(string) => put(text, format_args!("{indent}{name}: {string}\n")),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) => {
                put(text, format_args!("{indent}{name}: {value}\n"));
            }
        }
    }
}

/// A heading and a line for each snapshot.
pub(crate) fn snapshot_table(snapshots: &[SnapshotInfo]) -> Vec<String> {
    let mut rows = vec![row(["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"])];
    rows.extend(snapshots.iter().map(|snapshot| {
        let seconds = snapshot.vm_clock_sec;
        let icount = snapshot.icount.map(|count| count.to_string());
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            snapshot.vm_clock_nsec / 1_000_000
        );
        row([
            &snapshot.id,
            &snapshot.name,
            &size(snapshot.vm_state_size.unsigned_abs()),
            &date(snapshot.date_sec),
            &clock,
            icount.as_deref().unwrap_or("--"),
        ])
    }));
    rows
}

fn row([id, tag, vm_size, date, clock, icount]: [&str; 6]) -> String {
    format!("{id:<7} {tag:<16} {vm_size:>8} {date:>19} {clock:>15} {icount:>10}")
}

/// Seconds since 1970 as date and time of day, in UTC.
fn date(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Year, month and day of a day since 1970, by counting eras of 400 years from a 1st of March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next_year, month, day)
}

/// The summary that `check` ends with.
pub(crate) fn image_check(check: &ImageCheck) -> String {
    let mut text = String::new();
    let found = |count: Option<i64>| count.filter(|&n| n > 0);
    let (corruptions, leaks) = (found(check.corruptions), found(check.leaks));
    if check.check_errors == 0 && corruptions.is_none() && leaks.is_none() {
        text.push_str("No errors were found on the image.\n");
    }
    if let Some(count) = corruptions {
        put(
            &mut text,
            format_args!(
                "\n{count} errors were found on the image.\n\
                 Data may be corrupted, or further writes to the image may corrupt it.\n"
            ),
        );
    }
    if let Some(count) = leaks {
        put(
            &mut text,
            format_args!(
                "\n{count} leaked clusters were found on the image.\n\
                 This means waste of disk space, but no harm to data.\n"
            ),
        );
    }
    if check.check_errors > 0 {
        let count = check.check_errors;
        put(
            &mut text,
            format_args!("\n{count} internal errors have occurred during the check.\n"),
        );
    }
    if let (Some(total), Some(allocated)) =
        (found(check.total_clusters), found(check.allocated_clusters))
    {
        let fragmented = check.fragmented_clusters.unwrap_or(0);
        let compressed = check.compressed_clusters.unwrap_or(0);
        put(
            &mut text,
            format_args!(
                "{allocated}/{total} = {} allocated, {} fragmented, {} compressed clusters\n",
                percent(allocated, total),
                percent(fragmented, allocated),
                percent(compressed, allocated)
            ),
        );
    }
    if let Some(end) = found(check.image_end_offset) {
        put(&mut text, format_args!("Image end offset: {end}\n"));
    }
    text
}

fn percent(part: i64, whole: i64) -> String {
    let share = as_float(part.unsigned_abs()) * 100.0 / as_float(whole.unsigned_abs());
    format!("{share:.2}%")
}

fn put(text: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(args);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let sizes = [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (12800, "12.5 KiB"),
            (462_848, "452 KiB"),
            (10 << 20, "10 MiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn io_sizes_drop_empty_decimals() {
        let sizes = [
            (0.0, "0 bytes"),
            (512.0, "512 bytes"),
            (24.355_348, "24.355348 bytes"),
            (65536.0, "64 KiB"),
            (20_905_984.0, "19.938 MiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(io_size(bytes), text);
        }
    }

    #[test]
    fn reports_switch_to_a_clock_after_a_second() {
        let mut report = IoReport {
            verb: "wrote",
            offset: 512,
            len: 65536,
            time: Duration::from_millis(10),
        };
        let want = "wrote 65536/65536 bytes at offset 512\n\
                    64 KiB, 1 ops; 00.01 sec (6.250 MiB/sec and 100.0000 ops/sec)\n";
        assert_eq!(report.text(), want);
        report.time = Duration::from_millis(3_725_500);
        assert!(report.text().contains(" ops; 1:02:05.50 ("));
        assert_eq!(report.machine_text(), "65536,1,1:02:05.50,17.591,0.000\n");
    }

    #[test]
    fn dates_are_utc() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_827_696), "2000-02-29 12:34:56");
        assert_eq!(date(1_795_377_230), "2026-11-22 19:53:50");
    }

    #[test]
    fn dumps_end_where_the_bytes_end() {
        let want = "00000200:  41 00 20 7a  A..z\n";
        assert_eq!(hex_dump(b"A\0 z", 512), want);
    }
}
