//! An upstream that restarts, dies, or hands over to its standby: whoever is idle or waits notices nothing; who cannot be helped is told at once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::time::Duration;

use harness::frames::{bind, execute, parse, query, sync};
use harness::{PATIENCE, Postgres, Proxy, ServerError, Stop, Wire, eventually, in_time};
use tokio::time::Instant;

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.unwrap()
}

fn host(pg: &Postgres) -> String {
    format!("127.0.0.1:{}", pg.port())
}

async fn waiting(proxy: &Proxy, count: f64) {
    let depth = "pgweir_queue_depth{tenant=\"default\",upstream=\"main\"}";
    eventually("they wait", PATIENCE, async || proxy.metric(depth).await == count).await;
}

async fn is_up(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_upstream_up{upstream=\"main\"}").await
}

async fn moves(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_upstream_moves_total{upstream=\"main\"}").await
}

/// A primary with a table, and its standby, which has that as well.
async fn pair() -> (Postgres, Postgres) {
    let mut primary = Postgres::start().await;
    let standby = primary.standby().await;
    primary.sql("CREATE TABLE kept (who text); GRANT ALL ON kept TO app").await;
    eventually("the standby follows", PATIENCE, async || standby.value("SELECT to_regclass('kept') IS NOT NULL").await == "t").await;
    (primary, standby)
}

#[tokio::test]
async fn a_primary_that_dies_is_followed_to_its_successor() {
    let (mut primary, standby) = pair().await;
    let options = Proxy::new(&primary).max_connections(4).set("upstreams.main.hosts", vec![host(&standby)]);
    let proxy = options.set("upstreams.main.failover_window", "60s").set("defaults.queue_timeout", "1s").start().await;

    let (mut idle, mut busy) = (login(&proxy).await, login(&proxy).await);
    idle.query("SET application_name = 'mine'").await;
    idle.send(&[parse("one", "SELECT $1::int + 1", &[]), sync()].concat()).await;
    idle.until_ready().await;
    busy.query("BEGIN").await;
    busy.query("INSERT INTO kept VALUES ('lost')").await;
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(login(&proxy).await);
    }

    primary.stop(Stop::Immediate);
    // What was open is lost, and its client hears so.
    let said: Vec<_> = busy.until_closed().await.iter().map(|frame| ServerError::read(&frame.body)).collect();
    assert_eq!(said.last().map(|last| (last.severity(), last.code().to_owned())), Some(("FATAL", "08006".to_owned())), "{said:?}");

    // The standby takes nobody's writes, and nobody is sent there.
    for (number, other) in others.iter_mut().enumerate() {
        other.send(&query(&format!("INSERT INTO kept VALUES ('{number}')"))).await;
    }
    waiting(&proxy, 6.0).await;
    eventually("it is said to be down", PATIENCE, async || is_up(&proxy).await == 0.0).await;
    // Longer than `queue_timeout`, which does not run meanwhile.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    waiting(&proxy, 6.0).await;

    let began = Instant::now();
    standby.promote().await;
    let promoted = began.elapsed();
    for (number, other) in others.iter_mut().enumerate() {
        let answer = in_time("an answer", other.until_ready()).await;
        assert!(answer.iter().all(|frame| frame.tag != b'E'), "{}", other.transcript());
        if number == 0 {
            println!("promoted after {promoted:?}, first success after {:?}", began.elapsed());
        }
    }
    assert_eq!(standby.value("SELECT count(*)::text || ' ' || count(*) FILTER (WHERE who = 'lost') FROM kept").await, "6 0");
    // A session that was idle is what it was.
    assert_eq!(idle.value("SHOW application_name").await, "mine");
    idle.send(&[bind("", "one", &[Some("41")]), execute("", 0), sync()].concat()).await;
    let answer = idle.until_ready().await;
    assert!(answer.iter().any(|frame| frame.tag == b'D' && frame.values()[0].as_deref() == Some(b"42")), "{}", idle.transcript());
    assert_eq!(is_up(&proxy).await, 1.0);
    assert_eq!(moves(&proxy).await, 1.0);
}

