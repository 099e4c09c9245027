//! Messages of any length, of any kind, cut anywhere, and peers that do not read: what the proxy forwards is what was sent, or nothing at all. Checklist B1-B5.

mod harness;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use harness::frames::{self, bind, close, copy_data, copy_done, describe, execute, message, parse, query, server, sync};
use harness::{Faulty, Golden, PATIENCE, Postgres, Proxy, Script, Way, Wire, eventually, in_time, ping};
use tokio::sync::{Mutex, mpsc, oneshot};

/// What the inspector waits for at most, and the length of the read buffer.
const HELD: usize = 32 << 10;
const MIB: u64 = 1 << 20;

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

/// A message head that claims this length.
fn head(kind: u8, length: u32) -> Vec<u8> {
    let mut out = vec![kind];
    out.put_u32(length);
    out
}

#[tokio::test]
async fn b1_a_length_that_cannot_be_is_refused_before_its_bytes_are_awaited() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut impossible: Vec<Vec<u8>> =
        [b'Q', b'P', b'B', b'D', b'S', b'd', b'X'].into_iter().flat_map(|kind| [head(kind, 0), head(kind, 3)]).collect();
    impossible.extend([b'Q', b'P', b'B', b'F', b'd'].into_iter().flat_map(|kind| [head(kind, 0x4000_0000), head(kind, u32::MAX)]));
    impossible.extend([b'C', b'D', b'E', b'H', b'S', b'X', b'c', b'f'].map(|kind| head(kind, 10_001)));
    impossible.extend([b'H', b'S'].map(|kind| head(kind, 5)));
    impossible.push([head(b'D', 7), b"Snn".to_vec()].concat());
    let before = proxy.resident_bytes();
    for in_transaction in [false, true] {
        for bytes in &impossible {
            let mut wire = login(&proxy).await;
            if in_transaction {
                wire.query("BEGIN").await;
            }
            wire.send(bytes).await;
            let said = wire.until_closed().await;
            // To a Terminate there is nothing to say, whatever its length.
            if bytes[0] != b'X' {
                let error = harness::ServerError::read(&said.first().expect("an error").body);
                assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"), "{}\n{}", bytes.escape_ascii(), wire.transcript());
            }
        }
    }
    assert!(proxy.resident_bytes() < before + 16 * MIB, "nothing was set aside for what was announced");
    assert_eq!(login(&proxy).await.value("SELECT 1").await, "1");
    assert_eq!(pg.backends("app").await, 1);
}

#[tokio::test]
async fn b1_an_unknown_type_of_message_ends_the_session_as_it_does_at_postgresql() {
    let golden = Golden::start().await;
    for kind in [0, b'!', b'Z', b'R', b'v', 0xff] {
        golden
            .same(async |wire| {
                wire.send(&message(kind, b"whatever")).await;
                wire.until_closed().await;
            })
            .await;
        golden
            .same(async |wire| {
                wire.query("BEGIN").await;
                wire.send(&message(kind, b"whatever")).await;
                wire.until_closed().await;
            })
            .await;
    }
}

#[tokio::test]
async fn b1_who_says_a_message_that_is_cut_short_in_itself_goes_on_or_hears_why_not() {
    let pg = Postgres::start().await;
    let whole = [parse("x", "SELECT 1", &[]), bind("", "", &[]), describe(b'S', "x"), execute("", 0), close(b'S', "x"), query("SELECT 1")];
    for mode in ["transaction", "session", "statement"] {
        let proxy = Proxy::new(&pg).max_connections(1).pool_mode(mode).start().await;
        for (kind, body) in whole.iter().map(|message| (message[0], &message[5..])) {
            for length in 0..body.len() {
                let mut wire = login(&proxy).await;
                wire.send(&[parse("", "SELECT 2", &[]), message(kind, &body[..length]), sync()].concat()).await;
                let (mut last, mut has_asked) = (None, false);
                while let Ok(Some(frame)) = wire.try_read().await {
                    let is_end = frame.tag == b'D' && frame.values()[0].as_deref() == Some(b"the end");
                    if frame.tag == b'Z' && !std::mem::replace(&mut has_asked, true) {
                        wire.send(&query("SELECT 'the end'")).await;
                    }
                    last = Some(frame);
                    if is_end {
                        break;
                    }
                }
                let last = last.expect("an answer");
                let is_said = last.tag == b'E' && harness::ServerError::read(&last.body).code() == "08P01";
                assert!(last.tag == b'D' || is_said, "{mode}, {} {length}\n{}", char::from(kind), wire.transcript());
            }
        }
    }
}

