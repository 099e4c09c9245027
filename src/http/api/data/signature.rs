//! Signatures of requests: AWS Signature Version 4, as callers of the RDS Data API make them, with keys that the configuration knows.
//!
//! A function of the request and the time, so that it can be tried with what real clients have sent.

use hyper::HeaderMap;
use subtle::ConstantTimeEq;

use crate::auth::sigv4::{ALGORITHM, Scope, TERMINATOR, seconds_of, sha256_hex};
use crate::config::AccessKey;

/// The service that requests are signed for.
const SERVICE: &str = "rds-data";
/// How far the clocks of a caller and of the proxy may be apart, in seconds.
const SKEW: i64 = 300;
/// The most headers that a signature can be about.
const MOST_HEADERS: usize = 64;

/// A request as its signature sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'r> {
    pub(super) method: &'r str,
    pub(super) path: &'r str,
    pub(super) headers: &'r HeaderMap,
    pub(super) body: &'r [u8],
}

/// Why a signature is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsigned {
    /// There is none.
    #[error("the request has no signature")]
    Missing,
    /// It cannot be read, or is about something else.
    #[error("{0}")]
    Incomplete(&'static str),
    /// Nobody knows the key.
    #[error("the access key is not known")]
    UnknownKey,
    /// It was made too long ago, or is not yet.
    #[error("the signature is of another time: the clocks are more than five minutes apart, or the request has been lying around")]
    Expired,
    /// It does not fit the request.
    #[error("the signature does not fit the request: check the secret key")]
    Mismatch,
}

/// What the `Authorization` header says.
struct Claim<'a> {
    key: &'a str,
    scope: Scope<'a>,
    headers: Vec<&'a str>,
    signature: &'a str,
}

/// Whose signature this is, at `now` in seconds since 1970.
///
/// # Errors
/// Why it is not believed.
pub(super) fn verify<'k>(request: Signed<'_>, keys: &'k [AccessKey], now: i64) -> Result<&'k AccessKey, Unsigned> {
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let claim = Claim::read(header("authorization").ok_or(Unsigned::Missing)?)?;
    for needed in ["host", "x-amz-date"] {
        if !claim.headers.contains(&needed) {
            return Err(Unsigned::Incomplete("the signature must be about `host` and `x-amz-date`"));
        }
    }
    let date = header("x-amz-date").ok_or(Unsigned::Incomplete("the header X-Amz-Date is missing"))?;
    let at = seconds_of(date).ok_or(Unsigned::Incomplete("the header X-Amz-Date is no time"))?;
    if !date.starts_with(claim.scope.date) {
        return Err(Unsigned::Incomplete("the signature is for another day than X-Amz-Date"));
    }
    let body = sha256_hex(request.body);
    if header("x-amz-content-sha256").is_some_and(|told| told != body) {
        return Err(Unsigned::Mismatch);
    }
    let key = keys.iter().find(|key| key.id == claim.key).ok_or(Unsigned::UnknownKey)?;
    if (now - at).abs() > SKEW {
        return Err(Unsigned::Expired);
    }
    // Clients write the path in one of two ways where their endpoint ends with a slash.
    let paths = [request.path.to_owned(), collapsed(request.path)];
    let fits = paths.iter().any(|path| {
        let canonical = claim.canonical(&request, &escaped(path), &body);
        let expected = claim.scope.sign(key.secret.reveal(), date, &canonical);
        expected.as_bytes().ct_eq(claim.signature.as_bytes()).into()
    });
    if fits { Ok(key) } else { Err(Unsigned::Mismatch) }
}

impl<'a> Claim<'a> {
    fn read(text: &'a str) -> Result<Self, Unsigned> {
        let rest = text.strip_prefix(ALGORITHM).ok_or(Unsigned::Missing)?;
        let part = |name: &str| {
            let parts = rest.split(',').filter_map(|part| part.trim().split_once('='));
            parts.filter(|(found, _)| *found == name).map(|(_, value)| value).next()
        };
        let incomplete = Unsigned::Incomplete("the Authorization header needs Credential, SignedHeaders and Signature");
        let (credential, headers, signature) =
            (part("Credential").ok_or(incomplete)?, part("SignedHeaders").ok_or(incomplete)?, part("Signature").ok_or(incomplete)?);
        let (key, scope) = credential.split_once('/').ok_or(incomplete)?;
        let scopes: Vec<&str> = scope.split('/').collect();
        let &[date, region, service, TERMINATOR] = &scopes[..] else { return Err(incomplete) };
        if service != SERVICE {
            return Err(Unsigned::Incomplete("the signature is for another service than rds-data"));
        }
        let headers: Vec<&str> = headers.split(';').collect();
        if headers.len() > MOST_HEADERS {
            return Err(incomplete);
        }
        Ok(Self { key, scope: Scope { date, region, service }, headers, signature })
    }

