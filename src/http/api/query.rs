//! `POST /query`: SQL in JSON, rows in JSON, for curl and whatever else speaks HTTP. `openapi.json` describes it.

use std::rc::Rc;

use hyper::HeaderMap;
use hyper::header::{HeaderValue, WWW_AUTHENTICATE};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::answer::Answer;
use super::caller::{Caller, Guest, Shown, budget, default_database, shown};
use super::desk::Desk;
use super::json::{self, Form};
use super::line::{Batch, Line, Statement};
use super::neon::in_transaction;
use super::reply::{self, Reply, reply};
use super::trouble::{Kind, Trouble};
use crate::fault::Fault;
use crate::session::door::Proof;

/// The description of this endpoint.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// A request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// One statement.
    #[serde(default, deserialize_with = "present")]
    sql: Option<String>,
    /// Its parameters.
    #[serde(default)]
    params: Vec<Value>,
    /// Or several, in one transaction.
    #[serde(default, deserialize_with = "present")]
    statements: Option<Vec<One>>,
    /// The database; the caller's default where it is left out.
    #[serde(default, deserialize_with = "present")]
    database: Option<String>,
    /// How rows are written.
    #[serde(default)]
    rows: Rows,
}

/// What may be left out, but not be null.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rows {
    #[default]
    Objects,
    Arrays,
}

/// Answers a request.
pub(super) async fn answer(desk: &Rc<Desk>, headers: &HeaderMap, body: &[u8], guest: Guest) -> Reply {
    match Box::pin(carry_out(desk, headers, body, guest)).await {
        Ok(body) => reply(200, body),
        Err(trouble) => refusal(&trouble),
    }
}

/// An error with the HTTP status that says the same.
pub(super) fn refusal(trouble: &Trouble) -> Reply {
    let status = match trouble.kind() {
        Kind::Denied => 401,
        Kind::NoRoom => 429,
        Kind::Unavailable => 503,
        Kind::TooLate => 504,
        Kind::TooLong => 413,
        Kind::Internal => 500,
        Kind::Statement => 400,
    };
    let mut reply = reply::refusal(status, told(trouble), trouble);
    if status == 401 {
        reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"pgweir\", charset=\"UTF-8\""));
    }
    reply
}

fn told(trouble: &Trouble) -> Vec<u8> {
    let mut error = Map::new();
    error.insert("code".to_owned(), trouble.sqlstate().into());
    error.insert("message".to_owned(), trouble.message().into());
    let more =
        [("detail", b'D'), ("hint", b'H'), ("where", b'W'), ("schema", b's'), ("table", b't'), ("column", b'c'), ("constraint", b'n')];
    for (name, code) in more {
        if let Some(text) = trouble.field(code) {
            error.insert(name.to_owned(), text.into());
        }
    }
    if let Some(position) = trouble.field(b'P').and_then(|position| position.parse::<u32>().ok()) {
        error.insert("position".to_owned(), position.into());
    }
    serde_json::json!({ "error": error }).to_string().into_bytes()
}

/// Whether a body is a request.
pub(super) fn is_request(body: &[u8]) -> bool {
    serde_json::from_slice::<Asked>(body).is_ok()
}

async fn carry_out(desk: &Rc<Desk>, headers: &HeaderMap, body: &[u8], guest: Guest) -> Result<Vec<u8>, Trouble> {
    let asked: Asked = serde_json::from_slice(body).map_err(|error| Fault::BadRequest(format!("the body is no request: {error}")))?;
    let Asked { sql, params, statements, database, rows } = asked;
    let caller = caller(desk, headers, database, guest).await?;
    let limit = desk.config().api.max_response;
    let mut out = Vec::new();
    match (sql, statements) {
        (Some(sql), None) => {
            let statement = Statement::of(&sql, &params);
            let mut line = Line::open(caller, Batch::of([&statement])?, &desk.worker)?;
            let answers = line.answers(limit).await?;
            write(&mut out, answers.first().unwrap_or(&Answer::default()), rows)?;
        }
        (None, Some(statements)) if params.is_empty() => {
            let statements: Vec<Statement> = statements.iter().map(|one| Statement::of(&one.sql, &one.params)).collect();
            let answers = in_transaction(caller, &Statement::from("BEGIN"), &statements, desk, limit).await?;
            out.extend_from_slice(b"{\"results\":[");
            json::list(&mut out, &answers, |out, answer| write(out, answer, rows))?;
            out.extend_from_slice(b"]}");
        }
        _ => return Err(Fault::BadRequest("a request has either `sql` with its `params`, or `statements`".into()).into()),
    }
    if out.len() > limit {
        return Err(Fault::TooLong { what: "answer", limit }.into());
    }
    Ok(out)
}

async fn caller(desk: &Rc<Desk>, headers: &HeaderMap, database: Option<String>, guest: Guest) -> Result<Caller, Trouble> {
    let config = desk.config();
    let (user, proof, tenant) = match shown(headers) {
        Shown::Password(user, password) => (user, Proof::Password(password.as_bytes().to_vec().into()), None),
        Shown::Token(token) => {
            let believed = desk.believe(&token, &config).await?;
            (believed.user, Proof::Vouched { with_tenant: believed.tenant.is_some() }, believed.tenant)
        }
        Shown::Nothing => return Err(Fault::NotBelieved("a user and a password are needed, or a token").into()),
    };
    let no_database = || Fault::BadRequest("there is not just one database: name one as `database`".into());
    let database = database.or_else(|| default_database(&config)).ok_or_else(no_database)?;
    let settings = vec![("application_name".to_owned(), "pgweir query".to_owned())];
    let budget = budget(headers, &config.api)?;
    Ok(Caller { user, database, proof, tenant, settings, budget, patience: None, guest })
}

/// Appends an answer.
fn write(out: &mut Vec<u8>, answer: &Answer, form: Rows) -> Result<(), Trouble> {
    let as_objects = matches!(form, Rows::Objects);
    let mut names: Vec<&str> = answer.columns.iter().map(|column| column.name.as_str()).collect();
    names.sort_unstable();
    if as_objects && names.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
        let what = "two columns have the same name, of which an object keeps one: give them names, or ask for `\"rows\": \"arrays\"`";
        return Err(Fault::BadRequest(what.into()).into());
    }
    out.extend_from_slice(b"{\"columns\":[");
    json::list(out, &answer.columns, |out, column| {
        out.extend_from_slice(b"{\"name\":");
        json::string(out, &column.name);
        out.extend_from_slice(b",\"type\":");
        json::string(out, json::type_name(column.oid).as_deref().unwrap_or("other"));
        out.extend_from_slice(format!(",\"oid\":{}}}", column.oid).as_bytes());
        Ok(())
    })?;
    out.extend_from_slice(b"],");
    json::rows(out, answer, Form { raw: false, arrays: !as_objects })?;
    out.push(b'}');
    Ok(())
}
