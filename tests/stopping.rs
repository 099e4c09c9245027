//! SIGTERM loses nobody's transaction: load balancers hear of it first, then new clients are turned away, open transactions finish, idle clients are told last, and
//! the process is gone before its time is over. Checklist A1, G3.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::frames::query;
use harness::{Endpoint, Faulty, PATIENCE, Postgres, Proxy, ProxyOptions, ServerError, Way, Wire, eventually, free_port, in_time};
use rustix::process::Signal;
use tokio::time::Instant;

const GRACE: Duration = Duration::from_secs(2);

fn proxy(pg: &Postgres, grace: &str, timeout: &str) -> ProxyOptions {
    Proxy::new(pg).set("process.shutdown_grace", grace).set("process.shutdown_timeout", timeout)
}

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.unwrap()
}

async fn not_ready(proxy: &Proxy) {
    eventually("/readyz says that it drains", PATIENCE, async || {
        let answer = proxy.http_get("/readyz").await;
        answer.status == 503 && answer.body.contains("draining")
    })
    .await;
}

/// That the last that this client hears is 57P01, and then the end.
async fn expect_farewell(client: &mut Wire) {
    let last = in_time("the end", client.until_closed()).await;
    let [frame] = &last[..] else { panic!("one message and the end were expected\n{}", client.transcript()) };
    let error = ServerError::read(&frame.body);
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P01"), "{error}");
}

/// That new clients are turned away: told so, or not connected to at all.
async fn expect_closed_door(proxy: &Proxy) {
    eventually("new clients are turned away", PATIENCE, async || {
        let Ok(mut late) = Wire::try_connect(proxy).await else { return true };
        let startup = harness::frames::startup(harness::frames::V3_0, &[("user", "app"), ("database", "app")]);
        if late.try_send(&startup).await.is_err() {
            return true;
        }
        match late.try_read().await {
            Ok(Some(frame)) if frame.tag == b'E' => ServerError::read(&frame.body).code() == "57P03",
            // Taken all the same: not yet.
            Ok(Some(_)) => false,
            Ok(None) | Err(_) => true,
        }
    })
    .await;
}

#[tokio::test]
async fn new_clients_are_taken_for_the_grace_period_while_readyz_already_says_no() {
    let pg = Postgres::start().await;
    let mut proxy = proxy(&pg, "2s", "60s").start().await;
    let began = Instant::now();
    proxy.signal(Signal::TERM);
    not_ready(&proxy).await;
    assert_eq!(proxy.http_get("/healthz").await.status, 200, "a process that drains is alive");
    let mut late = login(&proxy).await;
    assert_eq!(late.value("SELECT 'served'").await, "served");
    assert!(began.elapsed() < GRACE, "this machine is too slow to show it: {:?}", began.elapsed());
    expect_farewell(&mut late).await;
    assert!(began.elapsed() >= GRACE, "clients are told after the grace period, not {:?} into it", began.elapsed());
    assert_eq!(proxy.wait_exit().await.code(), Some(0));
    assert!(Wire::try_connect(&proxy).await.is_err());
}

#[tokio::test]
async fn open_transactions_finish_idle_clients_are_told_last_and_new_ones_are_turned_away() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE entries (name text); GRANT ALL ON entries TO app").await;
    let mut proxy = proxy(&pg, "0s", "60s").max_connections(1).set("defaults.queue_timeout", "60s").start().await;
    let (mut working, mut waiting, mut idle) = (login(&proxy).await, login(&proxy).await, login(&proxy).await);
    working.query("BEGIN").await;
    working.query("INSERT INTO entries VALUES ('one')").await;
    waiting.send(&query("INSERT INTO entries VALUES ('waited')")).await;
    let depth = "pgweir_queue_depth{tenant=\"default\",upstream=\"main\"}";
    eventually("it waits", PATIENCE, async || proxy.metric(depth).await > 0.5).await;

    let began = Instant::now();
    proxy.signal(Signal::TERM);
    not_ready(&proxy).await;
    expect_closed_door(&proxy).await;
    // Nobody is told anything as long as somebody works.
    idle.expect_silence(Duration::from_millis(300)).await;
    working.query("INSERT INTO entries VALUES ('two')").await;
    working.query("COMMIT").await;
    waiting.until_ready().await;
    for client in [&mut working, &mut waiting, &mut idle] {
        expect_farewell(client).await;
    }
    assert_eq!(proxy.wait_exit().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(40), "it leaves when all is done, not when the time is over");
    assert_eq!(pg.value("SELECT string_agg(name, ', ' ORDER BY name) FROM entries").await, "one, two, waited");
    eventually("no server connection is left", PATIENCE, async || pg.backends("app").await == 0).await;
}