#[tokio::test]
async fn b1_who_ends_with_what_no_client_may_say_costs_no_server_connection() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let pid = login(&proxy).await.value("SELECT pg_backend_pid()").await;
    let batch = [parse("", "SELECT 1", &[]), bind("", "", &[]), execute("", 0)].concat();
    let named = [parse("named", "SELECT 1", &[]), bind("", "named", &[]), execute("", 0)].concat();
    for before in [query("SELECT 1"), query("BEGIN"), batch, named, query("SELECT 1; SELECT pg_sleep(60)")] {
        for wrong in [message(b'!', b"whatever"), head(b'Q', 3), message(b'S', b"whatever")] {
            let mut wire = login(&proxy).await;
            wire.send(&[&before[..], &wrong].concat()).await;
            wire.until_closed().await;
            // What came before was sent on, and is put in order as that of any client that has gone.
            assert_eq!(login(&proxy).await.value("SELECT pg_backend_pid()").await, pid, "{}", before.escape_ascii());
        }
    }
}

#[tokio::test]
async fn b1_a_query_with_a_zero_in_its_text_is_refused_as_it_is_at_postgresql() {
    let golden = Golden::start().await;
    for text in [&b"SELECT 1\0SELECT 2\0"[..], b"SELECT 1", b"\0\0", b"SET pgweir.deadline_ms = 1\0 \0", b"LISTEN a\0; UNLISTEN *\0"] {
        golden
            .same(async |wire| {
                wire.send(&message(b'Q', text)).await;
                wire.until_ready().await;
                wire.query("SELECT 3").await;
            })
            .await;
    }
}

#[tokio::test]
async fn b2_a_conversation_may_be_cut_between_any_two_bytes() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("process.workers", 1).start().await;
    let (mut wire, mut pinger) = (login(&proxy).await, login(&proxy).await);
    let batch = [
        query("SELECT 'a'; SELECT 'b'"),
        parse("", "SELECT $1::text", &[]),
        bind("", "", &[Some("c")]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
        query(""),
    ]
    .concat();
    wire.send(&batch).await;
    let whole = three_answers(&mut wire).await;
    for cut in 1..batch.len() {
        wire.send(&batch[..cut]).await;
        ping(&mut pinger).await;
        wire.send(&batch[cut..]).await;
        assert_eq!(three_answers(&mut wire).await, whole, "cut at {cut}");
    }
    for byte in &batch {
        wire.send(&[*byte]).await;
        ping(&mut pinger).await;
    }
    assert_eq!(three_answers(&mut wire).await, whole, "byte by byte");
}

async fn three_answers(wire: &mut Wire) -> Vec<harness::Frame> {
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.extend(wire.until_ready().await);
    }
    answers
}

#[tokio::test]
async fn b2_an_answer_may_be_cut_between_any_two_bytes() {
    let (speak, words) = mpsc::unbounded_channel::<(Vec<u8>, oneshot::Sender<()>)>();
    let words = Arc::new(Mutex::new(words));
    let script = Script::start(move |mut peer| {
        let words = Arc::clone(&words);
        async move {
            peer.accept_login(42, &[1, 2, 3, 4]).await;
            let mut words = words.lock().await;
            while peer.read().await.is_some_and(|frame| frame.tag == b'Q') {
                for _ in 0..2 {
                    let Some((word, said)) = words.recv().await else { return };
                    peer.send(&word).await;
                    let _ = said.send(());
                }
            }
        }
    })
    .await;
    let proxy = Proxy::before_script(&script).max_connections(1).set("process.workers", 1).start().await;
    let (mut wire, mut pinger) = (login(&proxy).await, login(&proxy).await);
    let answer = [
        server::notice("NOTICE", "00000", "cut me"),
        server::columns(&["value"]),
        server::parameter("TimeZone", "Mars/Olympus"),
        server::row(&[Some("Z\0\0\0\x05I")]),
        server::complete("SELECT 1"),
        server::ready(b'I'),
    ]
    .concat();
    for cut in 1..answer.len() {
        wire.send(&query("SELECT 1")).await;
        for part in [&answer[..cut], &answer[cut..]] {
            let (say, said) = oneshot::channel();
            speak.send((part.to_vec(), say)).unwrap();
            in_time("the server speaks", said).await.unwrap();
            ping(&mut pinger).await;
        }
        let frames = wire.until_ready().await;
        assert_eq!(frames.iter().map(|frame| char::from(frame.tag)).collect::<String>(), "NTSDCZ", "cut at {cut}");
        assert_eq!(frames[3].values()[0].as_deref(), Some(&b"Z\0\0\0\x05I"[..]));
        // Settled: the other one is served by the same, and only, server connection next.
        std::mem::swap(&mut wire, &mut pinger);
    }
    assert_eq!(script.accepted(), 1);
}

