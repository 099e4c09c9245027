//! A server's answers to the request for TLS, of which PostgreSQL gives only two.

use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::TlsAcceptor;

use super::certs::Authority;
use super::{Exchange, Oracle, exchange, run, tcp_pair};
use crate::net::tls::{Attempt, ServerTls, ServerTlsSource, SslMode, SslNegotiation, negotiate_server_tls};
use crate::net::{Io, NegotiationError};

fn tls(mode: SslMode) -> ServerTls {
    ServerTls::load(&ServerTlsSource { mode, negotiation: SslNegotiation::Postgres, ca: None, pair: None }).unwrap()
}

/// What comes of a server that answers so, and then nothing more.
async fn answered(mode: SslMode, attempt: Attempt, answer: &[u8]) -> Result<Io, NegotiationError> {
    let (near, mut far) = tcp_pair().await;
    let server = async {
        let mut request = [0; 8];
        far.read_exact(&mut request).await.unwrap();
        assert_eq!(request, *b"\x00\x00\x00\x08\x04\xd2\x16\x2f");
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        // Kept until the other side is done with it.
        far
    };
    let tls = tls(mode);
    let (io, _far) = tokio::join!(negotiate_server_tls(near.into(), &tls, attempt, "localhost"), server);
    io
}

#[test]
fn each_answer_has_its_consequence() {
    run(async {
        use NegotiationError as Error;
        assert!(!answered(SslMode::Prefer, Attempt::TlsIfOffered, b"N").await.unwrap().is_tls());
        let refused = |outcome: Result<Io, Error>| outcome.expect_err("it went through");
        assert!(matches!(refused(answered(SslMode::Require, Attempt::Tls, b"N").await), Error::Refused));
        assert!(matches!(refused(answered(SslMode::Allow, Attempt::Tls, b"N").await), Error::Refused));
        for (mode, attempt) in [(SslMode::Prefer, Attempt::TlsIfOffered), (SslMode::Require, Attempt::Tls)] {
            let answered = async |answer| refused(answered(mode, attempt, answer).await);
            assert!(matches!(answered(b"").await, Error::Cut));
            assert!(matches!(answered(b"S").await, Error::Handshake(_)));
            assert!(matches!(answered(b"S\x16\x03\x03").await, Error::EarlyData));
            assert!(matches!(answered(b"NR").await, Error::EarlyData));
            assert!(matches!(answered(b"X").await, Error::Nonsense(b'X')));
            let error = answered(b"E\x00\x00\x00\x20SFATAL\x00Msend your password\x00\x00").await;
            assert!(matches!(error, Error::ServerError));
            assert!(!error.to_string().contains("password"), "its words are nobody's");
        }
    });
}

#[test]
fn after_yes_comes_tls() {
    run(async {
        let authority = Authority::new();
        for version in [&TLS12, &TLS13] {
            // As servers before 17: they know no ALPN.
            let acceptor = TlsAcceptor::from(Arc::new(authority.issue("localhost").oracle_server(version)));
            let (near, mut far) = tcp_pair().await;
            let server = async {
                far.read_exact(&mut [0; 8]).await.unwrap();
                far.write_all(b"S").await.unwrap();
                acceptor.accept(far).await.unwrap()
            };
            let tls = tls(SslMode::Require);
            let (io, far) = tokio::join!(negotiate_server_tls(near.into(), &tls, Attempt::Tls, "localhost"), server);
            let what = Exchange { total: 300_000, sends: 1, expects: 2 };
            tokio::join!(exchange(io.unwrap(), what), exchange(Oracle(far), what.mirrored()));
        }
    });
}

#[test]
fn nobody_is_asked_where_there_is_nothing_to_ask() {
    run(async {
        let (near, _far) = tcp_pair().await;
        let io = negotiate_server_tls(near.into(), &ServerTls::disabled(), Attempt::Plain, "localhost").await.unwrap();
        assert!(!io.is_tls());
        let (near, _far) = tcp_pair().await;
        assert!(!negotiate_server_tls(near.into(), &tls(SslMode::Allow), Attempt::Plain, "localhost").await.unwrap().is_tls());
        // As in libpq, whatever the mode: the kernel already keeps strangers out.
        let (near, _far) = UnixStream::pair().unwrap();
        assert!(!negotiate_server_tls(near.into(), &tls(SslMode::Require), Attempt::Tls, "/run").await.unwrap().is_tls());
    });
}

#[test]
fn direct_tls_needs_a_server_that_names_the_protocol() {
    run(async {
        let authority = Authority::new();
        let direct =
            ServerTls::load(&ServerTlsSource { mode: SslMode::Require, negotiation: SslNegotiation::Direct, ca: None, pair: None })
                .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(authority.issue("localhost").oracle_server(&TLS13)));
        let (near, far) = tcp_pair().await;
        let (io, _) = tokio::join!(negotiate_server_tls(near.into(), &direct, Attempt::Tls, "localhost"), acceptor.accept(far));
        assert!(io.unwrap_err().to_string().contains("ALPN"));
    });
}

#[test]
fn the_modes_try_what_libpq_tries() {
    assert_eq!(tls(SslMode::Allow).attempts(), [Attempt::Plain, Attempt::Tls]);
    assert_eq!(tls(SslMode::Prefer).attempts(), [Attempt::TlsIfOffered, Attempt::Plain]);
    assert_eq!(tls(SslMode::Require).attempts(), [Attempt::Tls]);
}
