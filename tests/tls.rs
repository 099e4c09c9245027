//! Encryption on both legs: who may do without, whose certificate is shown, and whom the proxy believes. Checklist A2-A4, H7.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod harness;

use harness::{Ca, PATIENCE, Pem, Postgres, Proxy, ProxyOptions, ServerError, Wire, eventually, frames, in_time};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const APP: [(&str, &str); 2] = [("user", "app"), ("database", "app")];

async fn over_tls(proxy: &Proxy, ca: &Ca) -> Wire {
    let mut wire = Box::pin(Wire::login_tls(proxy, ca.client_config(None), "app", "secret")).await.unwrap();
    assert_eq!(wire.value("SELECT 1").await, "1");
    wire
}

/// A way to the proxy that notes what comes back.
async fn overheard(proxy: &Proxy) -> (std::net::SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to) = (listener.local_addr().unwrap(), proxy.address());
    let heard = tokio::spawn(async move {
        let (mut client, mut server) = (listener.accept().await.unwrap().0, tokio::net::TcpStream::connect(to).await.unwrap());
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
        let onward = async {
            tokio::io::copy(&mut from_client, &mut to_server).await.unwrap();
            to_server.shutdown().await.unwrap();
        };
        let back = async {
            let (mut heard, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
            loop {
                match from_server.read(&mut piece).await.unwrap() {
                    0 => return heard,
                    count => {
                        heard.extend_from_slice(&piece[..count]);
                        to_client.write_all(&piece[..count]).await.unwrap();
                    }
                }
            }
        };
        tokio::join!(onward, back).1
    });
    (address, heard)
}

/// libpq's asynchronous interface reads once into room for 8 KiB and then waits for the socket, whatever OpenSSL still has of the record.
#[tokio::test]
async fn no_record_holds_more_than_libpq_takes_at_once() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let proxy = Proxy::new(&pg).tls("require", &ca.server()).start().await;
    let (address, heard) = overheard(&proxy).await;
    let mut wire = Box::pin(Wire::login_tls(address, ca.client_config(None), "app", "secret")).await.unwrap();
    assert_eq!(wire.query("SELECT repeat('x', 100) FROM generate_series(1, 20000)").await.len(), 20_000);
    drop(wire);
    let heard = in_time("the end", heard).await.unwrap();

    // Behind the answer to SSLRequest: a type, a version, a length, and so much.
    let (mut rest, mut largest) = (&heard[1..], 0);
    while let [_, 3, _, high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        largest = largest.max(length);
        rest = &more[length..];
    }
    assert!(rest.is_empty(), "the records end with the connection");
    assert!((4096..=8192 + 256).contains(&largest), "the largest record holds {largest} bytes, some of which are its seal");
}

#[tokio::test]
async fn without_a_certificate_clients_go_on_in_plaintext() {
    let pg = Postgres::start().await;
    for options in [Proxy::new(&pg), Proxy::new(&pg).tls("disable", &Ca::new().server())] {
        let proxy = options.start().await;
        let mut wire = Wire::connect(&proxy).await;
        assert_eq!(wire.ask(&frames::ssl_request()).await, b'N');
        wire.start(&APP).await;
        wire.authenticate("app", "secret").await.unwrap();
        assert_eq!(wire.value("SELECT 1").await, "1");
    }
}

