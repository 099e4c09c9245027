//! The matrix's script through tokio-postgres.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use pgweir_client_matrix::{Report, authority, concurrency, equal, url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

const TABLE: &str = "check_tokio_postgres";

fn tls(authority: &str) -> Result<MakeRustlsConnect> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    Ok(MakeRustlsConnect::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

/// A client, and the notices that it hears.
async fn connect() -> Result<(Client, UnboundedReceiver<String>)> {
    let mut config: Config = url()?.parse()?;
    config.connect_timeout(Duration::from_secs(60));
    let (heard, notices) = unbounded_channel();
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = $connection;
            tokio::spawn(async move {
                let messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
                messages
                    .for_each(|message| {
                        if let Ok(AsyncMessage::Notice(notice)) = message {
                            let _ = heard.send(notice.message().to_owned());
                        }
                        std::future::ready(())
                    })
                    .await;
            });
        }};
    }
    let client = match authority() {
        Some(file) => {
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
            let (client, connection) = config.connect(tls(&file)?).await?;
            drive!(connection);
            client
        }
        None => {
            config.ssl_mode(tokio_postgres::config::SslMode::Disable);
            let (client, connection) = config.connect(NoTls).await?;
            drive!(connection);
            client
        }
    };
    Ok((client, notices))
}

async fn fails<T>(code: &str, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<()> {
    match work.await {
        Ok(_) => bail!("{code} was expected"),
        Err(error) => equal(error.code().map_or_else(|| error.to_string(), |found| found.code().to_owned()), code.to_owned()),
    }
}

async fn value<T>(client: &Client, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<T>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    Ok(client.query_one(sql, values).await?.try_get(0)?)
}

async fn crud() -> Result<()> {
    let (client, _) = connect().await?;
    client.batch_execute(&format!("DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (id int PRIMARY KEY, note text)")).await?;
    for id in 0..10 {
        client.execute(&format!("INSERT INTO {TABLE} VALUES ($1, $2)"), &[&id, &format!("note {id}")]).await?;
    }
    equal(client.execute(&format!("UPDATE {TABLE} SET note = $1 WHERE id < $2"), &[&"changed", &5]).await?, 5)?;
    equal(client.execute(&format!("DELETE FROM {TABLE} WHERE id = $1"), &[&9]).await?, 1)?;
    let rows = client.query(&format!("SELECT id FROM {TABLE} WHERE note = $1 ORDER BY id"), &[&"changed"]).await?;
    equal(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), vec![0, 1, 2, 3, 4])
}

async fn parameters() -> Result<()> {
    let (client, _) = connect().await?;
    let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_281_800);
    let bytes: Vec<u8> = (0..=255).collect();
    let list = vec![Some(1), Some(2), None];
    equal(value(&client, "SELECT $1::int4", &[&42]).await?, 42)?;
    equal(value(&client, "SELECT $1::int8", &[&((1_i64 << 53) + 1)]).await?, (1_i64 << 53) + 1)?;
    equal(value(&client, "SELECT $1::float8", &[&1.5]).await?, 1.5)?;
    equal(value(&client, "SELECT $1::text", &[&"Grüße, 世界"]).await?, "Grüße, 世界".to_owned())?;
    equal(value(&client, "SELECT $1::bool", &[&true]).await?, true)?;
    equal(value(&client, "SELECT $1::bytea", &[&bytes]).await?, bytes)?;
    equal(value(&client, "SELECT $1::timestamptz", &[&moment]).await?, moment)?;
    equal(value(&client, "SELECT $1::int4[]", &[&list]).await?, list)?;
    equal(value(&client, "SELECT $1::text", &[&None::<String>]).await?, None::<String>)
}

async fn transactions() -> Result<()> {
    let (mut client, _) = connect().await?;
    let count = format!("SELECT count(*) FROM {TABLE}");
    let before: i64 = value(&client, &count, &[]).await?;
    let kept = client.transaction().await?;
    kept.execute(&format!("INSERT INTO {TABLE} VALUES ($1, 'kept')"), &[&100]).await?;
    kept.commit().await?;
    let dropped = client.transaction().await?;
    dropped.execute(&format!("INSERT INTO {TABLE} VALUES ($1, 'dropped')"), &[&101]).await?;
    dropped.rollback().await?;
    equal(value(&client, &count, &[]).await?, before + 1)
}

async fn error_in_transaction() -> Result<()> {
    let (mut client, _) = connect().await?;
    let transaction = client.transaction().await?;
    transaction.execute(&format!("INSERT INTO {TABLE} VALUES (102, 'dropped')"), &[]).await?;
    fails("22012", transaction.query_one("SELECT 1 / $1::int", &[&0])).await?;
    fails("25P02", transaction.query_one("SELECT 1", &[])).await?;
    transaction.rollback().await?;
    equal(value(&client, &format!("SELECT count(*) FROM {TABLE} WHERE id = 102"), &[]).await?, 0_i64)
}

async fn error_codes() -> Result<()> {
    let (client, _) = connect().await?;
    fails("23505", client.execute(&format!("INSERT INTO {TABLE} VALUES ($1, 'again')"), &[&1])).await?;
    fails("42P01", client.query("SELECT * FROM no_such_table", &[])).await?;
    fails("22012", client.simple_query("SELECT 1 / 0")).await?;
    equal(value(&client, "SELECT 1", &[]).await?, 1)
}

