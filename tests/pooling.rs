//! Many clients, few server connections: what the budget, the limits, the queue and the reaper promise, seen from both ends. Checklist A12, C9, G2, and the rules
//! of admission 1, 2, 5, 6 and 7.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::time::Duration;

use harness::frames::{bind, execute, flush, parse, query, sync};
use harness::{Faulty, PATIENCE, Postgres, Proxy, ServerError, Stop, Way, Wire, eventually, in_time};
use tokio::task::JoinSet;
use tokio::time::Instant;

async fn login(proxy: &Proxy) -> Wire {
    login_as(proxy, "app").await
}

async fn login_as(proxy: &Proxy, user: &str) -> Wire {
    Wire::login(proxy, user, "secret", "app").await.unwrap_or_else(|error| panic!("{user}: {error}"))
}

/// A cluster with a second user, `other`, whose password is `secret` too.
async fn with_another_user() -> Postgres {
    let pg = Postgres::start().await;
    pg.sql("CREATE ROLE other LOGIN PASSWORD 'secret'").await;
    pg
}

/// How many server connections this user has.
async fn backends_of(pg: &Postgres, user: &str) -> usize {
    pg.value(&format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'")).await.parse().unwrap()
}

async fn queued(proxy: &Proxy, tenant: &str, count: u32) {
    let depth = format!("pgweir_queue_depth{{tenant=\"{tenant}\",upstream=\"main\"}}");
    eventually(&format!("{count} in the queue of {tenant}"), PATIENCE, async || {
        (proxy.metric(&depth).await - f64::from(count)).abs() < 0.5
    })
    .await;
}

async fn opened(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_server_connects_total{upstream=\"main\",outcome=\"ok\"}").await
}

/// That this is how a living session hears of a limit.
fn assert_refused(refusal: &ServerError, told: &str) {
    assert_eq!((refusal.severity(), refusal.code()), ("ERROR", "53300"), "{refusal}");
    assert!(refusal.message().contains(told), "{refusal}");
    assert!(refusal.detail().contains("enant \"default\"") && refusal.detail().contains("\"main\""), "{refusal}");
    let hint = refusal.hint().strip_prefix("retry after ").and_then(|rest| rest.strip_suffix(" ms"));
    assert!(hint.is_some_and(|number| number.parse::<u32>().is_ok()), "{refusal}");
}

#[tokio::test]
async fn a_storm_over_two_pools_never_exceeds_the_budget() {
    const BUDGET: usize = 4;
    let pg = with_another_user().await;
    let proxy = Proxy::new(&pg).user("other", "secret").max_connections(4).set("defaults.queue_timeout", "60s").start().await;
    let storm = async {
        let mut clients = JoinSet::new();
        for number in 0..100 {
            let (address, user) = (proxy.address(), if number % 2 == 0 { "app" } else { "other" });
            clients.spawn(async move {
                let mut client = Wire::login(address, user, "secret", "app").await.unwrap();
                for _ in 0..5 {
                    client.query("BEGIN").await;
                    assert_eq!(client.value("SELECT current_user").await, user);
                    client.query("COMMIT").await;
                }
            });
        }
        tokio::time::timeout(PATIENCE * 3, clients.join_all()).await.expect("every client is served");
    };
    let ((), most) = pg.most_backends("app", storm).await;
    assert!((2..=BUDGET).contains(&most), "{most} server connections were seen");
}

#[tokio::test]
async fn an_idle_connection_of_another_pool_is_closed_for_a_waiter() {
    let pg = with_another_user().await;
    let proxy = Proxy::new(&pg).user("other", "secret").max_connections(1).start().await;
    let (mut one, mut two) = (login(&proxy).await, login_as(&proxy, "other").await);
    for _ in 0..3 {
        assert_eq!(one.value("SELECT current_user").await, "app");
        assert_eq!((backends_of(&pg, "app").await, backends_of(&pg, "other").await), (1, 0));
        assert_eq!(two.value("SELECT current_user").await, "other");
        assert_eq!((backends_of(&pg, "app").await, backends_of(&pg, "other").await), (0, 1));
    }
}

#[tokio::test]
async fn a_tenant_holds_no_more_than_its_cap_while_others_are_served() {
    let pg = with_another_user().await;
    let options = Proxy::new(&pg).user("other", "secret");
    let proxy = options.tenant("small", "match = { user = \"other\" }\nmax_server_connections = 2").start().await;
    let mut holders = [login_as(&proxy, "other").await, login_as(&proxy, "other").await];
    for holder in &mut holders {
        holder.query("BEGIN").await;
    }
    let mut third = login_as(&proxy, "other").await;
    third.send(&query("SELECT 'third'")).await;
    queued(&proxy, "small", 1).await;

    assert_eq!(login(&proxy).await.value("SELECT 'served'").await, "served");
    third.expect_silence(Duration::from_millis(200)).await;
    assert_eq!(backends_of(&pg, "other").await, 2);

    holders[0].query("COMMIT").await;
    assert_eq!(third.until_ready().await.len(), 4);
    assert_eq!(backends_of(&pg, "other").await, 2);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_the_session_lives_on() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.max_queue", 1).set("defaults.queue_timeout", "60s").start().await;
    let (mut holder, mut waiter, mut refused) = (login(&proxy).await, login(&proxy).await, login(&proxy).await);
    holder.query("BEGIN").await;
    waiter.send(&query("SELECT 'waited'")).await;
    queued(&proxy, "default", 1).await;

    for _ in 0..2 {
        assert_refused(&refused.try_query("SELECT 1").await.unwrap_err(), "waiting");
    }
    assert_eq!(proxy.metric("pgweir_refused_total{tenant=\"default\",fault=\"queue_full\"}").await, 2.0);
    waiter.expect_silence(Duration::from_millis(20)).await;

    holder.query("COMMIT").await;
    waiter.until_ready().await;
    assert_eq!(refused.value("SELECT 'served'").await, "served");
}

#[tokio::test]
async fn a_wait_that_takes_too_long_is_refused_and_the_session_lives_on() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "300ms").start().await;
    let (mut holder, mut waiter) = (login(&proxy).await, login(&proxy).await);
    holder.query("BEGIN").await;
    let began = Instant::now();
    assert_refused(&waiter.try_query("SELECT 1").await.unwrap_err(), "in time");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    queued(&proxy, "default", 0).await;
    holder.query("COMMIT").await;
    assert_eq!(waiter.value("SELECT 'served'").await, "served");
}

