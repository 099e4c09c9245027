//! What a caller can hold, and for how long.

use super::*;
use crate::http::serve::{MAX_CONNECTIONS, MAX_HEAD};

/// Short enough to wait for, long enough for the requests of a test to come in time.
const PATIENCE: Duration = Duration::from_millis(300);

async fn is_alive(address: std::net::SocketAddr) {
    assert_eq!(ask(address, "GET", "/healthz").await.1, "ok\n");
}

#[test]
fn nonsense_is_refused_and_ends_its_connection_only() {
    beside(&Proxy::new(), EVER, |address| async move {
        for nonsense in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"\0\0\0\x08\x04\xd2\x16\x2f\r\n\r\n",
            b"hello\r\n\r\n",
            b"GET  HTTP/9\r\n\r\n",
        ] {
            let answer = say(address, nonsense).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
        }
        is_alive(address).await;
    });
}

#[test]
fn a_head_has_a_limit() {
    beside(&Proxy::new(), EVER, |address| async move {
        let mut large = b"GET /healthz HTTP/1.1\r\nhost: test\r\nx: ".to_vec();
        large.resize(2 * MAX_HEAD, b'x');
        let answer = say(address, &large).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        let mut many = b"GET /healthz HTTP/1.1\r\nhost: test\r\n".to_vec();
        (0..200).for_each(|_| many.extend_from_slice(b"a: b\r\n"));
        many.extend_from_slice(b"\r\n");
        let answer = say(address, &many).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        is_alive(address).await;
    });
}

#[test]
fn a_body_is_not_waited_for() {
    beside(&Proxy::new(), EVER, |address| async move {
        let answer = say(address, b"POST /healthz HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\nabc").await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    });
}

#[test]
fn whoever_says_nothing_is_left() {
    beside(&Proxy::new(), PATIENCE, |address| async move {
        assert_eq!(say(address, b"").await, "");
    });
}

#[test]
fn a_head_that_drips_in_wins_no_time() {
    beside(&Proxy::new(), PATIENCE, |address| async move {
        let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
        let drip = async {
            for byte in b"GET /healthz HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
                if writer.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(PATIENCE / 20).await;
            }
        };
        let mut all = Vec::new();
        tokio::select! {
            // A reset says the same as an end.
            _ = reader.read_to_end(&mut all) => {}
            () = drip => {}
        }
        assert_eq!(String::from_utf8(all).unwrap(), "");
    });
}

#[test]
fn whoever_asks_again_in_time_stays() {
    // So much that a busy machine does not make the test late.
    let patience = Duration::from_millis(1500);
    beside(&Proxy::new(), patience, |address| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let began = tokio::time::Instant::now();
        while began.elapsed() < 2 * patience {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
            answer(&mut stream).await;
            tokio::time::sleep(patience / 50).await;
        }
        assert_eq!(until_closed(&mut stream).await, "");
    });
}

#[test]
fn an_answer_that_is_not_fetched_is_given_up() {
    let proxy = Proxy::new();
    // Larger than what the kernel keeps for a connection, so that the server must wait.
    let names: Vec<String> = (0..5_000).map(|number| format!("{number:0200}")).collect();
    proxy.metrics.set_tenants(&names);
    beside(&proxy, PATIENCE, |address| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        stream.readable().await.unwrap();
        tokio::time::sleep(4 * PATIENCE).await;
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        let text = String::from_utf8_lossy(&all);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        assert!(body.len() < length, "all {length} bytes fitted into the kernel's buffers: the test shows nothing");
        is_alive(address).await;
    });
}

#[test]
fn silent_callers_cannot_lock_a_health_check_out() {
    beside(&Proxy::new(), EVER, |address| async move {
        let mut silent = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        is_alive(address).await;
        // The first have made room; the last are still there.
        for stream in &mut silent[..MAX_CONNECTIONS] {
            assert_eq!(until_closed(stream).await, "");
        }
        let last = silent.last_mut().unwrap();
        last.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        assert!(answer(last).await.ends_with("ok\n"));
    });
}

#[test]
fn whoever_asks_keeps_its_place_before_whoever_is_silent() {
    beside(&Proxy::new(), EVER, |address| async move {
        let mut scraper = TcpStream::connect(address).await.unwrap();
        let mut silent = Vec::new();
        for _ in 0..3 * MAX_CONNECTIONS {
            scraper.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
            answer(&mut scraper).await;
            silent.push(TcpStream::connect(address).await.unwrap());
        }
    });
}

#[test]
fn an_end_of_the_server_ends_its_connections() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let bound = Bound::bind(&ListenAt::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let Some(Address::Tcp(address)) = bound.address() else { panic!("not a TCP address") };
        let serving = tokio::task::spawn_local(serve(bound.listen().unwrap(), Proxy::new()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        answer(&mut stream).await;
        serving.abort();
        let closed = tokio::time::timeout(DEADLINE, until_closed(&mut stream)).await;
        assert_eq!(closed.expect("the connection is closed"), "");
    });
}
