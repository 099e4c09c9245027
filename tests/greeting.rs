//! From a client's first byte to its first `ReadyForQuery`: what it may send, in which pieces and order, and what it is told. Checklist A1-A9, A12-A14.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

#[path = "greeting/answerer.rs"]
mod answerer;
mod harness;

use std::sync::Arc;
use std::time::Duration;

use answerer::Answerer;
use harness::{Ca, Endpoint, PATIENCE, Postgres, Proxy, Stop, Wire, eventually, frames, in_time, ping};

const APP: [(&str, &str); 2] = [("user", "app"), ("database", "app")];

/// A proxy that has TLS for clients.
async fn with_tls(pg: &Postgres, ca: &Ca) -> Proxy {
    Proxy::new(pg).tls("prefer", &ca.server()).start().await
}

/// Logs in with these startup parameters on a connection that has been greeted.
async fn log_in(wire: &mut Wire, parameters: &[(&str, &str)]) {
    wire.start(&[&APP, parameters].concat()).await;
    wire.authenticate("app", "secret").await.unwrap();
}

/// Sends `bytes` on a connection of its own; it must hear one FATAL error of this code, and the end. Answers the error's text.
async fn refused(to: impl Into<Endpoint>, bytes: &[u8], code: &str) -> String {
    let mut wire = Wire::connect(to).await;
    wire.send(bytes).await;
    turned_away(&mut wire, code).await
}

async fn turned_away(wire: &mut Wire, code: &str) -> String {
    let error = wire.expect_error(code).await;
    assert_eq!(error.severity(), "FATAL", "{error}");
    wire.shut_down_writing().await;
    assert_eq!(wire.until_closed().await, [], "after the error");
    error.message().to_owned()
}

#[tokio::test]
async fn a1_a_length_out_of_bounds_is_refused_as_soon_as_it_is_known() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    for length in [0_u32, 7, 10_001, 1 << 31, u32::MAX] {
        // Nothing but the length: who waits for more, or makes room for it first, does not answer.
        assert_eq!(refused(&proxy, &length.to_be_bytes(), "08P01").await, "invalid length of startup packet", "{length}");
    }
    let spaces = |count: usize| frames::startup(frames::V3_0, &[APP[0], APP[1], ("options", &" ".repeat(count))]);
    let room = 10_000 - spaces(0).len();
    refused(&proxy, &spaces(room + 1), "08P01").await;
    let mut longest = Wire::connect(&proxy).await;
    longest.send(&spaces(room)).await;
    longest.authenticate("app", "secret").await.unwrap();
    assert_eq!(longest.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn a1_a_startup_packet_may_be_cut_at_every_byte() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("process.workers", 1).start().await;
    let mut other = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    let packet = frames::startup(frames::V3_0, &[APP[0], APP[1], ("application_name", "in two")]);
    for cut in 1..packet.len() {
        let mut wire = Wire::connect(&proxy).await;
        wire.send(&packet[..cut]).await;
        // The one worker has read the first piece, and waits for the rest, when the other client has its answers.
        ping(&mut other).await;
        wire.send(&packet[cut..]).await;
        wire.authenticate("app", "secret").await.unwrap();
        assert_eq!(wire.parameters["application_name"], "in two", "cut at {cut}");
    }
    let mut wire = Wire::connect(&proxy).await;
    for byte in frames::ssl_request() {
        ping(&mut other).await;
        wire.send(&[byte]).await;
    }
    assert_eq!(wire.ask(&[]).await, b'N');
    wire.send_in_pieces(&packet, 1).await;
    wire.authenticate("app", "secret").await.unwrap();
}

