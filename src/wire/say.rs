//! What the proxy itself says, to clients and to servers, encoded by `pgwire`.
//!
//! Bytes that may not be text (a user's or database's name, a setting's value) are laid out here, since PostgreSQL does not demand UTF-8 of them (B4).

use bytes::{BufMut, BytesMut};
use pgwire::messages::response::{ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, Password, SASLInitialResponse, SASLResponse, SecretKey,
};
use pgwire::messages::{Message, terminate::Terminate};

/// The mechanisms' names.
pub const SCRAM: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Appends one message to `out`.
///
/// `pgwire` fails only for a message over 10,000 bytes (1 GB for a query); all that is said here is bounded well below, and what is not is cut by
/// the caller, so a failure leaves `out` as it was.
fn put(out: &mut BytesMut, message: &impl Message) {
    let before = out.len();
    if message.encode(out).is_err() {
        out.truncate(before);
    }
}

/// Asks a client for SCRAM, with channel binding where it can be had.
pub fn sasl(out: &mut BytesMut, with_binding: bool) {
    let plain = SCRAM.to_owned();
    put(out, &Authentication::SASL(if with_binding { vec![SCRAM_PLUS.to_owned(), plain] } else { vec![plain] }));
}

/// The server's first SCRAM message.
pub fn sasl_continue(out: &mut BytesMut, data: &[u8]) {
    put(out, &Authentication::SASLContinue(data.to_vec().into()));
}

/// The server's last SCRAM message.
pub fn sasl_final(out: &mut BytesMut, data: &[u8]) {
    put(out, &Authentication::SASLFinal(data.to_vec().into()));
}

/// Asks a client for its password.
pub fn ask_cleartext(out: &mut BytesMut) {
    put(out, &Authentication::CleartextPassword);
}

/// Asks a client for an md5 answer.
pub fn ask_md5(out: &mut BytesMut, salt: [u8; 4]) {
    put(out, &Authentication::MD5Password(salt.to_vec()));
}

/// The login is done.
pub fn authentication_ok(out: &mut BytesMut) {
    put(out, &Authentication::Ok);
}

/// A command was carried out.
pub fn complete(out: &mut BytesMut, tag: &str) {
    frame(out, b'C', &[tag.as_bytes(), &[0]].concat());
}

/// A message of this type.
pub fn frame(out: &mut BytesMut, kind: u8, body: &[u8]) {
    let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
    out.extend_from_slice(&[kind]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
}

/// The newest protocol that the proxy speaks, as the full number, and the options it does not know (A6).
pub fn negotiate(out: &mut BytesMut, minor: u16, unrecognised: &[Vec<u8>]) {
    let names = unrecognised.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    put(out, &NegotiateProtocolVersion::new(0x0003_0000_i32.saturating_add(i32::from(minor)), names));
}

/// A setting's value.
pub fn parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    put_strings(out, b'S', &[name, value]);
}

/// The key with which this client can cancel.
pub fn backend_key(out: &mut BytesMut, pid: u32, secret: &[u8]) {
    let secret = match secret.first_chunk::<4>() {
        Some(word) if secret.len() == 4 => SecretKey::I32(i32::from_be_bytes(*word)),
        _ => SecretKey::Bytes(secret.to_vec().into()),
    };
    put(out, &BackendKeyData::new(pid.cast_signed(), secret));
}

/// The next request may come.
pub fn ready(out: &mut BytesMut, status: super::Status) {
    let status = match status {
        super::Status::Idle => TransactionStatus::Idle,
        super::Status::InTransaction => TransactionStatus::Transaction,
        super::Status::Failed => TransactionStatus::Error,
    };
    put(out, &ReadyForQuery::new(status));
}

/// An error, by its fields.
pub fn error(out: &mut BytesMut, fields: Vec<(u8, String)>) {
    put(out, &ErrorResponse::new(fields));
}

/// A notice, by its fields.
pub fn notice(out: &mut BytesMut, fields: Vec<(u8, String)>) {
    put(out, &NoticeResponse::new(fields));
}

/// A simple query whose text may be any bytes.
pub fn query_bytes(out: &mut BytesMut, sql: &[u8]) {
    put_strings(out, b'Q', &[sql]);
}

/// The proxy leaves a server.
pub fn terminate(out: &mut BytesMut) {
    put(out, &Terminate::new());
}

/// A password or md5 answer to a server. A token of several KB is as good a password as any.
pub fn password(out: &mut BytesMut, password: &str) {
    put(out, &Password::new(password.to_owned()));
}

/// The proxy's first SCRAM message to a server.
pub fn sasl_initial(out: &mut BytesMut, mechanism: &str, data: &[u8]) {
    put(out, &SASLInitialResponse::new(mechanism.to_owned(), Some(data.to_vec().into())));
}

/// The proxy's next SCRAM message to a server.
pub fn sasl_response(out: &mut BytesMut, data: &[u8]) {
    put(out, &SASLResponse::new(data.to_vec().into()));
}

/// Ends a COPY IN that its client will not end.
pub fn copy_fail(out: &mut BytesMut, reason: &str) {
    put_strings(out, b'f', &[reason.as_bytes()]);
}

/// A message that fails, so that the Sync behind it undoes its batch and commits nothing: Describe of a portal that there is not.
pub fn spoil(out: &mut BytesMut) {
    put_strings(out, b'D', &[b"Pnone: its client has left before the end of the batch"]);
}

/// A Sync.
pub fn sync(out: &mut BytesMut) {
    put_strings(out, b'S', &[]);
}

/// The startup packet toward a server: the version, then names and values.
pub fn startup(out: &mut BytesMut, minor: u16, parameters: &[(&[u8], &[u8])]) {
    let body: usize = parameters.iter().map(|(name, value)| name.len().saturating_add(value.len()).saturating_add(2)).sum();
    out.put_u32(u32::try_from(body.saturating_add(9)).unwrap_or(u32::MAX));
    out.put_u32(0x0003_0000_u32.saturating_add(u32::from(minor)));
    for (name, value) in parameters {
        out.put_slice(name);
        out.put_u8(0);
        out.put_slice(value);
        out.put_u8(0);
    }
    out.put_u8(0);
}

/// The request to cancel, with a server's own key.
pub fn cancel(out: &mut BytesMut, pid: u32, secret: &[u8]) {
    out.put_u32(u32::try_from(secret.len()).unwrap_or(u32::MAX).saturating_add(12));
    out.put_u32(80_877_102);
    out.put_u32(pid);
    out.put_slice(secret);
}

/// A message whose body is nothing but zero-terminated strings.
fn put_strings(out: &mut BytesMut, kind: u8, strings: &[&[u8]]) {
    let body: usize = strings.iter().map(|string| string.len().saturating_add(1)).sum();
    out.put_u8(kind);
    out.put_u32(u32::try_from(body.saturating_add(4)).unwrap_or(u32::MAX));
    for string in strings {
        out.put_slice(string);
        out.put_u8(0);
    }
}
