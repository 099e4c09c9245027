//! `POST /sql`, as Neon's serverless driver speaks it: one statement, or several in one transaction, with the connection string in a header.

use std::rc::Rc;

use hyper::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use super::answer::Answer;
use super::caller::{Caller, ConnectionString, Guest, Shown, budget, default_database, read_connection_string, shown};
use super::desk::Desk;
use super::json::{self, Form};
use super::line::{Batch, Line, Statement};
use super::reply::{self, Reply, reply};
use super::trouble::{Kind, Trouble};
use crate::fault::Fault;
use crate::session::door::Proof;
use crate::wire::Status;

/// Headers that a page of another origin may send.
pub(super) const HEADERS: &str = "Authorization, Content-Type, Neon-Connection-String, Neon-Raw-Text-Output, Neon-Array-Mode, Neon-Pool-Opt-In, \
                                  Neon-Batch-Read-Only, Neon-Batch-Isolation-Level, Neon-Batch-Deferrable, Pgweir-Deadline-Ms";

/// A request: one statement, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Asked {
    Several { queries: Vec<Query> },
    One(Query),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Query {
    #[serde(rename = "query")]
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
    array_mode: Option<bool>,
}

/// Answers a request.
pub(super) async fn answer(desk: &Rc<Desk>, headers: &HeaderMap, body: &[u8], guest: Guest) -> Reply {
    match Box::pin(carry_out(desk, headers, body, guest)).await {
        Ok(body) => reply(200, body),
        Err(trouble) => refusal(desk, &trouble),
    }
}

/// Only with status 400 does the driver read what is wrong.
pub(super) fn refusal(desk: &Desk, trouble: &Trouble) -> Reply {
    let status = if trouble.kind() == Kind::NoRoom { desk.config().api.shed_status } else { 400 };
    reply::refusal(status, told(trouble), trouble)
}

/// An error as the driver reads it: every field there, a text or null.
fn told(trouble: &Trouble) -> Vec<u8> {
    let fields = [
        ("message", b'M'),
        ("severity", b'S'),
        ("code", b'C'),
        ("detail", b'D'),
        ("hint", b'H'),
        ("position", b'P'),
        ("internalPosition", b'p'),
        ("internalQuery", b'q'),
        ("where", b'W'),
        ("schema", b's'),
        ("table", b't'),
        ("column", b'c'),
        ("dataType", b'd'),
        ("constraint", b'n'),
        ("file", b'F'),
        ("line", b'L'),
        ("routine", b'R'),
    ];
    let object: serde_json::Map<String, Value> =
        fields.into_iter().map(|(name, code)| (name.to_owned(), trouble.field(code).map_or(Value::Null, Value::from))).collect();
    Value::Object(object).to_string().into_bytes()
}

/// Whether a body is a request.
pub(super) fn is_request(body: &[u8]) -> bool {
    serde_json::from_slice::<Asked>(body).is_ok()
}

