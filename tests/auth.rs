//! Who a client is and how it proves that, and how the proxy proves it to the server. Checklist A10, A11, J5.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod harness;
#[path = "auth/unknown.rs"]
mod unknown;

use std::path::PathBuf;
use std::process::Command;

use harness::{Ca, Endpoint, Postgres, Proxy, ProxyOptions, Script, ServerError, Wire, frames, in_time};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};

async fn denied(to: impl Into<Endpoint>, user: &str, password: &str) -> ServerError {
    Wire::login(to, user, password, "app").await.err().expect("a refusal")
}

/// Logs in as `app` over plain TCP, and has a query answered by the server.
async fn served(proxy: &Proxy) -> Wire {
    let mut wire = Wire::login(proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(wire.value("SELECT current_user").await, "app");
    wire
}

/// How the server keeps the password of `app`.
async fn stored(pg: &Postgres) -> String {
    pg.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").await
}

/// A proxy that knows what the server keeps for `app`, and no password.
async fn with_verifier(pg: &Postgres) -> ProxyOptions {
    Proxy::new(pg).unset("users.app.password").set("users.app.verifier", stored(pg).await)
}

#[tokio::test]
async fn scram_from_a_password() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let wire = served(&proxy).await;
    assert!(wire.transcript().contains("<- Authentication 10\n"), "{}", wire.transcript());
    assert_eq!(denied(&proxy, "app", "Secret").await.code(), "28P01");
}

#[tokio::test]
async fn scram_from_a_stored_verifier_logs_in_to_the_server_without_any_password() {
    let pg = Postgres::start().await;
    let proxy = with_verifier(&pg).await.start().await;
    served(&proxy).await;
    assert_eq!(denied(&proxy, "app", "Secret").await.code(), "28P01");
}

#[tokio::test]
async fn a_verifier_that_is_not_the_servers_lets_the_client_in_and_not_the_proxy() {
    let pg = Postgres::start().await;
    let options = with_verifier(&pg).await;
    // The same password with another salt.
    pg.sql("ALTER ROLE app PASSWORD 'secret'").await;
    let proxy = options.start().await;
    let error = denied(&proxy, "app", "secret").await;
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P03"), "{error}");
    proxy.logged("its verifier differs").await;
}

#[tokio::test]
async fn a_password_comes_from_the_environment_or_a_file() {
    let pg = Postgres::start().await;
    let by_name = Proxy::new(&pg).unset("users.app.password").set("users.app.password_env", "APP_SECRET").env("APP_SECRET", "secret");
    served(&by_name.start().await).await;
    let options = Proxy::new(&pg).unset("users.app.password");
    let file = options.file("password", "secret\n");
    let proxy = options.set("users.app.password_file", file.to_str().unwrap()).start().await;
    served(&proxy).await;
    assert_eq!(denied(&proxy, "app", "secret\n").await.code(), "28P01");
}

#[tokio::test]
async fn scram_plus_binds_the_login_to_the_certificate() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let proxy = Proxy::new(&pg).tls("prefer", &ca.server()).start().await;
    // The harness takes -PLUS where it is offered.
    let mut wire = Box::pin(Wire::login_tls(&proxy, ca.client_config(None), "app", "secret")).await.unwrap();
    assert_eq!(wire.value("SELECT 1").await, "1");

    let attempts = [
        (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(vec![7; 32]), "bound to another certificate"),
        (SCRAM_SHA_256, ChannelBinding::unrequested(), "talked out of binding"),
    ];
    for (mechanism, binding, what) in attempts {
        let mut wire = Wire::connect(&proxy).await;
        assert_eq!(wire.ask(&frames::ssl_request()).await, b'S');
        let mut wire = Box::pin(wire.tls(ca.client_config(None))).await.unwrap();
        wire.start(&[("user", "app"), ("database", "app")]).await;
        let offered = wire.expect(b'R').await.body;
        assert_eq!(offered.as_ref(), b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        let mut scram = ScramSha256::new(b"secret", binding);
        wire.send(&frames::sasl_initial(mechanism, scram.message())).await;
        let mut answer = wire.read().await;
        if answer.tag == b'R' {
            scram.update(&answer.body[4..]).unwrap();
            wire.send(&frames::sasl(scram.message())).await;
            answer = wire.read().await;
        }
        assert_eq!(char::from(answer.tag), 'E', "{what}");
        assert_eq!(ServerError::read(&answer.body).severity(), "FATAL", "{what}");
    }

    // Without TLS there is nothing to bind to, and -PLUS is not offered.
    let mut plain = Wire::connect(&proxy).await;
    plain.start(&[("user", "app"), ("database", "app")]).await;
    assert_eq!(plain.expect(b'R').await.body.as_ref(), b"\0\0\0\x0aSCRAM-SHA-256\0\0");
}

