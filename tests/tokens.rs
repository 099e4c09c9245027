//! Tokens (JWT) in place of passwords, over the PostgreSQL protocol: who comes in with one, and who does not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use harness::{Ca, Caller, Issuer, PATIENCE, Postgres, Proxy, ProxyOptions, Wire, eventually, frames, in_an_hour, in_time, with};
use jsonwebtoken::Algorithm;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use toml::Value as Toml;

/// The role of a function.
const ROLE: &str = "arn:aws:iam::111122223333:role/orders";

/// What AWS says of that function, and for whom.
fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "aud": "pgweir", "sub": ROLE, "exp": in_an_hour(), "iat": 1_700_000_000, "jti": "1",
        "https://sts.amazonaws.com/": { "aws_account": "111122223333", "principal_tags": { "team": "orders" } },
    })
}

/// A list of texts.
fn list(texts: &[&str]) -> Toml {
    Toml::Array(texts.iter().map(|text| Toml::from(*text)).collect())
}

/// A proxy whose user `app` shows a token in place of a password, by keys that are not said yet.
fn options(pg: &Postgres, ca: &Ca) -> ProxyOptions {
    let options = Proxy::new(pg).tls("prefer", &ca.server()).unset("users.app.password").set("users.app.server_password", "secret");
    let options = options.set("users.app.token_subjects", list(&["arn:aws:iam::111122223333:role/orders*"]));
    options.set("auth.tokens.issuer", "https://issuer.example").set("auth.tokens.audience", "pgweir")
}

/// The same with the keys in a file.
fn with_keys(options: ProxyOptions, keys: &Value) -> ProxyOptions {
    let file = options.file("jwks.json", &keys.to_string());
    options.set("auth.tokens.jwks_file", file.to_str().unwrap())
}

/// The SQLSTATE and message with which whoever shows this is refused.
async fn refused(proxy: &Proxy, ca: &Ca, user: &str, shown: &str) -> (String, String) {
    match Wire::login_tls(proxy, ca.client_config(None), user, shown).await {
        Ok(_) => panic!("it came in"),
        Err(error) => (error.code().to_owned(), error.message().to_owned()),
    }
}