#[tokio::test]
async fn c9_a_refused_batch_is_answered_at_once_and_discarded_up_to_its_sync() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE entries (name text); GRANT ALL ON entries TO app").await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "300ms").start().await;
    let (mut holder, mut waiter) = (login(&proxy).await, login(&proxy).await);
    holder.query("BEGIN").await;
    let insert = |name: &str| [parse("", "INSERT INTO entries VALUES ($1)", &[]), bind("", "", &[Some(name)]), execute("", 0)].concat();

    waiter.send(&insert("refused")).await;
    assert_refused(&waiter.expect_error("53300").await, "in time");
    holder.query("COMMIT").await;
    // A server is free now, and still nothing of this batch may run.
    waiter.send(&[insert("discarded"), query("INSERT INTO entries VALUES ('discarded too')"), flush()].concat()).await;
    waiter.expect_silence(Duration::from_millis(200)).await;
    waiter.send(&[sync(), insert("kept"), sync()].concat()).await;
    waiter.expect_ready(b'I').await;
    assert_eq!(waiter.until_ready().await.len(), 4);
    assert_eq!(pg.value("SELECT string_agg(name, ', ') FROM entries").await, "kept");
}

#[tokio::test]
async fn a_cold_pool_opens_its_connections_in_parallel() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(login(&proxy).await);
    }
    let mut working = JoinSet::new();
    for mut client in clients {
        working.spawn(async move { client.query("SELECT pg_sleep(0.5)").await });
    }
    let (_, most) = pg.most_backends("app", working.join_all()).await;
    assert!(most >= 3, "only {most} server connections were opened");
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("upstreams.main.server_idle_timeout", "500ms").start().await;
    let mut client = login(&proxy).await;
    let pid = client.value("SELECT pg_backend_pid()").await;
    eventually("the connection is closed", PATIENCE, async || pg.backends("app").await == 0).await;
    assert_ne!(client.value("SELECT pg_backend_pid()").await, pid, "the client never noticed");
}