async fn carry_out(desk: &Rc<Desk>, headers: &HeaderMap, body: &[u8], guest: Guest) -> Result<Vec<u8>, Trouble> {
    let is_set = |name: &str| headers.get(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    let form = Form { raw: is_set("neon-raw-text-output"), arrays: is_set("neon-array-mode") };
    let asked: Asked = serde_json::from_slice(body).map_err(|error| Fault::BadRequest(format!("the body is no request: {error}")))?;
    let caller = caller(desk, headers, guest).await?;
    let limit = desk.config().api.max_response;
    let mut out = Vec::new();
    match asked {
        Asked::One(query) => {
            let mut line = Line::open(caller, Batch::of([&query.statement()])?, &desk.worker)?;
            let answers = line.answers(limit).await?;
            write(&mut out, answers.first().unwrap_or(&Answer::default()), query.form(form))?;
        }
        Asked::Several { queries } => {
            let begin = Statement::from(begin(headers)?.as_str());
            let statements: Vec<Statement> = queries.iter().map(Query::statement).collect();
            let answers = in_transaction(caller, &begin, &statements, desk, limit).await?;
            out.extend_from_slice(b"{\"results\":[");
            json::list(&mut out, queries.iter().zip(&answers), |out, (query, answer)| write(out, answer, query.form(form)))?;
            out.extend_from_slice(b"]}");
        }
    }
    if out.len() > limit {
        return Err(Fault::TooLong { what: "answer", limit }.into());
    }
    Ok(out)
}

/// Runs statements in one transaction: the answers, one for each. Nothing is committed before all of them are here: what is not, is rolled back.
pub(super) async fn in_transaction(
    caller: Caller,
    begin: &Statement,
    statements: &[Statement],
    desk: &Desk,
    limit: usize,
) -> Result<Vec<Answer>, Trouble> {
    let mut line = Line::open(caller, Batch::of(std::iter::once(begin).chain(statements))?, &desk.worker)?;
    let mut answers = line.answers(limit).await?;
    if line.status() != Status::InTransaction {
        return Err(Fault::BadRequest("a statement of the batch has ended its transaction".into()).into());
    }
    line.run(Batch::of([&Statement::from("COMMIT")])?, limit).await?;
    answers.remove(0);
    Ok(answers)
}

/// Who calls: with a password in the connection string, or with a token beside it.
async fn caller(desk: &Rc<Desk>, headers: &HeaderMap, guest: Guest) -> Result<Caller, Trouble> {
    let text = headers.get("neon-connection-string").and_then(|value| value.to_str().ok());
    let text = text.ok_or_else(|| Fault::BadRequest("the header Neon-Connection-String is missing".into()))?;
    let ConnectionString { user, password, database, settings } = read_connection_string(text)?;
    let config = desk.config();
    let (user, proof, tenant) = match (shown(headers), password) {
        (Shown::Token(token), _) => {
            let believed = desk.believe(&token, &config).await?;
            if believed.user != user {
                tracing::info!(user, token_user = believed.user, "a token is for another user than the connection string names");
                return Err(Fault::Denied { user }.into());
            }
            (user, Proof::Vouched { with_tenant: believed.tenant.is_some() }, believed.tenant)
        }
        (_, Some(password)) => (user, Proof::Password(password.as_bytes().to_vec().into()), None),
        (_, None) => return Err(Fault::NotBelieved("there is neither a password in the connection string nor a token").into()),
    };
    let database = if database.is_empty() { default_database(&config).unwrap_or_else(|| user.clone()) } else { database };
    let budget = budget(headers, &config.api)?;
    Ok(Caller { user, database, proof, tenant, settings, budget, patience: None, guest })
}

/// How the transaction of a batch begins.
fn begin(headers: &HeaderMap) -> Result<String, Trouble> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let wrong = |name: &str| Trouble::from(Fault::BadRequest(format!("the header {name} has a value that there is not")));
    let mut begin = String::from("BEGIN");
    if let Some(level) = text("neon-batch-isolation-level") {
        begin.push_str(match level {
            "ReadUncommitted" => " ISOLATION LEVEL READ UNCOMMITTED",
            "ReadCommitted" => " ISOLATION LEVEL READ COMMITTED",
            "RepeatableRead" => " ISOLATION LEVEL REPEATABLE READ",
            "Serializable" => " ISOLATION LEVEL SERIALIZABLE",
            _ => return Err(wrong("Neon-Batch-Isolation-Level")),
        });
    }
    let modes = [
        ("Neon-Batch-Read-Only", text("neon-batch-read-only"), " READ ONLY", " READ WRITE"),
        ("Neon-Batch-Deferrable", text("neon-batch-deferrable"), " DEFERRABLE", " NOT DEFERRABLE"),
    ];
    for (name, value, yes, no) in modes {
        match value {
            Some("true") => begin.push_str(yes),
            Some("false") => begin.push_str(no),
            Some(_) => return Err(wrong(name)),
            None => {}
        }
    }
    Ok(begin)
}

impl Query {
    fn statement(&self) -> Statement {
        Statement::of(&self.sql, &self.params)
    }

    fn form(&self, form: Form) -> Form {
        Form { arrays: self.array_mode.unwrap_or(form.arrays), ..form }
    }
}

/// Appends an answer.
fn write(out: &mut Vec<u8>, answer: &Answer, form: Form) -> Result<(), Trouble> {
    out.extend_from_slice(b"{\"fields\":[");
    json::list(out, &answer.columns, |out, column| {
        out.extend_from_slice(b"{\"name\":");
        json::string(out, &column.name);
        let numbers = format!(
            ",\"dataTypeID\":{},\"tableID\":{},\"columnID\":{},\"dataTypeSize\":{},\"dataTypeModifier\":{},\"format\":\"text\"}}",
            column.oid, column.table, column.attribute, column.size, column.modifier
        );
        out.extend_from_slice(numbers.as_bytes());
        Ok(())
    })?;
    out.extend_from_slice(b"],");
    json::rows(out, answer, form)?;
    out.extend_from_slice(format!(",\"rowAsArray\":{}}}", form.arrays).as_bytes());
    Ok(())
}