async fn multi_statement() -> Result<()> {
    let (client, _) = connect().await?;
    let answer = client.simple_query("SELECT 1; SELECT 2; SELECT 3").await?;
    let found = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    equal(found.collect::<Vec<_>>(), vec!["1", "2", "3"])?;
    fails("22012", client.batch_execute("SELECT 1; SELECT 1 / 0; SELECT 3")).await?;
    equal(value(&client, "SELECT 4", &[]).await?, 4)
}

async fn prepared() -> Result<()> {
    let (client, _) = connect().await?;
    let statement = client.prepare("SELECT $1::int + 1").await?;
    for number in 0..20 {
        equal(client.query_one(&statement, &[&number]).await?.get(0), number + 1)?;
    }
    // Many at once: the driver pipelines them.
    let statement = &statement;
    let client = &client;
    let all = (0..100).map(|number| async move { client.query_one(statement, &[&number]).await });
    let rows: Vec<_> = futures_util::stream::iter(all).buffered(100).try_collect().await?;
    equal(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), (1..=100).collect())
}

async fn copy() -> Result<()> {
    let (client, _) = connect().await?;
    client.batch_execute(&format!("TRUNCATE {TABLE}")).await?;
    let mut into = std::pin::pin!(client.copy_in::<_, Bytes>(&format!("COPY {TABLE} FROM STDIN")).await?);
    for id in 0..10_000 {
        into.feed(Bytes::from(format!("{id}\trow {id}\n"))).await?;
    }
    equal(into.finish().await?, 10_000)?;
    let out = client.copy_out(&format!("COPY (SELECT id FROM {TABLE}) TO STDOUT")).await?;
    let text: Vec<Bytes> = out.try_collect().await?;
    let ids = String::from_utf8(text.concat())?;
    equal(ids.lines().map(|line| line.parse::<i64>()).sum::<Result<i64, _>>()?, 49_995_000)
}

async fn copy_error() -> Result<()> {
    let (client, _) = connect().await?;
    let mut into = std::pin::pin!(client.copy_in::<_, Bytes>(&format!("COPY {TABLE} FROM STDIN")).await?);
    into.send(Bytes::from_static(b"not a number\tx\n")).await?;
    fails("22P02", into.finish()).await?;
    equal(value(&client, "SELECT 1", &[]).await?, 1)
}

async fn cancel() -> Result<()> {
    let ((client, _), (observer, _)) = (connect().await?, connect().await?);
    let token = client.cancel_token();
    let sleep = format!("SELECT pg_sleep(60) /* {TABLE} sleeps */");
    let sleepers = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE state = 'active' AND query LIKE '%* {TABLE} sleeps *%' AND pid <> pg_backend_pid()"
    );
    let cancelling = async {
        while value::<i64>(&observer, &sleepers, &[]).await? != 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        match authority() {
            Some(file) => token.cancel_query(tls(&file)?).await?,
            None => token.cancel_query(NoTls).await?,
        }
        anyhow::Ok(())
    };
    let (slept, cancelled) = tokio::join!(fails("57014", client.query(&sleep, &[])), cancelling);
    cancelled.context("the cancel request")?;
    slept?;
    equal(value(&client, "SELECT 1", &[]).await?, 1)
}

async fn big_values() -> Result<()> {
    let (client, _) = connect().await?;
    let big = "x".repeat(5_000_000);
    equal(value(&client, "SELECT $1::text", &[&big]).await?, big)?;
    equal(value(&client, "SELECT repeat('y', 5000000)", &[]).await?, "y".repeat(5_000_000))
}

async fn notices() -> Result<()> {
    let (client, mut notices) = connect().await?;
    client.batch_execute("DO $$ BEGIN RAISE NOTICE 'hear me'; END $$").await?;
    equal(notices.recv().await, Some("hear me".to_owned()))
}

async fn concurrent() -> Result<()> {
    let clients = concurrency()?;
    let all: Vec<_> = (0..clients)
        .map(|number| {
            tokio::spawn(async move {
                let (mut client, _) = connect().await?;
                let transaction = client.transaction().await?;
                let (id, note) = (100_000 + number, format!("client {number}"));
                transaction.execute(&format!("INSERT INTO {TABLE} VALUES ($1, $2)"), &[&id, &note]).await?;
                let row = transaction.query_one(&format!("SELECT note FROM {TABLE} WHERE id = $1"), &[&id]).await?;
                equal(row.get::<_, String>(0), note)?;
                anyhow::Ok(transaction.commit().await?)
            })
        })
        .collect();
    for one in all {
        one.await??;
    }
    let (client, _) = connect().await?;
    equal(value(&client, &format!("SELECT count(*) FROM {TABLE} WHERE id >= 100000"), &[]).await?, i64::from(clients))?;
    Ok(client.batch_execute(&format!("DROP TABLE {TABLE}")).await?)
}

#[tokio::main]
async fn main() {
    let mut report = Report::default();
    report.check("crud", crud()).await;
    report.check("parameters", parameters()).await;
    report.check("transactions", transactions()).await;
    report.check("error_in_transaction", error_in_transaction()).await;
    report.check("error_codes", error_codes()).await;
    report.check("multi_statement", multi_statement()).await;
    report.check("prepared", prepared()).await;
    report.check("copy", copy()).await;
    report.check("copy_error", copy_error()).await;
    report.check("cancel", cancel()).await;
    report.check("big_values", big_values()).await;
    report.check("notices", notices()).await;
    report.check("concurrent", concurrent()).await;
    report.end();
}
