//! The RDS Data API, as AWS's SDKs speak it: five operations, signed with keys of the configuration.
//!
//! An ARN names nothing here: the access key says who calls, and the request which database. So a program that was written for Aurora's Data API need only be told
//! another endpoint and another key.

mod cells;
mod complaint;
mod parameters;
mod retries;
mod signature;
mod transactions;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use aws_lc_rs::digest;
use hyper::HeaderMap;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) use retries::Retries;
pub(super) use transactions::Transactions;

use super::answer::Answer;
use super::caller::{Caller, Guest, budget, default_database};
use super::desk::Desk;
use super::line::{Batch, Line, Parameter, Statement};
use super::reply::{Reply, reply};
use super::trouble::Trouble;
use crate::config::AccessKey;
use crate::session::door::Proof;
use crate::wire::Status;
use cells::Options;
use complaint::Complaint;
pub(super) use parameters::numbered;
use parameters::{Named, bind};
use signature::{Signed, Unsigned, verify};
use transactions::Taken;

/// What sessions are set to, so that values have the texts that the Data API returns.
const SETTINGS: [(&str, &str); 6] = [
    ("application_name", "pgweir data"),
    ("timezone", "UTC"),
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
];

/// How much longer than a held transaction may lie idle its session may, which only must not end it first.
const SLACK: Duration = Duration::from_secs(5);

/// The longest number of a call that is remembered; SDKs send a UUID.
const LONGEST_ID: usize = 128;

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Execute,
    BatchExecute,
    Begin,
    Commit,
    Rollback,
}

impl Operation {
    /// The operation at this path, whose front may be anything: an endpoint may have a path of its own.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path.rsplit('/').next()? {
            "Execute" => Some(Self::Execute),
            "BatchExecute" => Some(Self::BatchExecute),
            "BeginTransaction" => Some(Self::Begin),
            "CommitTransaction" => Some(Self::Commit),
            "RollbackTransaction" => Some(Self::Rollback),
            _ => None,
        }
    }
}

/// What a call asks for. What there is not in an operation is passed over, as at AWS.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    resource_arn: Option<String>,
    secret_arn: Option<String>,
    sql: Option<String>,
    database: Option<String>,
    schema: Option<String>,
    parameters: Vec<Named>,
    parameter_sets: Vec<Vec<Named>>,
    transaction_id: Option<String>,
    include_result_metadata: bool,
    continue_after_timeout: bool,
    result_set_options: Options,
    format_records_as: RecordsAs,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum RecordsAs {
    #[default]
    None,
    Json,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Answer(Bytes),
    Complaint(Complaint),
}

impl Outcome {
    fn is_retried(&self) -> bool {
        matches!(self, Self::Complaint(complaint) if complaint.is_retried())
    }

    /// What keeping it takes, nearly, in bytes.
    fn len(&self) -> usize {
        match self {
            Self::Answer(body) => body.len(),
            Self::Complaint(complaint) => complaint.message().len(),
        }
    }

    fn reply(&self) -> Reply {
        match self {
            Self::Answer(body) => reply(200, body.clone()),
            Self::Complaint(complaint) => complaint.reply(),
        }
    }
}

/// One call that is believed.
struct Call {
    desk: Rc<Desk>,
    operation: Operation,
    key: AccessKey,
    guest: Guest,
    asked: Asked,
    /// How long it may take.
    budget: Option<Duration>,
    limit: usize,
}

/// Answers a call.
pub(super) async fn answer(desk: &Rc<Desk>, operation: Operation, path: &str, (headers, body): (&HeaderMap, &[u8]), guest: Guest) -> Reply {
    let call = match Call::read(desk, operation, path, (headers, body), guest) {
        Ok(call) => call,
        Err(complaint) => return complaint.reply(),
    };
    let invocation = headers.get("amz-sdk-invocation-id").and_then(|value| value.to_str().ok()).filter(|id| id.len() <= LONGEST_ID);
    let outcome = match invocation {
        None => call.carry_out().await,
        Some(invocation) => {
            let mut asked = digest::Context::new(&digest::SHA256);
            asked.update(path.as_bytes());
            asked.update(body);
            let asked = asked.finish().as_ref().try_into().unwrap_or_default();
            let number = (call.key.id.clone(), invocation.to_owned(), asked);
            desk.retries.once(number, async move { call.carry_out().await }).await
        }
    };
    outcome.reply()
}

