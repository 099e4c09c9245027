//! SQL over HTTP: every error as its callers understand it, every limit, and nothing of one caller left for the next. That real drivers work is the matrix's
//! business (`tests/clients`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use harness::{
    APP, Ca, Caller, Issuer, PATIENCE, Postgres, Proxy, ProxyOptions, Reply, Wire, eventually, frames, in_an_hour, in_time, with,
};
use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

const URL: &str = "postgres://app:secret@localhost/app";

fn options(pg: &Postgres) -> ProxyOptions {
    Proxy::new(pg).api()
}

/// Checks an error of `/query`.
fn assert_refused(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.at("/error/code")), (status, &json!(code)), "{reply:?}");
}

async fn one(caller: &mut Caller, sql: &str) -> Value {
    let reply = caller.query(&json!({ "sql": sql, "rows": "arrays" })).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.at("/rows/0/0").clone()
}

async fn sleepers(pg: &Postgres) -> String {
    pg.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()").await
}

#[tokio::test]
async fn a_query_is_answered_in_json_by_the_types_of_its_columns() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let sql = "SELECT $1::int AS i, $2::text AS t, 9007199254740993 AS l, 1.50 AS n, NULL AS z, '{1,2}'::int[] AS a, '{\"k\":[1]}'::jsonb AS j, 'NaN'::float8 AS f";
    let reply = caller.query(&json!({ "sql": sql, "params": [7, "x"] })).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.at("/rows/0"),
        &json!({ "i": 7, "t": "x", "l": "9007199254740993", "n": "1.50", "z": null, "a": [1, 2], "j": { "k": [1] }, "f": "NaN" })
    );
    assert_eq!(reply.at("/columns/0"), &json!({ "name": "i", "type": "int4", "oid": 23 }));
    assert_eq!((reply.at("/command"), reply.at("/rowCount")), (&json!("SELECT"), &json!(1)));
    let arrays = caller.query(&json!({ "sql": "SELECT 1 AS x, 2 AS x", "rows": "arrays" })).await;
    assert_eq!(arrays.at("/rows"), &json!([[1, 2]]));
    assert_refused(&caller.query(&json!({ "sql": "SELECT 1 AS x, 2 AS x" })).await, 400, "22023");
}