#[tokio::test]
async fn whose_token_fits_is_the_user_and_nobody_else_is() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    let proxy = with_keys(options(&pg, &ca), &issuer.set).user("other", "other's").start().await;
    let good = claims();
    for subject in [ROLE, "arn:aws:iam::111122223333:role/orders-by-night"] {
        let token = issuer.token("one", &with(&good, &json!({ "sub": subject })));
        let mut client = Wire::login_tls(&proxy, ca.client_config(None), "app", &token).await.unwrap();
        assert_eq!(client.value("SELECT current_user").await, "app");
    }
    let password = refused(&proxy, &ca, "other", "wrong").await;
    assert_eq!(password.0, "28P01");
    let but = |changes: Value| issuer.token("one", &with(&good, &changes));
    for (what, token) in [
        ("another issuer's key", stranger.token("one", &good)),
        ("another issuer", but(json!({ "iss": "https://other.example" }))),
        ("no issuer", but(json!({ "iss": null }))),
        ("another audience", but(json!({ "aud": "other" }))),
        ("no audience", but(json!({ "aud": null }))),
        ("too old", but(json!({ "exp": 1_000_000 }))),
        ("for ever", but(json!({ "exp": null }))),
        ("not yet", but(json!({ "nbf": in_an_hour() }))),
        ("another role", but(json!({ "sub": "arn:aws:iam::111122223333:role/reports" }))),
        ("another account", but(json!({ "sub": "arn:aws:iam::999999999999:role/orders" }))),
        ("nobody's", but(json!({ "sub": null }))),
        ("an unknown key", issuer.token("two", &good)),
        ("no algorithm", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhcm4ifQ.".to_owned()),
        ("no token", "x.y.z".to_owned()),
        ("the server's password", "secret".to_owned()),
        ("nothing", String::new()),
    ] {
        let heard = refused(&proxy, &ca, "app", &token).await;
        assert_eq!(heard, ("28P01".to_owned(), password.1.replace("other", "app")), "{what}");
        let signature = token.rsplit('.').next().unwrap();
        let is_logged = signature.len() > 20 && proxy.log_lines().iter().any(|line| line.contains(signature));
        assert!(!is_logged, "{what}: it is in the log");
    }
    // A token is for its user alone, and whoever has a password shows that.
    assert_eq!(refused(&proxy, &ca, "other", &issuer.token("one", &good)).await, password);
    proxy.logged("`arn:aws:iam::111122223333:role/reports` is none of the user's token_subjects").await;
    assert_eq!(proxy.metric(r#"pgweir_client_logins_total{tenant="default",outcome="ok"}"#).await, 2.0);
}

#[tokio::test]
async fn keys_of_every_kind_that_aws_signs_with_are_taken() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    for algorithm in [Algorithm::RS256, Algorithm::ES384] {
        let issuer = Issuer::signing("one", algorithm);
        let proxy = with_keys(options(&pg, &ca), &issuer.set).start().await;
        let mut client = Wire::login_tls(&proxy, ca.client_config(None), "app", &issuer.token("one", &claims())).await.unwrap();
        assert_eq!(client.value("SELECT 1").await, "1");
        // Nor does another algorithm do, under the same name.
        let other = Issuer::new("one").token("one", &claims());
        assert_eq!(refused(&proxy, &ca, "app", &other).await.0, "28P01");
    }
}

#[tokio::test]
async fn no_token_is_asked_for_without_tls_and_others_log_in_as_ever() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let issuer = Issuer::new("one");
    pg.sql("CREATE ROLE other LOGIN PASSWORD 'other''s'").await;
    let options = with_keys(options(&pg, &ca), &issuer.set).user("other", "other's");
    let sockets = tempfile::tempdir().unwrap();
    let addresses = list(&["127.0.0.1:0", &format!("unix:{}", sockets.path().display())]);
    let proxy = options.set("listen.postgres", addresses).start().await;
    let mut wire = Wire::connect(&proxy).await;
    wire.start(&[("user", "app"), ("database", "app")]).await;
    wire.expect_error("28000").await;
    // A socket within this machine will do, as for a password in the clear.
    let mut here = Wire::connect(sockets.path().join(format!(".s.PGSQL.{}", proxy.port()))).await;
    here.start(&[("user", "app"), ("database", "app")]).await;
    here.authenticate("app", &issuer.token("one", &claims())).await.unwrap();
    assert_eq!(here.value("SELECT current_user").await, "app");
    let mut other = Wire::login(&proxy, "other", "other's", "app").await.unwrap();
    assert_eq!(other.value("SELECT current_user").await, "other");
}

#[tokio::test]
async fn a_session_outlives_its_token_and_the_next_login_wants_another() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let issuer = Issuer::new("one");
    let mut proxy = with_keys(options(&pg, &ca), &issuer.set).start().await;
    let soon = in_an_hour() - 3600 + 2;
    let short = issuer.token("one", &with(&claims(), &json!({ "exp": soon })));
    let mut client = Wire::login_tls(&proxy, ca.client_config(None), "app", &short).await.unwrap();
    eventually("the token has ended, and what was remembered of it", PATIENCE, async || {
        Wire::login_tls(&proxy, ca.client_config(None), "app", &short).await.is_err()
    })
    .await;
    assert_eq!(client.value("SELECT 1").await, "1");
    // Whoever is a user is read anew with the configuration.
    let token = issuer.token("one", &claims());
    drop(Wire::login_tls(&proxy, ca.client_config(None), "app", &token).await.unwrap());
    proxy.rewrite_config(|options| options.set("users.app.token_subjects", list(&["nobody"])));
    proxy.signal(Signal::HUP);
    eventually("the role is nobody's by now", PATIENCE, async || {
        Wire::login_tls(&proxy, ca.client_config(None), "app", &token).await.is_err()
    })
    .await;
    assert_eq!(client.value("SELECT 2").await, "2");
}

