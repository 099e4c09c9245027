//! The RDS Data API where real SDKs do not go by themselves: transactions that are left, calls that are made again, limits, keys that change. What SDKs do is the
//! matrix's business (`tests/clients`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::borrow::Borrow;

use harness::{Caller, PATIENCE, Postgres, Proxy, ProxyOptions, Reply, Wire, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

const KEY: (&str, &str) = ("AKIDPOOL", "topsecret");

fn options(pg: &Postgres) -> ProxyOptions {
    Proxy::new(pg).api().raw_toml("[[api.access_keys]]\nid = \"AKIDPOOL\"\nsecret = \"topsecret\"\nuser = \"app\"\n")
}

/// What every call names.
fn arns(more: impl Borrow<Value>) -> Value {
    let mut all = json!({ "resourceArn": "arn:aws:rds:eu-west-1:1:cluster:x", "secretArn": "arn:aws:secretsmanager:eu-west-1:1:secret:x" });
    all.as_object_mut().unwrap().extend(more.borrow().as_object().unwrap().clone());
    all
}

async fn call(caller: &mut Caller, operation: &str, more: Value) -> Reply {
    caller.signed(KEY, operation, &[], &arns(more)).await
}

async fn execute(caller: &mut Caller, sql: &str) -> Reply {
    call(caller, "Execute", json!({ "sql": sql })).await
}

async fn begin(caller: &mut Caller) -> String {
    let reply = call(caller, "BeginTransaction", json!({})).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.at("/transactionId").as_str().unwrap().to_owned()
}

fn assert_refused(reply: &Reply, status: u16, name: &str) {
    assert_eq!((reply.status, reply.header("x-amzn-errortype"), reply.at("/__type")), (status, Some(name), &json!(name)), "{reply:?}");
}

async fn with_table() -> Postgres {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE account (id int, balance int); GRANT ALL ON account TO app").await;
    pg
}

async fn leased(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_server_connections{upstream=\"main\",state=\"leased\"}").await
}

#[tokio::test]
async fn signatures_are_needed_and_say_who_calls() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let asked = arns(json!({ "sql": "SELECT current_user::text" }));
    let believed = caller.signed(KEY, "Execute", &[], &asked).await;
    assert_eq!((believed.status, believed.at("/records/0/0/stringValue")), (200, &json!("app")));
    assert_refused(&caller.signed((KEY.0, "wrong"), "Execute", &[], &asked).await, 403, "InvalidSignatureException");
    assert_refused(&caller.signed(("AKIDOTHER", KEY.1), "Execute", &[], &asked).await, 403, "UnrecognizedClientException");
    assert_refused(&caller.post("/Execute", &[], asked.to_string()).await, 403, "MissingAuthenticationTokenException");
    let incomplete = caller.post("/Execute", &[("authorization", "AWS4-HMAC-SHA256 Credential=x")], asked.to_string()).await;
    assert_refused(&incomplete, 403, "IncompleteSignatureException");
    assert_eq!(proxy.metric("pgweir_api_requests_total{api=\"data\",outcome=\"denied\"}").await, 4.0);
}

#[tokio::test]
async fn what_is_wrong_with_a_call_has_its_type() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).set("api.max_response", "64KiB").set("api.max_request", "64KiB").start().await;
    let mut caller = Caller::connect(&proxy).await;
    for (operation, more, name) in [
        ("Execute", json!({}), "BadRequestException"),
        ("Execute", json!({ "sql": "SELECT 1", "resourceArn": "" }), "BadRequestException"),
        ("Execute", json!({ "sql": "SELECT :x" }), "BadRequestException"),
        ("Execute", json!({ "sql": "SELECT 1", "parameters": 7 }), "BadRequestException"),
        ("Execute", json!({ "sql": "SELECT 1", "schema": "public" }), "ValidationException"),
        ("Execute", json!({ "sql": "SELECT 1; SELECT 2" }), "ValidationException"),
        ("Execute", json!({ "sql": "SELECT '$1'::money" }), "UnsupportedResultException"),
        ("Execute", json!({ "sql": "SELECT 1 AS a, 2 AS a", "formatRecordsAs": "JSON" }), "BadRequestException"),
        ("Execute", json!({ "sql": "SELECT 1/0" }), "DatabaseErrorException"),
        ("Execute", json!({ "sql": "SELECT 1", "database": "nowhere" }), "DatabaseErrorException"),
        ("Execute", json!({ "sql": "SELECT repeat('x', 70000)" }), "BadRequestException"),
        ("BatchExecute", json!({ "sql": "" }), "BadRequestException"),
        ("CommitTransaction", json!({}), "BadRequestException"),
    ] {
        assert_refused(&call(&mut caller, operation, more.clone()).await, 400, name);
    }
    let gone = call(&mut caller, "CommitTransaction", json!({ "transactionId": "x" })).await;
    assert_refused(&gone, 404, "TransactionNotFoundException");
    let long = call(&mut caller, "Execute", json!({ "sql": format!("SELECT '{}'", "x".repeat(70_000)) })).await;
    assert_refused(&long, 400, "BadRequestException");
}

