//! What a server says of a client's prepared statements, in the client's own words: its names for them, and the places in its own text. Pure.

use super::names::Names;
use crate::upstream::{Prepared, SERVER_NAME, Signs};
use crate::wire::message::{self, Fields};
use crate::wire::sqlstate;

/// How a text differs that a server has in place of a client's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    /// What was replaced, in order.
    shifts: Vec<Shift>,
    renamed: Vec<Renamed>,
}

/// A name that the server has been told, and the client's for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Renamed {
    server: Box<[u8]>,
    own: Box<[u8]>,
}

/// Something that was replaced: where it stands in the server's text, how long it is there and how long it was, all in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shift {
    at: usize,
    new: usize,
    old: usize,
    /// It is a table of a query, and not the name of a statement.
    is_table: bool,
}

impl Moves {
    /// A part of the text is another from here on: the server's text up to there, what it says there, and what the client says.
    pub fn replace(&mut self, before: &[u8], new: &[u8], old: &[u8], is_table: bool) {
        self.shifts.push(Shift { at: characters(before), new: characters(new), old: characters(old), is_table });
    }

    /// The server knows this statement, which is the client's, by another name.
    pub fn rename(&mut self, server: &[u8], own: &[u8]) {
        self.renamed.push(Renamed { server: server.into(), own: own.into() });
    }

    /// A place in the server's text, counted from one, as a place in the client's. Where a table is missing, a statement misses it that is run by its name, and the place
    /// is one in that statement: its parameters can name no tables.
    fn back(&self, position: usize, misses_table: bool) -> usize {
        let place = position.saturating_sub(1);
        let (mut new, mut old) = (0_usize, 0_usize);
        for shift in self.shifts.iter().filter(|shift| shift.is_table || !misses_table).take_while(|shift| shift.at <= place) {
            if place < shift.at.saturating_add(shift.new) {
                return shift.at.saturating_sub(new).saturating_add(old).saturating_add(1);
            }
            new = new.saturating_add(shift.new);
            old = old.saturating_add(shift.old);
        }
        position.saturating_sub(new).saturating_add(old)
    }

    /// An error about the server's text as one about the client's; `None` where it says nothing of either.
    pub fn undone(&self, body: &[u8]) -> Option<Vec<u8>> {
        let misses_table = Fields::new(body).sqlstate() == Some(sqlstate::UNDEFINED_TABLE.as_bytes());
        said_again(body, |code, text| match code {
            b'P' => {
                let position = std::str::from_utf8(text).ok()?.parse().ok()?;
                let back = self.back(position, misses_table);
                (back != position).then(|| back.to_string().into_bytes())
            }
            b'M' => self.renamed.iter().find_map(|Renamed { server, own }| {
                let begin = memchr::memmem::find(text, &[b"\"", &**server, b"\""].concat())?;
                let end = begin.saturating_add(server.len()).saturating_add(1);
                Some([text.get(..=begin)?, own, text.get(end..)?].concat())
            }),
            _ => None,
        })
    }
}