/// Whether a body is a request whose parameters can be bound.
pub(super) fn is_request(body: &[u8]) -> bool {
    let read = serde_json::from_slice::<Asked>(body).ok();
    read.is_some_and(|asked| bind(asked.sql.as_deref().unwrap_or_default(), &asked.parameters).is_ok())
}

/// Whether a request with these headers is believed of the one key that there is here.
pub(super) fn is_signed(headers: &HeaderMap, body: &[u8]) -> bool {
    let secret = crate::config::SecretText::new("nobody has it".to_owned());
    let keys = [AccessKey { id: "AKID".to_owned(), secret, user: String::new(), database: None }];
    verify(Signed { method: "POST", path: "/Execute", headers, body }, &keys, 0).is_ok()
}

/// An error before a call is read.
pub(super) fn refusal(trouble: Trouble) -> Reply {
    Complaint::from(trouble).reply()
}

impl Call {
    fn read(
        desk: &Rc<Desk>,
        operation: Operation,
        path: &str,
        (headers, body): (&HeaderMap, &[u8]),
        guest: Guest,
    ) -> Result<Self, Complaint> {
        let config = desk.config();
        let now = i64::try_from(crate::net::since_1970().as_secs()).unwrap_or(i64::MAX);
        let key = verify(Signed { method: "POST", path, headers, body }, &config.api.access_keys, now).map_err(|why| {
            tracing::info!(client = %guest.peer, %why, "a signature was not believed");
            denied(why)
        })?;
        let asked: Asked =
            serde_json::from_slice(body).map_err(|error| Complaint::bad_request(format!("The request cannot be read: {error}")))?;
        for (name, arn) in [("resourceArn", &asked.resource_arn), ("secretArn", &asked.secret_arn)] {
            if arn.as_deref().is_none_or(str::is_empty) {
                return Err(Complaint::bad_request(format!("{name} is missing")));
            }
        }
        if asked.schema.as_deref().is_some_and(|schema| !schema.is_empty()) {
            return Err(Complaint::validation("The schema parameter isn't supported"));
        }
        let budget = budget(headers, &config.api)?;
        let limit = config.api.max_response;
        Ok(Self { desk: Rc::clone(desk), operation, key: key.clone(), guest, asked, budget, limit })
    }

    async fn carry_out(self) -> Outcome {
        let done = match self.operation {
            Operation::Execute => Box::pin(self.execute()).await,
            Operation::BatchExecute => Box::pin(self.batch()).await,
            Operation::Begin => Box::pin(self.begin()).await,
            Operation::Commit => Box::pin(self.end("COMMIT", "Transaction Committed")).await,
            Operation::Rollback => Box::pin(self.end("ROLLBACK", "Rollback Complete")).await,
        };
        done.map_or_else(Outcome::Complaint, |body| Outcome::Answer(body.to_string().into()))
    }

    /// The client that the caller is. `held` says that its transaction outlives the call.
    fn caller(&self, held: bool) -> Result<Caller, Complaint> {
        let config = self.desk.config();
        let database = self.asked.database.clone().filter(|name| !name.is_empty());
        let database = database.or_else(|| self.key.database.clone()).or_else(|| default_database(&config));
        let database = database.ok_or_else(|| Complaint::bad_request("Database name is not set"))?;
        let patience = held.then(|| config.api.transaction_idle_timeout + SLACK);
        let goes_on = self.asked.continue_after_timeout && self.operation == Operation::Execute;
        Ok(Caller {
            user: self.key.user.clone(),
            database,
            proof: Proof::Vouched { with_tenant: false },
            tenant: None,
            settings: SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            budget: self.budget.filter(|_| !held && !goes_on),
            patience,
            guest: self.guest.clone(),
        })
    }

