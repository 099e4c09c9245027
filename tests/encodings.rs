//! Clients of several encodings on the same server connections: what each has set and prepared, in letters that not all of them write alike. Checklist B4, F1, I1.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::collections::BTreeMap;

use harness::frames::{bind, execute, message, sync};
use harness::{Endpoint, Frame, Postgres, Proxy, Wire};

/// What the clients begin with, by their number.
type Encodings = [&'static str; 3];

const OF_UNICODE: Encodings = ["LATIN1", "UTF8", "SJIS"];

async fn login(to: &Endpoint, database: &str, parameters: &[(&str, &str)]) -> Wire {
    let mut wire = Wire::connect(to.clone()).await;
    wire.start(&[&[("user", "app"), ("database", database)], parameters].concat()).await;
    wire.authenticate("app", "secret").await.unwrap();
    wire
}

async fn clients(to: &Endpoint, database: &str, encodings: Encodings) -> Vec<Wire> {
    let mut all = Vec::new();
    for encoding in encodings {
        all.push(login(to, database, &[("client_encoding", encoding), ("application_name", "test")]).await);
    }
    all
}

async fn say(wire: &mut Wire, sql: &[u8]) -> Vec<Frame> {
    wire.send(&message(b'Q', &[sql, b"\0"].concat())).await;
    wire.until_ready().await
}

/// An answer, and what the client has been told of its settings by the end of it.
type Heard = (Vec<Frame>, BTreeMap<String, String>);

/// The answer without what it tells of settings: who is told of a value and at once of another has been told of that alone.
async fn hear(wire: &mut Wire, sql: &[u8]) -> Heard {
    let mut answer = say(wire, sql).await;
    answer.retain(|frame| frame.tag != b'S');
    (answer, wire.parameters.clone())
}

/// Each does what it is told, and then all of them look at what they have: nobody may have become another's.
async fn answers(to: &Endpoint, (database, encodings): (&str, Encodings), steps: &[(usize, &[u8])]) -> Vec<Heard> {
    let (mut wires, mut seen) = (clients(to, database, encodings).await, Vec::new());
    for wire in &mut wires {
        seen.push(hear(wire, b"SET app.name = ''").await);
    }
    for (client, sql) in steps {
        seen.push(hear(&mut wires[*client], sql).await);
        for wire in &mut wires {
            for question in
                ["SHOW app.name", "SELECT length(current_setting('app.name', true))", "SHOW client_encoding", "SHOW search_path"]
            {
                seen.push(hear(wire, question.as_bytes()).await);
            }
        }
    }
    seen
}

#[allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]
async fn same(who: (&str, Encodings), steps: &[(usize, &[u8])]) {
    let pg = Postgres::start().await;
    // Only of one with this name another encoding may be made.
    pg.sql("CREATE DATABASE template0 TEMPLATE app").await;
    pg.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'").await;
    let proxy = Proxy::new(&pg).database("latin", "latin").max_connections(1).start().await;
    let direct = answers(&Endpoint::from(&pg), who, steps).await;
    let through = answers(&Endpoint::from(&proxy), who, steps).await;
    for (number, (direct, through)) in direct.iter().zip(&through).enumerate() {
        assert_eq!(through, direct, "answer {number} of {who:?}");
    }
    let connects = proxy.metric(r#"pgweir_server_connects_total{upstream="main",outcome="ok"}"#).await;
    assert_eq!(connects, 1.0, "one server connection for all of it");
}

const STEPS: &[(usize, &[u8])] = &[
    (0, b"SET app.name = 'Jos\xe9'"),
    (1, "SET app.name = 'José'".as_bytes()),
    (2, b"SET app.name = '\x93\xfa'"),
    (0, b"BEGIN; SET app.name = '\xe9\xe9\xe9\xe9\xe9\xe9'; ROLLBACK"),
    (1, "SET search_path = \"schön\", public".as_bytes()),
    (0, b"SET client_encoding = 'UTF8'"),
    (1, "SET app.name = 'José €'".as_bytes()),
    // It has no such letter; what was set with it is there all the same.
    (1, b"SET client_encoding = 'LATIN1'"),
    (1, b"SELECT 'goes on'"),
    (0, b"SET app.name = 'Jos\xc3\xa9'; SET client_encoding = 'LATIN1'"),
    (1, b"SET client_encoding = 'SQL_ASCII'"),
    (1, b"DO $$BEGIN PERFORM set_config('work_mem', '77kB', false); END$$; RESET app.name"),
    (1, b"RESET client_encoding"),
    (0, b"RESET ALL"),
    (2, b"DISCARD ALL"),
];

#[tokio::test]
async fn i1_what_is_set_in_one_encoding_follows_its_client_among_those_of_others() {
    Box::pin(same(("app", OF_UNICODE), STEPS)).await;
}

#[tokio::test]
async fn i1_what_is_set_in_one_encoding_follows_its_client_where_the_databases_is_another() {
    Box::pin(same(("latin", ["LATIN1", "UTF8", "LATIN1"]), STEPS)).await;
}

#[tokio::test]
async fn i1_settings_whose_names_are_not_ascii_are_their_clients_or_nobodys() {
    let steps: &[(usize, &[u8])] = &[
        (1, "SET \"café.x\" = 'a'".as_bytes()),
        (1, "SHOW \"café.x\"".as_bytes()),
        // No encoding has it: PostgreSQL refuses the text, and goes on.
        (1, b"SET \xd0ession.x = 'b'"),
        (1, "SHOW \"café.x\"".as_bytes()),
        (1, "RESET \"café.x\"".as_bytes()),
        (1, "SHOW \"café.x\"".as_bytes()),
    ];
    Box::pin(same(("app", OF_UNICODE), steps)).await;

    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut wires = clients(&Endpoint::from(&proxy), "app", OF_UNICODE).await;
    say(&mut wires[0], b"SET \"caf\xe9.x\" = 'a'; SET app.name = 'Jos\xe9'").await;
    assert_eq!(wires[1].value("SELECT coalesce(current_setting('café.x', true), '')").await, "", "another's");
    assert_eq!(wires[0].value("SELECT length(current_setting('app.name'))").await, "4", "set in the same text");
    assert_eq!(wires[0].value("SHOW client_encoding").await, "LATIN1");
}

#[tokio::test]
async fn a9_what_a_client_begins_with_is_read_as_postgresql_reads_it() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let options = ("options", "-c app.name=José");
    let mut answers = Vec::new();
    for to in [Endpoint::from(&pg), Endpoint::from(&proxy)] {
        let mut seen = Vec::new();
        let mut first = login(&to, "app", &[("client_encoding", "LATIN1"), options]).await;
        let mut second = login(&to, "app", &[options]).await;
        for wire in [&mut first, &mut second] {
            seen.push(say(wire, b"SHOW app.name").await);
            seen.push(say(wire, b"SET app.name = 'other'; RESET app.name").await);
        }
        for wire in [&mut first, &mut second] {
            seen.push(say(wire, b"SHOW app.name").await);
        }
        answers.push(seen);
    }
    assert_eq!(answers[1], answers[0]);
}

#[tokio::test]
async fn the_same_bytes_in_another_encoding_are_another_statement() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut wires = clients(&Endpoint::from(&proxy), "app", OF_UNICODE).await;
    let texts: [&[u8]; 2] = [b"SELECT length('\xc3\xa9')", b"SELECT 1"];
    for _ in 0..2 {
        for (client, length) in [(0, "2"), (1, "1"), (2, "2")] {
            for (name, text) in [("letters", texts[0]), ("plain", texts[1])] {
                let parse = message(b'P', &[name.as_bytes(), b"\0", text, b"\0\0\0"].concat());
                wires[client].send(&[message(b'C', format!("S{name}\0").as_bytes()), parse, sync()].concat()).await;
                wires[client].until_ready().await;
            }
            wires[client].send(&[bind("", "letters", &[]), execute("", 0), sync()].concat()).await;
            let answer = wires[client].until_ready().await;
            let row = answer.iter().find(|frame| frame.tag == b'D').unwrap();
            assert_eq!(row.values()[0].as_deref().unwrap(), length.as_bytes(), "{}", OF_UNICODE[client]);
        }
    }
    let parsed = pg.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").await;
    assert_eq!(parsed, "1");
    let own = wires[1].query("SELECT statement FROM pg_prepared_statements WHERE statement = 'SELECT 1'").await;
    assert_eq!(own.len(), 1, "what is ASCII alone is one for all");
}