#[tokio::test]
async fn several_statements_are_one_transaction() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE account (id int PRIMARY KEY, balance int); GRANT ALL ON account TO app").await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let insert = |id: i32| json!({ "sql": "INSERT INTO account VALUES ($1, 10) RETURNING id", "params": [id] });
    let done = caller.query(&json!({ "statements": [insert(1), insert(2)] })).await;
    assert_eq!((done.status, done.at("/results/1/rows")), (200, &json!([{ "id": 2 }])));
    assert_refused(&caller.query(&json!({ "statements": [insert(3), insert(1)] })).await, 400, "23505");
    assert_refused(&caller.query(&json!({ "statements": [insert(4), { "sql": "COMMIT" }] })).await, 400, "22023");
    assert_eq!(pg.value("SELECT count(*) FROM account WHERE id <= 3").await, "2");
    // None is left open, and none was needed twice.
    eventually("no connection is leased", PATIENCE, async || {
        proxy.metric("pgweir_server_connections{upstream=\"main\",state=\"leased\"}").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn errors_have_the_status_that_says_the_same() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let reply = caller.query(&json!({ "sql": "SELECT * FROM nowhere" })).await;
    assert_refused(&reply, 400, "42P01");
    assert_eq!(reply.at("/error/position"), &json!(15));
    assert_refused(&caller.query(&json!({ "sql": "SELECT 1; SELECT 2" })).await, 400, "42601");
    assert_refused(&caller.query(&json!({ "sql": "COPY (SELECT 1) TO STDOUT" })).await, 400, "0A000");
    assert_refused(&caller.query(&json!({ "sql": "SELECT 1", "database": "nowhere" })).await, 400, "3D000");
    assert_refused(&caller.query(&json!({ "sql": "SELECT 1", "database": "pgweir" })).await, 400, "3D000");
    for wrong in [
        json!({}),
        json!({ "sql": "SELECT 1", "statements": [] }),
        json!({ "sql": "SELECT 1", "more": 1 }),
        json!([]),
        json!({ "sql": "\0" }),
    ] {
        assert_refused(&caller.query(&wrong).await, 400, "22023");
    }
    let denied = caller.post("/query", &[("authorization", "Basic YXBwOndyb25n")], "{\"sql\": \"SELECT 1\"}").await;
    assert_refused(&denied, 401, "28P01");
    assert!(denied.header("www-authenticate").unwrap().starts_with("Basic "));
    assert_refused(&caller.post("/query", &[], "{\"sql\": \"SELECT 1\"}").await, 401, "28000");
    let unknown = caller.post("/query", &[("authorization", "Basic bm9ib2R5OnNlY3JldA==")], "{\"sql\": \"SELECT 1\"}").await;
    assert_refused(&unknown, 401, "28P01");
    assert_eq!(caller.try_send(Method::GET, "/query", &[APP], "").await.unwrap().header("allow"), Some("POST, OPTIONS"));
    assert_eq!(caller.try_send(Method::GET, "/elsewhere", &[APP], "").await.unwrap().status, 404);
    assert_eq!(one(&mut caller, "SELECT 1").await, json!(1), "and the connection is still good");
}

#[tokio::test]
async fn an_answer_is_whole_or_an_error() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).set("api.max_response", "64KiB").set("api.max_request", "32KiB").start().await;
    let mut caller = Caller::connect(&proxy).await;
    let letters = |count: i32| json!({ "sql": "SELECT repeat('x', $1) AS t", "params": [count] });
    assert_eq!(caller.query(&letters(60_000)).await.at("/rows/0/t").as_str().unwrap().len(), 60_000);
    assert_refused(&caller.query(&letters(70_000)).await, 413, "54000");
    // Its JSON form is longer than its rows.
    assert_refused(&caller.query(&json!({ "sql": "SELECT repeat(chr(1), 60000) AS t" })).await, 413, "54000");
    let long = caller.query(&json!({ "sql": "SELECT $1 AS t", "params": ["y".repeat(40_000)] })).await;
    assert_refused(&long, 413, "54000");
    let mut caller = Caller::connect(&proxy).await;
    let neon = caller.neon(URL, &[], &json!({ "query": "SELECT repeat('x', 70000)" })).await;
    assert_eq!((neon.status, neon.at("/code")), (400, &json!("54000")));
    assert_eq!(one(&mut caller, "SELECT 1").await, json!(1));
    eventually("no connection is leased", PATIENCE, async || {
        proxy.metric("pgweir_server_connections{upstream=\"main\",state=\"leased\"}").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn nothing_is_left_for_the_next_caller() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).max_connections(1).start().await;
    let mut caller = Caller::connect(&proxy).await;
    for sql in [
        "SET timezone = 'Asia/Tokyo'",
        "CREATE TEMPORARY TABLE mine (x int)",
        "SELECT pg_advisory_lock(7)",
        "PREPARE mine AS SELECT 1",
        "LISTEN mine",
        "BEGIN",
    ] {
        assert_eq!(caller.query(&json!({ "sql": sql })).await.status, 200, "{sql}");
    }
    let left = "SELECT concat_ws(' ', current_setting('timezone'), to_regclass('mine'), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), \
                (SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'), (SELECT count(*) FROM pg_listening_channels()))";
    assert_eq!(one(&mut caller, left).await, json!(format!("{} 0 0 0", pg.value("SHOW timezone").await)));
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_statement_with_it() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).max_connections(1).start().await;
    for path in ["/query", "/sql"] {
        let mut stream = TcpStream::connect(proxy.api_address()).await.unwrap();
        let body = if path == "/query" { "{\"sql\": \"SELECT pg_sleep(60)\"}" } else { "{\"query\": \"SELECT pg_sleep(60)\"}" };
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\nneon-connection-string: {URL}\r\n", APP.1);
        stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        eventually("it runs", PATIENCE, async || sleepers(&pg).await == "1").await;
        drop(stream);
        eventually("it is cancelled", PATIENCE, async || sleepers(&pg).await == "0").await;
    }
    let cancelled = "pgweir_cancelled_total{tenant=\"default\",cause=\"client_gone\"}";
    eventually("it is counted", PATIENCE, async || proxy.metric(cancelled).await == 2.0).await;
    assert_eq!(one(&mut Caller::connect(&proxy).await, "SELECT 1").await, json!(1), "the only connection is in use again");
}

