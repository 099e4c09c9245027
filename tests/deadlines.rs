//! The time that a client's caller has left, by every way to say so: it bounds the wait for a server, cancels what runs, undoes the transaction, and leaves the
//! session and the server connection in use.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::frames::{bind, describe, execute, parse, query, sync};
use harness::{PATIENCE, Postgres, Proxy, ServerError, Wire, eventually};
use tokio::time::Instant;

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.unwrap()
}

/// A table with a row that can be locked.
async fn with_row() -> Postgres {
    let pg = Postgres::options().conf("log_statement = 'all'").start().await;
    pg.sql("CREATE TABLE account (id int PRIMARY KEY, balance int); INSERT INTO account VALUES (1, 100); GRANT ALL ON account TO app")
        .await;
    pg
}

/// Within a time that only somebody who has waited for nothing else keeps: the deadline of 300 ms has just passed.
fn assert_in_time(began: Instant) {
    let took = began.elapsed();
    // Some of the time that it had was left when this began.
    assert!(took >= Duration::from_millis(50) && took < Duration::from_secs(10), "{took:?}");
}

fn assert_cancelled(error: &ServerError) {
    assert_eq!((error.severity(), error.code()), ("ERROR", "57014"), "{error}");
}

async fn leased(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_server_connections{upstream=\"main\",state=\"leased\"}").await
}

async fn all_are_back(proxy: &Proxy) {
    eventually("the server connection is back", PATIENCE, async || leased(proxy).await == 0.0).await;
}

