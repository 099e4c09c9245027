//! Proxies that share one budget: together they never have more connections than it allows, each has what it needs where that is possible and an equal part where it is not,
//! and whoever dies leaves its part to the others. A cancel request finds its client at whichever of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::frames::{self, query};
use harness::{PATIENCE, Postgres, Proxy, ProxyOptions, Stop, Wire, eventually, in_time};
use rustix::process::Signal;
use tokio::task::JoinSet;

const BUDGET: u32 = 8;
/// The sessions that hold slots, as PostgreSQL shows them.
const HOLDERS: &str = "FROM pg_stat_activity WHERE application_name = 'pgweir slots'";
/// The slots that are held; what shows what is wanted is no slot.
const SLOTS: &str = "FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid::int8 < 2147483648";

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.unwrap()
}

fn sharing(pg: &Postgres) -> ProxyOptions {
    let options = Proxy::new(pg).max_connections(BUDGET).user("holder", "held").set("defaults.queue_timeout", "60s");
    options.set("upstreams.main.share_budget", true).set("upstreams.main.share_user", "holder").set("upstreams.main.share_dbname", "slots")
}

/// A server at which slots can be held.
async fn server() -> Postgres {
    let pg = Postgres::start().await;
    pg.sql("CREATE ROLE holder LOGIN PASSWORD 'held'").await;
    pg.sql("CREATE DATABASE slots").await;
    pg
}

async fn limit(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_upstream_limit{upstream=\"main\"}").await
}

async fn proxies(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_upstream_proxies{upstream=\"main\"}").await
}

/// Clients that are in the middle of a transaction each.
async fn in_transactions(proxy: &Proxy, count: u32) -> Vec<Wire> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = login(proxy).await;
        in_time("a connection is had", client.query("BEGIN")).await;
        clients.push(client);
    }
    clients
}

async fn commit(clients: &mut [Wire]) {
    for client in clients {
        client.query("COMMIT").await;
    }
}