    /// The request as it is signed. No operation has anything behind a question mark.
    fn canonical(&self, request: &Signed<'_>, path: &str, body: &str) -> String {
        let mut text = format!("{}\n{path}\n\n", request.method);
        for name in &self.headers {
            let values: Vec<String> = request.headers.get_all(*name).iter().map(|value| squeezed(value.as_bytes())).collect();
            text.push_str(name);
            text.push(':');
            text.push_str(&values.join(","));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.headers.join(";"));
        text.push('\n');
        text.push_str(body);
        text
    }
}

/// A header's value without space around it, and with one for several within.
fn squeezed(value: &[u8]) -> String {
    String::from_utf8_lossy(value).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn collapsed(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !out.ends_with('/') {
            out.push(letter);
        }
    }
    out
}

/// A path that is written as it is signed: what is escaped already is escaped once more.
fn escaped(path: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(path, KEPT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretText;
    use hyper::header::{HeaderName, HeaderValue};

    fn keys() -> Vec<AccessKey> {
        vec![AccessKey { id: "AKIDPOOL".into(), secret: SecretText::new("topsecret".into()), user: "app".into(), database: None }]
    }

    /// What botocore 1.43 signs for this body, with these keys, at 2026-11-28 11:15:00.
    const BODY: &[u8] = br#"{"resourceArn": "arn:aws:rds:eu-west-1:1:cluster:x", "secretArn": "arn:aws:secretsmanager:eu-west-1:1:secret:x", "sql": "select 1"}"#;
    const DATE: &str = "20261128T111500Z";
    const AT: i64 = 1_795_864_500;
    const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIDPOOL/20261128/eu-west-1/rds-data/aws4_request, \
         SignedHeaders=content-type;host;x-amz-date, Signature=5d6344e710a5bc86927feb7cf2ec877f05c4c55f23fc4b15255b73f67556bf8a";

    fn headers(authorization: &str) -> HeaderMap {
        let pairs =
            [("authorization", authorization), ("content-type", "application/json"), ("host", "127.0.0.1:18443"), ("x-amz-date", DATE)];
        pairs.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn outcome(headers: &HeaderMap, path: &str, body: &[u8], now: i64) -> Result<(), Unsigned> {
        verify(Signed { method: "POST", path, headers, body }, &keys(), now).map(|_| ())
    }

    #[test]
    fn what_a_real_client_signs_is_believed_and_nothing_else() {
        let headers = headers(AUTHORIZATION);
        assert_eq!(outcome(&headers, "/Execute", BODY, AT), Ok(()));
        assert_eq!(outcome(&headers, "/Execute", BODY, AT + 299), Ok(()));
        assert_eq!(outcome(&headers, "/Execute", BODY, AT + 301), Err(Unsigned::Expired));
        assert_eq!(outcome(&headers, "/Execute", BODY, AT - 301), Err(Unsigned::Expired));
        assert_eq!(outcome(&headers, "/BatchExecute", BODY, AT), Err(Unsigned::Mismatch));
        assert_eq!(outcome(&headers, "/Execute", b"{}", AT), Err(Unsigned::Mismatch));
        let mut elsewhere = headers.clone();
        elsewhere.insert("host", HeaderValue::from_static("other:1"));
        assert_eq!(outcome(&elsewhere, "/Execute", BODY, AT), Err(Unsigned::Mismatch));
        let mut told = headers.clone();
        told.insert("x-amz-content-sha256", HeaderValue::from_static("UNSIGNED-PAYLOAD"));
        assert_eq!(outcome(&told, "/Execute", BODY, AT), Err(Unsigned::Mismatch));
    }

    #[test]
    fn what_is_no_signature_says_so() {
        let with = |text: &str| outcome(&headers(text), "/Execute", BODY, AT);
        assert_eq!(with("Basic YTpi"), Err(Unsigned::Missing));
        assert_eq!(with(&AUTHORIZATION.replace("AKIDPOOL", "AKIDOTHER")), Err(Unsigned::UnknownKey));
        assert!(matches!(with(&AUTHORIZATION.replace("rds-data", "s3")), Err(Unsigned::Incomplete(_))));
        assert!(matches!(with(&AUTHORIZATION.replace("host;", "")), Err(Unsigned::Incomplete(_))));
        assert!(matches!(with(&AUTHORIZATION.replace("20261128/", "20261127/")), Err(Unsigned::Incomplete(_))));
        assert!(matches!(with("AWS4-HMAC-SHA256"), Err(Unsigned::Incomplete(_))));
        assert_eq!(outcome(&HeaderMap::new(), "/Execute", BODY, AT), Err(Unsigned::Missing));
    }
}