#[tokio::test]
async fn a_deadline_comes_by_header_and_by_setting() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let sleep = "{\"sql\": \"SELECT pg_sleep(60)\"}";
    assert_refused(&caller.post("/query", &[APP, ("pgweir-deadline-ms", "200")], sleep).await, 504, "57014");
    assert_refused(&caller.post("/query", &[APP, ("pgweir-deadline-ms", "soon")], sleep).await, 400, "22023");
    let neon = json!({ "query": "SELECT pg_sleep(60)" });
    let late = caller.neon(URL, &[("pgweir-deadline-ms", "200")], &neon).await;
    assert_eq!((late.status, late.at("/code")), (400, &json!("57014")));
    let late = caller.neon(&format!("{URL}?options=-c+pgweir.budget_ms%3D200"), &[], &neon).await;
    assert_eq!((late.status, late.at("/code")), (400, &json!("57014")));
    eventually("nothing runs", PATIENCE, async || sleepers(&pg).await == "0").await;
}

#[tokio::test]
async fn whoever_gives_no_deadline_has_one_all_the_same() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).set("api.statement_timeout", "300ms").start().await;
    let mut caller = Caller::connect(&proxy).await;
    assert_refused(&caller.query(&json!({ "sql": "SELECT pg_sleep(60)" })).await, 504, "57014");
    // A caller may ask for less, not for more.
    let more = caller.post("/query", &[APP, ("pgweir-deadline-ms", "60000")], "{\"sql\": \"SELECT pg_sleep(60)\"}").await;
    assert_refused(&more, 504, "57014");
}

#[tokio::test]
async fn without_room_callers_are_told_when_to_come_back() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).max_connections(1).set("defaults.queue_timeout", "300ms").start().await;
    let mut wire = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    wire.query("BEGIN").await;
    let mut caller = Caller::connect(&proxy).await;
    let full = caller.query(&json!({ "sql": "SELECT 1" })).await;
    assert_refused(&full, 429, "53300");
    assert_eq!((full.header("retry-after"), full.header("retry-after-ms")), (Some("1"), Some("300")));
    let neon = caller.neon(URL, &[], &json!({ "query": "SELECT 1" })).await;
    assert_eq!((neon.status, neon.at("/code"), neon.header("retry-after")), (400, &json!("53300"), Some("1")), "only with 400 it is read");
    wire.query("ROLLBACK").await;
    assert_eq!(one(&mut caller, "SELECT 1").await, json!(1));
    assert_eq!(proxy.metric("pgweir_api_requests_total{api=\"query\",outcome=\"refused\"}").await, 1.0);
    assert_eq!(proxy.metric("pgweir_api_requests_total{api=\"neon\",outcome=\"refused\"}").await, 1.0);
    assert_eq!(proxy.metric("pgweir_refused_total{tenant=\"default\",fault=\"queue_timeout\"}").await, 2.0);
}