/// How many characters of UTF-8 these bytes have.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// An error with other texts in some of its fields, as a message; `None` where they are all the same.
fn said_again(body: &[u8], mut other: impl FnMut(u8, &[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut is_other = false;
    let mut said = vec![b'E', 0, 0, 0, 0];
    for (code, text) in Fields::new(body).iter() {
        said.push(code);
        match other(code, text) {
            Some(text) => {
                said.extend_from_slice(&text);
                is_other = true;
            }
            None => said.extend_from_slice(text),
        }
        said.push(0);
    }
    said.push(0);
    let length = u32::try_from(said.len().saturating_sub(1)).unwrap_or(u32::MAX).to_be_bytes();
    said.get_mut(1..5)?.copy_from_slice(&length);
    is_other.then_some(said)
}

/// An error that names a statement of the client's by the name that it has on the server, as a message that names it by the client's.
#[cold]
pub fn with_own_name(body: &[u8], names: &Names, prepared: &Prepared) -> Option<Vec<u8>> {
    said_again(body, |code, text| {
        let begin = (code == b'M').then(|| memchr::memmem::find(text, SERVER_NAME))??;
        let digits = text.get(begin.saturating_add(SERVER_NAME.len())..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let end = begin.saturating_add(SERVER_NAME.len()).saturating_add(digits);
        let own = names.name_of(prepared.named(text.get(begin..end)?)?)?;
        Some([text.get(..begin)?, own, text.get(end..)?].concat())
    })
}

/// Whether a command's tag says that the session has no prepared statement any more.
#[inline]
pub fn drops_statements(tag: &[u8]) -> bool {
    tag.first() == Some(&b'D') && matches!(tag, b"DEALLOCATE ALL\0" | b"DISCARD ALL\0")
}

/// An error of the server's: whether it ends the session. One that shows that a statement is not what it was has all prepared anew (D9), and one that says
/// that the server is read-only, or that something was cancelled, is noted.
#[cold]
pub fn read_error(body: &[u8], prepared: &mut Prepared, signs: &mut Signs) -> bool {
    let fields = Fields::new(body);
    let says = |code: &str| fields.sqlstate() == Some(code.as_bytes());
    signs.refused_a_write |= says(sqlstate::READ_ONLY_SQL_TRANSACTION);
    signs.was_cancelled |= says(sqlstate::QUERY_CANCELED);
    if is_stale(fields) {
        prepared.doom_all(|_| false);
    }
    signs.ends |= fields.is_fatal();
    fields.is_fatal()
}

/// The bytes with some ranges of them, which are in order, replaced.
#[cold]
pub fn patched(bytes: &[u8], patches: &[(usize, usize, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    for (start, end, patch) in patches {
        out.extend_from_slice(&bytes[at..*start]);
        out.extend_from_slice(patch);
        at = *end;
    }
    out.extend_from_slice(&bytes[at..]);
    out
}

/// A plan that does not fit its tables any more, or a statement of ours that somebody has dropped.
fn is_stale(fields: Fields<'_>) -> bool {
    let of_ours = |text: &[u8]| memchr::memmem::find(text, SERVER_NAME).is_some();
    match fields.sqlstate() {
        Some(code) if code == sqlstate::FEATURE_NOT_SUPPORTED.as_bytes() => fields.field(b'R') == Some(b"RevalidateCachedQuery"),
        Some(code) if code == sqlstate::INVALID_STATEMENT_NAME.as_bytes() => fields.field(b'M').is_some_and(of_ours),
        _ => false,
    }
}

/// Whether these bytes begin with the error of a stale statement, whole, perhaps behind a description of its parameters.
pub fn begins_stale(mut bytes: &[u8]) -> bool {
    while let Some((message, rest)) = message::first(bytes) {
        match message {
            [b't', ..] => bytes = rest,
            [b'E', _, _, _, _, fields @ ..] => return is_stale(Fields::new(fields)),
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moves(parts: &[(&str, &str, &str)]) -> (Moves, String, String) {
        let (mut moves, mut new, mut old) = (Moves::default(), String::new(), String::new());
        for (same, ours, own) in parts {
            new.push_str(same);
            old.push_str(same);
            moves.replace(new.as_bytes(), ours.as_bytes(), own.as_bytes(), false);
            new.push_str(ours);
            old.push_str(own);
        }
        (moves, new, old)
    }

    #[test]
    fn an_error_speaks_of_the_clients_text() {
        let (mut moves, new, old) = moves(&[("EXECUTE ", "\"weir_7\"", "é")]);
        moves.rename(b"weir_7", "é".as_bytes());
        let position = (new + " (x)").chars().position(|letter| letter == 'x').unwrap() + 1;
        let body = format!("SERROR\0C42703\0Mno \"weir_7\", no \"weir_71\"\0P{position}\0\0");
        let said = moves.undone(body.as_bytes()).unwrap();
        let expected = format!("SERROR\0C42703\0Mno \"é\", no \"weir_71\"\0P{}\0\0", old.chars().count() + 3);
        assert_eq!(String::from_utf8(said[5..].to_vec()).unwrap(), expected);
        assert_eq!(said[..5], [&b"E"[..], &u32::try_from(said.len() - 1).unwrap().to_be_bytes()].concat());
        assert_eq!(moves.undone(b"SERROR\0C42703\0Mno\0P3\0\0"), None, "it stands before all that differs");
        assert_eq!(moves.undone(b"SERROR\0C42P01\0Mno\0P19\0\0"), None, "it stands in the statement");
    }

    proptest! {
        #[test]
        fn what_was_not_replaced_is_found_where_it_stood(parts in prop::collection::vec(("[a-zé]{0,5}", "[0-9]{0,12}", "[0-9ü]{0,12}"), 0..6)) {
            let parts: Vec<_> = parts.iter().map(|(same, ours, own)| (&**same, &**ours, &**own)).collect();
            let (moves, new, old) = moves(&parts);
            let kept = |text: &str| text.chars().enumerate().filter(|(_, letter)| letter.is_alphabetic() && *letter != 'ü').map(|(at, _)| at + 1).collect::<Vec<_>>();
            let back: Vec<_> = kept(&new).into_iter().map(|position| moves.back(position, false)).collect();
            prop_assert_eq!(back, kept(&old));
        }
    }
}
