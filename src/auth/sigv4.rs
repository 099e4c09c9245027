//! What AWS Signature Version 4 is made of, for those who check signatures and those who make them.

use time::{Date, Month, OffsetDateTime, Time};
use zeroize::Zeroizing;

use super::digests::{hmac_sha256, sha256};

/// The name of the algorithm, as requests carry it.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The last part of every scope.
pub const TERMINATOR: &str = "aws4_request";

/// What a signature is for: the day (`20261128`), the region, and the service.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The day.
    pub date: &'a str,
    /// The region.
    pub region: &'a str,
    /// The service.
    pub service: &'a str,
}

impl Scope<'_> {
    /// The signature of a request in its canonical form, made at `at`, in hexadecimal.
    pub fn sign(&self, secret_key: &str, at: &str, canonical: &str) -> String {
        let text = format!("{ALGORITHM}\n{at}\n{self}\n{}", sha256_hex(canonical.as_bytes()));
        let first = Zeroizing::new([b"AWS4", secret_key.as_bytes()].concat());
        let day = Zeroizing::new(hmac_sha256(&first, &[self.date.as_bytes()]));
        let rest = [self.region, self.service, TERMINATOR];
        let key = rest.iter().fold(day, |key, part| Zeroizing::new(hmac_sha256(&*key, &[part.as_bytes()])));
        hex(&hmac_sha256(&*key, &[text.as_bytes()]))
    }
}

impl std::fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service)
    }
}

/// The digest of these bytes, in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&sha256(&[bytes]))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(*DIGITS.get(usize::from(half)).unwrap_or(&b'0'));
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The seconds since 1970 of a time such as `20261128T101500Z`.
pub fn seconds_of(text: &str) -> Option<i64> {
    let number =
        |from: usize, to: usize| text.get(from..to).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u16>().ok();
    let small = |from, to| number(from, to).and_then(|number| u8::try_from(number).ok());
    if text.len() != 16 || text.as_bytes().get(8) != Some(&b'T') || !text.ends_with('Z') {
        return None;
    }
    let month = Month::try_from(small(4, 6)?).ok()?;
    let date = Date::from_calendar_date(i32::from(number(0, 4)?), month, small(6, 8)?).ok()?;
    let time = Time::from_hms(small(9, 11)?, small(11, 13)?, small(13, 15)?).ok()?;
    Some(date.with_time(time).assume_utc().unix_timestamp())
}

/// The other way round.
pub fn time_of(seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for seconds in [0, 951_782_400, 1_795_860_900, 4_102_444_799] {
            assert_eq!(seconds_of(&time_of(seconds)), Some(seconds));
        }
        assert_eq!(time_of(1_795_860_900), "20261128T101500Z");
        let wrong =
            ["", "20261128T111500", "2026-11-28T10:15:00Z", "20261328T111500Z", "20261128T251500Z", "20261128 111500Z", "+0261128T111500Z"];
        for text in wrong.into_iter().chain(["2026112\u{e9}T11150Z"]) {
            assert_eq!(seconds_of(text), None, "{text}");
        }
    }
}
