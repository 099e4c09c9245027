//! `pgweir doctor`: what is wrong is found where it is, and what is well is said to be.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::path::Path;
use std::process::Command;

use harness::{Postgres, Proxy, Wire};

/// What the program says about a configuration, and with which code it ends; under a limit on open files, if one is named.
async fn doctor(config: &Path, more: &[&str], files: Option<u32>) -> (i32, String) {
    let limit = files.map_or_else(String::new, |files| format!("ulimit -n {files} && "));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limit}exec \"$@\""), "sh", env!("CARGO_BIN_EXE_pgweir"), "doctor", "--config"]).arg(config).args(more);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// That a line begins so and holds these words.
fn tells(said: &str, grade: &str, words: &[&str]) {
    let found = said.lines().any(|line| line.starts_with(grade) && words.iter().all(|word| line.contains(word)));
    assert!(found, "no {grade} line with {words:?} in\n{said}");
}

fn file(proxy: &Proxy) -> std::path::PathBuf {
    proxy.folder().join("pgweir.toml")
}

#[tokio::test]
async fn a_set_up_that_works_is_well_through_the_proxy_and_without_it() {
    let pg = Postgres::start().await;
    let address = format!("127.0.0.1:{}", harness::free_port());
    let http = format!("127.0.0.1:{}", harness::free_port());
    let proxy =
        Proxy::new(&pg).set("listen.postgres", vec![address]).set("listen.http", http).set("clients.max_clients", 100).start().await;
    let mut client = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    client.query("CREATE TEMP TABLE x (y int)").await;
    let (code, said) = doctor(&file(&proxy), &[], None).await;
    assert_eq!(code, 0, "{said}");
    tells(&said, "ok", &["upstream main", "`app` can log in to `app`"]);
    tells(&said, "ok", &["up to 12 connections"]);
    tells(&said, "ok", &["through the proxy", "`app`"]);
    tells(&said, "ok", &["TLS toward clients"]);
    tells(&said, "note", &["1 times", "temp"]);
    assert!(!said.contains("RISK") && said.ends_with("well\n"), "{said}");
    let config = std::fs::read_to_string(file(&proxy)).unwrap();
    let kept = tempfile::tempdir().unwrap();
    let alone = kept.path().join("pgweir.toml");
    std::fs::write(&alone, config).unwrap();
    drop(proxy);
    let (code, said) = doctor(&alone, &[], None).await;
    assert_eq!(code, 0, "{said}");
    tells(&said, "note", &["proxy: none answers"]);
}

#[tokio::test]
async fn what_is_risky_at_the_server_is_told_with_its_remedy() {
    let options = Postgres::options().max_connections(20).conf("idle_session_timeout = 10s").conf("password_encryption = md5");
    let pg = options.conf("statement_timeout = 5s").start().await;
    pg.sql("ALTER ROLE app CONNECTION LIMIT 3").await;
    let proxy = Proxy::new(&pg).max_connections(14).start().await;
    let (code, said) = doctor(&file(&proxy), &[], None).await;
    assert_eq!(code, 0, "{said}");
    tells(&said, "RISK", &["up to 16 connections", "20 less 3"]);
    tells(&said, "RISK", &["idle_session_timeout is 10000 ms"]);
    tells(&said, "RISK", &["password_encryption is md5"]);
    tells(&said, "RISK", &["the role's own limit is 3"]);
    tells(&said, "note", &["statement_timeout is 5000 ms"]);
    let (code, said) = doctor(&file(&proxy), &["--replicas", "2"], Some(2000)).await;
    assert_eq!(code, 1, "{said}");
    tells(&said, "WRONG", &["2 proxies want up to 32"]);
    assert!(said.contains("-> max_connections = 6 at most"), "{said}");
    tells(&said, "RISK", &["may open 2000 files"]);
    let sharing = Proxy::new(&pg).max_connections(12).set("upstreams.main.share_budget", true).set("upstreams.main.share_dbname", "app");
    let (_, said) = doctor(&file(&sharing.start().await), &["--replicas", "2"], None).await;
    assert!(said.contains("2 proxies want up to 16"), "one budget, and two control connections each: {said}");
}

#[tokio::test]
async fn keys_of_tokens_that_cannot_be_had_are_found() {
    let (pg, ca) = (Postgres::start().await, harness::Ca::new());
    let options = Proxy::new(&pg).tls("prefer", &ca.server()).set("users.app.server_password", "secret").unset("users.app.password");
    let keys = options.file("jwks.json", &harness::Issuer::new("one").set.to_string());
    let nowhere = format!("http://127.0.0.1:{}/jwks.json", harness::free_port());
    let trust = "[users.app]\ntoken_subjects = [\"*\"]\n[auth.tokens]\nissuer = \"x\"\naudience = \"x\"\n";
    let api = format!("[api.tokens]\njwks_url = \"{nowhere}\"\naudience = \"x\"\n");
    let proxy = options.raw_toml(trust).raw_toml(&api).set("auth.tokens.jwks_file", keys.to_str().unwrap()).start().await;
    let (code, said) = doctor(&file(&proxy), &[], None).await;
    assert_eq!(code, 1, "{said}");
    tells(&said, "ok", &["auth.tokens", "jwks.json has a key"]);
    tells(&said, "WRONG", &["api.tokens", "cannot be had", &nowhere]);
}

#[tokio::test]
async fn a_standby_and_a_wrong_password_are_found() {
    let mut pg = Postgres::start().await;
    let standby = pg.standby().await;
    let proxy = Proxy::new(&standby).start().await;
    tells(&doctor(&file(&proxy), &[], None).await.1, "RISK", &["it is a standby"]);
    let proxy = Proxy::new(&pg).set("users.app.server_password", "wrong").start().await;
    let (code, said) = doctor(&file(&proxy), &[], None).await;
    assert_eq!(code, 1, "{said}");
    tells(&said, "WRONG", &["upstream main", "password authentication failed"]);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_the_first_thing_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgweir.toml");
    std::fs::write(&file, "[upstreams.main]\nhost = \"db\"\nmax_conections = 3\n").unwrap();
    let (code, said) = doctor(&file, &[], None).await;
    assert_eq!(code, 1);
    tells(&said, "WRONG", &["configuration", "max_conections"]);
}
