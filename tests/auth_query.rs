//! Users whom only PostgreSQL knows: what `auth_query` asks, over which connections, how often, and what nobody can do to it. Checklist A10, A11.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail the test")]

#[path = "auth_query/asking.rs"]
mod asking;
mod harness;

use std::time::Duration;

use harness::{Postgres, PostgresOptions, Proxy, ProxyOptions, Stop, Wire, eventually, in_time};
use tokio::task::JoinSet;

/// Longer than an answer is remembered.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// What every question has in it, and nothing else.
const MARK: &str = "rolvaliduntil";

/// A server that logs what it is asked, with a role that may read passwords.
async fn server(options: PostgresOptions) -> Postgres {
    let pg = options.conf("log_statement = all").start().await;
    pg.sql("CREATE ROLE reader LOGIN PASSWORD 'reading'; GRANT SELECT ON pg_authid TO reader").await;
    pg
}

/// A proxy that knows the user `app`, and asks for everyone else.
fn proxy(pg: &Postgres) -> ProxyOptions {
    Proxy::new(pg)
        .set("upstreams.main.auth_user", "reader")
        .set("upstreams.main.auth_password", "reading")
        .set("upstreams.main.auth_dbname", "app")
}

/// How often the server was asked for a password.
fn questions(pg: &Postgres) -> usize {
    pg.log().lines().filter(|line| line.contains("execute") && line.contains(MARK)).count()
}

/// How many connections the role that asks has.
async fn readers(pg: &Postgres) -> usize {
    pg.value("SELECT count(*)::text FROM pg_stat_activity WHERE usename = 'reader'").await.parse().unwrap()
}

#[tokio::test]
async fn a_user_whom_only_postgres_knows_logs_in_without_a_password_in_the_configuration() {
    let pg = server(Postgres::options()).await;
    pg.sql("CREATE ROLE stranger LOGIN PASSWORD 'knows'").await;
    let proxy = proxy(&pg).start().await;
    let mut wire = Wire::login(proxy.address(), "stranger", "knows", "app").await.unwrap();
    assert_eq!(wire.value("SELECT current_user").await, "stranger");
    // The configured user is not asked for.
    let before = questions(&pg);
    let mut app = Wire::login(proxy.address(), "app", "secret", "app").await.unwrap();
    assert_eq!(app.value("SELECT current_user").await, "app");
    assert_eq!((before, questions(&pg)), (1, 1));
}

#[tokio::test]
async fn a11_a_wrong_password_and_an_unknown_user_hear_the_same() {
    let pg = server(Postgres::options()).await;
    pg.sql("CREATE ROLE stranger LOGIN PASSWORD 'knows'; CREATE ROLE locked PASSWORD 'knows'; CREATE ROLE empty LOGIN").await;
    let proxy = proxy(&pg).start().await;
    for user in ["stranger", "nobody", "locked", "empty"] {
        let password = if user == "stranger" { "guessed" } else { "knows" };
        let refused = Wire::login(proxy.address(), user, password, "app").await.err().expect("a refusal");
        assert_eq!((refused.severity(), refused.code()), ("FATAL", "28P01"), "{user}: {refused}");
        assert_eq!(refused.message(), format!("password authentication failed for user \"{user}\""));
    }
}

#[tokio::test]
async fn a10_an_expired_password_is_refused() {
    let pg = server(Postgres::options()).await;
    pg.sql(
        "CREATE ROLE late LOGIN PASSWORD 'knows' VALID UNTIL '2020-01-01'; CREATE ROLE early LOGIN PASSWORD 'knows' VALID UNTIL '2999-01-01';
         CREATE ROLE always LOGIN PASSWORD 'knows' VALID UNTIL 'infinity'",
    )
    .await;
    let proxy = proxy(&pg).start().await;
    let refused = Wire::login(proxy.address(), "late", "knows", "app").await.err().expect("a refusal");
    assert_eq!(refused.code(), "28P01");
    for user in ["early", "always"] {
        Wire::login(proxy.address(), user, "knows", "app").await.unwrap();
    }
}