#[tokio::test]
async fn an_old_connection_is_replaced_and_a_transaction_on_it_is_not() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("upstreams.main.server_lifetime", "500ms").start().await;
    let mut client = login(&proxy).await;
    client.query("BEGIN").await;
    let pid = client.value("SELECT pg_backend_pid()").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1200) {
        assert_eq!(client.value("SELECT pg_backend_pid()").await, pid);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.query("COMMIT").await;
    let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    eventually("the old connection is closed", PATIENCE, async || pg.value(&alive).await == "0").await;
    assert_ne!(client.value("SELECT pg_backend_pid()").await, pid);
}

#[tokio::test]
async fn min_idle_connections_are_there_before_any_client_and_stay() {
    let pg = Postgres::start().await;
    let options = Proxy::new(&pg).set("upstreams.main.min_idle", 3).set("upstreams.main.server_idle_timeout", "300ms");
    let proxy = options.start().await;
    eventually("three connections", PATIENCE, async || pg.backends("app").await == 3).await;
    // Five more than that, for the reaper to take away.
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = login(&proxy).await;
        client.query("BEGIN").await;
        clients.push(client);
    }
    assert!(pg.backends("app").await >= 5);
    for client in &mut clients {
        client.query("COMMIT").await;
    }
    eventually("only three are left", PATIENCE, async || pg.backends("app").await == 3).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(pg.backends("app").await, 3);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pg.end_backends("app").await;
    eventually("those that were lost are replaced", PATIENCE, async || pg.backends("app").await == 3).await;
}

#[tokio::test]
async fn a_connection_that_gives_no_sign_of_life_is_replaced_before_a_client_has_it() {
    let pg = Postgres::start().await;
    let net = Faulty::to(pg.address()).await;
    let options = Proxy::before_faulty(&net).set("upstreams.main.server_check_delay", "0s").set("upstreams.main.follow_functions", false);
    let proxy = options.set("upstreams.main.server_connect_timeout", "2s").start().await;
    let mut client = login(&proxy).await;
    let pid = client.value("SELECT pg_backend_pid()").await;

    net.stall(Way::Onward);
    client.send(&query("SELECT pg_backend_pid()")).await;
    proxy.logged("no sign of life").await;
    net.heal();
    let answer = client.until_ready().await;
    let row = answer.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{}", client.transcript()));
    assert_ne!(row.values()[0].as_deref(), Some(pid.as_bytes()));
}

#[tokio::test]
async fn one_client_more_than_the_tenant_may_have_is_refused_in_words() {
    let pg = with_another_user().await;
    let options = Proxy::new(&pg).user("other", "secret");
    let proxy = options.tenant("small", "match = { user = \"other\" }\nmax_clients = 1").start().await;
    let first = login_as(&proxy, "other").await;
    let refusal = Wire::login(&proxy, "other", "secret", "app").await.err().expect("a refusal");
    assert_eq!((refusal.severity(), refusal.code()), ("FATAL", "53300"));
    // libpq shows nothing but the text.
    for told in ["small", "limit 1", "retry after"] {
        assert!(refusal.message().contains(told), "{told:?} in {refusal}");
    }
    login(&proxy).await;
    drop(first);
    eventually("the place is free again", PATIENCE, async || Wire::login(&proxy, "other", "secret", "app").await.is_ok()).await;
}

#[tokio::test]
async fn one_client_more_than_the_proxy_may_have_is_refused_in_words() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("clients.max_clients", 2).start().await;
    let (first, mut second) = (login(&proxy).await, login(&proxy).await);
    let refusal = Wire::login(&proxy, "app", "secret", "app").await.err().expect("a refusal");
    assert_eq!((refusal.severity(), refusal.code()), ("FATAL", "53300"));
    assert!(refusal.message().contains("limit 2"), "{refusal}");
    assert_eq!(second.value("SELECT 'served'").await, "served");
    drop(first);
    eventually("the place is free again", PATIENCE, async || Wire::login(&proxy, "app", "secret", "app").await.is_ok()).await;
}

