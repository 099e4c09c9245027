//! What reads the bytes of callers, for whoever tries it with any bytes at all: the fuzz targets. Nothing else is public of how requests are read.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};

use super::{caller, data, json, neon, query};

/// Whether a body is a request: of Neon's protocol, of `/query`, of the Data API.
pub fn bodies(body: &[u8]) -> [bool; 3] {
    [neon::is_request(body), query::is_request(body), data::is_request(body)]
}

/// The user and the database of a connection string, if it is one.
pub fn connection_string(text: &str) -> Option<(String, String)> {
    caller::read_connection_string(text).ok().map(|read| (read.user, read.database))
}

/// A statement's text with numbers in place of its named parameters, and their names.
pub fn named_parameters(sql: &str) -> (String, Vec<String>) {
    data::numbered(sql)
}

/// A value of a text array's type, in JSON.
pub fn text_array(text: &str) -> Vec<u8> {
    const TEXT_ARRAY: u32 = 1009;
    let mut out = Vec::new();
    json::typed(&mut out, TEXT_ARRAY, text);
    out
}

/// PostgreSQL's form of a JSON value as a parameter.
pub fn parameter(value: &serde_json::Value) -> Option<String> {
    json::parameter(value)
}

/// Whether a request with this `Authorization`, signed for this time, is believed of a key that nobody has.
pub fn signature(authorization: &str, date: &str, body: &[u8]) -> bool {
    let pairs = [(AUTHORIZATION, authorization), (HOST, "localhost"), (HeaderName::from_static("x-amz-date"), date)];
    let headers: HeaderMap = pairs.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::from_str(text).ok()?))).collect();
    data::is_signed(&headers, body)
}
