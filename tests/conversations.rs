//! Golden conversations: each file of `tests/conversations` is played straight to PostgreSQL and through the proxy, and the two
//! transcripts must be equal, message for message. A new bug is a new file of ten lines; the first line says what it shows.
//!
//! A line is one message (`#` begins a comment; `\n`, `\t`, `\0` and `\\` are escapes inside texts):
//!
//! ```text
//! query TEXT                       bind PORTAL STATEMENT [VALUE ...]    copy-data TEXT
//! parse NAME TEXT                  describe S|P NAME                    copy-done
//! execute PORTAL [ROWS]            close S|P NAME                       copy-fail TEXT
//! sync                             flush                                function OID [VALUE ...]
//! message TYPE [TEXT]
//! ```
//!
//! `-` is the empty name or the null value. What was said since the last `await` is sent in one piece, once byte by byte, at
//! `await TYPE`, which reads up to and with a frame of that type; at the end of the file the client leaves (`Terminate`), unless
//! the last line is `await end`: then it is the server who must have closed.
//! Through a transaction pool the script gets another server connection after each `await Z` that ends a transaction. Where one is to be kept, which the metrics must
//! say, the next line is `kept`, and where a kept one is let go again, `free`.
//! The database has a table `item (id int PRIMARY KEY, note text)` with the rows (1, 'one') to (3, 'three').

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::fs;
use std::path::Path;

use harness::{Elsewhere, Endpoint, PATIENCE, Postgres, Proxy, ProxyOptions, Wire, eventually, frames};

const FRESH: &str = "TRUNCATE item; INSERT INTO item VALUES (1, 'one'), (2, 'two'), (3, 'three')";

/// How the bytes of one turn are sent.
#[derive(Clone, Copy, Debug)]
enum Pieces {
    Whole,
    Bytes,
}

#[tokio::test]
async fn postgres_answers_itself_alike() {
    // What fails here is a conversation that no proxy could pass: it has an answer that changes from run to run.
    let pg = prepared().await;
    Box::pin(compare_all(&pg, (&pg).into(), (&pg).into(), None)).await;
}

