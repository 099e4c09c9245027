//! The asking itself, without a proxy around it: what rows mean, and what becomes of connections that fail.

#![allow(clippy::large_futures, reason = "a test has but a few of them")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgweir::auth::Secret;
use pgweir::config::{Config, parse_str};
use pgweir::metrics::Metrics;
use pgweir::pool::ledger::Ledger;
use pgweir::pool::{Around, AuthQueries, Times, Upstream, mailbox};
use pgweir::upstream::{Broken, Target};

use super::harness::{Postgres, Stop, eventually, in_time};
use super::{questions, readers, server};

/// One upstream, and who asks it.
struct Asker {
    upstream: Arc<Upstream>,
    config: Config,
    queries: AuthQueries,
}

impl Asker {
    fn new(pg: &Postgres, more: &str) -> Self {
        let text = format!(
            "[upstreams.main]\nhost = \"127.0.0.1\"\nport = {}\nauth_user = \"reader\"\nauth_password = \"reading\"\nauth_dbname = \"app\"\n\
             {more}\n[databases.app]\nupstream = \"main\"\n[users.app]\npassword = \"secret\"\n",
            pg.port()
        );
        let config = parse_str(&text).unwrap_or_else(|mistakes| panic!("{mistakes:#?}")).config;
        let target = Target::new(&config.upstreams["main"], &config.server_tcp).unwrap();
        let times =
            Times { check_after: Duration::ZERO, settle: Duration::ZERO, prepared_bytes: 0, follow_functions: false, share_listen: false };
        let (jobs, _) = tokio::sync::mpsc::unbounded_channel();
        let (mail, _) = mailbox();
        let metrics = Metrics::new(1, &[], &[], &[]);
        let around = Around { numbers: metrics.upstream("main"), jobs, mail: [mail].into() };
        let upstream = Upstream::new((0, "main"), Ledger::new(1, 1, &[], pgweir::net::now()), target, times, around);
        Self { upstream, config, queries: AuthQueries::default() }
    }

    /// With another query than the usual one.
    fn with_query(pg: &Postgres, query: &str) -> Self {
        Self::new(pg, &format!("auth_query = \"{query}\""))
    }

    async fn ask(&self, user: &str) -> Result<Option<String>, String> {
        let answer = in_time("an answer", self.queries.ask(&self.upstream, &self.config, user)).await;
        let word = |secret: Arc<Secret>| match &*secret {
            Secret::Password(password) => password.to_string(),
            Secret::Scram(_) => "scram".to_owned(),
            Secret::Md5(_) => "md5".to_owned(),
        };
        answer.map(|secret| secret.map(word)).map_err(|why: Arc<Broken>| why.to_string())
    }
}

