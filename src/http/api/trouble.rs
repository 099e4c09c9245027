//! What went wrong with a statement, as the server or the proxy would have said it over the wire: the same fields, whichever way they are then written.

use std::time::Duration;

use crate::fault::Fault;
use crate::wire::message::Fields;
use crate::wire::sqlstate;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    fields: Vec<(u8, String)>,
}

/// What kind of trouble it is, for whoever asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The caller is not who it says.
    Denied,
    /// There is no room just now.
    NoRoom,
    /// The database cannot be reached just now.
    Unavailable,
    /// The caller's time was over, or the statement's.
    TooLate,
    /// The request or the answer is longer than it may be.
    TooLong,
    /// Something is wrong inside.
    Internal,
    /// The statement, or the request.
    Statement,
}

impl From<&Fault> for Trouble {
    fn from(fault: &Fault) -> Self {
        Self { fields: fault.fields(true) }
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::from(&fault)
    }
}

impl Trouble {
    /// Reads the body of an ErrorResponse.
    pub(super) fn read(body: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { fields: Fields::new(body).iter().map(|(code, bytes)| (code, text(bytes))).collect() }
    }

    /// The session ended without a word.
    pub(super) fn lost() -> Self {
        Fault::ServerLost.into()
    }

    /// The field with this code.
    pub(super) fn field(&self, code: u8) -> Option<&str> {
        self.fields.iter().find(|(found, _)| *found == code).map(|(_, text)| text.as_str())
    }

    pub(super) fn sqlstate(&self) -> &str {
        self.field(b'C').unwrap_or(sqlstate::INTERNAL_ERROR)
    }

    pub(super) fn message(&self) -> &str {
        self.field(b'M').unwrap_or_default()
    }

    pub(super) fn kind(&self) -> Kind {
        match self.sqlstate() {
            sqlstate::INVALID_PASSWORD | sqlstate::INVALID_AUTHORIZATION => Kind::Denied,
            sqlstate::TOO_MANY_CONNECTIONS => Kind::NoRoom,
            sqlstate::CANNOT_CONNECT_NOW | sqlstate::CONNECTION_FAILURE | sqlstate::ADMIN_SHUTDOWN | sqlstate::CRASH_SHUTDOWN => {
                Kind::Unavailable
            }
            sqlstate::QUERY_CANCELED => Kind::TooLate,
            sqlstate::PROGRAM_LIMIT_EXCEEDED => Kind::TooLong,
            sqlstate::INTERNAL_ERROR => Kind::Internal,
            _ => Kind::Statement,
        }
    }

    /// When to come back, where the proxy has said so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let told = [self.field(b'H'), self.field(b'M')];
        told.into_iter().flatten().find_map(|text| {
            let (_, rest) = text.split_once("retry after ")?;
            rest.split_once(" ms")?.0.parse().ok().map(Duration::from_millis)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Whose;

    #[test]
    fn the_proxys_own_refusals_say_when_to_come_back() {
        let whose = Whose { tenant: "acme".into(), upstream: "main".into() };
        let trouble = Trouble::from(Fault::QueueTimeout { whose, waited: Duration::from_millis(300) });
        assert_eq!((trouble.kind(), trouble.retry_after()), (Kind::NoRoom, Some(Duration::from_millis(300))));
        let crowd = Trouble::from(Fault::TooManyClients { tenant: None, limit: 3 });
        assert_eq!(crowd.retry_after(), Some(Duration::from_secs(1)), "it is said in the text where there is no hint");
        assert_eq!(Trouble::read(b"SERROR\0C42P01\0Mno\0\0").retry_after(), None);
    }

    #[test]
    fn a_servers_words_are_read_whole() {
        let trouble = Trouble::read(b"SERROR\0C42P01\0Mrelation \"x\" does not exist\0P15\0\0");
        assert_eq!(
            (trouble.message(), trouble.field(b'P'), trouble.kind()),
            ("relation \"x\" does not exist", Some("15"), Kind::Statement)
        );
    }
}