#[tokio::test]
async fn a_transaction_that_does_not_end_is_cut_off_before_the_time_is_over() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE entries (name text); GRANT ALL ON entries TO app").await;
    let mut proxy = proxy(&pg, "0s", "4s").start().await;
    let (mut endless, mut running) = (login(&proxy).await, login(&proxy).await);
    endless.query("BEGIN").await;
    endless.query("INSERT INTO entries VALUES ('undone')").await;
    running.send(&query("SELECT pg_sleep(60)")).await;
    let began = Instant::now();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?} for a limit of four seconds", began.elapsed());
    let last = endless.until_closed().await;
    assert!(last.iter().any(|frame| frame.tag == b'E' && ServerError::read(&frame.body).code() == "57P01"), "{}", endless.transcript());
    eventually("no server connection is left", PATIENCE, async || pg.backends("app").await == 0).await;
    assert_eq!(pg.value("SELECT count(*) FROM entries").await, "0");
}

#[tokio::test]
async fn what_is_cut_off_is_cancelled_also_over_a_slow_network() {
    let pg = Postgres::start().await;
    let net = Faulty::to(pg.address()).await;
    let options = Proxy::before_faulty(&net).set("process.shutdown_grace", "0s");
    let mut proxy = options.set("process.shutdown_timeout", "1s").start().await;
    let mut running = login(&proxy).await;
    running.send(&query("SELECT pg_sleep(60)")).await;
    eventually("it runs", PATIENCE, async || pg.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'").await == "1")
        .await;
    // The cancel is on its way for longer than its client takes to leave.
    net.delay(Way::Onward, Duration::from_millis(100));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().await.code(), Some(0));
    eventually("no server connection is left", PATIENCE, async || pg.backends("app").await == 0).await;
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let pg = Postgres::start().await;
    let mut proxy = proxy(&pg, "50s", "55s").start().await;
    let mut client = login(&proxy).await;
    client.query("BEGIN").await;
    proxy.signal(Signal::TERM);
    not_ready(&proxy).await;
    client.expect_silence(Duration::from_millis(100)).await;
    proxy.signal(Signal::TERM);
    // Within the harness's patience, which is less than half of the grace period.
    assert_eq!(proxy.wait_exit().await.code(), Some(0));
    proxy.logged("at the second signal").await;
}

#[tokio::test]
async fn a_new_process_takes_over_the_port_and_nobody_is_turned_away() {
    Box::pin(nobody_is_turned_away(false)).await;
}

#[tokio::test]
async fn a_new_process_takes_over_the_unix_socket_and_nobody_is_turned_away() {
    Box::pin(nobody_is_turned_away(true)).await;
}

