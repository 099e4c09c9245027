//! What a connection costs in memory: nothing for each message, little while it idles.
#![allow(clippy::unwrap_used, reason = "a test stops at whatever surprises it")]

use std::alloc::System;
use std::fs;
use std::sync::Arc;

use pgweir::net::Io;
use pgweir::net::tls::{ClientCertificates, ClientTls, ClientTlsSource, Opening, accept_tls};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio_rustls::{TlsConnector, client::TlsStream};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes of our own heap in use. The cipher's keys are the C library's: see [`resident`].
fn heap() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// Bytes of this process that are in memory, whoever asked for them.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn run<T>(test: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_io().build_local(LocalOptions::default()).unwrap().block_on(test)
}

struct Ends {
    tls: ClientTls,
    connector: TlsConnector,
    listener: TcpListener,
}

impl Ends {
    async fn new(version: &'static SupportedProtocolVersion) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let (cert, key_file) = (folder.path().join("cert"), folder.path().join("key"));
        fs::write(&cert, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        let source = ClientTlsSource { cert, key: key_file, client_certificates: ClientCertificates::Ignore };
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            tls: ClientTls::load(&source).unwrap(),
            connector: TlsConnector::from(Arc::new(config)),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    async fn plain(&self) -> (Io, TcpStream) {
        let (near, far) = tokio::join!(self.listener.accept(), TcpStream::connect(self.listener.local_addr().unwrap()));
        let far = far.unwrap();
        // Or it waits for an acknowledgement between its last handshake message and its first words.
        far.set_nodelay(true).unwrap();
        (near.unwrap().0.into(), far)
    }

    async fn encrypted(&self) -> (Io, TlsStream<TcpStream>) {
        let (near, far) = self.plain().await;
        let (near, far) = tokio::join!(
            accept_tls(near, &[], &self.tls, Opening::Requested),
            self.connector.connect("localhost".try_into().unwrap(), far)
        );
        (near.unwrap(), far.unwrap())
    }
}

/// One message each way, as an idle client's connection has had before it idles.
async fn speak(near: &mut Io, far: &mut TlsStream<TcpStream>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buf = [0; 8192];
    far.write_all(&[1; 300]).await.unwrap();
    far.flush().await.unwrap();
    assert_eq!(near.read(&mut buf).await.unwrap(), 300);
    near.write_all(&[2; 300]).await.unwrap();
    far.read_exact(&mut buf[..300]).await.unwrap();
}

/// Bytes that each idle client costs: of our own heap, and of the process.
fn idle_cost(version: &'static SupportedProtocolVersion) -> (usize, usize) {
    const CONNECTIONS: usize = 150;
    run(async {
        let ends = Ends::new(version).await;
        let mut kept = Vec::with_capacity(2 * CONNECTIONS);
        let mut before = (0, 0);
        for number in 0..2 * CONNECTIONS {
            // The first half makes what is made once: a thread's scratch, the allocator's own store.
            if number == CONNECTIONS {
                before = (heap(), resident());
            }
            let (mut near, mut far) = ends.encrypted().await;
            Box::pin(speak(&mut near, &mut far)).await;
            // Of the other end only the socket stays, which is a number.
            kept.push((near, far.into_inner().0.into_std().unwrap()));
        }
        ((heap() - before.0) / CONNECTIONS, resident().saturating_sub(before.1) / CONNECTIONS)
    })
}

#[test]
fn an_idle_tls_1_3_client_costs_at_most_8_kib() {
    let (heap, resident) = idle_cost(&rustls::version::TLS13);
    println!("{heap} bytes of our heap, {resident} bytes resident");
    assert!(heap <= 4 * 1024 && resident <= 8 * 1024, "{heap} and {resident} bytes");
}

#[test]
fn an_idle_tls_1_2_client_costs_at_most_8_kib() {
    let (heap, resident) = idle_cost(&rustls::version::TLS12);
    println!("{heap} bytes of our heap, {resident} bytes resident");
    assert!(heap <= 4 * 1024 && resident <= 8 * 1024, "{heap} and {resident} bytes");
}

#[test]
fn a_plain_connection_allocates_nothing_for_a_message() {
    run(async {
        let ends = Ends::new(&rustls::version::TLS13).await;
        let (mut near, far) = ends.plain().await;
        let mut far = Io::from(far);
        let mut buf = [0; 8192];
        let mut before = 0;
        for round in 0..110 {
            if round == 10 {
                before = allocations();
            }
            assert_eq!(far.try_send(&[1; 300]).unwrap(), 300);
            assert_eq!(near.read(&mut buf).await.unwrap(), 300);
        }
        assert_eq!(allocations() - before, 0);
    });
}

#[test]
fn a_tls_connection_allocates_once_a_record_and_keeps_nothing() {
    run(async {
        let ends = Ends::new(&rustls::version::TLS13).await;
        let (mut near, mut far) = ends.encrypted().await;
        // Both ends are rustls and on one thread: what the oracle does is measured first, against itself.
        let mut buf = [0; 8192];
        let mut before = (0, 0);
        let mut ours = 0;
        for round in 0..110 {
            if round == 10 {
                before = (allocations(), heap());
                ours = 0;
            }
            {
                use tokio::io::AsyncWriteExt;
                far.write_all(&[1; 300]).await.unwrap();
                far.flush().await.unwrap();
            }
            let start = allocations();
            assert_eq!(near.read(&mut buf).await.unwrap(), 300);
            assert_eq!(near.try_send(&[2; 300]).unwrap(), 300);
            ours += allocations() - start;
            {
                use tokio::io::AsyncReadExt;
                far.read_exact(&mut buf[..300]).await.unwrap();
            }
        }
        println!("{ours} allocations for 100 records each way");
        // rustls 0.23 makes a vector of each record that it decrypts, and of each that it encrypts, and drops it at once.
        assert!(ours <= 200, "{ours}");
        assert!(heap().abs_diff(before.1) < 1024);
    });
}