#[tokio::test]
async fn a_living_session_outlives_its_upstream() {
    let mut pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("upstreams.main.failover_window", "0s").start().await;
    let mut client = login(&proxy).await;
    client.query("SELECT 1").await;
    for _ in 0..2 {
        pg.stop(Stop::Fast);
        for _ in 0..2 {
            let refusal = client.try_query("SELECT 1").await.unwrap_err();
            assert_eq!((refusal.severity(), refusal.code()), ("ERROR", "57P03"), "{refusal}");
            assert!(refusal.message().contains("\"main\""), "{refusal}");
        }
        pg.start_again().await;
        in_time("the same session is served again", async { while client.try_query("SELECT 1").await.is_err() {} }).await;
    }
}

#[tokio::test]
async fn a_login_while_the_upstream_is_down_is_refused_and_later_is_not() {
    let mut pg = Postgres::start().await;
    pg.stop(Stop::Fast);
    let proxy = Proxy::new(&pg).start_unready().await;
    let refusal = Wire::login(&proxy, "app", "secret", "app").await.err().expect("a refusal");
    assert_eq!((refusal.severity(), refusal.code()), ("FATAL", "57P03"), "{refusal}");
    pg.start_again().await;
    eventually("a login", PATIENCE, async || Wire::login(&proxy, "app", "secret", "app").await.is_ok()).await;
}

#[tokio::test]
async fn an_impatient_client_wastes_nothing() {
    let pg = Postgres::start().await;
    let net = Faulty::to(pg.address()).await;
    let proxy = Proxy::before_faulty(&net).set("upstreams.main.server_connect_timeout", "20s").start().await;
    let (mut impatient, mut patient) = (login(&proxy).await, login(&proxy).await);
    pg.end_backends("app").await;
    let connections = |state: &str| format!("pgweir_server_connections{{upstream=\"main\",state=\"{state}\"}}");
    eventually("no connection is left", PATIENCE, async || proxy.metric(&connections("idle")).await < 0.5 && pg.backends("app").await == 0)
        .await;
    let before = opened(&proxy).await;

    net.stall(Way::Back);
    impatient.send(&query("SELECT 1")).await;
    eventually("the pool connects", PATIENCE, async || proxy.metric(&connections("opening")).await > 0.5).await;
    drop(impatient);
    queued(&proxy, "default", 0).await;
    net.heal();
    eventually("the connection is there", PATIENCE, async || proxy.metric(&connections("idle")).await > 0.5).await;
    assert_eq!(patient.value("SELECT 'served'").await, "served");
    assert!((opened(&proxy).await - before - 1.0).abs() < 0.5, "one connection was opened, and used");
}

#[tokio::test]
async fn clients_that_are_turned_away_by_the_hundred_do_not_flood_the_log() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("clients.max_clients", 1).start().await;
    let _only = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    for _ in 0..200 {
        assert!(Wire::login(&proxy, "app", "secret", "app").await.is_err());
    }
    let of = |words: &str| -> Vec<serde_json::Value> {
        let lines = proxy.log_lines().into_iter().filter(|line| line.contains(words));
        lines.map(|line| serde_json::from_str(&line).unwrap()).collect()
    };
    let told = || {
        let single = of("a client is turned away").len() as u64;
        let more: u64 = of("more clients were turned away").iter().map(|line| line["clients"].as_u64().unwrap()).sum();
        (single, more)
    };
    eventually("all are told of", PATIENCE, async || told().0 + told().1 == 200).await;
    assert!(told().0 <= 20, "{} of 200 have a line of their own", told().0);
    let first = &of("a client is turned away")[0];
    assert_eq!(
        (&first["user"], &first["database"], &first["fault"]),
        (&"app".into(), &"app".into(), &"too_many_clients".into()),
        "{first}"
    );
}