/// Callers come and go while a new process is started and the old one told to stop.
async fn nobody_is_turned_away(over_unix: bool) {
    let pg = Postgres::start().await;
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let listen = vec![format!("127.0.0.1:{port}"), format!("unix:{}", folder.path().display())];
    let options = || Proxy::new(&pg).set("listen.postgres", listen.clone()).set("process.shutdown_grace", "300ms");
    let socket = folder.path().join(format!(".s.PGSQL.{port}"));
    let mut old = options().start().await;
    let door = if over_unix { Endpoint::from(socket) } else { Endpoint::from(&old) };
    let mut long = Wire::login(door.clone(), "app", "secret", "app").await.unwrap();
    long.query("BEGIN").await;
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (over, served, door) = (Arc::clone(&over), Arc::clone(&served), door.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let mut client = Wire::login(door.clone(), "app", "secret", "app").await.unwrap();
                    assert_eq!(client.value("SELECT 1").await, "1");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let new = options().start().await;
    assert_eq!(new.port(), port);
    old.signal(Signal::TERM);
    old.logged("no new clients").await;
    assert_eq!(long.value("SELECT 1").await, "1", "what was begun goes on at the old one");
    long.query("COMMIT").await;
    assert!(old.wait_exit().await.success());
    let before = served.load(Ordering::Relaxed);
    eventually("the new one serves alone", PATIENCE, async || served.load(Ordering::Relaxed) > before + 50).await;
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("every caller was served every time");
    }
}

/// A run of pgbench that goes on until it is ended.
struct Bench(Child);

impl Bench {
    fn start(port: u16, more: &[&str]) -> Self {
        let mut command = Command::new("pgbench");
        command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "app", "-n", "-S", "-c", "4", "-T", "3600"]).args(more).arg("app");
        Self(command.env("PGPASSWORD", "secret").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Ends it, which must not have ended before; what it has complained of.
    fn end(mut self) -> String {
        let ended = self.0.try_wait().unwrap();
        if ended.is_none() {
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), Signal::TERM).unwrap();
        }
        let said = self.0.wait_with_output().unwrap().stderr;
        format!("{}{}", ended.map(|status| status.to_string()).unwrap_or_default(), String::from_utf8_lossy(&said))
    }
}

#[tokio::test]
async fn pgbench_notices_neither_reloads_nor_a_new_process() {
    let pg = Postgres::start().await;
    let init = Command::new("pgbench").args(["-i", "-q", "-s", "1", &pg.url("app", "secret")]).output().unwrap();
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let port = free_port();
    let options = || proxy(&pg, "300ms", "20s").set("listen.postgres", vec![format!("127.0.0.1:{port}")]).max_connections(4);
    let mut old = options().start().await;
    let done = async |proxy: &Proxy| proxy.metric(r#"pgweir_transactions_total{tenant="default"}"#).await;
    let goes_on = async |proxy: &Proxy| {
        let before = done(proxy).await;
        eventually("it goes on", PATIENCE, async || done(proxy).await > before + 200.0).await;
    };

    let kept = [Bench::start(port, &["-M", "prepared"]), Bench::start(port, &["-M", "simple"])];
    let comes_and_goes = Bench::start(port, &["-C"]);
    for limit in [2, 8, 3, 4] {
        goes_on(&old).await;
        let reloads = |proxy: &Proxy| proxy.log_lines().iter().filter(|line| line.contains("\"reload: done\"")).count();
        let before = reloads(&old);
        old.rewrite_config(|options| options.max_connections(limit).set("defaults.queue_timeout", format!("{}s", 20 + limit)));
        old.signal(Signal::HUP);
        eventually("the configuration is read again", PATIENCE, async || reloads(&old) > before).await;
    }
    goes_on(&old).await;
    assert_eq!(kept.map(Bench::end).concat(), "");

    let new = options().start().await;
    old.signal(Signal::TERM);
    assert!(old.wait_exit().await.success());
    goes_on(&new).await;
    assert_eq!(comes_and_goes.end(), "");
}

#[tokio::test]
async fn systemd_hears_when_it_is_ready_and_when_it_stops() {
    let pg = Postgres::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut said = [0; 256];
        let length = socket.recv(&mut said).expect("systemd hears something");
        String::from_utf8(said[..length].to_vec()).unwrap()
    };
    let mut proxy = Proxy::new(&pg).env("NOTIFY_SOCKET", path.to_str().unwrap()).start().await;
    assert_eq!(heard().trim_end(), "READY=1");
    proxy.signal(Signal::INT);
    assert_eq!(heard().trim_end(), "STOPPING=1");
    assert!(proxy.wait_exit().await.success());
}
