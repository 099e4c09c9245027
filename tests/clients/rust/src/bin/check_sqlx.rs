//! The matrix's script through sqlx.

use anyhow::{Result, bail};
use futures_util::TryStreamExt;
use pgweir_client_matrix::{Report, authority, concurrency, equal, url};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolCopyExt, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor, Row};

const TABLE: &str = "check_sqlx";

fn options() -> Result<PgConnectOptions> {
    let options: PgConnectOptions = url()?.parse()?;
    Ok(match authority() {
        Some(file) => options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(file),
        None => options.ssl_mode(PgSslMode::Disable),
    })
}

async fn connect() -> Result<PgConnection> {
    Ok(PgConnection::connect_with(&options()?).await?)
}

async fn fails<T>(code: &str, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<()> {
    match work.await {
        Ok(_) => bail!("{code} was expected"),
        Err(sqlx::Error::Database(error)) => equal(error.code().unwrap_or_default().into_owned(), code.to_owned()),
        Err(error) => bail!("{code} was expected, not {error}"),
    }
}

/// A statement about the table, which is called `{}` in it.
fn about_table(sql: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql.replace("{}", TABLE))
}

async fn count(connection: &mut PgConnection, condition: &str) -> Result<i64> {
    let sql = format!("SELECT count(*) FROM {{}} WHERE {condition}");
    Ok(sqlx::query_scalar(about_table(&sql)).fetch_one(connection).await?)
}

async fn crud() -> Result<()> {
    let mut connection = connect().await?;
    connection.execute(sqlx::raw_sql(about_table("DROP TABLE IF EXISTS {}; CREATE TABLE {} (id int PRIMARY KEY, note text)"))).await?;
    for id in 0..10 {
        let insert = sqlx::query(about_table("INSERT INTO {} VALUES ($1, $2)")).bind(id).bind(format!("note {id}"));
        insert.execute(&mut connection).await?;
    }
    let update = sqlx::query(about_table("UPDATE {} SET note = $1 WHERE id < $2")).bind("changed").bind(5);
    equal(update.execute(&mut connection).await?.rows_affected(), 5)?;
    let delete = sqlx::query(about_table("DELETE FROM {} WHERE id = $1")).bind(9);
    equal(delete.execute(&mut connection).await?.rows_affected(), 1)?;
    let select = sqlx::query_scalar(about_table("SELECT id FROM {} WHERE note = $1 ORDER BY id")).bind("changed");
    equal(select.fetch_all(&mut connection).await?, vec![0, 1, 2, 3, 4])
}

async fn parameters() -> Result<()> {
    let mut connection = connect().await?;
    macro_rules! round_trip {
        ($sql:literal, $type:ty, $sent:expr) => {{
            let sent: $type = $sent;
            let found: $type = sqlx::query_scalar($sql).bind(sent.clone()).fetch_one(&mut connection).await?;
            equal(found, sent)?;
        }};
    }
    round_trip!("SELECT $1::int4", i32, 42);
    round_trip!("SELECT $1::int8", i64, (1 << 53) + 1);
    round_trip!("SELECT $1::float8", f64, 1.5);
    round_trip!("SELECT $1::text", String, "Grüße, 世界".to_owned());
    round_trip!("SELECT $1::bool", bool, true);
    round_trip!("SELECT $1::bytea", Vec<u8>, (0..=255).collect());
    round_trip!("SELECT $1::int4[]", Vec<Option<i32>>, vec![Some(1), Some(2), None]);
    round_trip!("SELECT $1::text", Option<String>, None);
    Ok(())
}

async fn transactions() -> Result<()> {
    let mut connection = connect().await?;
    let before = count(&mut connection, "true").await?;
    let mut kept = connection.begin().await?;
    sqlx::query(about_table("INSERT INTO {} VALUES ($1, 'kept')")).bind(100).execute(&mut *kept).await?;
    kept.commit().await?;
    let mut dropped = connection.begin().await?;
    sqlx::query(about_table("INSERT INTO {} VALUES ($1, 'dropped')")).bind(101).execute(&mut *dropped).await?;
    dropped.rollback().await?;
    equal(count(&mut connection, "true").await?, before + 1)
}

async fn error_in_transaction() -> Result<()> {
    let mut connection = connect().await?;
    let mut transaction = connection.begin().await?;
    sqlx::query(about_table("INSERT INTO {} VALUES (102, 'dropped')")).execute(&mut *transaction).await?;
    fails("22012", sqlx::query("SELECT 1 / $1::int").bind(0).fetch_one(&mut *transaction)).await?;
    fails("25P02", sqlx::query("SELECT 1").fetch_one(&mut *transaction)).await?;
    transaction.rollback().await?;
    equal(count(&mut connection, "id = 102").await?, 0)
}

async fn error_codes() -> Result<()> {
    let mut connection = connect().await?;
    fails("23505", sqlx::query(about_table("INSERT INTO {} VALUES ($1, 'again')")).bind(1).execute(&mut connection)).await?;
    fails("42P01", sqlx::query("SELECT * FROM no_such_table").fetch_all(&mut connection)).await?;
    fails("22012", connection.execute(sqlx::raw_sql("SELECT 1 / 0"))).await?;
    equal(sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await?, 1)
}