#[tokio::test]
async fn prefer_takes_clients_with_and_without_tls() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let proxy = Proxy::new(&pg).tls("prefer", &ca.server()).start().await;
    over_tls(&proxy, &ca).await;
    let mut plain = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(plain.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn require_refuses_plaintext_over_tcp_before_any_password_and_takes_unix_sockets() {
    let (pg, ca, folder) = (Postgres::start().await, Ca::new(), tempfile::tempdir().unwrap());
    let addresses = vec!["127.0.0.1:0".to_owned(), format!("unix:{}", folder.path().display())];
    let proxy = Proxy::new(&pg).tls("require", &ca.server()).set("listen.postgres", addresses).start().await;
    over_tls(&proxy, &ca).await;

    let mut plain = Wire::connect(&proxy).await;
    plain.start(&APP).await;
    let error = plain.expect_error("28000").await;
    assert_eq!((error.severity(), error.message()), ("FATAL", "SSL connection is required"));
    plain.shut_down_writing().await;
    assert_eq!(plain.until_closed().await, []);

    let socket = folder.path().join(format!(".s.PGSQL.{}", proxy.port()));
    let mut local = Wire::login(socket, "app", "secret", "app").await.unwrap();
    assert_eq!(local.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn a_cancel_is_taken_in_plaintext_also_where_tls_is_required() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let proxy = Proxy::new(&pg).tls("require", &ca.server()).start().await;
    let mut wire = over_tls(&proxy, &ca).await;
    let sleeps = "SELECT count(*)::text FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    for tls in [false, true] {
        wire.send(&frames::query("SELECT pg_sleep(600)")).await;
        eventually("the query runs", PATIENCE, || async { pg.value(sleeps).await == "1" }).await;
        if tls {
            let mut request = Wire::connect(&proxy).await;
            assert_eq!(request.ask(&frames::ssl_request()).await, b'S');
            let mut request = Box::pin(request.tls(ca.client_config(None))).await.unwrap();
            request.send(&frames::cancel(wire.pid, &wire.secret)).await;
            // With a goodbye: libpq takes an end without one for a failure.
            assert_eq!(request.until_closed().await, []);
        } else {
            wire.cancel(&proxy).await;
        }
        let answer = wire.until_ready().await;
        let error = answer.iter().find(|frame| frame.tag == b'E').expect("an error");
        assert_eq!(ServerError::read(&error.body).code(), "57014");
    }
}

/// Whether a new connection is shown a certificate by this authority.
async fn shows(proxy: &Proxy, ca: &Ca) -> bool {
    let mut wire = Wire::connect(proxy).await;
    assert_eq!(wire.ask(&frames::ssl_request()).await, b'S');
    Box::pin(wire.tls(ca.client_config(None))).await.is_ok()
}

#[tokio::test]
async fn sighup_shows_new_connections_the_new_certificate_and_a_broken_pair_changes_nothing() {
    let (pg, first, second) = (Postgres::start().await, Ca::new(), Ca::new());
    let proxy = Proxy::new(&pg).tls("require", &first.server()).start().await;
    let mut old = over_tls(&proxy, &first).await;
    assert!(!shows(&proxy, &second).await);

    // The files by themselves change nothing.
    second.server().write(proxy.folder(), "client-side");
    assert!(shows(&proxy, &first).await);
    proxy.signal(Signal::HUP);
    proxy.logged("reload: done").await;
    assert!(shows(&proxy, &second).await && !shows(&proxy, &first).await);
    assert_eq!(old.value("SELECT 'still here'").await, "still here");

    let third = Ca::new().server();
    let mismatched = Pem { certificate: third.certificate.clone(), key: second.server().key };
    let garbled = Pem { certificate: "no certificate".into(), key: third.key };
    for (at, broken) in [mismatched, garbled].into_iter().enumerate() {
        broken.write(proxy.folder(), "client-side");
        proxy.signal(Signal::HUP);
        let told = || proxy.log_lines().iter().filter(|line| line.contains("nothing has changed")).count();
        eventually("the reload is refused", PATIENCE, || async { told() == at + 1 }).await;
        assert!(proxy.log_lines().iter().any(|line| line.contains("ERROR") && line.contains("client-side.")), "the log names the file");
        assert!(shows(&proxy, &second).await, "the certificate from before is still shown");
        assert_eq!(old.value("SELECT 'still here'").await, "still here");
    }
}

/// A proxy that looks at its server in this way.
fn looking(pg: &Postgres, mode: &str, ca: Option<&Ca>) -> ProxyOptions {
    let options = Proxy::new(pg).set("tls.server.mode", mode);
    let Some(ca) = ca else { return options };
    let file = options.file("server-ca.crt", ca.pem());
    options.set("tls.server.ca", file.to_str().unwrap())
}

/// Whether the server connection behind a new client has TLS.
async fn encrypted(proxy: &Proxy) -> bool {
    let mut wire = Wire::login(proxy, "app", "secret", "app").await.unwrap();
    wire.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await == "t"
}

/// The client of a proxy that does not believe its server hears nothing of it; the operator hears `why`.
async fn disbelieves(proxy: &Proxy, why: &str) {
    let error = Wire::login(proxy, "app", "secret", "app").await.err().expect("a refusal");
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P03"), "{error}");
    let line = proxy.logged("a server connection could not be opened").await;
    assert!(line.contains("WARN") && line.contains(why), "{line}");
}

#[tokio::test]
async fn the_words_of_sslmode_mean_toward_the_server_what_they_mean_in_libpq() {
    let pg = Postgres::options().ssl().start().await;
    for (mode, ca, wanted) in [
        ("disable", None, false),
        ("allow", None, false),
        ("prefer", None, true),
        ("require", None, true),
        ("verify-ca", Some(pg.ca()), true),
        ("verify-full", Some(pg.ca()), true),
    ] {
        assert_eq!(encrypted(&looking(&pg, mode, ca).start().await).await, wanted, "{mode}");
    }
}

#[tokio::test]
async fn a_server_that_insists_on_tls_or_on_none_decides_where_the_mode_leaves_it_open() {
    let only_tls = Postgres::options().ssl().hba("hostnossl all all 127.0.0.1/32 reject").start().await;
    assert!(encrypted(&looking(&only_tls, "allow", None).start().await).await);
    let proxy = looking(&only_tls, "disable", None).start().await;
    let error = Wire::login(&proxy, "app", "secret", "app").await.err().expect("a refusal");
    assert_eq!(error.code(), "28000", "the server's own words: {error}");

    let only_plain = Postgres::options().ssl().hba("hostssl all all 127.0.0.1/32 reject").start().await;
    assert!(!encrypted(&looking(&only_plain, "prefer", None).start().await).await);
    let proxy = looking(&only_plain, "require", None).start().await;
    assert_eq!(Wire::login(&proxy, "app", "secret", "app").await.err().expect("a refusal").code(), "28000");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_by_the_modes_that_need_it() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    for mode in ["disable", "allow", "prefer"] {
        assert!(!encrypted(&looking(&pg, mode, None).start().await).await, "{mode}");
    }
    for (mode, ca) in [("require", None), ("verify-ca", Some(&ca)), ("verify-full", Some(&ca))] {
        disbelieves(&looking(&pg, mode, ca).start().await, "the server does not support TLS, but the mode requires it").await;
    }
}

#[tokio::test]
async fn a_certificate_by_another_authority_is_refused() {
    let (pg, stranger) = (Postgres::options().ssl().start().await, Ca::new());
    for mode in ["verify-ca", "verify-full"] {
        disbelieves(&looking(&pg, mode, Some(&stranger)).start().await, "invalid peer certificate").await;
    }
    // libpq: with an authority named, `require` is `verify-ca`.
    disbelieves(&looking(&pg, "require", Some(&stranger)).start().await, "invalid peer certificate").await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_by_verify_full_alone() {
    let pg = Postgres::options().ssl().start().await;
    pg.ca().server_for(&["db.example.com"]).write(&pg.folder().join("data"), "server");
    pg.sql("SELECT pg_reload_conf()").await;
    let tells = || pg.log().contains("received SIGHUP");
    eventually("the server has read its certificate again", PATIENCE, || async { tells() }).await;
    let full = looking(&pg, "verify-full", Some(pg.ca())).start().await;
    disbelieves(&full, "not valid for name").await;
    assert!(encrypted(&looking(&pg, "verify-ca", Some(pg.ca())).start().await).await);
}

#[tokio::test]
async fn an_upstreams_own_table_takes_the_place_of_the_general_one() {
    let pg = Postgres::options().ssl().start().await;
    let options = looking(&pg, "verify-full", Some(&Ca::new()));
    assert!(encrypted(&options.set("upstreams.main.tls.mode", "require").start().await).await);
}
