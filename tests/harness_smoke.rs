//! Proves the harness itself against PostgreSQL, so that a red test elsewhere is about the proxy.

mod harness;

use std::time::Duration;

use harness::{Endpoint, Faulty, Postgres, Script, Stop, Way, Wire, eventually, frames};
use tokio_postgres::NoTls;

const SOON: Duration = Duration::from_secs(10);

/// Waits until the server executes a `SELECT pg_sleep(..)`.
async fn sleeps(pg: &Postgres) {
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
    eventually("the query runs", SOON, || async { pg.value(sleeping).await == "1" }).await;
}

#[tokio::test]
async fn wire_logs_in_by_scram_over_tcp_and_by_a_unix_socket() {
    let pg = Postgres::start().await;
    let mut wire = Wire::login(&pg, "app", "secret", "app").await.unwrap();
    assert_eq!(wire.value("SELECT current_user || '@' || current_database()").await, "app@app");
    assert_eq!(pg.backends("app").await, 1);

    let mut local = Wire::login(pg.socket(), "app", "secret", "app").await.unwrap();
    assert_eq!(local.value("SELECT inet_client_addr() IS NULL").await, "t");

    let refused = Wire::login(&pg, "app", "wrong", "app").await.err().expect("a refusal");
    assert_eq!((refused.severity(), refused.code()), ("FATAL", "28P01"));
}

#[tokio::test]
async fn wire_speaks_every_password_method() {
    for method in ["md5", "password", "trust"] {
        let pg = Postgres::options().auth(method).start().await;
        let mut wire = Wire::login(&pg, "app", "secret", "app").await.unwrap();
        assert_eq!(wire.value("SELECT 1").await, "1", "{method}");
        let stored = pg.value("SELECT left(rolpassword, 3) FROM pg_authid WHERE rolname = 'app'").await;
        assert_eq!(stored, if method == "md5" { "md5" } else { "SCR" }, "{method}");
    }
}

#[tokio::test]
async fn wire_binds_scram_to_tls_and_logs_in_by_certificate() {
    let pg = Postgres::options().ssl().start().await;
    let config = pg.ca().client_config(None);
    let mut wire = Wire::login_tls(&pg, config, "app", "secret").await.unwrap();
    assert_eq!(wire.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await, "t");

    let pg = Postgres::options().ssl().auth("cert").start().await;
    let config = pg.ca().client_config(Some(&pg.ca().client("app")));
    let mut wire = Wire::login_tls(&pg, config, "app", "").await.unwrap();
    assert_eq!(wire.value("SELECT current_user").await, "app");
    let config = pg.ca().client_config(Some(&pg.ca().client("somebody_else")));
    let refused = Wire::login_tls(&pg, config, "app", "").await.err().expect("a refusal");
    assert_eq!(refused.code(), "28000");
}

#[tokio::test]
async fn wire_sends_any_pieces_and_writes_a_transcript() {
    let pg = Postgres::start().await;
    let mut wire = Wire::login(&pg, "app", "secret", "app").await.unwrap();
    wire.clear_transcript();
    let batch = [
        frames::parse("", "SELECT $1::int / x FROM generate_series(0, 0) AS x", &[]),
        frames::bind("", "", &[Some("7")]),
        frames::execute("", 0),
        frames::sync(),
    ];
    wire.send_in_pieces(&batch.concat(), 1).await;
    wire.expect(b'1').await;
    wire.expect(b'2').await;
    assert_eq!(wire.expect_error("22012").await.message(), "division by zero");
    wire.expect_ready(b'I').await;
    let expected = r#"-> Parse "\x00SELECT $1::int / x FROM generate_series(0, 0) AS x\x00\x00\x00"
-> Bind "\x00\x00\x00\x00\x00\x01\x00\x00\x00\x017\x00\x00"
-> Execute "\x00\x00\x00\x00\x00"
-> Sync
<- ParseComplete
<- BindComplete
<- ErrorResponse ERROR 22012 "division by zero"
<- ReadyForQuery "I""#;
    assert_eq!(wire.transcript(), expected);
}

#[tokio::test]
async fn wire_reads_while_it_sends_a_batch_that_would_deadlock() {
    let pg = Postgres::start().await;
    let mut wire = Wire::login(&pg, "app", "secret", "app").await.unwrap();
    let query = frames::query(&format!("SELECT '{}'", "x".repeat(100_000)));
    let count = 200;
    wire.send_while_reading(&query.repeat(count)).await;
    for _ in 0..count {
        let answer = wire.until_ready().await;
        assert_eq!(answer[1].values()[0].as_ref().map(bytes::Bytes::len), Some(100_000));
    }
}

#[tokio::test]
async fn wire_cancels_a_running_query() {
    let pg = Postgres::start().await;
    let mut wire = Wire::login(&pg, "app", "secret", "app").await.unwrap();
    wire.send(&frames::query("SELECT pg_sleep(60)")).await;
    sleeps(&pg).await;
    wire.cancel(&pg).await;
    wire.expect(b'T').await;
    wire.expect_error("57014").await;
    wire.expect_ready(b'I').await;
}