#[tokio::test]
async fn the_status_for_shed_callers_can_be_chosen() {
    let pg = Postgres::start().await;
    let tenant = "match = { user = \"app\" }\ntransactions_per_second = 1\ntransactions_burst = 1";
    let proxy = options(&pg).tenant("slow", tenant).set("api.shed_status", 429).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(caller.neon(URL, &[], &json!({ "query": "SELECT 1" })).await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn a_database_that_is_away_is_unavailable() {
    let mut pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    assert_eq!(one(&mut caller, "SELECT 1").await, json!(1));
    pg.stop(harness::Stop::Fast);
    eventually("it is noticed", PATIENCE, async || {
        let away = Caller::connect(&proxy).await.query(&json!({ "sql": "SELECT 1" })).await;
        away.status == 503
    })
    .await;
}

#[tokio::test]
async fn tls_is_required_beyond_this_machine_and_of_everybody_where_it_is_required() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let config = ca.client_config(None);
    let proxy = options(&pg).tls("require", &ca.server()).start().await;
    let refused = Caller::connect(&proxy).await.query(&json!({ "sql": "SELECT 1" })).await;
    assert_refused(&refused, 401, "28000");
    for alpn in [&["http/1.1"][..], &["h2", "http/1.1"], &[]] {
        let mut caller = Box::pin(Caller::connect_tls(&proxy, &config, alpn)).await.unwrap();
        assert_eq!(one(&mut caller, "SELECT 1").await, json!(1), "{alpn:?}");
    }
    assert!(Box::pin(Caller::connect_tls(&proxy, &config, &["postgresql"])).await.is_err(), "it would not speak HTTP");
    let open = options(&pg).tls("require", &ca.server()).set("api.allow_plaintext", true).start().await;
    assert_eq!(one(&mut Caller::connect(&open).await, "SELECT 1").await, json!(1));
    let prefer = options(&pg).tls("prefer", &ca.server()).start().await;
    assert_eq!(one(&mut Caller::connect(&prefer).await, "SELECT 1").await, json!(1), "within this machine");
}

#[tokio::test]
async fn a_password_that_only_a_verifier_knows_is_checked_and_passed_on() {
    let pg = Postgres::start().await;
    let verifier = pg.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").await;
    let proxy = options(&pg).unset("users.app.password").set("users.app.verifier", verifier).start().await;
    let mut caller = Caller::connect(&proxy).await;
    // The first makes a PBKDF2, the others remember it; the server is logged in to with what the caller brought.
    for _ in 0..3 {
        assert_eq!(one(&mut caller, "SELECT current_user::text").await, json!("app"));
    }
    let wrong = caller.post("/query", &[("authorization", "Basic YXBwOndyb25n")], "{\"sql\": \"SELECT 1\"}").await;
    assert_refused(&wrong, 401, "28P01");
    assert_eq!(one(&mut caller, "SELECT 1").await, json!(1));
}

/// What a caller with this token sends.
fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn a_token_says_who_calls_and_for_which_tenant() {
    let pg = Postgres::start().await;
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    let options = options(&pg).tenant("acme", "max_clients = 100");
    let file = options.file("jwks.json", &issuer.set.to_string());
    let tokens = format!(
        "[api.tokens]\njwks_file = {file:?}\nissuer = \"https://issuer.example\"\naudience = \"pgweir\"\nuser_claim = \"role\"\ntenant_claim = \"org\"\n"
    );
    let proxy = options.raw_toml(&tokens).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let good = json!({ "iss": "https://issuer.example", "aud": "pgweir", "role": "app", "org": "acme", "exp": in_an_hour() });
    let sql = "{\"sql\": \"SELECT current_user::text AS u\"}";
    for _ in 0..2 {
        let reply = caller.post("/query", &[("authorization", &bearer(&issuer.token("one", &good)))], sql).await;
        assert_eq!((reply.status, reply.at("/rows/0/u")), (200, &json!("app")), "{reply:?}");
    }
    assert_eq!(proxy.metric("pgweir_transactions_total{tenant=\"acme\"}").await, 2.0);

    let but = |changes: Value| issuer.token("one", &with(&good, &changes));
    for (what, token) in [
        ("another issuer's key", stranger.token("one", &good)),
        ("another issuer", but(json!({ "iss": "https://other.example" }))),
        ("another audience", but(json!({ "aud": "other" }))),
        ("too old", but(json!({ "exp": 1_000_000 }))),
        ("not yet", but(json!({ "nbf": in_an_hour() }))),
        ("no user", but(json!({ "role": null }))),
        ("no tenant", but(json!({ "org": null }))),
        ("an unknown key", issuer.token("two", &good)),
        ("no token", "x.y.z".to_owned()),
        ("none as algorithm", "eyJhbGciOiJub25lIn0.eyJyb2xlIjoiYXBwIn0.".to_owned()),
    ] {
        assert_refused(&caller.post("/query", &[("authorization", &bearer(&token))], sql).await, 401, "28000");
        let signature = token.rsplit('.').next().unwrap();
        let is_logged = signature.len() > 20 && proxy.log_lines().iter().any(|line| line.contains(signature));
        assert!(!is_logged, "{what}: it is in the log");
    }
    let nowhere = but(json!({ "org": "nowhere" }));
    assert_refused(&caller.post("/query", &[("authorization", &bearer(&nowhere))], sql).await, 401, "28000");

    // Neon's driver sends one beside a connection string without a password, which must name the same user.
    let token = bearer(&issuer.token("one", &good));
    let reply = caller.neon("postgres://app@localhost/app", &[("authorization", &token)], &json!({ "query": "SELECT 1" })).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let other = caller.neon("postgres://postgres@localhost/app", &[("authorization", &token)], &json!({ "query": "SELECT 1" })).await;
    assert_eq!((other.status, other.at("/code")), (400, &json!("28P01")));
}

#[tokio::test]
async fn keys_are_fetched_and_a_new_one_is_found() {
    let pg = Postgres::start().await;
    let (first, second) = (Issuer::new("first"), Issuer::new("second"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let (publish, published) = tokio::sync::watch::channel(first.set.to_string());
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let count = stream.read(&mut head).await.unwrap();
            assert!(head[..count].starts_with(b"GET /keys HTTP/1.1\r\n"));
            let body = published.borrow().clone();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let proxy = options(&pg).raw_toml(&format!("[api.tokens]\njwks_url = \"{url}\"\naudience = \"x\"\nuser = \"app\"\n")).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let claims = json!({ "aud": "x", "exp": in_an_hour() });
    let sql = "{\"sql\": \"SELECT 1\"}";
    assert_eq!(caller.post("/query", &[("authorization", &bearer(&first.token("first", &claims)))], sql).await.status, 200);
    publish.send(second.set.to_string()).unwrap();
    let token = bearer(&second.token("second", &claims));
    // It is not asked for every unknown name at once: whoever makes them up would have the issuer asked as often.
    eventually("the new key is believed", PATIENCE, async || {
        Caller::connect(&proxy).await.post("/query", &[("authorization", &token)], sql).await.status == 200
    })
    .await;
    assert_refused(&caller.post("/query", &[("authorization", &bearer(&first.token("first", &claims)))], sql).await, 401, "28000");
    serving.abort();
}

#[tokio::test]
async fn an_issuer_that_fails_is_not_asked_for_every_token() {
    let pg = Postgres::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let counting = Arc::clone(&asked);
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counting.fetch_add(1, Ordering::Relaxed);
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    });
    let proxy = options(&pg).raw_toml(&format!("[api.tokens]\njwks_url = \"{url}\"\naudience = \"x\"\nuser = \"app\"\n")).start().await;
    let issuer = Issuer::new("any");
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..20 {
        let token = bearer(&issuer.token(&format!("made up {n}"), &json!({ "aud": "x", "exp": in_an_hour() })));
        let mut caller = Caller::connect(&proxy).await;
        callers.spawn(async move { caller.post("/query", &[("authorization", &token)], "{\"sql\": \"SELECT 1\"}").await.status });
    }
    assert_eq!(callers.join_all().await, [401; 20]);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    serving.abort();
}

#[tokio::test]
async fn pages_of_other_origins_may_ask() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let asked = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    let preflight = caller.try_send(Method::OPTIONS, "/sql", &asked, "").await.unwrap();
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (200, Some("*")));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("Neon-Connection-String"));
    let answered = caller.neon(URL, &[asked[0]], &json!({ "query": "SELECT 1" })).await;
    assert_eq!(answered.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn neons_requests_are_read_in_all_their_forms() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let typed = caller
        .neon(URL, &[], &json!({ "query": "SELECT 1 AS i, true AS b, 5::int8 AS l, $1::jsonb AS j", "params": [{ "k": [1] }] }))
        .await;
    assert_eq!(typed.at("/rows"), &json!([{ "i": 1, "b": true, "l": "5", "j": { "k": [1] } }]));
    let raw = [("neon-raw-text-output", "true"), ("neon-array-mode", "true")];
    let texts = caller.neon(URL, &raw, &json!({ "query": "SELECT 1, true, NULL" })).await;
    assert_eq!((texts.at("/rows"), texts.at("/rowAsArray")), (&json!([["1", "t", null]]), &json!(true)));
    let each = json!({ "queries": [{ "query": "SELECT 1 AS a", "arrayMode": true }, { "query": "SELECT 2 AS a" }] });
    let batch = caller.neon(URL, &[], &each).await;
    assert_eq!((batch.at("/results/0/rows"), batch.at("/results/1/rows")), (&json!([[1]]), &json!([{ "a": 2 }])));
    let modes = [("neon-batch-isolation-level", "RepeatableRead"), ("neon-batch-read-only", "true"), ("neon-batch-deferrable", "false")];
    let shown = json!({ "queries": [{ "query": "SHOW transaction_isolation" }, { "query": "CREATE TABLE t ()" }] });
    assert_eq!(caller.neon(URL, &modes, &shown).await.at("/code"), &json!("25006"));
    for (wrong, headers) in [
        (json!({ "queries": [] }), [("neon-batch-isolation-level", "Chaos")]),
        (json!({ "queries": [] }), [("neon-batch-read-only", "maybe")]),
    ] {
        let reply = caller.neon(URL, &headers, &wrong).await;
        assert_eq!((reply.status, reply.at("/code"), reply.at("/severity")), (400, &json!("22023"), &json!("ERROR")));
    }
    for url in ["", "mysql://x", "postgres://localhost/app", "postgres://app@localhost/app"] {
        assert_eq!(caller.neon(url, &[], &json!({ "query": "SELECT 1" })).await.status, 400, "{url}");
    }
}

