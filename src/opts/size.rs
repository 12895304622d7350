//! Sizes as users write them: `4096`, `64k`, `1.5G`, `0x1000`.
//! Called by every option that takes bytes. Not here: printing sizes (`human.rs`).

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeError {
    /// Not a number, or an unknown suffix.
    Invalid,
    /// Beyond 2^63 - 1, or below 0.
    OutOfRange,
}

/// Parses a number of bytes with an optional fraction and suffix (`b k M G T P E`, any case).
/// Hexadecimal numbers take neither.
pub(crate) fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim_start();
    let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => parse_hex(digits)?,
        None => parse_decimal(text)?,
    };
    if value > i64::MAX.unsigned_abs() {
        return Err(SizeError::OutOfRange);
    }
    Ok(value)
}

fn parse_hex(digits: &str) -> Result<u64, SizeError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(SizeError::Invalid);
    }
    u64::from_str_radix(digits, 16).map_err(|_| SizeError::OutOfRange)
}

fn parse_decimal(text: &str) -> Result<u64, SizeError> {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if text.strip_prefix('-').is_some_and(is_digits) {
        return Err(SizeError::OutOfRange);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(SizeError::Invalid);
    }
    let unit = unit_of(suffix).ok_or(SizeError::Invalid)?;
    // Of a byte there are no parts.
    if unit == 1 && fraction.bytes().any(|digit| digit != b'0') {
        return Err(SizeError::Invalid);
    }
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| SizeError::OutOfRange)?,
    };
    let bytes = whole.checked_mul(unit).ok_or(SizeError::OutOfRange)?;
    bytes
        .checked_add(fraction_of(fraction, unit))
        .ok_or(SizeError::OutOfRange)
}

/// `digits` behind the point of a unit, in bytes, rounded.
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let (mut bytes, mut scale) = (0_u128, 1_u128);
    // More digits than these do not change a byte of an exbibyte.
    for digit in digits.bytes().take(18) {
        bytes = bytes * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    let bytes = (bytes * u128::from(unit) + scale / 2) / scale;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn unit_of(suffix: &str) -> Option<u64> {
    let power = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        "e" => 6,
        _ => return None,
    };
    Some(1 << (10 * power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_fractions_and_hex() {
        let sizes = [
            ("0", 0),
            ("512", 512),
            ("64k", 65536),
            ("1.5M", 1_572_864),
            ("2G", 2 << 30),
            ("0x10", 16),
            ("7b", 7),
            ("0.5T", 1 << 39),
            (".5k", 512),
            ("1024.0", 1024),
            ("1024.0b", 1024),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "k", "1.5", "10x", "-1k", "-", "0x", "1..2k", "1kk", "."] {
            assert_eq!(parse_size(text), Err(SizeError::Invalid), "{text}");
        }
        for text in ["8E", "0xffffffffffffffff", "99999999999999999999", "-1"] {
            assert_eq!(parse_size(text), Err(SizeError::OutOfRange), "{text}");
        }
    }
}
