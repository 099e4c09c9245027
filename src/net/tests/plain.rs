//! Connections without TLS: sending, waiting, ending, moving.

use std::future::poll_fn;
use std::io::{ErrorKind, Read};
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Exchange, exchange, plain_pairs, read_exactly, run, stream_of, tcp_pair, worker};
use crate::net::{Io, Peer};

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Io>() <= 40, "{} bytes", size_of::<Io>());
}

#[test]
fn large_transfers_both_ways_at_once_do_not_block_each_other() {
    run(async {
        for (kind, mut near, mut far) in plain_pairs().await {
            let what = Exchange { total: 4_000_000, sends: 1, expects: 2 };
            tokio::join!(exchange(&mut near, what), exchange(&mut far, what.mirrored()));
            assert!(!near.has_unsent(), "{kind}");
        }
    });
}

#[test]
fn a_fresh_connection_can_send_before_the_reactor_has_seen_it() {
    run(async {
        for (kind, mut near, mut far) in plain_pairs().await {
            assert_eq!(near.try_send(b"hello").unwrap(), 5, "{kind}");
            assert_eq!(read_exactly(&mut far, 5).await, b"hello", "{kind}");
        }
    });
}

/// Fills the connection until it takes no more: how much it took.
fn fill(io: &mut Io, with: &[u8]) -> usize {
    let mut sent = 0;
    while let taken @ 1.. = io.try_send(&with[sent..]).unwrap() {
        sent += taken;
    }
    assert!(sent < with.len(), "it took everything");
    sent
}

#[test]
fn a_sender_waits_for_a_slow_reader_without_spinning_and_is_woken() {
    // The reader is another thread, so that nothing but readiness can wake this one.
    let (to_reader, from_test) = mpsc::channel::<(std::net::TcpStream, usize)>();
    let (go, wait) = mpsc::channel::<()>();
    let reader = std::thread::spawn(move || {
        let (mut stream, total) = from_test.recv().unwrap();
        wait.recv().unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut all = vec![0; total];
        stream.read_exact(&mut all).unwrap();
        all
    });
    let all = stream_of(20_000_000, 7);
    run(async {
        let (near, far) = tcp_pair().await;
        let mut near = Io::from(near);
        let mut sent = fill(&mut near, &all);
        to_reader.send((far.into_std().unwrap(), all.len())).unwrap();
        let mut polls = 0;
        let sending = poll_fn(|cx| {
            polls += 1;
            while sent < all.len() {
                match near.poll_send(cx, &all[sent..]) {
                    Poll::Ready(taken) => sent += taken.unwrap(),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        });
        // The first wait must last until the reader starts: a spinning sender would be polled all the while.
        let mut sending = std::pin::pin!(sending);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut sending).await;
        assert!(early.is_err(), "sent although nobody read");
        go.send(()).unwrap();
        sending.await;
        assert!(polls < 2000, "{polls} polls");
    });
    assert!(reader.join().unwrap() == all);
}

#[test]
fn readiness_is_seen_without_reading() {
    run(async {
        let (near, far) = tcp_pair().await;
        let (mut near, mut far) = (Io::from(near), Io::from(far));
        // Whatever the reactor reports of a new connection, reading shows that nothing is there and settles it.
        let nothing = poll_fn(|cx| Poll::Ready(near.poll_read(cx, &mut [0; 8]).is_pending())).await;
        assert!(nothing);
        assert!(!near.poll_readable_hint());
        far.write_all(b"x").await.unwrap();
        while !near.poll_readable_hint() {
            tokio::task::yield_now().await;
        }
        // With room to spare: a read that fills its buffer cannot know that it was the last.
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 1);
        assert!(!near.poll_readable_hint());
        drop(far);
        while !near.poll_readable_hint() {
            tokio::task::yield_now().await;
        }
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    });
}

#[test]
fn after_the_peer_has_said_its_last_word_it_still_hears_ours() {
    run(async {
        for (kind, mut near, mut far) in plain_pairs().await {
            far.write_all(b"last").await.unwrap();
            far.shutdown();
            assert_eq!(read_exactly(&mut near, 4).await, b"last", "{kind}");
            assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0, "{kind}");
            near.write_all(b"answer").await.unwrap();
            assert_eq!(read_exactly(&mut far, 6).await, b"answer", "{kind}");
        }
    });
}

#[test]
fn a_reset_is_an_error_and_not_an_end() {
    run(async {
        let (near, far) = tcp_pair().await;
        let mut near = Io::from(near);
        far.set_zero_linger().unwrap();
        drop(far);
        let error = near.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(near.try_send(b"x").is_err());
    });
}

#[test]
fn a_connection_moves_between_workers_in_mid_stream() {
    for kind in ["tcp", "unix", "pipe"] {
        let (to_worker, parcels) = mpsc::channel();
        let (done, home) = mpsc::channel();
        let other = std::thread::spawn(move || {
            worker().block_on(async move {
                let mut io = crate::net::Portable::into_io(parcels.recv().unwrap()).unwrap();
                assert_eq!(read_exactly(&mut io, 3).await, b"two");
                io.write_all(b"three").await.unwrap();
                done.send(io.into_portable().unwrap()).unwrap();
            });
        });
        run(async {
            let mut pairs = plain_pairs().await;
            let (_, mut near, mut far) = pairs.remove(pairs.iter().position(|pair| pair.0 == kind).unwrap());
            near.write_all(b"one").await.unwrap();
            assert_eq!(read_exactly(&mut far, 3).await, b"one");
            to_worker.send(far.into_portable().unwrap()).unwrap();
            near.write_all(b"two").await.unwrap();
            assert_eq!(read_exactly(&mut near, 5).await, b"three");
            let mut far = home.recv().unwrap().into_io().unwrap();
            near.write_all(b"four").await.unwrap();
            assert_eq!(read_exactly(&mut far, 4).await, b"four");
        });
        other.join().unwrap();
    }
}

#[test]
fn libraries_see_an_ordinary_stream() {
    run(async {
        for (kind, mut near, mut far) in plain_pairs().await {
            AsyncWriteExt::write_all(&mut near, b"hello").await.unwrap();
            AsyncWriteExt::flush(&mut near).await.unwrap();
            AsyncWriteExt::shutdown(&mut near).await.unwrap();
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"hello", "{kind}");
        }
    });
}

#[test]
fn the_other_end_has_a_name() {
    run(async {
        for (kind, near, _far) in plain_pairs().await {
            match (kind, near.peer().unwrap()) {
                ("tcp", Peer::Tcp(address)) => assert!(address.ip().is_loopback()),
                ("unix", Peer::Unix { uid, pid }) => {
                    assert_eq!(uid, rustix::process::getuid().as_raw());
                    assert_eq!(pid, rustix::process::getpid().as_raw_nonzero().get());
                }
                ("pipe", Peer::InProcess) => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn options_reach_the_socket_where_there_is_one() {
    run(async {
        for (kind, near, _far) in plain_pairs().await {
            near.set_nodelay().unwrap();
            near.set_keepalive(Duration::from_secs(5), Duration::from_secs(2), 3).unwrap();
            near.set_user_timeout(Some(Duration::from_millis(1500))).unwrap();
            if let Io::Tcp(stream) = &near {
                let socket = SockRef::from(stream);
                assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap(), "{kind}");
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(5));
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(2));
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(1500)));
                near.clear_keepalive().unwrap();
                near.set_user_timeout(None).unwrap();
                assert!(!socket.keepalive().unwrap());
                assert_eq!(socket.tcp_user_timeout().unwrap(), None);
            }
        }
    });
}
