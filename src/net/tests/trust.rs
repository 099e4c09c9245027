//! Whom we believe, who believes us, and what the operator hears when it is not so.

use std::fs;
use std::sync::Arc;

use rustls::version::TLS13;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certs::{Authority, Pair};
use super::{run, tcp_pair};
use crate::net::tls::{Attempt, CaSource, Opening, ServerTls, ServerTlsSource, SslMode, SslNegotiation};
use crate::net::tls::{ClientCertificates, ClientTls, ClientTlsSource, accept_tls, negotiate_server_tls};
use crate::net::{HandshakeError, Io};

fn toward_server(mode: SslMode, ca: Option<CaSource>) -> ServerTlsSource {
    ServerTlsSource { mode, negotiation: SslNegotiation::Direct, ca, pair: None }
}

/// Connects to `host` at a server that shows `pair`.
async fn visit(source: &ServerTlsSource, host: &str, pair: &Pair) -> Result<Io, String> {
    let tls = ServerTls::load(source).unwrap();
    let mut config = pair.oracle_server(&TLS13);
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (near, far) = tcp_pair().await;
    let (io, _) = tokio::join!(negotiate_server_tls(near.into(), &tls, Attempt::Tls, host), acceptor.accept(far));
    io.map_err(|error| error.to_string())
}

fn assert_says(outcome: Result<Io, String>, words: &[&str]) {
    let error = outcome.expect_err("it was believed");
    assert!(words.iter().all(|word| error.contains(word)), "{error:?} does not say {words:?}");
}

#[test]
fn verify_full_checks_chain_dates_and_name() {
    run(async {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let source = toward_server(SslMode::VerifyFull, Some(CaSource::File(ours.file())));
        visit(&source, "db.internal", &ours.issue("db.internal")).await.unwrap();
        visit(&source, "127.0.0.1", &ours.issue("127.0.0.1")).await.unwrap();
        assert_says(visit(&source, "db.internal", &ours.issue("other.internal")).await, &["db.internal", "other.internal"]);
        assert_says(visit(&source, "db.internal", &ours.issue_expired("db.internal")).await, &["expired"]);
        assert_says(visit(&source, "db.internal", &theirs.issue("db.internal")).await, &["UnknownIssuer"]);
        assert_says(visit(&source, "not a name", &ours.issue("db.internal")).await, &["not a name"]);
    });
}

#[test]
fn verify_ca_checks_chain_and_dates_but_no_name() {
    run(async {
        let (ours, theirs) = (Authority::new(), Authority::new());
        // libpq's `require` with a CA is the same.
        for mode in [SslMode::VerifyCa, SslMode::Require] {
            let source = toward_server(mode, Some(CaSource::File(ours.file())));
            visit(&source, "db.internal", &ours.issue("other.internal")).await.unwrap();
            visit(&source, "not a name", &ours.issue("other.internal")).await.unwrap();
            assert_says(visit(&source, "db.internal", &ours.issue_expired("db.internal")).await, &["expired"]);
            assert_says(visit(&source, "db.internal", &theirs.issue("db.internal")).await, &["UnknownIssuer"]);
        }
    });
}

#[test]
fn require_without_a_ca_believes_anyone() {
    run(async {
        let anyone = Authority::new();
        let source = toward_server(SslMode::Require, None);
        visit(&source, "db.internal", &anyone.issue_expired("other.internal")).await.unwrap();
    });
}

#[test]
fn a_certificate_that_is_its_own_authority_is_believed_when_it_was_named() {
    run(async {
        let folder = Authority::new();
        let named = folder.self_signed("db.internal", false);
        let source = toward_server(SslMode::VerifyFull, Some(CaSource::File(named.cert.clone())));
        visit(&source, "db.internal", &named).await.unwrap();
        assert_says(visit(&source, "elsewhere", &named).await, &["elsewhere"]);
        let stranger = folder.self_signed("db.internal", false);
        assert!(visit(&source, "db.internal", &stranger).await.is_err());
        let old = folder.self_signed("db.internal", true);
        let source = toward_server(SslMode::VerifyCa, Some(CaSource::File(old.cert.clone())));
        assert_says(visit(&source, "db.internal", &old).await, &["expired"]);
    });
}