    fn sql(&self) -> Result<&str, Complaint> {
        self.asked.sql.as_deref().filter(|sql| !sql.is_empty()).ok_or_else(|| Complaint::bad_request("sql is missing"))
    }

    async fn execute(self) -> Result<Value, Complaint> {
        let statement = bind(self.sql()?, &self.asked.parameters)?;
        if let Some(id) = self.asked.transaction_id.clone() {
            let mut taken = self.take(&id)?;
            let statement = self.limited(statement);
            let told = async {
                let answers = taken.line.run(Batch::of([&statement])?, self.limit).await?;
                self.told(&mut taken.line, answers).await
            }
            .await;
            return self.leave(taken, told);
        }
        let goes_on = self.asked.continue_after_timeout;
        let (caller, limit) = (self.caller(false)?, self.budget);
        let run = async move {
            let mut line = Line::open(caller, Batch::of([&statement])?, &self.desk.worker)?;
            let answers = line.answers(self.limit).await?;
            self.told(&mut line, answers).await
        };
        let Some(limit) = limit.filter(|_| goes_on) else { return Box::pin(run).await };
        // What goes on belongs to nobody any more.
        match tokio::time::timeout(limit, tokio::task::spawn_local(run)).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(Trouble::lost().into()),
            Err(_) => Err(Complaint::goes_on()),
        }
    }

    /// Tells the answer to a statement.
    async fn told(&self, line: &mut Line, answers: Vec<Answer>) -> Result<Value, Complaint> {
        let answer = answers.into_iter().next().unwrap_or_default();
        let updated = cells::updated(&answer);
        if self.asked.format_records_as == RecordsAs::Json && !answer.columns.is_empty() {
            let formatted = cells::formatted(&answer, self.asked.result_set_options)?;
            return self.fits(json!({ "formattedRecords": formatted, "numberOfRecordsUpdated": updated }));
        }
        let mut told = json!({ "numberOfRecordsUpdated": updated, "generatedFields": [] });
        if let (Some(object), false) = (told.as_object_mut(), answer.columns.is_empty()) {
            object.insert("records".to_owned(), cells::records(&answer, self.asked.result_set_options)?);
            if self.asked.include_result_metadata {
                let names = self.names(line, &answer).await?;
                object.insert("columnMetadata".to_owned(), cells::metadata(&answer, &names));
            }
        }
        self.fits(told)
    }

    fn fits(&self, told: Value) -> Result<Value, Complaint> {
        if told.to_string().len() > self.limit {
            return Err(Trouble::from(crate::fault::Fault::TooLong { what: "answer", limit: self.limit }).into());
        }
        Ok(told)
    }

    /// The names of types that are not PostgreSQL's own, as its catalogue has them.
    async fn names(&self, line: &mut Line, answer: &Answer) -> Result<HashMap<u32, String>, Complaint> {
        let foreign = cells::foreign_types(answer);
        if foreign.is_empty() {
            return Ok(HashMap::new());
        }
        let list: Vec<String> = foreign.iter().map(ToString::to_string).collect();
        let statement = Statement {
            sql: "SELECT oid, typname FROM pg_catalog.pg_type WHERE oid = ANY ($1::pg_catalog.oid[])".to_owned(),
            parameters: vec![Parameter { oid: 0, value: Some(format!("{{{}}}", list.join(","))) }],
        };
        let answers = line.run(Batch::of([&statement])?, self.limit).await?;
        let mut names = HashMap::new();
        for row in answers.iter().flat_map(Answer::rows) {
            if let &[Some(oid), Some(name)] = &row[..]
                && let Some(oid) = std::str::from_utf8(oid).ok().and_then(|oid| oid.parse().ok())
            {
                names.insert(oid, String::from_utf8_lossy(name).into_owned());
            }
        }
        Ok(names)
    }

    /// One statement with several sets of values: all of them are carried out, or none.
    async fn batch(self) -> Result<Value, Complaint> {
        let sql = self.sql()?;
        let sets = if self.asked.parameter_sets.is_empty() { &[Vec::new()][..] } else { &self.asked.parameter_sets };
        let statements: Vec<Statement> = sets.iter().map(|set| bind(sql, set)).collect::<Result<_, _>>()?;
        let count = statements.len();
        if let Some(id) = &self.asked.transaction_id {
            let mut taken = self.take(id)?;
            let statements: Vec<Statement> = statements.into_iter().map(|statement| self.limited(statement)).collect();
            let done = async { Ok(taken.line.run(Batch::of(&statements)?, self.limit).await?) }.await;
            self.leave(taken, done)?;
        } else {
            let mut line = Line::open(self.caller(false)?, Batch::of(&statements)?, &self.desk.worker)?;
            line.answers(self.limit).await?;
        }
        Ok(json!({ "updateResults": vec![json!({ "generatedFields": [] }); count] }))
    }

    async fn begin(self) -> Result<Value, Complaint> {
        let mut line = Line::open(self.caller(true)?, Batch::of([&Statement::from("BEGIN")])?, &self.desk.worker)?;
        line.answers(self.limit).await?;
        let idle = self.desk.config().api.transaction_idle_timeout;
        let id = self.desk.transactions.hold(&self.key.id, line, idle)?;
        Ok(json!({ "transactionId": id }))
    }

    async fn end(self, how: &'static str, told: &'static str) -> Result<Value, Complaint> {
        let id = self.asked.transaction_id.as_deref().filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Complaint::bad_request("transactionId is missing"))?;
        let mut taken = self.take(id)?;
        let had_failed = taken.line.status() == Status::Failed;
        let done = taken.line.run(Batch::of([&Statement::from(how)])?, self.limit).await;
        // Whatever came of it, the transaction is over.
        let is_over = taken.line.is_over();
        drop(taken);
        match done {
            Err(trouble) if is_over => Err(Complaint::no_transaction(id, trouble.message())),
            Err(trouble) => Err(trouble.into()),
            Ok(_) if had_failed && how == "COMMIT" => Err(Complaint::rolled_back()),
            Ok(_) => Ok(json!({ "transactionStatus": told })),
        }
    }

    fn take(&self, id: &str) -> Result<Taken, Complaint> {
        self.desk.transactions.take(id, &self.key.id)
    }

    /// A statement of a held transaction, with the time that it may take: that of the call, not of the transaction.
    fn limited(&self, statement: Statement) -> Statement {
        let Some(budget) = self.budget else { return statement };
        Statement { sql: format!("{}\n/* deadline_ms={} */", statement.sql, budget.as_millis().max(1)), ..statement }
    }

    /// Puts a transaction back, unless it has ended: by itself, or with its session.
    fn leave<T>(&self, taken: Taken, told: Result<T, Complaint>) -> Result<T, Complaint> {
        if taken.line.is_over() {
            let why = told.err().map(|complaint| complaint.message().to_owned()).unwrap_or_default();
            return Err(Complaint::no_transaction(&taken.id, &why));
        }
        if taken.line.status() != Status::Idle {
            self.desk.transactions.put_back(taken);
        }
        told
    }
}

fn denied(why: Unsigned) -> Complaint {
    let name = match why {
        Unsigned::Missing => "MissingAuthenticationTokenException",
        Unsigned::Incomplete(_) => "IncompleteSignatureException",
        Unsigned::UnknownKey => "UnrecognizedClientException",
        Unsigned::Expired | Unsigned::Mismatch => "InvalidSignatureException",
    };
    Complaint::denied(name, why.to_string())
}