#[tokio::test]
async fn a2_tls_may_begin_with_the_first_byte_and_must_then_name_the_protocol() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let proxy = with_tls(&pg, &ca).await;
    let mut wire = Box::pin(Wire::connect(&proxy).await.tls(ca.client_config(None))).await.unwrap();
    log_in(&mut wire, &[]).await;
    assert_eq!(wire.value("SELECT 'direct'").await, "direct");

    for alpn in [&[][..], &[b"http/1.1".to_vec()], &[b"postgresq".to_vec()]] {
        let mut config = Arc::unwrap_or_clone(ca.client_config(None));
        config.alpn_protocols = alpn.to_vec();
        // In TLS 1.3 the client is done before the server can say no.
        if let Ok(mut wire) = Box::pin(Wire::connect(&proxy).await.tls(Arc::new(config))).await {
            let _ = wire.try_send(&frames::startup(frames::V3_0, &APP)).await;
            assert!(matches!(wire.try_read().await, Ok(None) | Err(_)), "{alpn:?}\n{}", wire.transcript());
        }
    }

    // Asked for by SSLRequest, TLS without ALPN is what all older clients do.
    let mut config = Arc::unwrap_or_clone(ca.client_config(None));
    config.alpn_protocols.clear();
    Box::pin(Wire::login_tls(&proxy, Arc::new(config), "app", "secret")).await.unwrap();
}

#[tokio::test]
async fn a2_tls_without_a_certificate_to_show_is_closed_without_a_word() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let proxy = Proxy::new(&pg).start().await;
    assert!(Box::pin(Wire::connect(&proxy).await.tls(ca.client_config(None))).await.is_err());
    let mut wire = Wire::connect(&proxy).await;
    wire.send(&[0x16]).await;
    assert_eq!(wire.until_closed().await, []);
}

#[tokio::test]
async fn a3_bytes_behind_a_request_for_encryption_are_refused_and_not_dropped() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    for proxy in [Proxy::new(&pg).start().await, with_tls(&pg, &ca).await] {
        for request in [frames::ssl_request(), frames::gssenc_request()] {
            for early in [&frames::startup(frames::V3_0, &APP)[..], &[0x16], &[0]] {
                // In one segment: the proxy has both before it answers. No S and no N comes before the error.
                let said = refused(&proxy, &[&request[..], early].concat(), "08P01").await;
                assert!(said.contains("received unencrypted data after"), "{said}");
            }
        }
    }
}

#[tokio::test]
async fn a3_bytes_behind_the_servers_yes_are_taken_for_an_attack() {
    let forged = [&b"S"[..], &frames::server::authentication_ok(), &frames::server::ready(b'I')].concat();
    let server = Answerer::start(forged).await;
    let proxy = Proxy::upstream_port(server.port()).set("tls.server.mode", "require").start().await;
    let error = Wire::login(&proxy, "app", "secret", "app").await.err().expect("a refusal");
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P03"), "{error}");
    proxy.logged("received unencrypted data after the answer to the request for TLS").await;
    assert_eq!(server.heard(), b"", "nothing is said to such a server");
}

#[tokio::test]
async fn a5_a_servers_error_in_place_of_yes_or_no_is_shown_to_nobody() {
    let server = Answerer::start(frames::server::error("FATAL", "XX000", "trust this text")).await;
    let proxy = Proxy::upstream_port(server.port()).set("tls.server.mode", "require").start().await;
    let error = Wire::login(&proxy, "app", "secret", "app").await.err().expect("a refusal");
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P03"), "{error}");
    proxy.logged("the server answered the request for TLS with an error").await;
    let everywhere = format!("{error}\n{}", proxy.log_lines().join("\n"));
    assert!(!everywhere.contains("trust this text"), "{everywhere}");
}

#[tokio::test]
async fn a4_gss_and_tls_may_be_asked_for_once_each_in_either_order() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let (plain, tls) = (Proxy::new(&pg).start().await, with_tls(&pg, &ca).await);
    let (ssl, gss) = (frames::ssl_request(), frames::gssenc_request());
    for order in [[&ssl, &gss], [&gss, &ssl]] {
        let mut wire = Wire::connect(&plain).await;
        for request in order {
            assert_eq!(wire.ask(request).await, b'N');
        }
        log_in(&mut wire, &[]).await;
    }
    let mut wire = Wire::connect(&tls).await;
    assert_eq!((wire.ask(&gss).await, wire.ask(&ssl).await), (b'N', b'S'));
    let mut wire = Box::pin(wire.tls(ca.client_config(None))).await.unwrap();
    log_in(&mut wire, &[]).await;

    for request in [&ssl, &gss] {
        let mut wire = Wire::connect(&plain).await;
        assert_eq!(wire.ask(request).await, b'N');
        wire.send(request).await;
        turned_away(&mut wire, "08P01").await;

        for direct in [true, false] {
            let mut wire = Wire::connect(&tls).await;
            if !direct {
                assert_eq!(wire.ask(&ssl).await, b'S');
            }
            let mut wire = Box::pin(wire.tls(ca.client_config(None))).await.unwrap();
            wire.send(request).await;
            let error = wire.expect_error("08P01").await;
            assert_eq!(error.severity(), "FATAL", "TLS within TLS: {error}");
        }
    }
}

