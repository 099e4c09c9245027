//! The log: what is told of requests where an operator wants that, what never is, and that a thousand lines alike are one.

mod harness;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use harness::frames::{bind, execute, parse, sync};
use harness::{PATIENCE, Postgres, Proxy, Wire, eventually};
use rustix::process::Signal;
use serde_json::Value;

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

/// The lines with this message.
fn lines(proxy: &Proxy, message: &str) -> Vec<Value> {
    let read = |line: String| serde_json::from_str::<Value>(&line).expect("a line is JSON");
    proxy.log_lines().into_iter().map(read).filter(|line| line["message"] == message).collect()
}

async fn told(proxy: &Proxy, message: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines say {message:?}"), PATIENCE, async || lines(proxy, message).len() >= count).await;
    lines(proxy, message)
}

#[tokio::test]
async fn a_request_that_takes_long_is_told_by_its_digest_and_its_client() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("log.slow_query", "100ms").start().await;
    let mut wire = login(&proxy).await;
    let pid = wire.value("SELECT pg_backend_pid()").await;
    wire.query("SELECT pg_sleep(0.15), 'first secret'").await;
    let slow = told(&proxy, "a request took long", 1).await.remove(0);
    assert_eq!((&slow["tenant"], &slow["user"], &slow["database"]), (&"default".into(), &"app".into(), &"app".into()));
    assert_eq!(slow["server_pid"].to_string(), pid);
    assert!(slow["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")), "{slow}");
    assert!(slow["took_ms"].as_f64().is_some_and(|took| (150.0..10_000.0).contains(&took)), "{slow}");
    assert!(slow.get("text").is_none(), "no text unless it is asked for: {slow}");
    // By the extended protocol, and when a statement that was prepared before is run: the same shape has the same digest.
    wire.send(&[parse("s", "select PG_SLEEP( 0.16 ),   'another'", &[]), sync()].concat()).await;
    wire.until_ready().await;
    wire.send(&[bind("", "s", &[]), execute("", 0), sync()].concat()).await;
    wire.until_ready().await;
    // Those that are alike are counted for as long as one comes every second.
    let more = told(&proxy, "more requests took long", 1).await.remove(0);
    assert!(more["requests"] == 1 && more["statement"] == slow["statement"], "{more}");
    assert!(!proxy.log_lines().iter().any(|line| line.contains("secret") || line.contains("another")), "no text is told");
}

#[tokio::test]
async fn texts_are_told_where_that_is_asked_for_and_no_longer() {
    let pg = Postgres::start().await;
    let mut proxy = Proxy::new(&pg).set("log.queries", "all").start().await;
    let mut wire = login(&proxy).await;
    wire.query("SELECT 'one'; SELECT 'two'").await;
    wire.send(&[parse("", "SELECT $1::text", &[]), bind("", "", &[Some("three")]), execute("", 0), sync()].concat()).await;
    wire.until_ready().await;
    wire.query("BEGIN").await;
    wire.try_query("SELECT 1/0").await.unwrap_err();
    wire.query("ROLLBACK").await;
    wire.query(&format!("SELECT length('{}')", "x".repeat(100_000))).await;
    // However the network cuts it, also behind a transaction's other statements; a Sync has no text of its own.
    wire.query("BEGIN").await;
    wire.send_in_pieces(&harness::frames::query("SELECT 'in pieces'"), 5).await;
    wire.until_ready().await;
    wire.send(&[parse("", "SELECT 'flushed'", &[]), bind("", "", &[]), execute("", 0), harness::frames::flush()].concat()).await;
    wire.expect(b'1').await;
    wire.expect(b'2').await;
    wire.expect(b'D').await;
    wire.expect(b'C').await;
    wire.send(&sync()).await;
    wire.until_ready().await;
    let all = told(&proxy, "a request", 9).await;
    let texts: Vec<&str> = all.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(texts[..5], ["SELECT 'one'; SELECT 'two'", "SELECT $1::text", "BEGIN", "SELECT 1/0", "ROLLBACK"]);
    assert_eq!(texts[6..], ["BEGIN", "SELECT 'in pieces'", "SELECT 'flushed'"]);
    wire.query("COMMIT").await;
    assert!(texts[5].starts_with("SELECT length('xxx") && texts[5].len() == 4096, "{}", texts[5].len());
    // A reload is enough.
    proxy.rewrite_config(|options| options.set("log.queries", "slow").set("log.slow_query", "100ms"));
    proxy.signal(Signal::HUP);
    proxy.logged("reload: done").await;
    // Workers hear of it one after the other.
    let told_still = async |wire: &mut Wire| {
        let before = lines(&proxy, "a request").len();
        wire.query("SELECT 'quick'").await;
        wire.query("SELECT pg_sleep(0.05)").await;
        lines(&proxy, "a request").len() > before
    };
    while told_still(&mut wire).await {}
    wire.query("SELECT pg_sleep(0.15), 'slow'").await;
    let slow = told(&proxy, "a request took long", 1).await.remove(0);
    assert_eq!(slow["text"], "SELECT pg_sleep(0.15), 'slow'");
}

#[tokio::test]
async fn many_sessions_that_end_alike_are_two_lines() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("defaults.client_idle_timeout", "300ms").set("process.workers", 1).start().await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(login(&proxy).await);
    }
    for wire in &mut clients {
        wire.until_closed().await;
    }
    let ended = told(&proxy, "a client's session is ended", 1).await;
    assert_eq!((&ended[0]["user"], &ended[0]["database"], &ended[0]["fault"]), (&"app".into(), &"app".into(), &"idle_client".into()));
    eventually("each is counted once", PATIENCE, async || {
        let more: u64 = lines(&proxy, "more clients' sessions were ended").iter().filter_map(|line| line["clients"].as_u64()).sum();
        more + lines(&proxy, "a client's session is ended").len() as u64 == 40
    })
    .await;
    assert!(lines(&proxy, "a client's session is ended").len() < 10);
}

#[test]
fn where_no_terminal_reads_it_the_log_has_no_colours() {
    let listen = [("PGWEIR_LISTEN__POSTGRES", "127.0.0.1:0"), ("PGWEIR_LISTEN__HTTP", "127.0.0.1:0")];
    let mut process = Command::new(env!("CARGO_BIN_EXE_pgweir"))
        .arg("serve")
        .envs(listen)
        .env("PGWEIR_UPSTREAM", "postgres://app:secret@127.0.0.1:1/app")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = Vec::new();
    for line in lines {
        said.push(line);
        if said.last().is_some_and(|line| line.contains("ready")) {
            break;
        }
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let last = said.last().expect("it says something");
    assert!(last.contains(" INFO ready version=\"") && last.contains(" workers="), "{said:#?}");
    assert!(!said.concat().contains('\u{1b}'), "{said:#?}");
}
