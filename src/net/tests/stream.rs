//! The TLS stream against tokio-rustls, in both roles and both versions.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::sync::{Arc, mpsc};

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::certs::Authority;
use super::{Exchange, Oracle, exchange, read_exactly, run, stream_of, tcp_pair, worker};
use crate::net::tls::{Attempt, CaSource, Opening, ServerTls, ServerTlsSource, SslMode, SslNegotiation};
use crate::net::tls::{accept_tls, negotiate_server_tls};
use crate::net::{HandshakeError, Io};

pub(super) const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// We are the server.
async fn greet(authority: &Authority, version: &'static SupportedProtocolVersion) -> (Io, client::TlsStream<TcpStream>) {
    let (near, far) = tcp_pair().await;
    let tls = authority.client_tls();
    let connector = TlsConnector::from(Arc::new(authority.oracle_client(version, &[b"postgresql"], None)));
    let (io, oracle) =
        tokio::join!(accept_tls(near.into(), &[], &tls, Opening::Requested), connector.connect("localhost".try_into().unwrap(), far));
    (io.unwrap(), oracle.unwrap())
}

/// We are the client.
async fn approach(authority: &Authority, version: &'static SupportedProtocolVersion) -> (Io, server::TlsStream<TcpStream>) {
    let (near, far) = tcp_pair().await;
    let tls = ServerTls::load(&ServerTlsSource {
        mode: SslMode::VerifyFull,
        negotiation: SslNegotiation::Direct,
        ca: Some(CaSource::File(authority.file())),
        pair: None,
    })
    .unwrap();
    let mut config = authority.issue("localhost").oracle_server(version);
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (io, oracle) = tokio::join!(negotiate_server_tls(near.into(), &tls, Attempt::Tls, "localhost"), acceptor.accept(far));
    (io.unwrap(), oracle.unwrap())
}

#[test]
fn large_transfers_both_ways_at_once_do_not_block_each_other() {
    run(async {
        let authority = Authority::new();
        let what = Exchange { total: 3_000_000, sends: 1, expects: 2 };
        for version in VERSIONS {
            let (mut near, far) = greet(&authority, version).await;
            tokio::join!(exchange(&mut near, what), exchange(Oracle(far), what.mirrored()));
            let (mut near, far) = approach(&authority, version).await;
            tokio::join!(exchange(&mut near, what), exchange(Oracle(far), what.mirrored()));
        }
    });
}

#[test]
fn what_was_agreed_on_can_be_told() {
    run(async {
        let authority = Authority::new();
        for (version, word) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
            let (io, _far) = greet(&authority, version).await;
            let info = io.tls_info().unwrap();
            assert_eq!((info.version, info.server_name, info.alpn), (word, Some("localhost"), Some(&b"postgresql"[..])));
            assert!(info.cipher.starts_with("TLS_") && info.peer_certificates.is_empty(), "{}", info.cipher);
            let (io, _far) = approach(&authority, version).await;
            let info = io.tls_info().unwrap();
            assert_eq!((info.version, info.peer_certificates.len()), (word, 1));
        }
    });
}

#[test]
fn keys_can_be_changed_in_mid_stream_by_the_peer() {
    run(async {
        let authority = Authority::new();
        let what = Exchange { total: 200_000, sends: 1, expects: 2 };
        let (mut near, mut far) = greet(&authority, &TLS13).await;
        for _ in 0..5 {
            far.get_mut().1.refresh_traffic_keys().unwrap();
            let mut oracle = Oracle(far);
            tokio::join!(exchange(&mut near, what), exchange(&mut oracle, what.mirrored()));
            far = oracle.0;
        }
    });
}