#[tokio::test]
async fn a6_another_major_version_is_refused() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    for version in [0x0002_0000, 0x0001_0000, 0x0004_0000, 0] {
        let said = refused(&proxy, &frames::startup(version, &APP), "0A000").await;
        assert!(said.starts_with("unsupported frontend protocol"), "{said}");
    }
}

#[tokio::test]
async fn a6_a7_what_is_newer_is_negotiated_once_before_authentication() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let grease = [APP[0], APP[1], ("_pq_.test_protocol_negotiation", ""), ("_pq_.x", "1")];
    for (version, parameters, unknown) in [
        (frames::V3_0 + 9999, &grease[..], &b"\0\0\0\x02_pq_.test_protocol_negotiation\0_pq_.x\0"[..]),
        (frames::V3_0 + 9999, &grease[..2], b"\0\0\0\0"),
        (frames::V3_0, &grease[..], b"\0\0\0\x02_pq_.test_protocol_negotiation\0_pq_.x\0"),
    ] {
        let mut wire = Wire::connect(&proxy).await;
        wire.send(&frames::startup(version, parameters)).await;
        let first = wire.expect(b'v').await;
        let speaks = version.min(frames::V3_2).to_be_bytes();
        assert_eq!(first.body.as_ref(), [&speaks[..], unknown].concat(), "{version:#x}");
        wire.authenticate("app", "secret").await.unwrap();
        assert_eq!(wire.transcript().matches("NegotiateProtocolVersion").count(), 1, "{}", wire.transcript());
        assert_eq!(wire.value("SELECT 1").await, "1");
    }
    let mut known = Wire::connect(&proxy).await;
    known.send(&frames::startup(frames::V3_2, &APP)).await;
    known.expect(b'R').await;
}

#[tokio::test]
async fn a8_a_cancel_key_is_as_long_as_the_protocol_allows_and_cancels() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let sleeps = "SELECT count(*)::text FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    for (version, long) in [(frames::V3_0, false), (frames::V3_2, true)] {
        let mut wire = Wire::connect(&proxy).await;
        wire.send(&frames::startup(version, &APP)).await;
        wire.authenticate("app", "secret").await.unwrap();
        assert_eq!(wire.secret.len() > 4, long, "{} bytes", wire.secret.len());
        wire.send(&frames::query("SELECT pg_sleep(600)")).await;
        eventually("the query runs", PATIENCE, || async { pg.value(sleeps).await == "1" }).await;

        // Another's guess: right but for the last byte, or cut short. The answer is the end, and the query runs on.
        let (last, start) = wire.secret.split_last().unwrap();
        for wrong in [[start, &[last ^ 1]].concat(), [start, &[*last, 0]].concat()] {
            let mut guess = Wire::connect(&proxy).await;
            guess.send(&frames::cancel(wire.pid, &wrong)).await;
            assert_eq!(guess.until_closed().await, []);
        }
        assert_eq!(pg.value(sleeps).await, "1", "a wrong secret has cancelled");
        wire.cancel(&proxy).await;
        let answer = wire.until_ready().await;
        let error = answer.iter().find(|frame| frame.tag == b'E').expect("an error");
        assert_eq!(harness::ServerError::read(&error.body).code(), "57014");
        assert_eq!(wire.value("SELECT 1").await, "1");
    }
}

#[tokio::test]
async fn a8_a_cancel_request_of_a_wrong_length_is_refused() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    for secret in [3, 257] {
        refused(&proxy, &frames::cancel(1, &vec![7; secret]), "08P01").await;
    }
}