#[tokio::test]
async fn postgres_restarts_on_its_port_and_leaves_nothing_behind() {
    let mut pg = Postgres::options().max_connections(7).conf("work_mem = '1MB'").start().await;
    let (port, folder) = (pg.port(), pg.folder().to_owned());
    let mut wire = Wire::login(&pg, "app", "secret", "app").await.unwrap();
    pg.restart(Stop::Fast).await;
    wire.expect_error("57P01").await;
    assert_eq!(wire.until_closed().await, []);
    assert_eq!((pg.port(), pg.value("SHOW max_connections").await), (port, "7".to_owned()));

    let _wire = Wire::login(&pg, "app", "secret", "app").await.unwrap();
    assert_eq!(pg.end_backends("app").await, 1);
    eventually("no backend is left", SOON, || async { pg.backends("app").await == 0 }).await;
    let two_clients = Box::pin(async {
        let _first = Wire::login(&pg, "app", "secret", "app").await.unwrap();
        let _second = Wire::login(&pg, "app", "secret", "app").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    });
    let ((), most) = pg.most_backends("app", two_clients).await;
    assert_eq!(most, 2);

    pg.stop(Stop::Immediate);
    assert!(Wire::try_connect(&pg).await.is_err());
    drop(pg);
    assert!(!folder.exists(), "{}", folder.display());
}

#[tokio::test]
async fn script_serves_a_driver_and_records_a_cancel() {
    let script = Script::start(|mut peer| async move {
        peer.accept_login(42, &[1, 2, 3, 4]).await;
        peer.answer_queries("scripted").await;
    })
    .await;
    let address = script.address();
    let url = format!("postgres://app@{}:{}/app", address.ip(), address.port());
    let (client, connection) = Box::pin(tokio_postgres::connect(&url, NoTls)).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = client.simple_query("SELECT anything").await.unwrap();
    let row = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(row, Some("scripted"));
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    eventually("the cancel arrives", SOON, || async { script.cancels().len() == 1 }).await;
    assert_eq!(script.cancels()[0], (42, bytes::Bytes::from_static(&[1, 2, 3, 4])));
    drop(client);
    connection.await.unwrap().unwrap();
    script.finished(1).await;
    assert_eq!(script.accepted(), 1);
}

#[tokio::test]
async fn a_failing_script_fails_its_test() {
    let script = Script::start(|mut peer| async move {
        peer.accept_login(1, &[0; 4]).await;
        peer.expect(b'Q').await;
    })
    .await;
    let failing = tokio::spawn(async move {
        let mut wire = Wire::login(&script, "app", "", "app").await.unwrap();
        wire.send(&frames::sync()).await;
        script.finished(1).await;
    });
    let panic = failing.await.expect_err("the script must have failed").into_panic();
    let words = panic.downcast_ref::<String>().expect("words");
    assert!(words.starts_with("in a script"), "{words}");
}

#[tokio::test]
async fn faulty_delays_stalls_and_heals() {
    let pg = Postgres::start().await;
    let net = Faulty::to(pg.address()).await;
    let mut wire = Wire::login(&net, "app", "secret", "app").await.unwrap();
    assert_eq!(net.connections(), 1);

    net.delay(Way::Back, Duration::from_millis(120));
    let begun = tokio::time::Instant::now();
    wire.value("SELECT 1").await;
    assert!(begun.elapsed() >= Duration::from_millis(120), "{:?}", begun.elapsed());
    net.heal();

    net.stall(Way::Onward);
    let before = net.bytes(Way::Onward);
    wire.send(&frames::query("SELECT 2")).await;
    wire.expect_silence(Duration::from_millis(100)).await;
    assert_eq!(net.bytes(Way::Onward), before);
    net.heal();
    assert_eq!(wire.until_ready().await.len(), 4);
}

#[tokio::test]
async fn faulty_cuts_half_closes_and_refuses() {
    let pg = Postgres::start().await;
    let net = Faulty::to(pg.address()).await;
    let mut wire = Wire::login(&net, "app", "secret", "app").await.unwrap();
    wire.send(&frames::query("SELECT pg_sleep(0.5)")).await;
    sleeps(&pg).await;
    net.half_close(Way::Onward);
    assert_eq!(wire.until_ready().await.len(), 4, "PostgreSQL answers before it sees the end");
    assert_eq!(wire.until_closed().await, []);

    let mut wire = Wire::login(&net, "app", "secret", "app").await.unwrap();
    net.cut();
    let error = wire.try_read().await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("PostgreSQL notices", SOON, || async { pg.backends("app").await == 0 }).await;

    net.refuse();
    let mut wire = Wire::connect(Endpoint::Tcp(net.address())).await;
    assert!(wire.try_read().await.is_err());
    net.heal();
    Wire::login(&net, "app", "secret", "app").await.unwrap();
}