#[tokio::test]
async fn operators_and_callers_over_http_show_theirs_too() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let issuer = Issuer::new("one");
    let options = with_keys(options(&pg, &ca), &issuer.set).api().set("console.admin_users", list(&["app"]));
    let proxy = options.start().await;
    let token = issuer.token("one", &claims());
    let mut caller = Caller::connect_tls(&proxy, &ca.client_config(None), &[]).await.unwrap();
    let ask = json!({ "query": "SELECT current_user::text AS u" });
    let reply = caller.neon(&format!("postgres://app:{token}@localhost/app"), &[], &ask).await;
    assert_eq!((reply.status, reply.at("/rows/0/u")), (200, &json!("app")), "{reply:?}");
    let reply = caller.neon("postgres://app:secret@localhost/app", &[], &ask).await;
    assert_eq!((reply.status, reply.at("/code")), (400, &json!("28P01")), "{reply:?}");

    let mut console = Wire::connect(&proxy).await;
    assert_eq!(console.ask(&frames::ssl_request()).await, b'S');
    let mut console = Box::pin(console.tls(ca.client_config(None))).await.unwrap();
    console.start(&[("user", "app"), ("database", "pgweir")]).await;
    console.authenticate("app", &token).await.unwrap();
    assert_eq!(console.query("SHOW VERSION").await.len(), 1);
}

/// Publishes these keys over HTTP while it `is_well`; else it fails. And how often it was asked.
async fn publish(keys: Value, is_well: Arc<AtomicBool>) -> (String, Arc<AtomicU32>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/.well-known/jwks.json", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let counting = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counting.fetch_add(1, Ordering::Relaxed);
            let mut head = [0; 1024];
            let count = stream.read(&mut head).await.unwrap();
            assert!(head[..count].starts_with(b"GET /.well-known/jwks.json HTTP/1.1\r\n"));
            let body = keys.to_string();
            let answer = if is_well.load(Ordering::Relaxed) {
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            } else {
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned()
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

#[tokio::test]
async fn many_at_once_have_the_keys_fetched_once_and_an_issuer_that_is_back_is_asked_again() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let issuer = Issuer::new("one");
    let is_well = Arc::new(AtomicBool::new(false));
    let (url, asked) = publish(issuer.set.clone(), Arc::clone(&is_well)).await;
    let proxy = Arc::new(options(&pg, &ca).set("auth.tokens.jwks_url", url).set("process.workers", 1).max_connections(5).start().await);
    let all = async |users: u32| {
        let mut logins = tokio::task::JoinSet::new();
        for n in 0..users {
            let token = issuer.token("one", &with(&claims(), &json!({ "jti": n })));
            let (proxy, config) = (Arc::clone(&proxy), ca.client_config(None));
            logins.spawn(async move {
                let mut client = Wire::login_tls(&*proxy, config, "app", &token).await.map_err(|error| error.code().to_owned())?;
                Ok::<_, String>(client.value("SELECT 1").await)
            });
        }
        in_time("all logins", logins.join_all()).await
    };
    assert_eq!(all(20).await, vec![Err("28P01".to_owned()); 20]);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "a failing issuer is not asked for every login");
    proxy.logged("the keys of tokens cannot be had").await;
    is_well.store(true, Ordering::Relaxed);
    eventually("it is asked again", PATIENCE, async || {
        Wire::login_tls(&*proxy, ca.client_config(None), "app", &issuer.token("one", &claims())).await.is_ok()
    })
    .await;
    assert_eq!(all(50).await, vec![Ok("1".to_owned()); 50]);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}
