//! Tables as answers: columns with PostgreSQL's types, rows of values, text and binary.

use bytes::{BufMut, BytesMut};

use crate::wire::say;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `text`.
    Text,
    /// `int4`.
    Int,
    /// `int8`.
    Big,
    /// `float8`.
    Real,
}

impl Kind {
    /// PostgreSQL's number for the type, and its length in bytes.
    const fn of_postgres(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int => (23, 4),
            Self::Big => (20, 8),
            Self::Real => (701, 8),
        }
    }
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// One value; what it is must fit its column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing that is known.
    Null,
    /// Of a column of text.
    Text(String),
    /// Of a column of whole numbers.
    Number(i64),
    /// Of a column of other numbers.
    Real(f64),
}

/// A row: a value for each column.
pub type Row = Vec<Value>;

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    /// As PgBouncer has it.
    fn from(is_so: bool) -> Self {
        Self::Number(is_so.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Which columns are wanted in binary: one answer for all, or one for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Formats(pub Vec<bool>);

impl Formats {
    fn is_binary(&self, column: usize) -> bool {
        match self.0.as_slice() {
            [] => false,
            [all] => *all,
            each => each.get(column).copied().unwrap_or(false),
        }
    }
}

/// Says which columns come.
pub fn describe(out: &mut BytesMut, columns: &[Column], formats: &Formats) {
    let mut body = BytesMut::new();
    body.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
    for (at, Column { name, kind }) in columns.iter().enumerate() {
        let (oid, length) = kind.of_postgres();
        body.put_slice(name.as_bytes());
        body.put_u8(0);
        body.put_u32(0);
        body.put_u16(0);
        body.put_u32(oid);
        body.put_i16(length);
        body.put_i32(-1);
        body.put_u16(formats.is_binary(at).into());
    }
    say::frame(out, b'T', &body);
}

/// Says one row.
pub fn data(out: &mut BytesMut, columns: &[Column], row: &[Value], formats: &Formats) {
    let mut body = BytesMut::new();
    body.put_u16(u16::try_from(row.len()).unwrap_or(u16::MAX));
    for (at, (value, column)) in row.iter().zip(columns).enumerate() {
        match encoded(value, column.kind, formats.is_binary(at)) {
            None => body.put_i32(-1),
            Some(bytes) => {
                body.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                body.put_slice(&bytes);
            }
        }
    }
    say::frame(out, b'D', &body);
}

/// A value's bytes. A number that is too large for its column is the largest there.
fn encoded(value: &Value, kind: Kind, binary: bool) -> Option<Vec<u8>> {
    let bytes = match (value, kind) {
        (Value::Null, _) => return None,
        (Value::Number(number), Kind::Int) => {
            let number = i32::try_from(*number).unwrap_or(i32::MAX);
            if binary { number.to_be_bytes().to_vec() } else { number.to_string().into_bytes() }
        }
        (Value::Number(number), Kind::Big) if binary => number.to_be_bytes().to_vec(),
        (Value::Real(number), Kind::Real) if binary => number.to_be_bytes().to_vec(),
        (Value::Number(number), _) => number.to_string().into_bytes(),
        (Value::Real(number), _) => number.to_string().into_bytes(),
        // A zero byte would end the value for whoever reads it as C does.
        (Value::Text(text), _) => text.replace('\0', "\u{fffd}").into_bytes(),
    };
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_both_forms() {
        assert_eq!(encoded(&Value::Null, Kind::Int, true), None);
        assert_eq!(encoded(&7_u64.into(), Kind::Int, true).unwrap(), [0, 0, 0, 7]);
        assert_eq!(encoded(&(1_u64 << 40).into(), Kind::Int, false).unwrap(), b"2147483647");
        assert_eq!(encoded(&(-1_i64).into(), Kind::Big, true).unwrap(), [255; 8]);
        assert_eq!(encoded(&0.5.into(), Kind::Real, false).unwrap(), b"0.5");
        assert_eq!(encoded(&"a\0b".into(), Kind::Text, true).unwrap(), "a\u{fffd}b".as_bytes());
    }

    #[test]
    fn a_format_is_for_all_columns_or_for_each() {
        assert!(!Formats::default().is_binary(3));
        assert!(Formats(vec![true]).is_binary(3));
        assert!(!Formats(vec![true, false]).is_binary(1) && !Formats(vec![true, false]).is_binary(2));
    }
}