#[tokio::test]
async fn a_tunnel_is_opened_as_the_protocol_has_it() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut caller = Caller::connect(&proxy).await;
    let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let old = caller.try_send(Method::GET, "/v2", &[upgrade[0], upgrade[1], key, ("sec-websocket-version", "8")], "").await.unwrap();
    assert_eq!((old.status, old.header("sec-websocket-version")), (400, Some("13")));
    let keyless = caller.try_send(Method::GET, "/v2", &[upgrade[0], upgrade[1], ("sec-websocket-version", "13")], "").await.unwrap();
    assert_eq!(keyless.status, 400);
    let opened = caller.try_send(Method::GET, "/v2", &[upgrade[0], upgrade[1], key, ("sec-websocket-version", "13")], "").await.unwrap();
    // The example of RFC 6455.
    assert_eq!((opened.status, opened.header("sec-websocket-accept")), (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
}

#[tokio::test]
async fn who_is_connected_and_what_they_did_is_seen_where_everybody_is() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).tenant("acme", "match = { application_name = \"pgweir query\" }\nmax_clients = 1").start().await;
    let mut caller = Caller::connect(&proxy).await;
    assert_eq!(one(&mut caller, "SELECT 1").await, json!(1));
    assert_eq!(proxy.metric("pgweir_api_connections").await, 1.0);
    assert_eq!(proxy.metric("pgweir_transactions_total{tenant=\"acme\"}").await, 1.0);
    assert_eq!(proxy.metric("pgweir_client_logins_total{tenant=\"acme\",outcome=\"ok\"}").await, 0.0, "a request is no login");
    // A caller that has its answer is a client until its server connection is in order again.
    let are = async |state: &str| proxy.metric(&format!("pgweir_clients{{tenant=\"acme\",state=\"{state}\"}}")).await;
    eventually("it has left", PATIENCE, async || are("active").await + are("idle").await == 0.0).await;
    let slow = tokio::spawn({
        let mut caller = Caller::connect(&proxy).await;
        async move { caller.query(&json!({ "sql": "SELECT pg_sleep(60)" })).await }
    });
    eventually("it runs", PATIENCE, async || sleepers(&pg).await == "1").await;
    assert_refused(&caller.query(&json!({ "sql": "SELECT 1" })).await, 429, "53300");
    slow.abort();
}