#[tokio::test]
async fn a_database_is_the_requests_or_the_keys_or_the_only_one() {
    let pg = Postgres::start().await;
    let two = options(&pg).database("other", "app").start().await;
    let mut caller = Caller::connect(&two).await;
    assert_refused(&execute(&mut caller, "SELECT 1").await, 400, "BadRequestException");
    assert_eq!(call(&mut caller, "Execute", json!({ "sql": "SELECT 1", "database": "other" })).await.status, 200);
    let named = options(&pg).database("other", "app").set("api.database", "other").start().await;
    let mut caller = Caller::connect(&named).await;
    assert_eq!(execute(&mut caller, "SELECT 1").await.status, 200);
}

#[tokio::test]
async fn a_transaction_that_is_left_is_rolled_back_and_its_connection_used_again() {
    let pg = with_table().await;
    let proxy = options(&pg).max_connections(1).set("api.transaction_idle_timeout", "500ms").start().await;
    let mut caller = Caller::connect(&proxy).await;
    let id = begin(&mut caller).await;
    let inserted = call(&mut caller, "Execute", json!({ "sql": "INSERT INTO account VALUES (1, 1)", "transactionId": id })).await;
    assert_eq!(inserted.status, 200, "{inserted:?}");
    assert_eq!((leased(&proxy).await, proxy.metric("pgweir_api_transactions").await), (1.0, 1.0));
    eventually("it is rolled back", PATIENCE, async || leased(&proxy).await == 0.0).await;
    assert_eq!(proxy.metric("pgweir_api_transactions").await, 0.0);
    assert_refused(&call(&mut caller, "CommitTransaction", json!({ "transactionId": id })).await, 404, "TransactionNotFoundException");
    assert_eq!(execute(&mut caller, "SELECT count(*) FROM account").await.at("/records"), &json!([[{ "longValue": 0 }]]));
}

#[tokio::test]
async fn a_transaction_outlives_the_time_that_sessions_may_be_idle_within_one() {
    let pg = with_table().await;
    let mut proxy = options(&pg).set("defaults.idle_transaction_timeout", "200ms").start().await;
    let mut caller = Caller::connect(&proxy).await;
    let id = begin(&mut caller).await;
    // A wire client that does the same is ended meanwhile; a reload does not change what the transaction may do.
    let mut wire = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    wire.query("BEGIN").await;
    proxy.rewrite_config(|options| options.set("defaults.max_queue", 7));
    proxy.signal(Signal::HUP);
    proxy.logged("reload: done").await;
    wire.expect_error("25P03").await;
    let inserted = call(&mut caller, "Execute", json!({ "sql": "INSERT INTO account VALUES (1, 1)", "transactionId": id })).await;
    assert_eq!(inserted.at("/numberOfRecordsUpdated"), &json!(1), "{inserted:?}");
    assert_eq!(call(&mut caller, "CommitTransaction", json!({ "transactionId": id })).await.status, 200);
    assert_eq!(pg.value("SELECT count(*) FROM account").await, "1");
}

