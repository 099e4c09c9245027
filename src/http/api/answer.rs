//! What a statement has answered: columns, rows of text, and what was carried out.

use crate::wire::message;

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: String,
    /// The table that it is of, or 0.
    pub(super) table: u32,
    /// Its number there, or 0.
    pub(super) attribute: u16,
    /// Its type.
    pub(super) oid: u32,
    /// The type's size in bytes; negative where it varies.
    pub(super) size: i16,
    /// The type's modifier, or -1.
    pub(super) modifier: i32,
}

/// What a statement has answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    /// Its columns.
    pub(super) columns: Vec<Column>,
    /// What was carried out, as in `INSERT 0 1`; empty where there was nothing to do.
    pub(super) tag: String,
    /// The bodies of its rows, one behind the other, each as it came.
    rows: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Answer {
    /// Adds a row: the body of a DataRow.
    pub(super) fn push(&mut self, body: &[u8]) {
        self.rows.extend_from_slice(body);
        self.ends.push(self.rows.len());
    }

    /// All rows, each as the bytes of its values.
    pub(super) fn rows(&self) -> impl Iterator<Item = Vec<Option<&[u8]>>> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let body = self.rows.get(std::mem::replace(&mut start, end)..end).unwrap_or_default();
            message::row(body).unwrap_or_default()
        })
    }

    /// The command, as in `INSERT`.
    pub(super) fn command(&self) -> &str {
        self.tag.split(' ').next().unwrap_or_default()
    }

    /// How many rows it was about, where the server says so.
    pub(super) fn row_count(&self) -> Option<u64> {
        self.tag.rsplit_once(' ').and_then(|(_, count)| count.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_tell_the_command_and_the_count() {
        let told = |tag: &str| {
            let answer = Answer { tag: tag.into(), ..Answer::default() };
            (answer.command().to_owned(), answer.row_count())
        };
        assert_eq!(told("INSERT 0 7"), ("INSERT".into(), Some(7)));
        assert_eq!(told("SELECT 2"), ("SELECT".into(), Some(2)));
        assert_eq!(told("CREATE TABLE"), ("CREATE".into(), None));
        assert_eq!(told(""), (String::new(), None));
    }

    #[test]
    fn rows_come_out_as_they_went_in() {
        let mut answer = Answer::default();
        answer.push(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff");
        answer.push(b"\0\x01\0\0\0\0");
        let rows: Vec<_> = answer.rows().collect();
        assert_eq!(rows, [vec![Some(&b"a"[..]), None], vec![Some(&b""[..])]]);
    }
}