#[tokio::test]
async fn libpq_is_content_with_the_channel_binding() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let options = Proxy::new(&pg).tls("prefer", &ca.server());
    let root = options.file("root.crt", ca.pem());
    let proxy = options.start().await;
    let beside = std::env::var_os("PG_BIN").map(|folder| PathBuf::from(folder).join("psql"));
    let psql = beside.filter(|file| file.is_file()).unwrap_or_else(|| "psql".into());
    let run = async |password: &'static str| {
        let target = format!("host=localhost hostaddr=127.0.0.1 port={} user=app dbname=app", proxy.port());
        let target = format!("{target} channel_binding=require sslmode=verify-full sslrootcert={}", root.display());
        let mut command = Command::new(&psql);
        command.args(["-XAtw", "-c", "SELECT current_user", &target]).env("PGPASSWORD", password);
        in_time("psql", tokio::task::spawn_blocking(move || command.output().expect("psql starts"))).await.unwrap()
    };
    let done = run("secret").await;
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "app", "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!run("wrong").await.status.success());
}

#[tokio::test]
async fn md5_from_a_password_and_from_a_stored_hash() {
    let pg = Postgres::options().auth("md5").start().await;
    assert!(stored(&pg).await.starts_with("md5"));
    for options in [Proxy::new(&pg), with_verifier(&pg).await] {
        let proxy = options.set("auth.method", "md5").start().await;
        let wire = served(&proxy).await;
        assert!(wire.transcript().contains("<- Authentication 5\n"), "{}", wire.transcript());
        assert_eq!(denied(&proxy, "app", "Secret").await.code(), "28P01");
    }
}

#[tokio::test]
async fn a_password_in_the_clear_is_asked_for_over_tls_only() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    for options in [Proxy::new(&pg), with_verifier(&pg).await] {
        let proxy = options.set("auth.method", "cleartext").tls("prefer", &ca.server()).start().await;
        let mut wire = Box::pin(Wire::login_tls(&proxy, ca.client_config(None), "app", "secret")).await.unwrap();
        assert!(wire.transcript().contains("<- Authentication 3\n"), "{}", wire.transcript());
        assert_eq!(wire.value("SELECT current_user").await, "app");
        let error = Box::pin(Wire::login_tls(&proxy, ca.client_config(None), "app", "Secret")).await.err().expect("a refusal");
        assert_eq!(error.code(), "28P01");

        let mut plain = Wire::connect(&proxy).await;
        plain.start(&[("user", "app"), ("database", "app")]).await;
        // At once: the password never travels.
        let error = plain.expect_error("28000").await;
        assert_eq!(error.message(), "SSL connection is required");
    }
}

#[tokio::test]
async fn a_client_certificate_is_mapped_to_its_user() {
    let (pg, ca, clients) = (Postgres::start().await, Ca::new(), Ca::new());
    let options = Proxy::new(&pg).tls("prefer", &ca.server());
    let file = options.file("clients.crt", clients.pem());
    let proxy = options
        .set("tls.client.ca", file.to_str().unwrap())
        .set("tls.client.client_certificates", "request")
        .set("auth.method", "cert")
        .set("users.app.certificate_names", vec!["lambda"])
        .user("other", "secret")
        .start()
        .await;
    let log_in = async |user: &str, name: Option<&str>| {
        let shown = name.map(|name| clients.client(name));
        Box::pin(Wire::login_tls(&proxy, ca.client_config(shown.as_ref()), user, "no password is asked for")).await
    };
    let mut wire = log_in("app", Some("lambda")).await.unwrap();
    assert_eq!(wire.value("SELECT current_user").await, "app");
    assert!(!wire.transcript().contains("Password"), "{}", wire.transcript());
    for (user, name) in [("app", Some("other")), ("app", Some("app")), ("app", None), ("other", Some("lambda")), ("nobody", Some("lambda"))]
    {
        let error = log_in(user, name).await.err().expect("a refusal");
        assert_eq!((error.severity(), error.code()), ("FATAL", "28000"), "{user} with {name:?}: {error}");
        assert_eq!(error.message(), format!("certificate authentication failed for user \"{user}\""));
    }
    // A certificate that somebody else has signed is none.
    let forged = Ca::new().client("lambda");
    let mut wire = Wire::connect(&proxy).await;
    assert_eq!(wire.ask(&frames::ssl_request()).await, b'S');
    if let Ok(mut wire) = Box::pin(wire.tls(ca.client_config(Some(&forged)))).await {
        let _ = wire.try_send(&frames::startup(frames::V3_0, &[("user", "app"), ("database", "app")])).await;
        assert!(matches!(wire.try_read().await, Ok(None) | Err(_)), "{}", wire.transcript());
    }
}