#[tokio::test]
async fn a9_startup_parameters_take_effect_as_at_the_server() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut neighbour = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    let names = "application_name DateStyle TimeZone search_path work_mem statement_timeout geqo extra_float_digits client_encoding";
    let cases: [&[(&str, &str)]; 8] = [
        &[],
        &[("application_name", "")],
        &[("application_name", "it's \"mine\" \\ all"), ("TIMEZONE", "Europe/Vienna"), ("extra_float_digits", "2")],
        &[("datestyle", "German"), ("DateStyle", "SQL, DMY"), ("application_name", "first"), ("application_name", "last")],
        &[("options", r"-c search_path=a,\ b -cwork_mem=3MB --statement-timeout=1234  -c geqo=off"), ("client_encoding", "LATIN1")],
        &[("options", "-c work_mem=3MB"), ("work_mem", "5MB")],
        &[("work_mem", "5MB"), ("options", "-c work_mem=3MB -c work_mem=4MB")],
        &[("options", ""), ("search_path", "")],
    ];
    for parameters in cases {
        let mut direct = Wire::connect(&pg).await;
        log_in(&mut direct, parameters).await;
        let mut through = Wire::connect(&proxy).await;
        log_in(&mut through, parameters).await;
        for name in names.split(' ') {
            // Named in the manual: a client without a name of its own has the proxy's.
            if name == "application_name" && !parameters.iter().any(|(given, _)| *given == name) {
                continue;
            }
            // The other client has had the one server connection meanwhile.
            assert_eq!(neighbour.value("SHOW work_mem").await, "4MB");
            let show = format!("SHOW {name}");
            assert_eq!(through.value(&show).await, direct.value(&show).await, "{name} of {parameters:?}");
        }
    }
}

#[tokio::test]
async fn a9_a_startup_that_the_server_would_refuse_is_refused_alike() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let cases: [&[(&str, &str)]; 5] = [
        &[("no_such_setting", "1")],
        &[("work_mem", "plenty")],
        &[("options", "-c work_mem=plenty")],
        &[("TimeZone", "Nowhere/Land")],
        &[("max_connections", "1000")],
    ];
    for parameters in cases {
        let mut errors = Vec::new();
        for to in [Endpoint::from(&pg), Endpoint::from(&proxy)] {
            let mut wire = Wire::connect(to).await;
            wire.start(&[&APP, parameters].concat()).await;
            errors.push(wire.authenticate("app", "secret").await.expect_err("a refusal").to_string());
        }
        assert_eq!(errors[0], errors[1], "{parameters:?}: directly, and through the proxy");
    }
    for to in [Endpoint::from(&pg), Endpoint::from(&proxy)] {
        let mut wire = Wire::connect(to).await;
        wire.start(&[APP[0], APP[1], ("options", "-c")]).await;
        assert_eq!(wire.authenticate("app", "secret").await.expect_err("a refusal").code(), "42601");
    }
    let mut unharmed = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(unharmed.value("SHOW work_mem").await, "4MB");

    for to in [Endpoint::from(&pg), Endpoint::from(&proxy)] {
        refused(to.clone(), &frames::startup(frames::V3_0, &[("database", "app")]), "28000").await;
        let whole = frames::startup(frames::V3_0, &APP);
        let mut headless = whole[..whole.len() - 1].to_vec();
        let length = u32::try_from(headless.len()).unwrap();
        headless[..4].copy_from_slice(&length.to_be_bytes());
        refused(to, &headless, "08P01").await;
    }
}

#[tokio::test]
async fn a12_a_client_is_told_what_the_server_would_tell_and_the_next_one_without_a_server() {
    let mut pg = Postgres::options().conf("timezone = 'Asia/Tokyo'").start().await;
    let proxy = Proxy::new(&pg).start().await;
    let mine = [("application_name", "mine"), ("TimeZone", "Europe/Vienna"), ("client_encoding", "LATIN1"), ("datestyle", "German")];
    for parameters in [&mine[..], &mine[..1]] {
        let (mut direct, mut through) = (Wire::connect(&pg).await, Wire::connect(&proxy).await);
        log_in(&mut direct, parameters).await;
        log_in(&mut through, parameters).await;
        assert_eq!(through.parameters, direct.parameters);
        assert!(direct.parameters.len() > 10, "{:?}", direct.parameters);
    }

    let mut first = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(first.value("SELECT 1").await, "1");
    pg.stop(Stop::Fast);
    let second = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(second.parameters, first.parameters);
    // Whom no server knows is refused all the same.
    assert_eq!(Wire::login(&proxy, "app", "wrong", "app").await.err().expect("a refusal").code(), "28P01");
}