#[tokio::test]
async fn a10_nothing_that_a_client_sets_reaches_the_connection_that_asks() {
    let pg = server(Postgres::options()).await;
    // Whoever logs in with the first of these has turned the question; `victim` has a password that is not `hacked`.
    pg.sql(
        "CREATE ROLE victim LOGIN PASSWORD 'unguessable'; CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
         CREATE TABLE evil.pg_authid (rolname name, rolpassword text, rolvaliduntil timestamptz, rolcanlogin bool);
         INSERT INTO evil.pg_authid VALUES ('victim', 'hacked', NULL, true), ('reader', 'hacked', NULL, true);
         GRANT SELECT ON evil.pg_authid TO PUBLIC;
         CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'epoch'::timestamptz $$",
    )
    .await;
    let proxy = proxy(&pg).start().await;
    let attempts: [&[(&str, &str)]; 3] = [
        &[("user", "victim"), ("database", "app"), ("search_path", "evil, pg_catalog")],
        &[("user", "victim"), ("database", "app"), ("options", "-c search_path=evil,pg_catalog")],
        &[("user", "victim"), ("database", "app"), ("role", "reader"), ("application_name", "pgweir auth_query")],
    ];
    for startup in attempts {
        let mut wire = Wire::connect(proxy.address()).await;
        wire.start(startup).await;
        assert_eq!(wire.authenticate("victim", "hacked").await.expect_err("a refusal").code(), "28P01", "{startup:?}");
    }
    let mut wire = Wire::connect(proxy.address()).await;
    wire.start(attempts[0]).await;
    wire.authenticate("victim", "unguessable").await.unwrap();
    assert_eq!(wire.value("SHOW search_path").await, "evil, pg_catalog");
}

#[tokio::test]
async fn two_hundred_logins_at_once_are_one_question() {
    let pg = server(Postgres::options()).await;
    pg.sql("CREATE ROLE stranger LOGIN PASSWORD 'knows'").await;
    let proxy = proxy(&pg).start().await;
    let mut logins = JoinSet::new();
    for _ in 0..200 {
        let address = proxy.address();
        logins.spawn(async move { Wire::login(address, "stranger", "knows", "app").await.map(drop) });
    }
    let began = tokio::time::Instant::now();
    while let Some(login) = in_time("200 logins", logins.join_next()).await {
        login.unwrap().unwrap();
    }
    // One, and one more for every time that the answer was forgotten meanwhile.
    let most = 1 + usize::try_from(began.elapsed().as_secs() / 5).unwrap();
    assert!((1..=most).contains(&questions(&pg)), "{} questions in {:?}", questions(&pg), began.elapsed());
}

#[tokio::test]
async fn the_connections_that_ask_never_exceed_their_allowance() {
    let pg = server(Postgres::options()).await;
    let proxy = proxy(&pg).set("upstreams.main.control_connections", 3).start().await;
    let storm = async {
        let mut logins = JoinSet::new();
        for user in 0..100 {
            let address = proxy.address();
            logins.spawn(async move {
                Wire::login(address, &format!("nobody_{user}"), "guessed", "app").await.err().map(|error| error.code().to_owned())
            });
        }
        while let Some(login) = logins.join_next().await {
            assert_eq!(login.unwrap().as_deref(), Some("28P01"));
        }
    };
    // No pool for clients is ever opened: every connection is one that asks.
    let ((), most) = Box::pin(in_time("100 refusals", pg.most_backends("app", storm))).await;
    assert!((1..=2).contains(&most), "{most} connections, of 3 that may be, less one for cancels");
    assert_eq!(questions(&pg), 100);
    assert_eq!(readers(&pg).await, most);
}