#[tokio::test]
async fn b2_values_of_any_size_pass_in_little_memory() {
    const SIZE: usize = 128 << 20;
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    wire.value("SELECT 1").await;
    let before = proxy.resident_bytes();

    wire.send(&query(&format!("SELECT repeat('x', {SIZE})"))).await;
    let answer = wire.until_ready().await;
    assert_eq!(answer[1].body.len(), SIZE + 6);
    let value = vec![b'x'; SIZE / 4];
    let batch = [parse("", "SELECT length($1::text)", &[]), frames::bind_with("", "", &[], &[Some(&value)], &[]), execute("", 0), sync()];
    wire.send(&batch.concat()).await;
    assert_eq!(wire.until_ready().await[2].values()[0].as_deref(), Some((SIZE / 4).to_string().as_bytes()));
    wire.send(&query(&format!("SELECT length('{}')", "x".repeat(SIZE / 4)))).await;
    assert_eq!(wire.until_ready().await[1].values()[0].as_deref(), Some((SIZE / 4).to_string().as_bytes()));

    let after = proxy.resident_bytes();
    assert!(after < before + 16 * MIB, "{} MiB more than before", (after - before) / MIB);
}

#[tokio::test]
async fn b3_statements_and_names_that_fill_the_buffer_to_the_byte_pass_like_any() {
    let golden = Golden::start().await;
    let exactly = |length: usize| {
        // Head, name's end, text's end, number of types: what a Parse has besides its text.
        let filler = "x".repeat(length - parse("", "SELECT ''", &[]).len());
        parse("", &format!("SELECT '{filler}'"), &[])
    };
    let lengths =
        [HELD / 2 - 1, HELD / 2, HELD / 2 + 1, HELD - 1, HELD, HELD + 1, HELD + 5, HELD + 6, 2 * HELD - 1, 2 * HELD, 2 * HELD + 1];
    golden
        .same(async |wire| {
            for length in lengths {
                assert_eq!(exactly(length).len(), length);
                wire.send(&[exactly(length), bind("", "", &[]), execute("", 0), sync()].concat()).await;
                wire.until_ready().await;
            }
            // One behind the other, so that every one lies differently in the buffer.
            let half = exactly(HELD / 2);
            wire.send(&[half.repeat(5), bind("", "", &[]), execute("", 0), sync()].concat()).await;
            wire.until_ready().await;
            let uneven: Vec<u8> =
                (0..9).flat_map(|number| [exactly(HELD / 3 + number), bind("", "", &[]), execute("", 0), sync()].concat()).collect();
            wire.send_while_reading(&uneven).await;
            for _ in 0..9 {
                wire.until_ready().await;
            }
        })
        .await;
}

#[tokio::test]
async fn b3_names_may_be_longer_than_any_buffer() {
    let golden = Golden::start().await;
    for length in [64, HELD / 2 - 20, HELD - 20, HELD, HELD + 1, 3 * HELD] {
        golden
            .same_pinned(async |wire| {
                let name = "n".repeat(length);
                wire.send(&[parse(&name, "SELECT 'found'", &[]), sync()].concat()).await;
                wire.until_ready().await;
                wire.send(&[bind("", &name, &[]), execute("", 0), sync()].concat()).await;
                if length < HELD - 10 {
                    wire.until_ready().await;
                }
            })
            .await;
    }
    // Which statement a Bind is about must be seen before it is let through.
    let mut wire = login(&golden.narrow).await;
    wire.send(&[bind("", &"n".repeat(HELD), &[]), execute("", 0), sync()].concat()).await;
    wire.expect_error("0A000").await;
}

#[tokio::test]
async fn b3_what_a_large_message_is_about_does_not_depend_on_where_it_is_cut() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(2).set("process.workers", 1).start().await;
    let mut pinger = login(&proxy).await;
    let large = parse("named", &format!("SELECT '{}'", "x".repeat(3 * HELD)), &[]);
    for cut in [1, 5, 6, 11, 12, HELD - 1, HELD, HELD + 1] {
        let mut wire = login(&proxy).await;
        wire.send(&large[..cut]).await;
        ping(&mut pinger).await;
        wire.send(&[&large[cut..], &sync()].concat()).await;
        wire.until_ready().await;
        // It has a name, so it is there in the next transaction, too.
        wire.send(&[bind("", "named", &[]), execute("", 0), sync()].concat()).await;
        wire.expect(b'2').await;
        wire.until_ready().await;
    }
}