#[tokio::test]
async fn a_transaction_is_one_keys_and_one_calls_at_a_time() {
    let pg = with_table().await;
    let other = "[[api.access_keys]]\nid = \"AKIDPOOL\"\nsecret = \"topsecret\"\nuser = \"app\"\n[[api.access_keys]]\nid = \"OTHER\"\nsecret = \"other\"\nuser = \"app\"\n";
    let proxy = options(&pg).raw_toml(other).start().await;
    let (mut caller, mut second) = (Caller::connect(&proxy).await, Caller::connect(&proxy).await);
    let id = begin(&mut caller).await;
    let asked = arns(json!({ "sql": "SELECT 1", "transactionId": id }));
    assert_refused(&second.signed(("OTHER", "other"), "Execute", &[], &asked).await, 404, "TransactionNotFoundException");
    let sleeping = tokio::spawn({
        let id = id.clone();
        async move { call(&mut caller, "Execute", json!({ "sql": "SELECT pg_sleep(1)", "transactionId": id })).await }
    });
    eventually("it runs", PATIENCE, async || {
        pg.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(1)%' AND pid <> pg_backend_pid()")
            .await
            == "1"
    })
    .await;
    let busy = second.signed(KEY, "Execute", &[], &asked).await;
    assert_refused(&busy, 400, "DatabaseErrorException");
    assert_eq!(busy.at("/message"), &json!("Transaction is still running a query"));
    assert_eq!(sleeping.await.unwrap().status, 200);
    assert_eq!(second.signed(KEY, "Execute", &[], &asked).await.status, 200);
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_ends_its_transaction() {
    let pg = with_table().await;
    let proxy = options(&pg).max_connections(2).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let id = begin(&mut caller).await;
    let mut leaving = Caller::connect(&proxy).await;
    let asked = json!({ "sql": "SELECT pg_sleep(60)", "transactionId": id });
    let gone = tokio::time::timeout(std::time::Duration::from_millis(500), call(&mut leaving, "Execute", asked)).await;
    assert!(gone.is_err());
    drop(leaving);
    eventually("it is rolled back", PATIENCE, async || leased(&proxy).await == 0.0).await;
    assert_refused(&call(&mut caller, "CommitTransaction", json!({ "transactionId": id })).await, 404, "TransactionNotFoundException");
}

#[tokio::test]
async fn a_transaction_whose_session_was_ended_is_not_found_and_says_why() {
    let pg = with_table().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let id = begin(&mut caller).await;
    assert_eq!(call(&mut caller, "Execute", json!({ "sql": "SELECT 1", "transactionId": id })).await.status, 200);
    pg.end_backends("app").await;
    let reply = call(&mut caller, "Execute", json!({ "sql": "INSERT INTO account VALUES (1, 1)", "transactionId": id })).await;
    assert_refused(&reply, 404, "TransactionNotFoundException");
    assert_eq!(proxy.metric("pgweir_api_transactions").await, 0.0);
    // One that names another replica.
    let elsewhere = call(&mut caller, "CommitTransaction", json!({ "transactionId": "b3RoZXI.abc" })).await;
    assert!(elsewhere.at("/message").as_str().unwrap().ends_with("it is held by another replica"), "{elsewhere:?}");
}

#[tokio::test]
async fn transactions_are_within_what_the_tenant_may_have() {
    let pg = with_table().await;
    let proxy = options(&pg)
        .set("defaults.queue_timeout", "300ms")
        .tenant("api", "match = { application_name = \"pgweir data\" }\nmax_server_connections = 1")
        .start()
        .await;
    let mut caller = Caller::connect(&proxy).await;
    let id = begin(&mut caller).await;
    assert_refused(&call(&mut caller, "BeginTransaction", json!({})).await, 429, "ThrottlingException");
    let (longest, replica) = (id.len(), id.split('.').next().unwrap());
    assert!(longest <= 192 && !replica.is_empty(), "{id}");
    assert_eq!(call(&mut caller, "RollbackTransaction", json!({ "transactionId": id })).await.status, 200);
    begin(&mut caller).await;
}

#[tokio::test]
async fn statements_have_a_time_and_one_may_go_on_beyond_it() {
    let pg = with_table().await;
    let proxy = options(&pg).set("api.statement_timeout", "400ms").start().await;
    let mut caller = Caller::connect(&proxy).await;
    assert_refused(&execute(&mut caller, "SELECT pg_sleep(60)").await, 400, "StatementTimeoutException");
    let id = begin(&mut caller).await;
    let late = call(&mut caller, "Execute", json!({ "sql": "SELECT pg_sleep(60) -- at last", "transactionId": id })).await;
    assert_refused(&late, 400, "StatementTimeoutException");
    assert_eq!(late.at("/dbConnectionId"), &json!(0));
    call(&mut caller, "RollbackTransaction", json!({ "transactionId": id })).await;
    let on = json!({ "sql": "INSERT INTO account SELECT 1, 1 FROM pg_sleep(1)", "continueAfterTimeout": true });
    assert_refused(&call(&mut caller, "Execute", on).await, 400, "StatementTimeoutException");
    eventually("it went on", PATIENCE, async || pg.value("SELECT count(*) FROM account").await == "1").await;
}

#[tokio::test]
async fn a_call_that_is_made_again_is_carried_out_once() {
    let pg = with_table().await;
    let proxy = options(&pg).start().await;
    let insert = arns(json!({ "sql": "INSERT INTO account SELECT 1, 1 FROM pg_sleep(1) RETURNING id" }));
    let attempt = |n: &'static str| [("amz-sdk-invocation-id", "7f1b"), ("amz-sdk-request", n)];
    // The first loses its connection while the statement runs, the second comes to it, and the third hears it once more.
    let mut first = Caller::connect(&proxy).await;
    let broken =
        tokio::time::timeout(std::time::Duration::from_millis(300), first.signed(KEY, "Execute", &attempt("attempt=1"), &insert)).await;
    assert!(broken.is_err());
    drop(first);
    let mut caller = Caller::connect(&proxy).await;
    for n in ["attempt=2", "attempt=3"] {
        let reply = caller.signed(KEY, "Execute", &attempt(n), &insert).await;
        assert_eq!((reply.status, reply.at("/records")), (200, &json!([[{ "longValue": 1 }]])), "{reply:?}");
    }
    assert_eq!(pg.value("SELECT count(*) FROM account").await, "1");
    // Another call of the same number is another call.
    let other = arns(json!({ "sql": "INSERT INTO account VALUES (2, 2)" }));
    assert_eq!(caller.signed(KEY, "Execute", &attempt("attempt=1"), &other).await.status, 200);
    assert_eq!(pg.value("SELECT count(*) FROM account").await, "2");
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_cancelled_and_not_made_again() {
    let pg = with_table().await;
    let proxy = options(&pg).start().await;
    let insert = arns(json!({ "sql": "INSERT INTO account SELECT 1, 1 FROM pg_sleep(60)" }));
    let headers = [("amz-sdk-invocation-id", "7f1c")];
    let mut first = Caller::connect(&proxy).await;
    let broken = tokio::time::timeout(std::time::Duration::from_millis(300), first.signed(KEY, "Execute", &headers, &insert)).await;
    assert!(broken.is_err());
    drop(first);
    proxy.logged("a call of the Data API was cancelled").await;
    eventually("nothing runs", PATIENCE, async || leased(&proxy).await == 0.0).await;
    let again = Caller::connect(&proxy).await.signed(KEY, "Execute", &headers, &insert).await;
    assert_refused(&again, 400, "DatabaseErrorException");
    assert!(again.at("/message").as_str().unwrap().contains("may have been carried out"), "{again:?}");
}

#[tokio::test]
async fn a_reload_changes_the_keys() {
    let pg = Postgres::start().await;
    let mut proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    assert_eq!(execute(&mut caller, "SELECT 1").await.status, 200);
    proxy.rewrite_config(|options| options.raw_toml("[[api.access_keys]]\nid = \"NEXT\"\nsecret = \"next\"\nuser = \"app\"\n"));
    proxy.signal(Signal::HUP);
    let asked = arns(json!({ "sql": "SELECT 1" }));
    eventually("the new key is known", PATIENCE, async || {
        Caller::connect(&proxy).await.signed(("NEXT", "next"), "Execute", &[], &asked).await.status == 200
    })
    .await;
    assert_refused(&execute(&mut caller, "SELECT 1").await, 403, "UnrecognizedClientException");
}

#[tokio::test]
async fn a_proxy_that_stops_rolls_back_what_nobody_can_go_on_with() {
    let pg = with_table().await;
    let mut proxy = options(&pg).set("process.shutdown_grace", "0s").start().await;
    let mut caller = Caller::connect(&proxy).await;
    let id = begin(&mut caller).await;
    call(&mut caller, "Execute", json!({ "sql": "INSERT INTO account VALUES (1, 1)", "transactionId": id })).await;
    let began = tokio::time::Instant::now();
    proxy.signal(Signal::TERM);
    assert!(proxy.wait_exit().await.success());
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "it has not waited for the transaction's end");
    assert_eq!(pg.value("SELECT count(*) FROM account").await, "0");
}

#[tokio::test]
async fn a_database_that_is_away_is_told_in_a_way_that_sdks_try_again() {
    let mut pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    assert_eq!(execute(&mut caller, "SELECT 1").await.status, 200);
    pg.stop(harness::Stop::Fast);
    let headers = [("amz-sdk-invocation-id", "7f1d")];
    let asked = arns(json!({ "sql": "SELECT 7" }));
    let away = async || Caller::connect(&proxy).await.signed(KEY, "Execute", &headers, &asked).await;
    eventually("it is noticed", PATIENCE, async || away().await.status == 504).await;
    assert_refused(&away().await, 504, "DatabaseUnavailableException");
    // Nothing was done, so that the next attempt of the same call is.
    pg.start_again().await;
    eventually("it is there again", PATIENCE, async || away().await.at("/records") == &json!([[{ "longValue": 7 }]])).await;
}