#[tokio::test]
async fn a_changed_password_is_picked_up() {
    let pg = server(Postgres::options()).await;
    pg.sql("CREATE ROLE stranger LOGIN PASSWORD 'old'").await;
    let proxy = proxy(&pg).start().await;
    let log_in = async |password: &str| Wire::login(proxy.address(), "stranger", password, "app").await;
    log_in("old").await.unwrap();
    pg.sql("ALTER ROLE stranger PASSWORD 'new'").await;
    eventually("the new password is good", FORGOTTEN, || async { log_in("new").await.is_ok() }).await;
    assert_eq!(log_in("old").await.err().expect("a refusal").code(), "28P01");
    // The keys that the new login has shown open new connections.
    pg.end_backends("app").await;
    eventually("they have ended", FORGOTTEN, || async { pg.backends("app").await == 0 }).await;
    let mut wire = log_in("new").await.unwrap();
    assert_eq!(wire.value("SELECT current_user").await, "stranger");
}

#[tokio::test]
async fn a_new_user_is_picked_up() {
    let pg = server(Postgres::options()).await;
    let proxy = proxy(&pg).start().await;
    let log_in = async || Wire::login(proxy.address(), "stranger", "knows", "app").await;
    assert_eq!(log_in().await.err().expect("a refusal").code(), "28P01");
    pg.sql("CREATE ROLE stranger LOGIN PASSWORD 'knows'").await;
    eventually("the new user is let in", FORGOTTEN, || async { log_in().await.is_ok() }).await;
}

#[tokio::test]
async fn an_upstream_that_cannot_be_asked_says_nothing_of_why_to_a_stranger() {
    let mut pg = server(Postgres::options()).await;
    pg.sql("CREATE ROLE stranger LOGIN PASSWORD 'knows'; REVOKE SELECT ON pg_authid FROM reader").await;
    let proxy = proxy(&pg).start().await;
    let log_in = async || Wire::login(proxy.address(), "stranger", "knows", "app").await;
    let refused = log_in().await.err().expect("a refusal");
    assert_eq!((refused.severity(), refused.code()), ("FATAL", "57P03"));
    assert!(!refused.to_string().contains("pg_authid"), "{refused}");
    let told = proxy.logged("permission denied for table pg_authid").await;
    assert!(told.contains("auth_query"), "{told}");

    pg.stop(Stop::Fast);
    assert_eq!(log_in().await.err().expect("a refusal").code(), "57P03");
    pg.start_again().await;
    pg.sql("GRANT SELECT ON pg_authid TO reader").await;
    eventually("it is asked again", FORGOTTEN, || async { log_in().await.is_ok() }).await;
}

#[tokio::test]
async fn md5_hashes_and_plain_passwords_serve_as_well() {
    let pg = server(Postgres::options().auth("md5")).await;
    pg.sql("CREATE ROLE stranger LOGIN PASSWORD 'knows'").await;
    let md5 = proxy(&pg).set("auth.method", "md5").start().await;
    let mut wire = Wire::login(md5.address(), "stranger", "knows", "app").await.unwrap();
    assert_eq!(wire.value("SELECT current_user").await, "stranger");

    pg.sql("CREATE TABLE accounts (name text, password text); INSERT INTO accounts VALUES ('stranger', 'knows'); GRANT SELECT ON accounts TO reader").await;
    let plain = proxy(&pg).set("upstreams.main.auth_query", "SELECT name, password FROM public.accounts WHERE name = $1").start().await;
    let mut wire = Wire::login(plain.address(), "stranger", "knows", "app").await.unwrap();
    assert_eq!(wire.value("SELECT current_user").await, "stranger");
    pg.sql("UPDATE accounts SET password = 'other'; ALTER ROLE stranger PASSWORD 'other'").await;
    let log_in = async |password: &str| Wire::login(plain.address(), "stranger", password, "app").await;
    eventually("the new password is good", FORGOTTEN, || async { log_in("other").await.is_ok() }).await;
    assert_eq!(log_in("knows").await.err().expect("a refusal").code(), "28P01");
}