#[tokio::test]
async fn a_proxy_that_stops_answers_whom_it_has_let_in() {
    let pg = Postgres::start().await;
    let mut proxy = options(&pg).set("process.shutdown_grace", "0s").start().await;
    let mut caller = Caller::connect(&proxy).await;
    assert_eq!(one(&mut caller, "SELECT 1").await, json!(1));
    let mut idle = Caller::connect(&proxy).await;
    assert_eq!(one(&mut idle, "SELECT 1").await, json!(1));
    let asked = tokio::spawn(async move { caller.query(&json!({ "sql": "SELECT pg_sleep(1.5), 7 AS n" })).await });
    eventually("it runs", PATIENCE, async || sleepers(&pg).await == "1").await;
    proxy.signal(Signal::TERM);
    proxy.logged("draining: no new clients").await;
    assert!(TcpStream::connect(proxy.api_address()).await.is_err(), "nobody new is let in");
    let answered = asked.await.unwrap();
    assert_eq!((answered.status, answered.at("/rows/0/n")), (200, &json!(7)));
    assert!(idle.try_send(Method::POST, "/query", &[APP], "{\"sql\": \"SELECT 1\"}").await.is_err(), "its connection was closed");
    assert!(proxy.wait_exit().await.success());
}

#[tokio::test]
async fn silent_callers_make_room_and_slow_heads_are_given_up() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).set("api.idle_timeout", "1s").set("api.max_connections", 2).start().await;
    let mut slow = TcpStream::connect(proxy.api_address()).await.unwrap();
    slow.write_all(b"POST /query HTTP/1.1\r\nhost:").await.unwrap();
    let mut rest = Vec::new();
    let given_up = tokio::time::timeout(Duration::from_secs(15), slow.read_to_end(&mut rest)).await;
    assert!(given_up.is_ok(), "a head that does not end is given up");
    // Two that are silent, and one that is not.
    let _silent = (TcpStream::connect(proxy.api_address()).await.unwrap(), TcpStream::connect(proxy.api_address()).await.unwrap());
    assert_eq!(one(&mut Caller::connect(&proxy).await, "SELECT 1").await, json!(1));
}

