//! What the answer to `auth_query` means: `(name, password)` as PgBouncer has it, or the password alone; a third column is the time until which it is valid.

use std::sync::Arc;
use std::time::SystemTime;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::auth::Secret;
use crate::upstream::Broken;

/// Reads the rows that came for `user`. No row, no name, no password, or one that is not valid any more: no such user.
pub(super) fn read(rows: &[Row], user: &str, now: SystemTime) -> Result<Option<Secret>, Broken> {
    let row = match rows {
        [] => return Ok(None),
        [row] => row,
        // Which of them would be the password of whom?
        _ => return Err(unusable("it answers more than one row")),
    };
    let (name, password) = match row.len() {
        0 => return Err(unusable("it answers no column")),
        1 => (Some(user), text(row, 0)?),
        _ => (text(row, 0)?, text(row, 1)?),
    };
    let valid_until = if row.len() > 2 { column::<SystemTime>(row, 2, "the third column is not a time")? } else { None };
    let (Some(name), Some(password)) = (name, password) else { return Ok(None) };
    if name != user {
        return Err(unusable("it answers for another user than was asked for"));
    }
    if valid_until.is_some_and(|until| until <= now) {
        return Ok(None);
    }
    match Secret::parse(password) {
        Ok(secret) => Ok(Some(secret)),
        Err(why) => {
            tracing::warn!(user, %why, "auth_query answers a password that nobody can log in with");
            Ok(None)
        }
    }
}

fn text(row: &Row, at: usize) -> Result<Option<&str>, Broken> {
    column(row, at, "the name and the password must be texts")
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize, otherwise: &str) -> Result<Option<T>, Broken> {
    row.try_get(at).map_err(|_| unusable(otherwise))
}

fn unusable(why: &str) -> Broken {
    Broken::AuthQuery(Arc::from(why))
}