#[test]
fn settings_that_would_not_hold_what_they_promise_are_refused() {
    let ours = Authority::new();
    let refused = |source: &ServerTlsSource| ServerTls::load(source).unwrap_err().to_string();
    assert!(refused(&toward_server(SslMode::VerifyFull, None)).contains("verify-full"));
    assert!(refused(&toward_server(SslMode::VerifyCa, None)).contains("verify-ca"));
    assert!(refused(&toward_server(SslMode::Require, Some(CaSource::System))).contains("verify-full"));
    assert!(refused(&toward_server(SslMode::Prefer, None)).contains("direct"));
    let missing = ours.folder.path().join("missing.pem");
    let error = refused(&toward_server(SslMode::Require, Some(CaSource::File(missing.clone()))));
    assert!(error.contains("missing.pem") && error.contains("No such file"), "{error}");
    assert_eq!(ServerTls::load(&toward_server(SslMode::Disable, None)).unwrap().attempts(), [Attempt::Plain]);
}

fn toward_clients(pair: &Pair, client_certificates: ClientCertificates) -> ClientTlsSource {
    ClientTlsSource { cert: pair.cert.clone(), key: pair.key.clone(), client_certificates }
}

#[test]
fn a_setting_toward_clients_is_loaded_whole_or_not_at_all() {
    let ours = Authority::new();
    let (one, two) = (ours.issue("one"), ours.issue("two"));
    let refused = |source: &ClientTlsSource| ClientTls::load(source).unwrap_err().to_string();

    let loaded = ClientTls::load(&toward_clients(&one, ClientCertificates::Ignore)).unwrap();
    assert_eq!(loaded.certificate(), Some(&one.der));

    let mixed = ClientTlsSource { key: two.key.clone(), ..toward_clients(&one, ClientCertificates::Ignore) };
    let error = refused(&mixed);
    assert!(error.contains("does not belong") && error.contains("one.crt") && error.contains("two.key"), "{error}");

    let swapped = ClientTlsSource { cert: one.key.clone(), ..toward_clients(&one, ClientCertificates::Ignore) };
    assert!(refused(&swapped).contains("no certificate"));
    let swapped = ClientTlsSource { key: one.cert.clone(), ..toward_clients(&one, ClientCertificates::Ignore) };
    assert!(refused(&swapped).contains("no private key"));

    let broken = ours.folder.path().join("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n").unwrap();
    let error = refused(&toward_clients(&one, ClientCertificates::Require(broken.clone())));
    assert!(error.contains("broken.pem"), "{error}");
    let error = refused(&ClientTlsSource { cert: broken, ..toward_clients(&one, ClientCertificates::Ignore) });
    assert!(error.contains("broken.pem"), "{error}");
}

/// A client that offers `alpn` and shows `pair` comes to us.
async fn receive(
    authority: &Authority,
    tls: &ClientTls,
    opening: Opening,
    alpn: &[&[u8]],
    pair: Option<&Pair>,
) -> Result<Io, HandshakeError> {
    let connector = TlsConnector::from(Arc::new(authority.oracle_client(&TLS13, alpn, pair)));
    let (near, far) = tcp_pair().await;
    let (io, _) = tokio::join!(accept_tls(near.into(), &[], tls, opening), connector.connect("localhost".try_into().unwrap(), far));
    io
}

#[test]
fn clients_may_have_to_show_certificates_of_the_right_authority() {
    run(async {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let shown = ours.issue("client");
        let strange = theirs.issue("client");
        let server = ours.issue("localhost");
        for (policy, required) in [(ClientCertificates::Require(ours.file()), true), (ClientCertificates::Request(ours.file()), false)] {
            let tls = ClientTls::load(&toward_clients(&server, policy)).unwrap();
            let io = receive(&ours, &tls, Opening::Requested, &[], Some(&shown)).await.unwrap();
            assert_eq!(io.tls_info().unwrap().peer_certificates, std::slice::from_ref(&shown.der));
            assert_eq!(receive(&ours, &tls, Opening::Requested, &[], None).await.is_err(), required);
            let error = receive(&ours, &tls, Opening::Requested, &[], Some(&strange)).await.unwrap_err();
            assert!(error.to_string().contains("UnknownIssuer"), "{error}");
        }
    });
}

#[test]
fn direct_tls_must_name_the_protocol_and_requested_tls_must_not_name_another() {
    run(async {
        let ours = Authority::new();
        let tls = ours.client_tls();
        let receive = async |opening, alpn: &[&[u8]]| receive(&ours, &tls, opening, alpn, None).await;
        receive(Opening::Direct, &[b"postgresql"]).await.unwrap();
        receive(Opening::Requested, &[b"postgresql"]).await.unwrap();
        receive(Opening::Requested, &[]).await.unwrap();
        assert!(matches!(receive(Opening::Direct, &[]).await, Err(HandshakeError::NoAlpn)));
        for opening in [Opening::Direct, Opening::Requested] {
            let error = receive(opening, &[b"h2"]).await.unwrap_err();
            assert!(matches!(error, HandshakeError::Tls(_)), "{error}");
        }
    });
}
