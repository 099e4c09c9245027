//! What is wrong with a call, as the Data API types it.

use std::fmt::Write as _;

use hyper::header::{HeaderName, HeaderValue};

use crate::fault::Fault;
use crate::http::api::reply::{Reply, refusal};
use crate::http::api::trouble::{Kind, Trouble};
use crate::wire::sqlstate;

/// The header that names the type.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Whoever is told to come back later than this is told in a way that its SDK does not try by itself: it would only try twice, within two seconds.
const SOON: std::time::Duration = std::time::Duration::from_secs(1);

/// What is wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    name: &'static str,
    status: u16,
    message: String,
    trouble: Trouble,
}

impl Complaint {
    fn new(name: &'static str, status: u16, message: impl Into<String>, trouble: Trouble) -> Self {
        Self { name, status, message: message.into(), trouble }
    }

    fn about_request(name: &'static str, status: u16, message: String) -> Self {
        let trouble = Fault::BadRequest(message.clone()).into();
        Self::new(name, status, message, trouble)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::about_request("BadRequestException", 400, message.into())
    }

    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::about_request("ValidationException", 400, message.into())
    }

    pub(super) fn unsupported_result(kind: &str) -> Self {
        Self::about_request("UnsupportedResultException", 400, format!("The result contains the unsupported data type {kind}"))
    }

    pub(super) fn no_transaction(id: &str, why: &str) -> Self {
        let reason = if why.is_empty() { String::new() } else { format!(": {why}") };
        Self::about_request("TransactionNotFoundException", 404, format!("Transaction {id} is not found{reason}"))
    }

    pub(super) fn busy_transaction() -> Self {
        Self::about_request("DatabaseErrorException", 400, "Transaction is still running a query".to_owned())
    }

    /// The transaction had failed, so that committing it has rolled it back.
    pub(super) fn rolled_back() -> Self {
        let message = "ERROR: the transaction had failed before, and has been rolled back instead of committed; SQLState: 25P02";
        Self::about_request("DatabaseErrorException", 400, message.to_owned())
    }

    /// A statement goes on, and nobody will hear what comes of it.
    pub(super) fn goes_on() -> Self {
        let message = "The statement has not ended in time, and goes on";
        Self::about_request("StatementTimeoutException", 400, message.to_owned())
    }

    /// The call was made before, its caller left, and what became of it is not known.
    pub(super) fn left() -> Self {
        let message = "This call was broken off, as when its caller leaves: it may have been carried out";
        Self::about_request("DatabaseErrorException", 400, message.to_owned())
    }

    pub(super) fn denied(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(name, 403, message, Fault::NotBelieved("the signature does not hold").into())
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Whether the caller's SDK sends the same once more by itself: nothing has been carried out then.
    pub(super) fn is_retried(&self) -> bool {
        self.status == 429 || self.status >= 500
    }

    pub(super) fn reply(&self) -> Reply {
        let mut body = serde_json::json!({ "__type": self.name, "message": self.message });
        if let (Some(object), "StatementTimeoutException") = (body.as_object_mut(), self.name) {
            object.insert("dbConnectionId".to_owned(), 0.into());
        }
        let mut reply = refusal(self.status, body.to_string(), &self.trouble);
        reply.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static(self.name));
        reply
    }
}

impl From<Trouble> for Complaint {
    fn from(trouble: Trouble) -> Self {
        let message = told(&trouble);
        let (name, status, message) = match trouble.kind() {
            // Tries within two seconds help where there is room by then, and only make it worse where there is not.
            Kind::NoRoom if trouble.retry_after().is_some_and(|wait| wait <= SOON) => ("ThrottlingException", 429, message),
            // Nothing was run. Where a connection was lost on the way that is not known: SDKs must not try again by themselves.
            Kind::Unavailable if trouble.sqlstate() == sqlstate::CANNOT_CONNECT_NOW => ("DatabaseUnavailableException", 504, message),
            Kind::TooLate => ("StatementTimeoutException", 400, message),
            Kind::TooLong if trouble.message().starts_with("the answer") => {
                ("BadRequestException", 400, "Database returned more than the allowed response size limit".to_owned())
            }
            Kind::TooLong => ("BadRequestException", 400, message),
            Kind::Statement
                if trouble.sqlstate() == sqlstate::SYNTAX_ERROR && trouble.message().starts_with("cannot insert multiple commands") =>
            {
                ("ValidationException", 400, "Multistatements aren't supported.".to_owned())
            }
            _ => ("DatabaseErrorException", 400, message),
        };
        Self { name, status, message, trouble }
    }
}

/// An error in one line, as the Data API words it.
fn told(trouble: &Trouble) -> String {
    let mut text = format!("{}: {}", trouble.field(b'S').unwrap_or("ERROR"), trouble.message());
    for (name, code) in [("Detail", b'D'), ("Hint", b'H'), ("Position", b'P')] {
        if let Some(field) = trouble.field(code) {
            let _ = write!(text, "; {name}: {field}");
        }
    }
    let _ = write!(text, "; SQLState: {}", trouble.sqlstate());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Whose;
    use std::time::Duration;

    fn of(body: &[u8]) -> Complaint {
        Complaint::from(Trouble::read(body))
    }

    #[test]
    fn servers_errors_are_worded_as_at_aws() {
        let complaint = of(b"SERROR\0C42P01\0Mrelation \"x\" does not exist\0P15\0\0");
        assert_eq!(complaint.message, "ERROR: relation \"x\" does not exist; Position: 15; SQLState: 42P01");
        assert_eq!((complaint.name, complaint.status), ("DatabaseErrorException", 400));
        let several = of(b"SERROR\0C42601\0Mcannot insert multiple commands into a prepared statement\0\0");
        assert_eq!((several.name, several.message.as_str()), ("ValidationException", "Multistatements aren't supported."));
    }

    #[test]
    fn only_what_was_not_run_is_tried_again() {
        let whose = || Whose { tenant: "a".into(), upstream: "main".into() };
        let full = |expected| Complaint::from(Trouble::from(Fault::QueueFull { whose: whose(), limit: 1, expected }));
        assert_eq!((full(None).name, full(None).status, full(None).is_retried()), ("ThrottlingException", 429, true));
        let late = full(Some(Duration::from_secs(9)));
        assert_eq!((late.name, late.status, late.is_retried()), ("DatabaseErrorException", 400, false));
        assert!(late.message.ends_with("SQLState: 53300"), "{}", late.message);
        let down = Complaint::from(Trouble::from(Fault::UpstreamDown { upstream: "main".into(), what: "x" }));
        assert_eq!((down.name, down.status), ("DatabaseUnavailableException", 504));
        assert!(!Complaint::from(Trouble::lost()).is_retried(), "it may have been carried out");
    }
}