#[tokio::test]
async fn it_bounds_the_wait_and_is_set_without_a_server() {
    let pg = with_row().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut client = login(&proxy).await;
    let mut holder = login(&proxy).await;
    holder.query("BEGIN").await;
    // The only server connection is taken: who needed one for this would wait.
    client.query("SET pgweir.deadline_ms = 300").await;
    let began = Instant::now();
    let refusal = client.try_query("SELECT 1").await.unwrap_err();
    assert_cancelled(&refusal);
    assert!(refusal.message().contains("deadline"), "{refusal}");
    assert_in_time(began);
    let extended = [parse("", "SET pgweir.deadline_ms = 300", &[]), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat();
    client.send(&extended).await;
    let answers: Vec<u8> = client.until_ready().await.iter().map(|frame| frame.tag).collect();
    assert_eq!(answers, *b"12nCZ");
    let began = Instant::now();
    client.send(&[parse("", "SELECT 2", &[]), bind("", "", &[]), execute("", 0), sync()].concat()).await;
    assert_cancelled(&client.expect_error("57014").await);
    client.expect_ready(b'I').await;
    assert_in_time(began);
    holder.query("COMMIT").await;
    assert_eq!(client.value("SELECT 3").await, "3", "it has cleared itself");
    assert_eq!(proxy.metric("pgweir_refused_total{tenant=\"default\",fault=\"deadline\"}").await, 2.0);
    assert_eq!(client.value("SELECT coalesce(current_setting('pgweir.deadline_ms', true), 'none')").await, "none");
    assert!(!pg.log().contains("deadline_ms = 300"), "the server has never heard of it");
}

#[tokio::test]
async fn what_runs_is_cancelled_in_time_by_each_way_to_say_it() {
    let pg = with_row().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut client = login(&proxy).await;
    let pid = client.value("SELECT pg_backend_pid()").await;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() + 300;
    for (before, text) in [
        (Some("SET pgweir.deadline_ms = 300".to_owned()), "SELECT pg_sleep(20)".to_owned()),
        (Some("SET pgweir.deadline_ms TO '300'".to_owned()), "SELECT 1; SELECT pg_sleep(20)".to_owned()),
        (None, "SET pgweir.deadline_ms = 300; SELECT pg_sleep(20)".to_owned()),
        (None, "/* deadline_ms=300 */ SELECT pg_sleep(20)".to_owned()),
        (None, "SELECT pg_sleep(20) /*action='x',deadline_ms='300'*/".to_owned()),
    ] {
        if let Some(before) = before {
            client.query(&before).await;
        }
        let began = Instant::now();
        assert_cancelled(&client.try_query(&text).await.unwrap_err());
        assert_in_time(began);
        assert_eq!(client.value("SELECT pg_backend_pid()").await, pid, "{text}: the server connection is still in use, clean");
    }
    let mut another = login(&proxy).await;
    another.query(&format!("SET pgweir.deadline_at = {}", at + 60_000)).await;
    assert_eq!(another.value("SELECT 1").await, "1");
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() + 300;
    another.query(&format!("SET pgweir.deadline_at = {soon}")).await;
    let began = Instant::now();
    assert_cancelled(&another.try_query("SELECT pg_sleep(20)").await.unwrap_err());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(proxy.metric("pgweir_cancelled_total{tenant=\"default\",cause=\"deadline\"}").await, 6.0);
}

#[tokio::test]
async fn a_comment_in_a_prepared_statement_holds_each_time_that_it_is_run() {
    let pg = with_row().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut client = login(&proxy).await;
    client.send(&[parse("slow", "SELECT pg_sleep($1) /* deadline_ms=300 */", &[701]), sync()].concat()).await;
    client.until_ready().await;
    for _ in 0..2 {
        let began = Instant::now();
        client.send(&[bind("", "slow", &[Some("20")]), execute("", 0), sync()].concat()).await;
        client.expect(b'2').await;
        assert_cancelled(&client.expect_error("57014").await);
        client.expect_ready(b'I').await;
        assert_in_time(began);
    }
    client.send(&[bind("", "slow", &[Some("0")]), execute("", 0), sync()].concat()).await;
    client.until_ready().await;
    // It was for that statement, and not for the next.
    client.query("SELECT pg_sleep(0.6)").await;
}

#[tokio::test]
async fn a_budget_holds_for_every_transaction_of_its_client() {
    let pg = with_row().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut client = Wire::connect(&proxy).await;
    client.start(&[("user", "app"), ("database", "app"), ("options", "-c pgweir.budget_ms=300")]).await;
    client.authenticate("app", "secret").await.unwrap();
    for _ in 0..2 {
        let began = Instant::now();
        assert_cancelled(&client.try_query("SELECT pg_sleep(20)").await.unwrap_err());
        assert_in_time(began);
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(client.value("SELECT 1").await, "1", "being idle uses none of it");
    let mut bad = Wire::connect(&proxy).await;
    bad.start(&[("user", "app"), ("database", "app"), ("options", "-c pgweir.budget_ms=soon")]).await;
    assert_eq!(bad.authenticate("app", "secret").await.unwrap_err().code(), "22023");
}

/// Whether the row can be changed at once.
async fn is_free(pg: &Postgres) -> bool {
    let server = pg.superuser("app").await.unwrap();
    server.batch_execute("SET lock_timeout = 50; UPDATE account SET balance = balance WHERE id = 1").await.is_ok()
}

#[tokio::test]
async fn a_transaction_whose_time_is_over_is_undone_and_its_server_is_free_while_the_client_still_owes_a_rollback() {
    let pg = with_row().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut client, mut another) = (login(&proxy).await, login(&proxy).await);
    for runs in [true, false] {
        for end in ["ROLLBACK", "COMMIT; ", "SELECT 1", "extended"] {
            client.query("BEGIN").await;
            client.query("UPDATE account SET balance = 0 WHERE id = 1").await;
            client.query("SET pgweir.deadline_ms = 300").await;
            assert!(!is_free(&pg).await);
            if runs {
                let began = Instant::now();
                assert_cancelled(&client.try_query("SELECT pg_sleep(20)").await.unwrap_err());
                assert_in_time(began);
            }
            // Without a word of the client's, whether something ran or it was doing something else.
            eventually("the row is free", PATIENCE, async || is_free(&pg).await).await;
            assert_eq!(another.value("SELECT balance FROM account").await, "100", "the server connection serves somebody else");
            match end {
                "extended" => {
                    client.send(&[parse("", "ROLLBACK", &[]), bind("", "", &[]), execute("", 0), sync()].concat()).await;
                    let answers: Vec<u8> = client.until_ready().await.iter().map(|frame| frame.tag).collect();
                    assert_eq!(answers, *b"12CZ");
                }
                "SELECT 1" => {
                    client.send(&query(end)).await;
                    client.expect_error("25P02").await;
                    client.expect_ready(b'E').await;
                    client.send(&query("ROLLBACK")).await;
                    client.expect(b'C').await;
                    client.expect_ready(b'I').await;
                }
                _ => {
                    client.send(&query(end)).await;
                    assert_eq!(client.expect(b'C').await.body.as_ref(), b"ROLLBACK\0", "{end}: nothing was committed");
                    client.expect_ready(b'I').await;
                }
            }
            assert_eq!(client.value("SELECT balance FROM account").await, "100");
            all_are_back(&proxy).await;
        }
    }
}

#[tokio::test]
async fn who_has_left_something_on_its_server_keeps_it_where_it_can() {
    let pg = with_row().await;
    let proxy = Proxy::new(&pg).max_connections(2).start().await;
    let mut client = login(&proxy).await;
    client.query("CREATE TEMP TABLE mine AS SELECT 7 AS x").await;
    client.query("BEGIN").await;
    client.query("SET pgweir.deadline_ms = 300").await;
    assert_cancelled(&client.try_query("SELECT pg_sleep(20)").await.unwrap_err());
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.query("ROLLBACK").await;
    assert_eq!(client.value("SELECT x FROM mine").await, "7", "its transaction had failed and held nothing");
    // Long enough for its time to be looked at.
    client.query("SELECT pg_sleep(0.2)").await;
    client.query("BEGIN; UPDATE account SET balance = 0 WHERE id = 1").await;
    client.query("SET pgweir.deadline_ms = 300").await;
    let end = client.expect_error("25P03").await;
    assert_eq!(end.severity(), "FATAL", "{end}");
    eventually("the row is free", PATIENCE, async || is_free(&pg).await).await;
}

#[tokio::test]
async fn a_deadline_clears_itself_and_what_is_none_is_refused() {
    let pg = with_row().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut client = login(&proxy).await;
    client.query("SET pgweir.deadline_ms = 100").await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(client.value("SELECT 1").await, "1", "another invocation's deadline is not this one's");
    client.query("SET pgweir.deadline_ms = 0").await;
    assert_cancelled(&client.try_query("SELECT 1").await.unwrap_err());
    assert_eq!(client.value("SELECT 2").await, "2");
    client.query("SET pgweir.deadline_ms = 100").await;
    client.query("RESET pgweir.deadline_ms").await;
    client.query("SELECT pg_sleep(0.3)").await;
    let bad = client.try_query("SET pgweir.deadline_ms = 'soon'").await.unwrap_err();
    assert_eq!((bad.severity(), bad.code()), ("ERROR", "22023"), "{bad}");
    let twice = [parse("", "SET pgweir.deadline_ms = 100", &[]), bind("", "", &[]), execute("", 0), execute("", 0), sync()].concat();
    client.send(&twice).await;
    for tag in *b"12C" {
        client.expect(tag).await;
    }
    client.expect_error("55000").await;
    client.until_ready().await;
    assert_eq!(proxy.metric("pgweir_refused_total{tenant=\"default\",fault=\"portal_run\"}").await, 1.0);
    client.query("RESET pgweir.deadline_ms").await;
    client.query("BEGIN").await;
    assert_eq!(client.try_query("SET pgweir.deadline_ms = soon").await.unwrap_err().code(), "22023");
    client.query("ROLLBACK").await;
    assert_eq!(client.value("SELECT 3").await, "3");
}

#[tokio::test]
async fn who_is_closer_to_its_deadline_than_to_its_turn_is_not_made_to_wait() {
    let pg = with_row().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut holder = login(&proxy).await;
    for _ in 0..2 {
        holder.query("SELECT pg_sleep(3)").await;
    }
    let mut client = login(&proxy).await;
    holder.query("BEGIN").await;
    client.query("SET pgweir.deadline_ms = 300").await;
    let refusal = client.try_query("SELECT 1").await.unwrap_err();
    // Whoever has waited until the deadline hears that none "became free".
    assert_eq!((refusal.code(), refusal.message()), ("53300", "no server connection would become free in time"), "{refusal}");
}