/// Clients that go on with one transaction after the other until it is over.
struct Load {
    clients: JoinSet<()>,
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Load {
    async fn on(proxy: &Proxy, clients: usize) -> Self {
        let mut load = Self { clients: JoinSet::new(), over: Arc::default(), done: Arc::default() };
        for _ in 0..clients {
            let mut client = login(proxy).await;
            let (over, done) = (Arc::clone(&load.over), Arc::clone(&load.done));
            load.clients.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    client.query("SELECT pg_sleep(0.002)").await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    async fn goes_on(&self) {
        let before = self.done();
        eventually("work goes on", PATIENCE, async || self.done() > before + 100).await;
    }

    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
    }
}

#[tokio::test]
async fn together_they_never_exceed_the_budget_and_who_wants_has_an_equal_part() {
    let pg = server().await;
    let (one, two) = (sharing(&pg).start().await, sharing(&pg).start().await);
    let watched = async {
        let first = Load::on(&one, 20).await;
        eventually("one alone has nearly all", PATIENCE, async || limit(&one).await >= f64::from(BUDGET - 2)).await;
        first.goes_on().await;
        let second = Load::on(&two, 20).await;
        eventually("both have an equal part", PATIENCE, async || (limit(&one).await, limit(&two).await) == (4.0, 4.0)).await;
        first.goes_on().await;
        second.goes_on().await;
        assert_eq!((proxies(&one).await, proxies(&two).await), (2.0, 2.0));
        first.end().await;
        eventually("one has left it to the other", PATIENCE, async || limit(&two).await >= f64::from(BUDGET - 2)).await;
        second.goes_on().await;
        second.end().await;
    };
    let ((), most) = pg.most_backends("app", Box::pin(watched)).await;
    assert!(most <= BUDGET as usize, "{most} connections where {BUDGET} are allowed for both");
    assert!(most > BUDGET as usize / 2, "they were used");
}

#[tokio::test]
async fn what_one_leaves_idle_is_there_for_the_other() {
    let pg = server().await;
    let (one, two) = (sharing(&pg).start().await, sharing(&pg).start().await);
    let watched = async {
        let mut clients = in_transactions(&one, BUDGET - 2).await;
        commit(&mut clients).await;
        let idle = "pgweir_server_connections{upstream=\"main\",state=\"idle\"}";
        eventually("all are idle", PATIENCE, async || one.metric(idle).await == f64::from(BUDGET - 2)).await;
        let mut others = in_transactions(&two, BUDGET - 2).await;
        commit(&mut others).await;
        commit(&mut in_transactions(&one, BUDGET - 2).await).await;
    };
    let ((), most) = pg.most_backends("app", Box::pin(watched)).await;
    assert!(most <= BUDGET as usize, "{most} connections where {BUDGET} are allowed for both");
}

#[tokio::test]
async fn who_is_at_work_with_more_than_an_equal_part_gives_as_its_transactions_end() {
    let pg = server().await;
    let (one, two) = (sharing(&pg).start().await, sharing(&pg).start().await);
    let mut busy = in_transactions(&one, BUDGET - 2).await;
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let mut client = login(&two).await;
        waiting.spawn(async move {
            client.query("BEGIN").await;
            client
        });
    }
    eventually("less is allowed", PATIENCE, async || limit(&one).await == 4.0).await;
    eventually("two are served, and two wait", PATIENCE, async || {
        two.metric("pgweir_queue_depth{tenant=\"default\",upstream=\"main\"}").await == 2.0
    })
    .await;
    assert_eq!(pg.value(&format!("SELECT count(*) {SLOTS}")).await, "8");
    commit(&mut busy[..2]).await;
    let mut served = in_time("those who wait have what has been given back", waiting.join_all()).await;
    commit(&mut served).await;
    commit(&mut busy[2..]).await;
}

#[tokio::test]
async fn who_is_killed_leaves_its_part_to_the_others_at_once() {
    let pg = server().await;
    let (mut one, two) = (sharing(&pg).start().await, sharing(&pg).start().await);
    let held = in_transactions(&one, BUDGET - 2).await;
    assert_eq!(pg.value(&format!("SELECT count(*) {SLOTS}")).await, "8");
    one.signal(Signal::KILL);
    one.wait_exit().await;
    let mut clients = in_transactions(&two, BUDGET).await;
    assert_eq!(proxies(&two).await, 1.0);
    commit(&mut clients).await;
    drop(held);
}

#[tokio::test]
async fn a_session_that_is_ended_is_begun_again_and_no_client_notices() {
    let pg = server().await;
    let proxy = sharing(&pg).start().await;
    let mut clients = in_transactions(&proxy, 5).await;
    let load = Load::on(&proxy, 6).await;
    for _ in 0..3 {
        load.goes_on().await;
        let before = pg.value(&format!("SELECT pid {HOLDERS}")).await;
        pg.sql(&format!("SELECT pg_terminate_backend(pid) {HOLDERS}")).await;
        eventually("another session holds the slots", PATIENCE, async || {
            let (pid, slots) = (format!("SELECT max(pid) {HOLDERS}"), format!("SELECT count(*) {SLOTS}"));
            pg.value(&pid).await != before && pg.value(&slots).await == "8" && proxies(&proxy).await == 1.0
        })
        .await;
    }
    load.goes_on().await;
    load.end().await;
    commit(&mut clients).await;
    assert_eq!(pg.value(&format!("SELECT count(*) {HOLDERS}")).await, "1");
}

#[tokio::test]
async fn where_no_slots_can_be_held_clients_hear_so_until_they_can() {
    let pg = server().await;
    pg.sql("ALTER ROLE holder NOLOGIN").await;
    let mut proxy = sharing(&pg).start_unready().await;
    let login_of_app = Box::pin(Wire::login(&proxy, "app", "secret", "app"));
    let refused = in_time("it is answered", login_of_app).await.err().unwrap();
    let said = refused.to_string();
    assert_eq!(refused.code(), "57P03", "{said}");
    assert!(said.contains("shared budget") && !said.contains("holder"), "{said}");
    assert!(proxy.logged("nothing more is opened").await.contains("holder"), "the log says what the server said");
    assert_eq!((proxies(&proxy).await, pg.backends("app").await), (0.0, 0), "nothing is opened without slots");
    pg.sql("ALTER ROLE holder LOGIN").await;
    eventually("slots are held", PATIENCE, async || proxies(&proxy).await == 1.0).await;
    let mut client = login(&proxy).await;
    assert_eq!(client.value("SELECT 1").await, "1");

    pg.sql("ALTER ROLE holder PASSWORD 'other'").await;
    pg.sql(&format!("SELECT pg_terminate_backend(pid) {HOLDERS}")).await;
    eventually("the session is not begun again", PATIENCE, async || proxies(&proxy).await == 0.0).await;
    assert_eq!(client.value("SELECT 1").await, "1", "what is open goes on");
    // A reload that brings the new password.
    proxy.rewrite_config(|options| options.set("users.holder.password", "other"));
    proxy.signal(Signal::HUP);
    eventually("slots are held again", PATIENCE, async || proxies(&proxy).await == 1.0).await;
}

#[tokio::test]
async fn a_server_that_restarts_and_one_that_is_promoted_hold_the_slots_again() {
    let mut primary = server().await;
    let standby = primary.standby().await;
    let hosts = vec![format!("127.0.0.1:{}", standby.port())];
    let options = || sharing(&primary).set("upstreams.main.hosts", hosts.clone()).set("upstreams.main.failover_window", "60s");
    let (one, two) = (options().start().await, options().start().await);
    let mut clients = [login(&one).await, login(&two).await];
    for client in &mut clients {
        client.query("SELECT 1").await;
    }
    // What only reads has a budget, too.
    let reads = sharing(&standby).set("upstreams.main.target_session_attrs", "standby").start().await;
    login(&reads).await.query("SELECT 1").await;
    assert_eq!(standby.value(&format!("SELECT count(*) {SLOTS}")).await, "2", "a standby holds slots as well");
    drop(reads);
    primary.restart(Stop::Fast).await;
    for client in &mut clients {
        in_time("it is served after a restart", client.query("SELECT 1")).await;
    }
    primary.stop(Stop::Immediate);
    standby.promote().await;
    for (client, proxy) in clients.iter_mut().zip([&one, &two]) {
        in_time("it is served by the successor", client.query("CREATE TABLE IF NOT EXISTS kept (who text)")).await;
        eventually("both are there", PATIENCE, async || proxies(proxy).await == 2.0 || proxies(proxy).await == 1.0).await;
    }
    eventually("both hold slots at the successor", PATIENCE, async || {
        standby.value(&format!("SELECT count(*) {HOLDERS}")).await == "2" && proxies(&one).await == 2.0 && proxies(&two).await == 2.0
    })
    .await;
}

#[tokio::test]
async fn slots_that_nothing_needs_are_free_and_a_smaller_budget_is_kept() {
    let pg = server().await;
    let mut proxy = sharing(&pg).set("upstreams.main.server_idle_timeout", "1s").start().await;
    let slots = async || pg.value(&format!("SELECT count(*) {SLOTS}")).await;
    let mut clients = in_transactions(&proxy, BUDGET).await;
    assert_eq!(slots().await, "8");
    proxy.rewrite_config(|options| options.max_connections(3));
    proxy.signal(Signal::HUP);
    eventually("less is allowed", PATIENCE, async || limit(&proxy).await == 3.0).await;
    assert_eq!(slots().await, "8", "as long as they are in use they are held");
    commit(&mut clients).await;
    eventually("three are held, and the first three", PATIENCE, async || {
        pg.value(&format!("SELECT string_agg(objid::text, ',' ORDER BY objid) {SLOTS}")).await == "0,1,2"
    })
    .await;
    eventually("two are kept for the next client", PATIENCE, async || slots().await == "2").await;
}

/// Proxies that know each other, each able to tell the others of a cancel request.
async fn known_to_each_other<const COUNT: usize>(pg: &Postgres) -> [Proxy; COUNT] {
    let mut all = Vec::new();
    for _ in 0..COUNT {
        all.push(sharing(pg).start().await);
    }
    for proxy in &all {
        eventually("they know each other", PATIENCE, async || proxies(proxy).await.to_string() == COUNT.to_string()).await;
    }
    all.try_into().unwrap_or_else(|_| panic!("there are {COUNT}"))
}

async fn is_sleeping(pg: &Postgres, count: usize) {
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'";
    eventually(&format!("{count} queries run"), PATIENCE, async || pg.value(running).await == count.to_string()).await;
}

/// Sends a cancel with any key and waits until it has been closed, without a word.
async fn cancel(proxy: &Proxy, pid: u32, secret: &[u8]) {
    let mut request = Wire::connect(proxy).await;
    request.send(&frames::cancel(pid, secret)).await;
    assert_eq!(in_time("it is closed", request.until_closed()).await, [], "a cancel request has no answer");
}

async fn is_cancelled(client: &mut Wire) {
    let answer = in_time("it is cancelled", client.until_ready()).await;
    let error = answer.iter().find(|frame| frame.tag == b'E').map(|frame| harness::ServerError::read(&frame.body));
    assert_eq!(error.unwrap_or_else(|| panic!("no error\n{}", client.transcript())).code(), "57014");
}

async fn cancelled(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_cancelled_total{tenant=\"default\",cause=\"request\"}").await
}

#[tokio::test]
async fn a_cancel_finds_its_client_at_whichever_proxy_it_is() {
    let pg = server().await;
    let [home, near, far] = known_to_each_other(&pg).await;
    for version in [frames::V3_0, frames::V3_2] {
        let mut client = Wire::connect(&home).await;
        client.send(&frames::startup(version, &[("user", "app"), ("database", "app")])).await;
        client.authenticate("app", "secret").await.unwrap();
        for other in [&near, &far, &home] {
            client.send(&query("SELECT pg_sleep(60)")).await;
            is_sleeping(&pg, 1).await;
            client.cancel(other).await;
            is_cancelled(&mut client).await;
            assert_eq!(client.value("SELECT 'served'").await, "served");
        }
    }
    assert_eq!((cancelled(&home).await, cancelled(&near).await, cancelled(&far).await), (6.0, 0.0, 0.0));

    let mut waiting = login(&home).await;
    let mut busy = in_transactions(&near, 4).await;
    busy.extend(in_transactions(&far, 4).await);
    waiting.send(&query("SELECT 'waits'")).await;
    eventually("it waits", PATIENCE, async || home.metric("pgweir_queue_depth{tenant=\"default\",upstream=\"main\"}").await == 1.0).await;
    waiting.cancel(&far).await;
    in_time("it waits no more", waiting.expect_error("57014")).await;
    commit(&mut busy).await;
}

#[tokio::test]
async fn a_key_that_is_nobodys_at_any_proxy_is_ignored_and_kept_waiting_by_none() {
    let pg = server().await;
    let [home, other] = known_to_each_other(&pg).await;
    let mut client = login(&home).await;
    client.send(&query("SELECT pg_sleep(60)")).await;
    is_sleeping(&pg, 1).await;
    let (pid, secret) = (client.pid, client.secret.clone());
    let mut gone = login(&home).await;
    gone.send(&frames::terminate()).await;
    assert_eq!(gone.until_closed().await, []);
    let unknown = async {
        for at in 0..secret.len() {
            let mut wrong = secret.to_vec();
            wrong[at] ^= 1;
            cancel(&other, pid, &wrong).await;
        }
        cancel(&other, pid ^ 0x0100, &secret).await;
        cancel(&other, pid, &[&secret[..], &secret].concat()).await;
        cancel(&other, gone.pid, &gone.secret).await;
    };
    // For each to wait until what is not answered is given up would take too long.
    in_time("all are closed", Box::pin(unknown)).await;
    // The other says that it knows no such client: nobody waits until a time limit is over.
    let mut spy = Wire::login(&pg, "holder", "held", "slots").await.unwrap();
    let class = pg.value("SELECT max(lpad(to_hex(classid::int8), 8, '0')) FROM pg_locks WHERE locktype = 'advisory'").await;
    spy.query(&format!("LISTEN \"pgweir cancels {class}\"")).await;
    cancel(&other, pid, b"wrong").await;
    let asked = String::from_utf8_lossy(&spy.expect(b'A').await.body).into_owned();
    assert!(asked.contains("\0cancel ") && asked.contains(&format!(" {pid} ")), "{asked}");
    let answered = String::from_utf8_lossy(&spy.expect(b'A').await.body).into_owned();
    assert!(answered.contains("\0unknown "), "{answered}");

    client.expect_silence(Duration::from_millis(50)).await;
    is_sleeping(&pg, 1).await;
    client.cancel(&other).await;
    is_cancelled(&mut client).await;
}

#[tokio::test]
async fn when_a_cancel_is_closed_it_cannot_hit_what_its_client_does_next() {
    let pg = server().await;
    let [home, other] = known_to_each_other(&pg).await;
    let mut client = login(&home).await;
    for _ in 0..40 {
        client.send(&query("SELECT pg_sleep(60)")).await;
        is_sleeping(&pg, 1).await;
        client.cancel(&other).await;
        is_cancelled(&mut client).await;
        for _ in 0..4 {
            client.query("SELECT pg_sleep(0.005)").await;
        }
    }
}

#[tokio::test]
async fn many_cancels_at_once_end_each_what_it_was_for_and_nothing_else() {
    const CLIENTS: usize = 120;
    let pg = server().await;
    let [home, other, third] = known_to_each_other(&pg).await;
    let (mut to_cancel, mut to_go_on) = (Vec::new(), Vec::new());
    for number in 0..CLIENTS {
        // Most wait for one of the few connections; who is not cancelled is served.
        let mut client = login([&home, &other, &third][number % 3]).await;
        let is_meant = number % 2 == 0;
        client.send(&query(if is_meant { "SELECT pg_sleep(60)" } else { "SELECT 'served'" })).await;
        if is_meant { &mut to_cancel } else { &mut to_go_on }.push(client);
    }
    let mut requests = JoinSet::new();
    for (number, client) in to_cancel.iter().enumerate() {
        // Many ask twice, and nobody where the client is.
        for asked in [&other, &third].into_iter().take(1 + number % 2) {
            let (address, message) = (asked.address(), frames::cancel(client.pid, &client.secret));
            requests.spawn(async move {
                let mut request = Wire::connect(address).await;
                request.send(&message).await;
                request.until_closed().await
            });
        }
    }
    let closed = in_time("all are closed", requests.join_all()).await;
    assert!(closed.iter().all(Vec::is_empty));
    for client in &mut to_cancel {
        is_cancelled(client).await;
    }
    for client in &mut to_go_on {
        let answer = in_time("it is served", client.until_ready()).await;
        assert!(answer.iter().all(|frame| frame.tag != b'E'), "{}", client.transcript());
    }
}

#[tokio::test]
async fn cancels_are_passed_on_again_behind_a_lost_session_and_a_promotion_and_none_waits_where_they_cannot_be() {
    let mut primary = server().await;
    let standby = primary.standby().await;
    let reading = || sharing(&standby).set("upstreams.main.target_session_attrs", "any");
    let (home, other) = (reading().start().await, reading().start().await);
    for proxy in [&home, &other] {
        eventually("they know each other", PATIENCE, async || proxies(proxy).await == 2.0).await;
    }
    let mut client = login(&home).await;
    client.send(&query("SELECT pg_sleep(60)")).await;
    is_sleeping(&standby, 1).await;
    // A standby has no channels: the request is dropped, as it would be without a shared budget.
    client.cancel(&other).await;
    is_sleeping(&standby, 1).await;

    primary.stop(Stop::Immediate);
    standby.promote().await;
    eventually("they hear each other", PATIENCE, async || {
        client.cancel(&other).await;
        cancelled(&home).await == 1.0
    })
    .await;
    is_cancelled(&mut client).await;

    standby.sql(&format!("SELECT pg_terminate_backend(pid) {HOLDERS}")).await;
    client.cancel(&other).await;
    client.send(&query("SELECT pg_sleep(60)")).await;
    is_sleeping(&standby, 1).await;
    eventually("they hear each other again", PATIENCE, async || {
        client.cancel(&other).await;
        cancelled(&home).await == 2.0
    })
    .await;
    is_cancelled(&mut client).await;
}
