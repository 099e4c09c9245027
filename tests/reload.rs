//! SIGHUP: what can change changes at once, without losing a client or a transaction; a file that cannot be used changes nothing and says why; what needs a restart
//! is named.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use harness::frames::query;
use harness::{Ca, PATIENCE, Postgres, Proxy, ProxyOptions, Wire, eventually};
use rustix::process::Signal;
use tokio::task::JoinSet;

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.unwrap()
}

fn reloads(proxy: &Proxy) -> usize {
    proxy.log_lines().iter().filter(|line| line.contains("\"reload: done\"")).count()
}

/// Changes the configuration and waits until it is in force.
async fn reload(proxy: &mut Proxy, change: impl FnOnce(ProxyOptions) -> ProxyOptions) {
    let before = reloads(proxy);
    proxy.rewrite_config(change);
    proxy.signal(Signal::HUP);
    eventually("the configuration is read again", PATIENCE, async || reloads(proxy) > before).await;
}

/// Logged lines that contain all of these.
fn logged(proxy: &Proxy, words: &[&str]) -> Vec<String> {
    proxy.log_lines().into_iter().filter(|line| words.iter().all(|word| line.contains(word))).collect()
}

/// A transaction after the other, on one connection, until it is over; each must succeed.
async fn work(mut client: Wire, id: usize, over: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    while !over.load(Ordering::Relaxed) {
        client.query("BEGIN").await;
        client.query(&format!("UPDATE accounts SET balance = balance + 1 WHERE id = {id}")).await;
        client.query("COMMIT").await;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_changed_budget_holds_at_once_and_no_client_or_transaction_is_lost() {
    const CLIENTS: usize = 8;
    let pg = Postgres::start().await;
    pg.sql(&format!("CREATE TABLE accounts AS SELECT id, 0 AS balance FROM generate_series(0, {}) AS id", CLIENTS - 1)).await;
    pg.sql("GRANT ALL ON accounts TO app").await;
    let mut proxy = Proxy::new(&pg).max_connections(8).set("defaults.queue_timeout", "60s").start().await;
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut working = JoinSet::new();
    for id in 0..CLIENTS {
        working.spawn(work(login(&proxy).await, id, Arc::clone(&over), Arc::clone(&done)));
    }
    let mut long = login(&proxy).await;
    long.query("BEGIN").await;
    let pid = long.value("SELECT pg_backend_pid()").await;

    for budget in [2, 8, 3, 1, 6, 2] {
        reload(&mut proxy, |options| options.max_connections(budget)).await;
        assert_eq!(proxy.metric("pgweir_upstream_limit{upstream=\"main\"}").await, f64::from(budget));
        eventually("the budget is kept", PATIENCE, async || pg.backends("app").await <= budget as usize).await;
        if budget > 1 {
            // The long transaction holds one of them.
            let before = done.load(Ordering::Relaxed);
            eventually("work goes on", PATIENCE, async || done.load(Ordering::Relaxed) > before + 20).await;
        }
        let ((), most) = pg.most_backends("app", tokio::time::sleep(std::time::Duration::from_millis(100))).await;
        assert!(most <= budget as usize, "{most} server connections with a budget of {budget}");
    }
    assert_eq!(long.value("SELECT pg_backend_pid()").await, pid, "its transaction went on over all of that");
    long.query("COMMIT").await;
    over.store(true, Ordering::Relaxed);
    tokio::time::timeout(PATIENCE, working.join_all()).await.expect("every client comes to its end");
    let balance = pg.value("SELECT sum(balance) FROM accounts").await;
    assert_eq!(balance, done.load(Ordering::Relaxed).to_string(), "every transaction counts once");
}

#[tokio::test]
async fn a_tenants_changed_limits_hold_for_those_who_are_connected() {
    let pg = Postgres::start().await;
    let options = Proxy::new(&pg).tenant("small", "match = { user = \"app\" }\nmax_server_connections = 1");
    let mut proxy = options.set("defaults.queue_timeout", "60s").start().await;
    let (mut holder, mut waiter) = (login(&proxy).await, login(&proxy).await);
    holder.query("BEGIN").await;
    waiter.send(&query("SELECT 'served'")).await;
    let depth = "pgweir_queue_depth{tenant=\"small\",upstream=\"main\"}";
    eventually("it waits", PATIENCE, async || proxy.metric(depth).await > 0.5).await;

    reload(&mut proxy, |options| options.set("tenants.small.max_server_connections", 2)).await;
    assert_eq!(waiter.until_ready().await.len(), 4, "{}", waiter.transcript());

    reload(&mut proxy, |options| options.set("tenants.small.max_server_connections", 1).set("tenants.small.max_queue", 0)).await;
    assert_eq!(waiter.try_query("SELECT 1").await.unwrap_err().code(), "53300");
    reload(&mut proxy, |options| options.set("tenants.small.max_queue", 10).set("tenants.small.queue_timeout", "200ms")).await;
    let refusal = waiter.try_query("SELECT 1").await.unwrap_err();
    assert_eq!(refusal.code(), "53300");
    assert!(refusal.detail().contains("waited"), "{refusal}");

    reload(&mut proxy, |options| options.set("tenants.small.max_clients", 2)).await;
    let refusal = Wire::login(&proxy, "app", "secret", "app").await.err().expect("a refusal");
    assert_eq!((refusal.severity(), refusal.code()), ("FATAL", "53300"));
    holder.query("COMMIT").await;
    assert_eq!(waiter.value("SELECT 'served'").await, "served");
}

#[tokio::test]
async fn a_changed_password_holds_for_the_next_login_and_ends_nobodys_session() {
    let pg = Postgres::start().await;
    let mut proxy = Proxy::new(&pg).set("users.app.server_password", "secret").start().await;
    let mut client = login(&proxy).await;
    client.query("BEGIN").await;
    let code = async |proxy: &Proxy, user: &str, password: &str| {
        Wire::login(proxy, user, password, "app").await.err().map(|error| error.code().to_owned())
    };
    assert_eq!(code(&proxy, "app", "hemlock").await.as_deref(), Some("28P01"));
    assert_eq!(code(&proxy, "late", "belladonna").await.as_deref(), Some("28P01"));

    let late = |options: ProxyOptions| {
        let options = options.user("late", "belladonna").set("users.late.server_user", "app").set("users.late.server_password", "secret");
        options.set("users.app.password", "hemlock")
    };
    reload(&mut proxy, late).await;
    assert_eq!(code(&proxy, "app", "hemlock").await, None);
    assert_eq!(code(&proxy, "app", "secret").await.as_deref(), Some("28P01"));
    assert_eq!(code(&proxy, "late", "belladonna").await, None);
    client.query("COMMIT").await;
    assert_eq!(client.value("SELECT 'served'").await, "served");
    for password in ["hemlock", "belladonna"] {
        assert_eq!(logged(&proxy, &[password]), Vec::<String>::new(), "a password is in the log");
    }
}

#[tokio::test]
async fn a_changed_log_level_holds_at_once() {
    let pg = Postgres::start().await;
    let mut proxy = Proxy::new(&pg).start().await;
    reload(&mut proxy, |options| options).await;
    proxy.rewrite_config(|options| options.set("log.level", "error"));
    proxy.signal(Signal::HUP);
    // Told while it is still the old level that counts, as is what comes at the end of a reload no more.
    proxy.logged("log.level").await;
    proxy.rewrite_config(|options| options.set("log.level", "info").max_connections(3));
    proxy.signal(Signal::HUP);
    let limit = "pgweir_upstream_limit{upstream=\"main\"}";
    eventually("the second change is in force", PATIENCE, async || (proxy.metric(limit).await - 3.0).abs() < 0.5).await;
    eventually("the second reload has ended, aloud", PATIENCE, async || reloads(&proxy) == 2).await;
    assert_eq!(logged(&proxy, &["upstreams.main.max_connections"]), Vec::<String>::new(), "this was said at level error");
}

#[tokio::test]
async fn a_certificate_is_read_again() {
    let pg = Postgres::start().await;
    let (old, new) = (Ca::new(), Ca::new());
    let mut proxy = Proxy::new(&pg).tls("require", &old.server()).start().await;
    let mut client = Wire::login_tls(&proxy, old.client_config(None), "app", "secret").await.unwrap();
    // The same names, with other content.
    reload(&mut proxy, |options| options.tls("require", &new.server())).await;
    let mut late = Wire::login_tls(&proxy, new.client_config(None), "app", "secret").await.unwrap();
    assert_eq!(late.value("SELECT 'served'").await, "served");
    assert_eq!(client.value("SELECT 'served'").await, "served");

    let mut stale = Wire::connect(&proxy).await;
    assert_eq!(stale.ask(&harness::frames::ssl_request()).await, b'S');
    assert!(Box::pin(stale.tls(old.client_config(None))).await.is_err(), "the old authority has not signed this");

    reload_in_vain(&proxy, || std::fs::write(proxy.folder().join("client-side.crt"), "no certificate").unwrap()).await;
    assert!(Wire::login_tls(&proxy, new.client_config(None), "app", "secret").await.is_ok(), "the last good one stays");
}

/// Spoils something, and waits until a reload has said that nothing has changed.
async fn reload_in_vain(proxy: &Proxy, spoil: impl FnOnce()) -> Vec<String> {
    let vain = || logged(proxy, &["reload: nothing has changed"]);
    let (before, from) = (vain().len(), proxy.log_lines().len());
    spoil();
    proxy.signal(Signal::HUP);
    eventually("nothing has changed", PATIENCE, async || vain().len() > before).await;
    proxy.log_lines().split_off(from)
}

#[tokio::test]
async fn a_file_that_cannot_be_used_changes_nothing_and_says_why() {
    let pg = Postgres::start().await;
    let mut proxy = Proxy::new(&pg).start().await;
    let mut client = login(&proxy).await;
    client.query("BEGIN").await;
    let good = std::fs::read_to_string(proxy.folder().join("pgweir.toml")).unwrap();
    let changed = good.replace("max_connections = 10", "max_connections = 3");
    assert_ne!(good, changed);
    let line = good.lines().count() + 2;
    let spoiled = [
        // Each: what is appended, and what the log says of it, with line, column and remedy.
        ("\n[defaults]\nmax_quue = 5\n", format!(":{}:1: error", line + 1), "max_queue"),
        ("\n[defaults]\nqueue_timeout = \"5 parsecs\"\n", format!(":{}:17: error", line + 1), "help: "),
        ("\n[databases.lost]\nupstream = \"mian\"\n", format!(":{}:12: error", line + 1), "main"),
        ("\n[defaults\n", format!(":{line}:"), "error"),
    ];
    for (addition, place, remedy) in spoiled {
        let told = reload_in_vain(&proxy, || proxy.write_config_text(&format!("{changed}{addition}"))).await;
        let told: Vec<&String> = told.iter().filter(|line| line.contains("\"ERROR\"") && line.contains("pgweir.toml")).collect();
        assert!(told.iter().any(|told| told.contains(&place) && told.contains(remedy)), "{place:?} and {remedy:?} in {told:#?}");
        assert_eq!(proxy.metric("pgweir_upstream_limit{upstream=\"main\"}").await, 10.0);
    }
    std::fs::remove_file(proxy.folder().join("pgweir.toml")).unwrap();
    reload_in_vain(&proxy, || ()).await;
    client.query("COMMIT").await;
    assert_eq!(login(&proxy).await.value("SELECT 'served'").await, "served");
    // And a good one afterwards is heeded.
    reload(&mut proxy, |options| options.max_connections(3)).await;
    assert_eq!(proxy.metric("pgweir_upstream_limit{upstream=\"main\"}").await, 3.0);
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_does_no_harm() {
    let pg = Postgres::start().await;
    let mut proxy = Proxy::new(&pg).start().await;
    let mut client = login(&proxy).await;
    let change = |options: ProxyOptions| {
        let options = options.set("process.workers", 3).set("process.read_buffer", "64KiB").set("log.format", "text");
        options.set("defaults.queue_timeout", "7s").set("listen.http", "127.0.0.1:1")
    };
    reload(&mut proxy, change).await;
    for setting in ["process.workers", "process.read_buffer", "log.format", "listen.http"] {
        let told = logged(&proxy, &[&format!("\"setting\":\"{setting}\""), "\"applies\":\"restart\""]);
        assert_eq!(told.len(), 1, "{setting}: {told:?}");
    }
    assert_eq!(logged(&proxy, &["\"setting\":\"defaults.queue_timeout\"", "\"applies\":\"at once\"", "7s"]).len(), 1);
    assert_eq!(client.value("SELECT 'served'").await, "served");
    assert_eq!(proxy.http_get("/readyz").await.status, 200, "where it was before");
}

async fn limit(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_upstream_limit{upstream=\"main\"}").await
}

#[tokio::test]
async fn a_changed_file_is_read_again_where_that_is_asked_for() {
    let pg = Postgres::start().await;
    let mut proxy = Proxy::new(&pg).set("process.watch", "50ms").start().await;
    let mut client = login(&proxy).await;
    proxy.rewrite_config(|options| options.max_connections(3));
    eventually("the new budget is in force", PATIENCE, async || limit(&proxy).await == 3.0).await;
    proxy.write_config_text("nonsense");
    proxy.logged("nothing has changed").await;
    assert_eq!(limit(&proxy).await, 3.0);
    assert_eq!(client.value("SELECT 1").await, "1");
    let reads = reloads(&proxy);
    proxy.rewrite_config(|options| options.set("process.watch", "0").max_connections(4));
    eventually("this one is still read", PATIENCE, async || reloads(&proxy) > reads).await;
    proxy.rewrite_config(|options| options.max_connections(5));
    // Twenty times what it took before, and longer than it is looked whether anybody asks.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(limit(&proxy).await, 4.0, "nobody asks any more");
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_where_that_is_asked_for() {
    let pg = Postgres::start().await;
    let ca = Ca::new();
    let (old, new) = (ca.server(), ca.server());
    let proxy = Proxy::new(&pg).tls("prefer", &old).set("process.watch", "50ms").start().await;
    let before = reloads(&proxy);
    for (kind, text) in [("cert", &new.certificate), ("key", &new.key)] {
        let config: toml::Table = std::fs::read_to_string(proxy.folder().join("pgweir.toml")).unwrap().parse().unwrap();
        std::fs::write(config["tls"]["client"][kind].as_str().unwrap(), text).unwrap();
    }
    eventually("both are read", PATIENCE, async || reloads(&proxy) > before).await;
}