#[tokio::test]
async fn the_proxy_answers_as_postgres_does() {
    let pg = prepared().await;
    // One of three listens for all, and is no other's.
    let proxy = proxy_over(&pg).max_connections(3).set("defaults.queue_timeout", "20s").start().await;
    let mut listener = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    listener.query("LISTEN nothing").await;
    eventually("one listens for all", PATIENCE, async || {
        proxy.metric(r#"pgweir_server_connections{upstream="main",state="listening"}"#).await > 0.5
    })
    .await;
    Box::pin(compare_all(&pg, (&pg).into(), (&proxy).into(), Some(&proxy))).await;
}

#[tokio::test]
async fn a_session_pool_answers_as_postgres_does() {
    let pg = prepared().await;
    let proxy = proxy_over(&pg).pool_mode("session").start().await;
    Box::pin(compare_all(&pg, (&pg).into(), (&proxy).into(), None)).await;
}

fn proxy_over(pg: &Postgres) -> ProxyOptions {
    // RESET ALL goes back to the server connection's own name: here that of a client that gives none.
    Proxy::new(pg).max_connections(2).set("upstreams.main.application_name", "")
}

async fn prepared() -> Postgres {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE item (id int PRIMARY KEY, note text); ALTER TABLE item OWNER TO app").await;
    pg
}

async fn compare_all(pg: &Postgres, straight: Endpoint, other: Endpoint, switched: Option<&Proxy>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "there are conversations");
    let mut different = Vec::new();
    for file in files {
        let script = fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap_or_default().display();
        let expected = play(pg, straight.clone(), &script, Pieces::Whole, None).await;
        for pieces in [Pieces::Whole, Pieces::Bytes] {
            let mut elsewhere = match switched {
                Some(proxy) => Some((proxy, Elsewhere::begin(proxy).await)),
                None => None,
            };
            let found = play(pg, other.clone(), &script, pieces, elsewhere.as_mut()).await;
            if found != expected {
                different.push(format!("{name}, {pieces:?}\n{}\n", difference(&expected, &found)));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// What was said alike, and then both sides' next lines.
fn difference(expected: &str, found: &str) -> String {
    let alike = expected.lines().zip(found.lines()).take_while(|(left, right)| left == right).count();
    let mut lines: Vec<String> = found.lines().take(alike).map(|line| format!("  {line}")).collect();
    for (speaker, text) in [("PostgreSQL:", expected), ("     found:", found)] {
        lines.extend(text.lines().skip(alike).take(3).map(|line| format!("{speaker} {line}")));
    }
    lines.join("\n")
}

/// Plays one script on a connection of its own and answers what both sides said after login, and what is in the table then.
async fn play(pg: &Postgres, to: Endpoint, script: &str, pieces: Pieces, mut elsewhere: Option<&mut (&Proxy, Elsewhere)>) -> String {
    pg.sql(FRESH).await;
    let mut wire = Wire::login(to, "app", "secret", "app").await.unwrap();
    wire.clear_transcript();
    let mut turn = Vec::new();
    let mut is_kept = false;
    let mut lines = script.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    while let Some(line) = lines.next() {
        if let Some(tag) = line.strip_prefix("await ") {
            match pieces {
                Pieces::Whole => wire.send(&turn).await,
                Pieces::Bytes => wire.send_in_pieces(&turn, 1).await,
            }
            turn.clear();
            if tag == "end" {
                wire.until_closed().await;
                return ended(pg, &wire).await;
            }
            let last = loop {
                let frame = wire.read().await;
                if tag.as_bytes().contains(&frame.tag) {
                    break frame;
                }
            };
            is_kept = match lines.peek() {
                Some(&"kept") => true,
                Some(&"free") => false,
                _ => is_kept,
            };
            if let Some((proxy, elsewhere)) = &mut elsewhere
                && (last.tag, &last.body[..]) == (b'Z', b"I")
            {
                if is_kept {
                    eventually("the connection is kept", PATIENCE, || keeps(proxy)).await;
                } else {
                    assert!(elsewhere.switch().await, "kept after {line:?}\n{}", wire.transcript());
                }
            }
        } else if line != "kept" && line != "free" {
            turn.extend(frame(line));
        }
    }
    turn.extend(frames::terminate());
    wire.send(&turn).await;
    let last = wire.until_closed().await;
    assert!(last.is_empty(), "after Terminate came {last:?}\n{}", wire.transcript());
    ended(pg, &wire).await
}

/// Whether a client of the proxy keeps its server connection, by whatever reason.
async fn keeps(proxy: &Proxy) -> bool {
    let page = proxy.http_get("/metrics").await.body;
    page.lines().any(|line| line.starts_with("pgweir_pinned{") && !line.ends_with(" 0"))
}

/// The transcript, and what is in the table once no transaction of a client is open any more.
async fn ended(pg: &Postgres, wire: &Wire) -> String {
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND (state <> 'idle' AND query <> 'BEGIN' OR backend_xid IS NOT NULL)";
    eventually("the transaction ends", PATIENCE, || async { pg.value(open).await == "0" }).await;
    let rows = pg.sql("SELECT id, note FROM item ORDER BY id").await;
    format!("{}\nitem: {rows:?}", wire.transcript())
}

/// The bytes of one line.
fn frame(line: &str) -> Vec<u8> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words: Vec<String> = rest.split(' ').filter(|word| !word.is_empty()).map(unescaped).collect();
    let name = |at: usize| words.get(at).map_or("", String::as_str).trim_start_matches('-');
    let values = |from: usize| -> Vec<Option<&str>> {
        let values = words.get(from..).unwrap_or_default().iter().map(String::as_str);
        values.map(|value| (value != "-").then_some(value)).collect()
    };
    let kind = || name(0).as_bytes()[0];
    match word {
        "query" => frames::query(&unescaped(rest)),
        "parse" => frames::parse(name(0), &unescaped(rest.split_once(' ').map_or("", |(_, text)| text)), &[]),
        "bind" => frames::bind(name(0), name(1), &values(2)),
        "describe" => frames::describe(kind(), name(1)),
        "execute" => frames::execute(name(0), words.get(1).map_or(0, |rows| rows.parse().expect("a number of rows"))),
        "close" => frames::close(kind(), name(1)),
        "sync" => frames::sync(),
        "message" => frames::message(name(0).as_bytes()[0], unescaped(rest.split_once(' ').map_or("", |(_, text)| text)).as_bytes()),
        "flush" => frames::flush(),
        "copy-data" => frames::copy_data(unescaped(rest).as_bytes()),
        "copy-done" => frames::copy_done(),
        "copy-fail" => frames::copy_fail(&unescaped(rest)),
        "function" => {
            let arguments: Vec<&str> = values(1).into_iter().map(Option::unwrap_or_default).collect();
            frames::function_call(name(0).parse().expect("an OID"), &arguments)
        }
        other => panic!("{other:?} is no message: {line}"),
    }
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        out.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('0') => '\0',
                Some('\\') => '\\',
                other => panic!("no such escape: {other:?} in {text}"),
            },
            plain => plain,
        });
    }
    out
}