#[tokio::test]
async fn a_restart_goes_unnoticed_by_who_is_idle_or_waits() {
    let mut pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(2).set("upstreams.main.failover_window", "60s").start().await;
    for how in [Stop::Fast, Stop::Immediate] {
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = login(&proxy).await;
            client.query("SELECT 1").await;
            clients.push(client);
        }
        pg.stop(how);
        for client in &mut clients {
            client.send(&query("SELECT 'served'")).await;
        }
        waiting(&proxy, 5.0).await;
        pg.start_again().await;
        for client in &mut clients {
            let answer = in_time("an answer", client.until_ready()).await;
            assert!(answer.iter().any(|frame| frame.tag == b'D'), "{how:?}: {}", client.transcript());
        }
        assert_eq!(proxy.metric("pgweir_refused_total{tenant=\"default\",fault=\"upstream_down\"}").await, 0.0);
    }
}

#[tokio::test]
async fn a_login_waits_too() {
    let mut pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("upstreams.main.failover_window", "60s").set("defaults.queue_timeout", "500ms").start().await;
    login(&proxy).await;
    pg.restart(Stop::Fast).await;
    login(&proxy).await;
    pg.stop(Stop::Fast);
    // Settings that no server has been asked about: this login needs one.
    let address = proxy.address();
    let late = tokio::spawn(async move {
        let mut wire = Wire::connect(address).await;
        wire.start(&[("user", "app"), ("database", "app"), ("search_path", "pg_catalog")]).await;
        wire.authenticate("app", "secret").await
    });
    waiting(&proxy, 1.0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    pg.start_again().await;
    in_time("the login", late).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_deadline_holds_through_an_outage() {
    let mut pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("upstreams.main.failover_window", "60s").start().await;
    let mut client = login(&proxy).await;
    client.query("SELECT 1").await;
    pg.stop(Stop::Fast);
    client.query("SET pgweir.deadline_ms = 300").await;
    let began = Instant::now();
    let refusal = client.try_query("SELECT 1").await.unwrap_err();
    assert_eq!(refusal.code(), "57014", "{refusal}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn after_the_window_all_are_refused_at_once() {
    let mut pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("upstreams.main.failover_window", "1s").start().await;
    let mut clients = [login(&proxy).await, login(&proxy).await, login(&proxy).await];
    clients[0].query("SELECT 1").await;
    pg.stop(Stop::Fast);
    for client in &mut clients {
        client.send(&query("SELECT 1")).await;
    }
    for client in &mut clients {
        let answer = in_time("a refusal", client.until_ready()).await;
        let refusal = ServerError::read(&answer.iter().find(|frame| frame.tag == b'E').expect("a refusal").body);
        assert_eq!((refusal.severity(), refusal.code()), ("ERROR", "57P03"), "{refusal}");
    }
    // From now on nobody waits: a hundred in a row would take a hundred windows.
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(clients[0].try_query("SELECT 1").await.unwrap_err().code(), "57P03");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // It is looked for all the same, without anybody's asking.
    pg.start_again().await;
    eventually("it is found", PATIENCE, async || is_up(&proxy).await == 1.0).await;
    assert_eq!(clients[0].value("SELECT 'served'").await, "served");
}

#[tokio::test]
async fn of_several_hosts_the_one_that_will_do_is_found() {
    let (primary, standby) = pair().await;
    for (wanted, in_recovery) in
        [("primary", "f"), ("read-write", "f"), ("standby", "t"), ("read-only", "t"), ("prefer-standby", "t"), ("any", "t")]
    {
        // The standby comes first.
        let options = Proxy::new(&standby).set("upstreams.main.hosts", vec![host(&primary)]);
        let proxy = options.set("upstreams.main.target_session_attrs", wanted).start().await;
        assert_eq!(login(&proxy).await.value("SELECT pg_is_in_recovery()").await, in_recovery, "{wanted}");
    }
    let proxy = Proxy::new(&standby).set("upstreams.main.target_session_attrs", "primary").start_unready().await;
    let refusal = Wire::login(&proxy, "app", "secret", "app").await.err().expect("a refusal");
    assert_eq!(refusal.code(), "57P03", "{refusal}");
    let told = proxy.logged("is a standby, and a primary is wanted").await;
    assert!(told.contains(&host(&standby)), "{told}");
}

#[tokio::test]
async fn a_primary_that_comes_back_as_a_standby_is_not_believed() {
    let (mut primary, standby) = pair().await;
    let options = Proxy::new(&primary).set("upstreams.main.hosts", vec![host(&standby)]);
    let proxy = options.set("upstreams.main.failover_window", "60s").start().await;
    let mut client = login(&proxy).await;
    client.query("INSERT INTO kept VALUES ('before')").await;
    eventually("the standby follows", PATIENCE, async || standby.value("SELECT count(*)::text FROM kept").await == "1").await;
    primary.stop(Stop::Fast);
    // As an operator's script would: the old primary is started as a standby before the other is promoted.
    std::fs::write(primary.folder().join("data/standby.signal"), "").unwrap();
    primary.start_again().await;
    client.send(&query("INSERT INTO kept VALUES ('after')")).await;
    waiting(&proxy, 1.0).await;
    standby.promote().await;
    let answer = in_time("an answer", client.until_ready()).await;
    assert!(answer.iter().all(|frame| frame.tag != b'E'), "{}", client.transcript());
    assert_eq!(standby.value("SELECT count(*)::text FROM kept").await, "2");
}

#[tokio::test]
async fn a_refused_write_on_a_standby_has_all_connections_replaced_but_not_at_every_clients_whim() {
    let (primary, standby) = pair().await;
    let proxy = Proxy::new(&standby).max_connections(2).start().await;
    let mut client = login(&proxy).await;
    let pid = async |client: &mut Wire| client.value("SELECT pg_backend_pid()").await;
    let before = pid(&mut client).await;
    let refusal = client.try_query("INSERT INTO kept VALUES ('x')").await.unwrap_err();
    assert_eq!(refusal.code(), "25006", "the client hears what the server says");
    proxy.logged("refused a write").await;
    let after = pid(&mut client).await;
    assert_ne!(before, after);
    assert_eq!(client.try_query("INSERT INTO kept VALUES ('x')").await.unwrap_err().code(), "25006");
    assert_eq!((pid(&mut client).await, moves(&proxy).await), (after, 1.0), "not again so soon");

    // On a primary it is the client's own doing.
    let proxy = Proxy::new(&primary).start().await;
    let mut client = login(&proxy).await;
    let before = pid(&mut client).await;
    client.query("BEGIN READ ONLY").await;
    assert_eq!(client.try_query("INSERT INTO kept VALUES ('x')").await.unwrap_err().code(), "25006");
    client.query("ROLLBACK").await;
    assert_eq!((pid(&mut client).await, moves(&proxy).await), (before, 0.0));
}

#[tokio::test]
async fn a_server_that_is_full_refuses_nobody() {
    // Three of these are the superuser's.
    let pg = Postgres::options().max_connections(8).start().await;
    let proxy = Proxy::new(&pg).max_connections(40).start().await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(login(&proxy).await);
    }
    for _ in 0..3 {
        for client in &mut clients {
            client.send(&query("SELECT pg_sleep(0.02)")).await;
        }
        for client in &mut clients {
            let answer = in_time("an answer", client.until_ready()).await;
            assert!(answer.iter().any(|frame| frame.tag == b'D'), "{}", client.transcript());
        }
    }
    assert!(pg.log().contains("too many clients") || pg.log().contains("reserved for"), "{}", pg.log());
}