#[test]
fn a_close_is_an_end_and_a_cut_is_an_error() {
    run(async {
        let authority = Authority::new();
        for version in VERSIONS {
            let (mut io, mut far) = greet(&authority, version).await;
            far.write_all(b"last").await.unwrap();
            far.shutdown().await.unwrap();
            assert_eq!(read_exactly(&mut io, 4).await, b"last");
            assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
            assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
            io.write_all(b"answer").await.unwrap();
            io.shutdown();
            let mut answer = Vec::new();
            far.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"answer");

            let (mut io, mut far) = greet(&authority, version).await;
            far.write_all(b"last").await.unwrap();
            far.flush().await.unwrap();
            drop(far.into_inner().0);
            assert_eq!(read_exactly(&mut io, 4).await, b"last");
            assert_eq!(io.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
    });
}

#[test]
fn small_buffers_lose_nothing() {
    run(async {
        let authority = Authority::new();
        let (mut io, mut far) = greet(&authority, &TLS13).await;
        let sent = stream_of(50_000, 3);
        let receiving = async {
            let mut got = Vec::new();
            while got.len() < sent.len() {
                let mut buf = [0; 7];
                let count = io.read(&mut buf).await.unwrap();
                got.extend_from_slice(&buf[..count]);
            }
            got
        };
        let sending = async {
            far.write_all(&sent).await.unwrap();
            far.flush().await.unwrap();
        };
        let (got, ()) = tokio::join!(receiving, sending);
        assert!(got == sent);
    });
}

#[test]
fn plaintext_that_was_decrypted_but_not_read_counts_as_readable() {
    run(async {
        let authority = Authority::new();
        let (mut io, mut far) = greet(&authority, &TLS13).await;
        far.write_all(b"two bytes").await.unwrap();
        far.flush().await.unwrap();
        assert_eq!(read_exactly(&mut io, 3).await, b"two");
        assert!(io.poll_readable_hint());
        assert_eq!(read_exactly(&mut io, 6).await, b" bytes");
        assert!(!io.poll_readable_hint());
    });
}

#[test]
fn a_peer_that_does_not_read_costs_a_bounded_amount() {
    run(async {
        let authority = Authority::new();
        let (mut io, mut far) = greet(&authority, &TLS13).await;
        let all = stream_of(20_000_000, 9);
        let mut sent = 0;
        while let taken @ 1.. = io.try_send(&all[sent..]).unwrap() {
            sent += taken;
        }
        assert!(io.has_unsent());
        assert_eq!(io.try_send(b"more").unwrap(), 0);
        let flushing = poll_fn(|cx| io.poll_flush(cx));
        let reading = async {
            let mut got = vec![0; sent];
            far.read_exact(&mut got).await.unwrap();
            got
        };
        let (flushed, got) = tokio::join!(flushing, reading);
        flushed.unwrap();
        assert!(got == all[..sent]);
        assert!(!io.has_unsent());
    });
}

#[test]
fn a_reader_that_waits_also_sends_what_is_left() {
    run(async {
        let authority = Authority::new();
        let (mut io, mut far) = greet(&authority, &TLS13).await;
        let mut sent = 0;
        while let taken @ 1.. = io.try_send(&vec![5; 100_000]).unwrap() {
            sent += taken;
        }
        let peer = async {
            let mut got = vec![0; sent];
            far.read_exact(&mut got).await.unwrap();
            far.write_all(b"answer").await.unwrap();
            far.flush().await.unwrap();
        };
        // Nobody flushes but the read itself.
        let (answer, ()) = tokio::join!(read_exactly(&mut io, 6), peer);
        assert_eq!(answer, b"answer");
    });
}

#[test]
fn a_connection_moves_between_workers_in_mid_stream_with_all_that_it_holds() {
    for version in VERSIONS {
        let (to_worker, parcels) = mpsc::channel::<crate::net::Portable>();
        let (done, home) = mpsc::channel();
        let other = std::thread::spawn(move || {
            worker().block_on(async move {
                let mut io = parcels.recv().unwrap().into_io().unwrap();
                // What had been decrypted, and the second half of a record whose first half came elsewhere.
                assert_eq!(read_exactly(&mut io, 7).await, b" thread");
                let mut rest = read_exactly(&mut io, 16_000).await;
                rest.dedup();
                assert_eq!(rest, [1]);
                done.send(io.into_portable().unwrap()).unwrap();
            });
        });
        run(async {
            let authority = Authority::new();
            let (near, far) = tcp_pair().await;
            let tls = authority.client_tls();
            let connector = TlsConnector::from(Arc::new(authority.oracle_client(version, &[], None)));
            // The oracle speaks into a pipe, so that the test can cut its records in two.
            let (pipe, mut wire) = tokio::io::duplex(100_000);
            let mut far = far;
            let both = async {
                tokio::join!(
                    accept_tls(near.into(), &[], &tls, Opening::Requested),
                    connector.connect("localhost".try_into().unwrap(), pipe)
                )
            };
            let (io, oracle) = tokio::select! {
                both = both => both,
                copied = tokio::io::copy_bidirectional(&mut wire, &mut far) => panic!("{copied:?}"),
            };
            let (mut io, mut oracle) = (io.unwrap(), oracle.unwrap());
            oracle.write_all(b"one thread").await.unwrap();
            oracle.write_all(&[1; 16_000]).await.unwrap();
            oracle.flush().await.unwrap();
            let mut records = vec![0; 100_000];
            let count = wire.read(&mut records).await.unwrap();
            let (first, second) = records[..count].split_at(9000);
            AsyncWriteExt::write_all(&mut far, first).await.unwrap();
            assert_eq!(read_exactly(&mut io, 3).await, b"one");
            to_worker.send(io.into_portable().unwrap()).unwrap();
            AsyncWriteExt::write_all(&mut far, second).await.unwrap();
            let mut io = home.recv().unwrap().into_io().unwrap();
            io.write_all(b"back").await.unwrap();
            let mut records = [0; 100];
            let count = far.read(&mut records).await.unwrap();
            AsyncWriteExt::write_all(&mut wire, &records[..count]).await.unwrap();
            let mut back = [0; 4];
            oracle.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"back");
        });
        other.join().unwrap();
    }
}