#[tokio::test]
async fn clients_of_trusted_networks_are_believed() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("auth.trust_networks", vec!["10.0.0.0/8", "127.0.0.0/8"]).start().await;
    let mut wire = Wire::connect(&proxy).await;
    wire.start(&[("user", "app"), ("database", "app")]).await;
    assert_eq!(wire.expect(b'R').await.body.as_ref(), [0; 4], "AuthenticationOk at once");
    wire.until_ready().await;
    assert_eq!(wire.value("SELECT current_user").await, "app");
    assert_eq!(denied(&proxy, "nobody", "secret").await.code(), "28P01");

    let elsewhere = Proxy::new(&pg).set("auth.trust_networks", vec!["10.0.0.0/8"]).start().await;
    assert_eq!(denied(&elsewhere, "app", "wrong").await.code(), "28P01");
    served(&elsewhere).await;
}

#[tokio::test]
async fn the_server_is_logged_in_to_the_way_it_asks() {
    for method in ["scram-sha-256", "md5", "trust"] {
        let pg = Postgres::options().auth(method).start().await;
        served(&Proxy::new(&pg).start().await).await;
    }
}

#[tokio::test]
async fn the_server_has_the_password_in_the_clear_over_tls_only() {
    let pg = Postgres::options().ssl().auth("password").start().await;
    served(&Proxy::new(&pg).start().await).await;

    let plain = Proxy::new(&pg).set("tls.server.mode", "disable").start().await;
    let error = denied(&plain, "app", "secret").await;
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P03"), "{error}");
    plain.logged("asks for the password in the clear").await;
}

#[tokio::test]
async fn a_servers_own_refusal_reaches_the_client_and_the_log_as_it_is() {
    let pg = Postgres::start().await;
    pg.sql("CREATE ROLE narrow LOGIN PASSWORD 'secret' CONNECTION LIMIT 0; CREATE ROLE outcast PASSWORD 'secret'").await;
    let proxy = Proxy::new(&pg)
        .database("gone", "gone")
        .user("narrow", "secret")
        .user("outcast", "secret")
        // A server that is full is waited for: room may come.
        .set("defaults.queue_timeout", "500ms")
        .raw_toml("[users.stale]\npassword = \"secret\"\nserver_user = \"app\"\nserver_password = \"old\"")
        .start()
        .await;
    let cases = [
        // As whom at the proxy, as whom at the server, to which database, and what comes of it.
        ("stale", ("app", "old"), "app", "28P01"),
        ("app", ("app", "secret"), "gone", "3D000"),
        ("narrow", ("narrow", "secret"), "app", "53300"),
        ("outcast", ("outcast", "secret"), "app", "28000"),
    ];
    for (user, (role, password), database, code) in cases {
        let direct = Wire::login(&pg, role, password, database).await.err().expect("a refusal");
        let through = Wire::login(&proxy, user, "secret", database).await.err().expect("a refusal");
        assert_eq!(direct.code(), code, "{direct}");
        assert_eq!(through.fields, direct.fields, "directly, and through the proxy");
        let line = proxy.logged(&direct.message().replace('"', "\\\"")).await;
        assert!(line.contains(code) && line.contains("WARN"), "{line}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_what_the_proxy_does_not_speak_is_told_of_in_the_log() {
    let gssapi = frames::message(b'R', &7_u32.to_be_bytes());
    let unknown_sasl = frames::message(b'R', b"\0\0\0\x0aSCRAM-SHA-1024\0\0");
    for (request, told) in [(gssapi, "authentication method 7"), (unknown_sasl, "none of the SASL mechanisms that the server offers")] {
        let script = Script::start(move |mut peer| {
            let request = request.clone();
            async move {
                peer.send(&request).await;
                peer.until_closed().await;
            }
        })
        .await;
        let proxy = Proxy::before_script(&script).start().await;
        let error = denied(&proxy, "app", "secret").await;
        assert_eq!((error.severity(), error.code()), ("FATAL", "57P03"), "{error}");
        let line = proxy.logged("a server connection could not be opened").await;
        assert!(line.contains(told), "{line}");
    }
}

#[tokio::test]
async fn j5_a_servers_login_may_be_long_winded() {
    let script = Script::start(|mut peer| async move {
        use frames::server;
        let long = "x".repeat(200_000);
        let mut greeting = server::notice("NOTICE", "00000", "before");
        greeting.extend(server::authentication_ok());
        greeting.extend(server::parameter("server_version", "15.0"));
        greeting.extend(server::parameter("long.winded", &long));
        greeting.extend(server::notice("WARNING", "01000", &long));
        // No BackendKeyData, as from some poolers.
        greeting.extend(server::ready(b'I'));
        peer.send(&greeting).await;
        peer.answer_queries("done").await;
    })
    .await;
    let proxy = Proxy::before_script(&script).start().await;
    let mut wire = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(wire.parameters["long.winded"].len(), 200_000);
    assert_eq!(wire.value("SELECT 1").await, "done");
}