#[tokio::test]
async fn a14_connect_and_close_leaves_no_trace() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let proxy = Proxy::new(&pg).tls("prefer", &ca.server()).set("process.workers", 1).start().await;
    let mut other = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    let counts = async || {
        let page = proxy.http_get("/metrics").await.body;
        let kept = |line: &&str| line.starts_with("pgweir_client_logins_total") || line.starts_with("pgweir_refused_total");
        page.lines().filter(kept).map(str::to_owned).collect::<Vec<_>>()
    };
    let logins = "pgweir_client_logins_total{tenant=\"default\",outcome=\"ok\"}";
    eventually("the first login is counted", PATIENCE, || async { proxy.metric(logins).await > 0.5 }).await;
    let before = (proxy.log_lines(), counts().await);
    for bytes in [&b""[..], &[0, 0], &frames::startup(frames::V3_0, &APP)[..20], &frames::ssl_request(), &[0x16, 3, 1]] {
        for _ in 0..5 {
            let mut wire = Wire::connect(&proxy).await;
            wire.send(bytes).await;
            wire.shut_down_writing().await;
            // An S may come; the end comes by itself, without an error.
            let answer = in_time("the end", wire.try_read()).await;
            assert!(!matches!(answer, Ok(Some(_))), "{bytes:?} was answered\n{}", wire.transcript());
        }
    }
    ping(&mut other).await;
    // Once a later login is counted, so is everything before it.
    Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    eventually("the second login is counted", PATIENCE, || async { proxy.metric(logins).await > 1.5 }).await;
    let after = counts().await.into_iter().map(|line| line.replace("outcome=\"ok\"} 2", "outcome=\"ok\"} 1")).collect();
    assert_eq!((proxy.log_lines(), after), before);
}

#[tokio::test]
async fn a_connection_that_is_not_logged_in_in_time_is_closed() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("clients.login_timeout", "300ms").start().await;
    for bytes in [&b""[..], &frames::startup(frames::V3_0, &APP)[..9]] {
        let mut silent = Wire::connect(&proxy).await;
        silent.send(bytes).await;
        assert_eq!(silent.until_closed().await, [], "nobody is told anything who has said nothing");
    }
    let mut halfway = Wire::connect(&proxy).await;
    halfway.start(&APP).await;
    halfway.expect(b'R').await;
    turned_away(&mut halfway, "57014").await;
    let mut quick = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    // The limit is the login's, not the session's.
    quick.expect_silence(Duration::from_millis(600)).await;
    assert_eq!(quick.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn clients_over_a_unix_socket_may_be_of_another_container() {
    let pg = Postgres::start().await;
    let folder = tempfile::tempdir().unwrap();
    let addresses = ["127.0.0.1:0".to_owned(), format!("unix:{}", folder.path().display())];
    let proxy = Proxy::new(&pg).set("listen.postgres", addresses.to_vec()).in_own_process_namespace().start().await;
    let socket = folder.path().join(format!(".s.PGSQL.{}", proxy.port()));
    let mut wire = Wire::login(socket.clone(), "app", "secret", "app").await.unwrap();
    assert_eq!(wire.value("SELECT 1").await, "1", "the kernel tells the proxy no process id of this client");
    // Nor does it tell a proxy in a third container who has the socket: that is not taken over.
    let listen = vec![proxy.address().to_string(), addresses[1].clone()];
    let mut second = Proxy::new(&pg).set("listen.postgres", listen).in_own_process_namespace().spawn();
    assert!(!second.wait_exit().await.success());
    assert!(second.log_lines().iter().any(|line| line.contains("another process does")), "{:?}", second.log_lines());
    assert_eq!(Wire::login(socket, "app", "secret", "app").await.unwrap().value("SELECT 2").await, "2");
}

#[tokio::test]
async fn clients_may_come_over_a_unix_socket() {
    let pg = Postgres::start().await;
    let folder = tempfile::tempdir().unwrap();
    let addresses = ["127.0.0.1:0".to_owned(), format!("unix:{}", folder.path().display())];
    let proxy = Proxy::new(&pg).set("listen.postgres", addresses.to_vec()).start().await;
    let socket = folder.path().join(format!(".s.PGSQL.{}", proxy.port()));
    let mut wire = Wire::login(socket, "app", "secret", "app").await.unwrap();
    assert_eq!(wire.value("SELECT current_user").await, "app");
}