#[test]
fn what_the_socket_did_not_take_moves_along() {
    run(async {
        let authority = Authority::new();
        let (mut io, mut far) = greet(&authority, &TLS13).await;
        let mut sent = 0;
        while let taken @ 1.. = io.try_send(&vec![5; 100_000]).unwrap() {
            sent += taken;
        }
        assert!(io.has_unsent());
        let mut io = io.into_portable().unwrap().into_io().unwrap();
        let mut got = vec![0; sent + 4];
        let (sent, read) = tokio::join!(io.write_all(b"last"), far.read_exact(&mut got));
        sent.unwrap();
        read.unwrap();
        assert!(got.ends_with(b"\x05last"));
    });
}

#[test]
fn what_is_not_tls_is_refused_without_waiting_for_more() {
    run(async {
        let authority = Authority::new();
        let tls = authority.client_tls();
        for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff\x01\x00\x00\x00", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"] {
            let (near, mut far) = tcp_pair().await;
            let error = accept_tls(near.into(), nonsense, &tls, Opening::Direct).await.unwrap_err();
            assert!(matches!(error, HandshakeError::Tls(_)), "{error}");
            // An alert, then the end.
            let mut alert = Vec::new();
            let _ = far.read_to_end(&mut alert).await;
            assert_eq!(alert.first(), Some(&0x15), "{alert:x?}");
        }
    });
}

#[test]
fn an_endless_handshake_is_cut_off() {
    run(async {
        let authority = Authority::new();
        let tls = authority.client_tls();
        let (near, far) = tokio::io::duplex(1000);
        let mut far = Io::from(far);
        // One handshake message of 16 MB, in records of which each is fine by itself.
        let flood = async {
            let mut first = true;
            loop {
                let mut record = vec![0x16, 3, 1, 0x10, 0];
                record.extend_from_slice(&[0; 4096]);
                if first {
                    record[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
                    first = false;
                }
                if far.write_all(&record).await.is_err() {
                    return;
                }
            }
        };
        let (outcome, ()) = tokio::join!(accept_tls(near.into(), &[], &tls, Opening::Direct), flood);
        assert!(matches!(outcome.unwrap_err(), HandshakeError::Tls(_) | HandshakeError::TooLong));
    });
}

#[test]
fn a_client_that_leaves_amid_the_handshake_is_a_cut() {
    run(async {
        let authority = Authority::new();
        let tls = authority.client_tls();
        let (near, far) = tcp_pair().await;
        let mut far = Io::from(far);
        far.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
        drop(far);
        let error = accept_tls(near.into(), &[], &tls, Opening::Direct).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Cut), "{error}");
    });
}
