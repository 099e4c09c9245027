//! `SASLprep` (RFC 4013) in the order of steps that PostgreSQL has, so that our keys are the keys in `pg_authid`.
//!
//! PostgreSQL looks for prohibited and right-to-left characters before it normalises, the RFC and the stringprep crate after it; and what
//! cannot be prepared (not UTF-8, prohibited, nothing left) is used as it is, byte for byte, instead of being refused.

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// The bytes of a password that go into PBKDF2.
pub(super) fn prepare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password).ok().filter(|text| !text.is_ascii()).and_then(prepare_text);
    Zeroizing::new(prepared.unwrap_or_else(|| password.to_vec()))
}

fn prepare_text(password: &str) -> Option<Vec<u8>> {
    let mapped: Zeroizing<String> = Zeroizing::new(password.chars().filter_map(map).collect());
    let refused = mapped.is_empty() || mapped.contains(is_prohibited) || is_mixed_direction(&mapped);
    (!refused).then(|| mapped.nfkc().collect::<String>().into_bytes())
}

/// Every space is U+0020, and some characters are nothing.
fn map(c: char) -> Option<char> {
    if tables::non_ascii_space_character(c) { Some(' ') } else { (!tables::commonly_mapped_to_nothing(c)).then_some(c) }
}

fn is_prohibited(c: char) -> bool {
    tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

/// RFC 3454, section 6: right-to-left text has no left-to-right character, and begins and ends right to left.
fn is_mixed_direction(text: &str) -> bool {
    text.contains(tables::bidi_r_or_al)
        && (text.contains(tables::bidi_l) || !text.starts_with(tables::bidi_r_or_al) || !text.ends_with(tables::bidi_r_or_al))
}