/// Runs on one thread, as the control thread does.
async fn on_one_thread(work: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn rows_are_read_as_pgbouncer_reads_them_and_anything_else_is_refused() {
    let pg = server(Postgres::options()).await;
    let cases: [(&str, Result<Option<&str>, &str>); 17] = [
        ("SELECT 'word' WHERE $1 = 'a'", Ok(Some("word"))),
        ("SELECT $1, 'word'", Ok(Some("word"))),
        ("SELECT $1::name, 'word'::varchar", Ok(Some("word"))),
        ("SELECT $1, 'word', NULL::timestamptz", Ok(Some("word"))),
        ("SELECT $1, 'word', now() + interval '1 hour'", Ok(Some("word"))),
        ("SELECT $1, 'word', 'infinity'::timestamptz", Ok(Some("word"))),
        ("SELECT $1, 'word', now() - interval '1 hour'", Ok(None)),
        ("SELECT $1, 'word', '-infinity'::timestamptz", Ok(None)),
        ("SELECT $1, 'word' WHERE false", Ok(None)),
        ("SELECT $1, NULL", Ok(None)),
        ("SELECT nullif($1, 'a'), 'word'", Ok(None)),
        ("SELECT $1, ''", Ok(None)),
        ("SELECT $1, 'SCRAM-SHA-256$nonsense'", Ok(None)),
        ("SELECT $1, 'word' FROM generate_series(1, 2)", Err("more than one row")),
        ("SELECT upper($1), 'word'", Err("another user")),
        ("SELECT $1, 5", Err("texts")),
        ("SELECT $1, 'word', 'tomorrow'", Err("not a time")),
    ];
    on_one_thread(async {
        for (query, expected) in cases {
            let answer = Asker::with_query(&pg, query).ask("a").await;
            match (&answer, expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.as_deref(), expected, "{query}"),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{query}: {why}"),
                _ => panic!("{query}: {answer:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a10_no_setting_of_a_role_or_database_turns_the_question() {
    let pg = server(Postgres::options()).await;
    pg.sql(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; CREATE TABLE evil.pg_authid AS SELECT 'app'::name AS rolname, 'hacked' AS rolpassword,
         NULL::timestamptz AS rolvaliduntil, true AS rolcanlogin; GRANT SELECT ON evil.pg_authid TO PUBLIC;
         ALTER ROLE reader SET search_path = evil, pg_catalog; ALTER DATABASE app SET client_encoding = 'LATIN1'; ALTER ROLE reader SET statement_timeout = 0",
    )
    .await;
    on_one_thread(async {
        let asker = Asker::new(&pg, "");
        assert_eq!(asker.ask("app").await, Ok(Some("scram".to_owned())));
        let asker = Asker::with_query(&pg, "SELECT current_setting($1)");
        let settings = [
            ("search_path", "pg_catalog, pg_temp"),
            ("client_encoding", "UTF8"),
            ("statement_timeout", "5s"),
            ("lock_timeout", "5s"),
            ("application_name", "pgweir auth_query"),
        ];
        for (setting, value) in settings {
            assert_eq!(asker.ask(setting).await, Ok(Some(value.to_owned())), "{setting}");
        }
        // Not one of them is a way into the query.
        assert!(asker.ask("x'; DROP SCHEMA evil CASCADE; --").await.is_err());
        assert_eq!(pg.value("SELECT count(*)::text FROM pg_namespace WHERE nspname = 'evil'").await, "1");
    })
    .await;
}

#[tokio::test]
async fn those_who_ask_at_once_share_one_question_even_when_the_first_gives_up() {
    let pg = server(Postgres::options()).await;
    on_one_thread(async {
        let slow = "SELECT $1, 'word', NULL::timestamptz AS rolvaliduntil FROM pg_sleep(0.3)";
        let asker = Asker::with_query(&pg, slow);
        let (first, second, third) = tokio::join!(asker.ask("a"), asker.ask("a"), asker.ask("b"));
        assert_eq!((first.is_ok(), second.is_ok(), third.is_ok()), (true, true, true));
        assert_eq!(questions(&pg), 2, "one for each user");

        let asker = Asker::with_query(&pg, slow);
        let impatient = tokio::time::timeout(Duration::from_millis(50), asker.ask("a"));
        let (gone, patient) = tokio::join!(impatient, asker.ask("a"));
        assert!(gone.is_err(), "it gave up");
        assert_eq!(patient, Ok(Some("word".to_owned())));
    })
    .await;
}

#[tokio::test]
async fn connections_that_the_server_has_closed_are_replaced_unnoticed() {
    let mut pg = server(Postgres::options()).await;
    on_one_thread(async {
        let asker = Asker::new(&pg, "control_connections = 3");
        let (first, second) = tokio::join!(asker.ask("a"), asker.ask("b"));
        assert_eq!((first, second), (Ok(None), Ok(None)));
        assert_eq!(readers(&pg).await, 2);
        pg.end_backends("app").await;
        assert_eq!(asker.ask("c").await, Ok(None));

        pg.stop(Stop::Fast);
        let down = asker.ask("d").await.unwrap_err();
        assert!(down.contains("127.0.0.1"), "{down}");
        assert_eq!(asker.ask("e").await.unwrap_err(), down, "taken for granted");
        pg.start_again().await;
        eventually("it is asked again", Duration::from_secs(10), || async { asker.ask("app").await == Ok(Some("scram".to_owned())) }).await;
    })
    .await;
}

#[tokio::test]
async fn a_question_that_takes_too_long_is_given_up() {
    let pg = server(Postgres::options()).await;
    on_one_thread(async {
        let asker = Asker::with_query(&pg, "SELECT $1, 'word' FROM pg_sleep(60)");
        let why = asker.ask("a").await.unwrap_err();
        assert!(why.contains("statement timeout"), "{why}");
        assert_eq!(readers(&pg).await, 1, "the connection is in order");
    })
    .await;
}

#[tokio::test]
async fn the_connections_that_ask_have_the_tls_of_all_others() {
    let pg = server(Postgres::options().ssl().hba("hostnossl all reader all reject")).await;
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), pg.ca().pem()).unwrap();
    let tls = |ca: &Path| format!("tls = {{ mode = \"verify-full\", ca = \"{}\" }}", ca.display());
    on_one_thread(async {
        let asker = Asker::new(&pg, &tls(ca.path()));
        assert_eq!(asker.ask("app").await, Ok(Some("scram".to_owned())));
        let ssl = "SELECT bool_and(ssl)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'reader'";
        assert_eq!(pg.value(ssl).await, "true");

        let other = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(other.path(), super::harness::Ca::new().pem()).unwrap();
        assert!(Asker::new(&pg, &tls(other.path())).ask("app").await.is_err(), "a stranger's authority");
        assert!(Asker::new(&pg, "tls = { mode = \"disable\" }").ask("app").await.is_err(), "the server wants TLS");
    })
    .await;
}

#[tokio::test]
async fn a_refused_login_of_the_asking_role_is_told_in_the_servers_words() {
    let pg = server(Postgres::options()).await;
    pg.sql("ALTER ROLE reader PASSWORD 'changed'").await;
    on_one_thread(async {
        let why = Asker::new(&pg, "").ask("app").await.unwrap_err();
        assert_eq!(why, "auth_query failed: password authentication failed for user \"reader\"");
    })
    .await;
}