async fn multi_statement() -> Result<()> {
    let mut connection = connect().await?;
    let rows = sqlx::raw_sql("SELECT 1; SELECT 2; SELECT 3").fetch_all(&mut connection).await?;
    equal(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), vec![1, 2, 3])?;
    fails("22012", connection.execute(sqlx::raw_sql("SELECT 1; SELECT 1 / 0; SELECT 3"))).await?;
    equal(sqlx::query_scalar("SELECT 4").fetch_one(&mut connection).await?, 4)
}

async fn prepared() -> Result<()> {
    let mut connection = connect().await?;
    for number in 0..20 {
        let next: i32 = sqlx::query_scalar("SELECT $1::int + 1").bind(number).fetch_one(&mut connection).await?;
        equal(next, number + 1)?;
    }
    Ok(())
}

async fn copy() -> Result<()> {
    let mut connection = connect().await?;
    connection.execute(about_table("TRUNCATE {}")).await?;
    let lines: String = (0..10_000).map(|id| format!("{id}\trow {id}\n")).collect();
    let mut into = connection.copy_in_raw(&format!("COPY {TABLE} FROM STDIN")).await?;
    into.send(lines.as_bytes()).await?;
    equal(into.finish().await?, 10_000)?;
    let out = connection.copy_out_raw(&format!("COPY (SELECT id FROM {TABLE}) TO STDOUT")).await?;
    let text: Vec<_> = out.try_collect().await?;
    let ids = String::from_utf8(text.concat())?;
    equal(ids.lines().map(|line| line.parse::<i64>()).sum::<Result<i64, _>>()?, 49_995_000)
}

async fn copy_error() -> Result<()> {
    let mut connection = connect().await?;
    let mut into = connection.copy_in_raw(&format!("COPY {TABLE} FROM STDIN")).await?;
    into.send(&b"not a number\tx\n"[..]).await?;
    fails("22P02", into.finish()).await?;
    equal(sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await?, 1)
}

async fn big_values() -> Result<()> {
    let mut connection = connect().await?;
    let big = "x".repeat(5_000_000);
    equal(sqlx::query_scalar("SELECT $1::text").bind(&big).fetch_one(&mut connection).await?, big)?;
    equal(sqlx::query_scalar("SELECT repeat('y', 5000000)").fetch_one(&mut connection).await?, "y".repeat(5_000_000))
}

/// The pool of sqlx, with its ping before each use.
async fn pool() -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(5).connect_with(options()?).await?;
    let all: Vec<_> = (0..50)
        .map(|number: i32| {
            let pool = pool.clone();
            tokio::spawn(async move { sqlx::query_scalar::<_, i32>("SELECT $1::int").bind(number).fetch_one(&pool).await })
        })
        .collect();
    for (number, one) in (0..).zip(all) {
        equal(one.await??, number)?;
    }
    drop(pool.copy_out_raw("COPY (SELECT 1) TO STDOUT").await?.try_collect::<Vec<_>>().await?);
    pool.close().await;
    Ok(())
}

async fn concurrent() -> Result<()> {
    let clients = concurrency()?;
    let all: Vec<_> = (0..clients)
        .map(|number| {
            tokio::spawn(async move {
                let mut connection = connect().await?;
                let mut transaction = connection.begin().await?;
                let (id, note) = (100_000 + number, format!("client {number}"));
                let insert = sqlx::query(about_table("INSERT INTO {} VALUES ($1, $2)")).bind(id).bind(&note);
                insert.execute(&mut *transaction).await?;
                let select = sqlx::query_scalar(about_table("SELECT note FROM {} WHERE id = $1")).bind(id);
                equal(select.fetch_one(&mut *transaction).await?, note)?;
                transaction.commit().await?;
                anyhow::Ok(connection.close().await?)
            })
        })
        .collect();
    for one in all {
        one.await??;
    }
    let mut connection = connect().await?;
    equal(count(&mut connection, "id >= 100000").await?, i64::from(clients))?;
    connection.execute(about_table("DROP TABLE {}")).await?;
    Ok(())
}

async fn listens() -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(2).connect_with(options()?).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen_all([TABLE, "check_sqlx_other"]).await?;
    let mut transaction = pool.begin().await?;
    for payload in ["first", "second"] {
        sqlx::query("SELECT pg_notify($1, $2)").bind(TABLE).bind(payload).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    for payload in ["first", "second"] {
        let heard = listener.recv().await?;
        equal((heard.channel(), heard.payload()), (TABLE, payload))?;
    }
    listener.unlisten(TABLE).await?;
    sqlx::query("SELECT pg_notify($1, 'third'), pg_notify('check_sqlx_other', 'fourth')").bind(TABLE).execute(&pool).await?;
    equal(listener.recv().await?.payload(), "fourth")?;
    drop(listener);
    Ok(pool.close().await)
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
    report.skip("cancel", "sqlx has no way to cancel a statement");
    report.check("big_values", big_values()).await;
    report.skip("notices", "sqlx only logs notices");
    report.check("pool", pool()).await;
    report.check("listens", listens()).await;
    report.check("concurrent", concurrent()).await;
    report.end();
}