#[tokio::test]
async fn b4_names_and_texts_are_bytes_in_whatever_encoding() {
    let golden = Golden::start().await;
    let raw = |kind: u8, parts: &[&[u8]]| message(kind, &parts.concat());
    for encoding in ["LATIN1", "SJIS", "UTF8"] {
        golden
            .same_for(&[("client_encoding", encoding)], async |wire| {
                // Not UTF-8; at a UTF-8 client an error of PostgreSQL's.
                wire.send(&raw(b'Q', &[b"SELECT '\xe9\xa0' AS \"caf\xe9\xa0\"\0"])).await;
                wire.until_ready().await;
                let batch = [
                    raw(b'P', &[b"\0", b"SELECT '\xe9\xa0' || $1\0", &[0, 0]]),
                    raw(b'B', &[b"\xe9\xa0\0", b"\0", &[0, 0, 0, 1, 0, 0, 0, 2], b"\xe9\xa0", &[0, 0]]),
                    raw(b'E', &[b"\xe9\xa0\0", &[0; 4]]),
                    sync(),
                ];
                wire.send(&batch.concat()).await;
                wire.until_ready().await;
            })
            .await;
    }
}

#[tokio::test]
async fn b5_a_client_that_does_not_read_stalls_itself_alone_and_misses_nothing() {
    const ROWS: usize = 20_000;
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(2).start().await;
    let (mut slow, mut other) = (login(&proxy).await, login(&proxy).await);
    other.value("SELECT 1").await;
    let before = proxy.resident_bytes();
    slow.send(&query(&format!("SELECT number, repeat('x', 2000) FROM generate_series(1, {ROWS}) AS number"))).await;
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND query LIKE '%generate_series%' AND pid <> pg_backend_pid()";
    eventually("the server waits for the proxy to read", PATIENCE, || async { pg.value(stuck).await == "1" }).await;

    assert_eq!(other.value("SELECT 'served'").await, "served");
    assert!(proxy.resident_bytes() < before + 8 * MIB, "what is not read stays at the server");
    let answer = slow.until_ready().await;
    let numbers = answer.iter().filter(|frame| frame.tag == b'D').map(|row| row.values()[0].clone().unwrap());
    assert!(numbers.eq((1..=ROWS).map(|number| number.to_string())), "every row, in order");
}

#[tokio::test]
async fn b5_a_server_that_does_not_read_stalls_its_client_alone_and_misses_nothing() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE lines (line text); GRANT ALL ON lines TO app").await;
    let net = Faulty::to(pg.address()).await;
    let proxy = Proxy::before_faulty(&net).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    wire.send(&query("COPY lines FROM STDIN")).await;
    wire.expect(b'G').await;
    net.stall(Way::Onward);
    let before = proxy.resident_bytes();
    let line = copy_data(format!("{}\n", "x".repeat(8000)).as_bytes());
    let sending = tokio::spawn(async move {
        for _ in 0..4000 {
            wire.send(&line).await;
        }
        wire.send(&copy_done()).await;
        wire.expect(b'C').await;
        wire.expect_ready(b'I').await;
    });
    // The sockets on the way are full when the proxy stops taking bytes in.
    let last = Cell::new(0.0);
    eventually("the proxy takes no more", PATIENCE, || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let taken = proxy.metric(r#"pgweir_bytes_total{tenant="default",direction="in"}"#).await;
        taken - last.replace(taken) < 0.5
    })
    .await;
    assert!(!sending.is_finished(), "the client waits");
    assert!(proxy.resident_bytes() < before + 8 * MIB);
    net.heal();
    in_time("the COPY", sending).await.unwrap();
    assert_eq!(pg.value("SELECT count(*) FROM lines").await, "4000");
}

#[tokio::test]
async fn b5_a_large_batch_may_be_sent_whole_before_any_answer_is_read() {
    const COUNT: usize = 4000;
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    // 4 MB of questions and 200 KB of answers: more than one, less than the other, of what sockets hold.
    let one = [parse("", &format!("SELECT 1 -- {}", "x".repeat(1000)), &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    wire.send(&one.repeat(COUNT)).await;
    for _ in 0..COUNT {
        assert_eq!(wire.until_ready().await.len(), 5);
    }
    // 40 MB each way, by a client that reads while it writes.
    let large = query(&format!("SELECT '{}'", "x".repeat(100_000)));
    wire.send_while_reading(&large.repeat(400)).await;
    for _ in 0..400 {
        assert_eq!(wire.until_ready().await[1].body.len(), 100_006);
    }
}