#[tokio::test]
async fn large_bodies_of_strangers_have_only_so_much_room_together() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let before = proxy.resident_bytes();
    // 300 strangers who each announce ten megabytes and send three of them: 900 MB.
    let part = vec![b' '; 3 << 20];
    let mut strangers = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(proxy.api_address()).await.unwrap();
        stream.write_all(b"POST /query HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n").await.unwrap();
        let part = part.clone();
        strangers.push(tokio::spawn(async move {
            // Those without a place stand still.
            let _ = tokio::time::timeout(Duration::from_secs(3), stream.write_all(&part)).await;
            stream
        }));
    }
    // Whoever is brief is served meanwhile.
    let mut caller = Caller::connect(&proxy).await;
    assert_eq!(one(&mut caller, "SELECT 1").await, json!(1));
    let mut streams = Vec::new();
    for stranger in strangers {
        streams.push(stranger.await.unwrap());
    }
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < 400 << 20, "{grown} bytes");
    drop(streams);
    let long = "x".repeat(1 << 20);
    assert_eq!(caller.query(&json!({ "sql": "SELECT length($1) AS n", "params": [long] })).await.at("/rows/0/n"), &json!(1 << 20));
}

#[tokio::test]
async fn a_caller_that_does_not_take_its_answer_is_given_up() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).set("tcp.client.user_timeout", "1s").start().await;
    let mut stream = TcpStream::connect(proxy.api_address()).await.unwrap();
    let body = "{\"sql\": \"SELECT repeat('x', 9000000)\"}";
    let head = format!("POST /query HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: {}\r\n\r\n", APP.1, body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    eventually("it is answered", PATIENCE, async || proxy.metric("pgweir_api_requests_total{api=\"query\",outcome=\"ok\"}").await == 1.0)
        .await;
    assert_eq!(proxy.metric("pgweir_api_connections").await, 1.0);
    eventually("it is given up", PATIENCE, async || proxy.metric("pgweir_api_connections").await == 0.0).await;
    let mut taken = Vec::new();
    assert!(stream.read_to_end(&mut taken).await.is_err() || taken.len() < 9_000_000, "the rest is lost, and that is seen");
}

#[tokio::test]
async fn a_tunnel_carries_much_each_way_at_the_same_time() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let stream = TcpStream::connect(proxy.api_address()).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async("ws://localhost/v2", stream).await.unwrap();
    let (mut sink, mut source) = socket.split();
    // All at once and before anything is heard, as the driver does it; then far more each way than any buffer on the way holds.
    let mut first = frames::startup(0x0003_0000, &[("user", "app"), ("database", "app")]);
    first.extend(frames::password("secret"));
    let padding = "x".repeat(100_000);
    let writing = tokio::spawn(async move {
        sink.send(Message::binary(first)).await.unwrap();
        for _ in 0..100 {
            sink.send(Message::binary(frames::query(&format!("SELECT repeat('y', 100000) /* {padding} */")))).await.unwrap();
        }
        sink
    });
    let reading = async {
        let mut length = 0;
        while length < 10_000_000 {
            match source.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => length += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
    };
    in_time("all of it", reading).await;
    drop(writing.await.unwrap());
}
