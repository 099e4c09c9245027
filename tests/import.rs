//! `pgweir import pgbouncer` on PgBouncer's own files, and beside a real PgBouncer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use harness::{Admin, PgBouncer, Postgres, Proxy, Wire};

/// Where Debian's package puts PgBouncer's own examples.
const EXAMPLES: [&str; 2] = ["/usr/share/doc/pgbouncer/examples/pgbouncer.ini", "/usr/share/doc/pgbouncer/pgbouncer-minimal.ini"];

/// The TOML and the notes that the program makes of a file.
fn import(file: &Path) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pgweir")).args(["import", "pgbouncer"]).arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn pgbouncers_own_samples_can_be_used_when_they_have_a_database_and_a_user() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("userlist.txt");
    fs::write(&users, "\"marko\" \"asdasd\"\n").unwrap();
    for example in EXAMPLES {
        let text = fs::read_to_string(example).expect("PgBouncer's examples, which tests/setup installs");
        let with = format!("{text}\n[databases]\nfoodb = host=127.0.0.1\n[pgbouncer]\nauth_file = {}\n", users.display());
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, with).unwrap();
        let (toml, _) = import(&file);
        let loaded = pgweir::config::parse_str(&toml).unwrap_or_else(|mistakes| panic!("{example}: {}\n{toml}", mistakes[0]));
        assert!(loaded.config.users.contains_key("marko"));
    }
}

#[test]
fn every_setting_of_the_sample_is_accounted_for() {
    let text = fs::read_to_string(EXAMPLES[0]).expect("PgBouncer's examples, which tests/setup installs");
    // The sample shows settings in comments that have one semicolon and no blank behind it.
    let shown = |line: &str| {
        line.strip_prefix(';').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '*')).unwrap_or(line).to_owned()
    };
    let all: String = text.lines().map(|line| shown(line) + "\n").collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgbouncer.ini");
    fs::write(&file, &all).unwrap();
    let (toml, _) = import(&file);
    let mut settings = 0;
    let section = all.split_once("\n[pgbouncer]").expect("a section").1;
    for line in section.lines().filter(|line| !line.starts_with([';', '%']) && line.contains('=')) {
        let name = line.split_once('=').unwrap().0.trim();
        let told = toml.lines().any(|line| line.starts_with("#   ") && line.contains(&format!(": {name}")));
        assert!(told, "{name} is not accounted for in\n{toml}");
        settings += 1;
    }
    assert!(settings > 80, "only {settings} settings were found in the sample");
    assert!(!toml.contains("no setting of PgBouncer's"), "{toml}");
}

#[tokio::test]
async fn what_works_through_a_pgbouncer_works_through_what_is_made_of_it() {
    let pg = Postgres::start().await;
    let bouncer = PgBouncer::start(&pg).await;
    assert_eq!(
        Wire::login(SocketAddr::from(([127, 0, 0, 1], bouncer.port())), "app", "secret", "app").await.unwrap().value("SELECT 1").await,
        "1"
    );
    let (toml, notes) = import(&bouncer.settings());
    assert_eq!(notes, "", "nothing to look at");
    // Its port is taken; everything else as it stands.
    let toml = toml.replace(&format!("127.0.0.1:{}", bouncer.port()), "127.0.0.1:0").replace("127.0.0.1:9632", "127.0.0.1:0");
    let proxy = Proxy::with_config_text(&toml).start().await;
    let mut client = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(client.value("SELECT current_database()").await, "app");
    let wrong = Wire::login(&proxy, "app", "wrong", "app").await.err().expect("a wrong password");
    assert_eq!(wrong.code(), "28P01");
    let console = Admin::login(proxy.port(), "app", "pgbouncer").await.unwrap();
    let theirs = Admin::login(bouncer.port(), "app", "pgbouncer").await.unwrap();
    for column in ["pool_size", "pool_mode", "port"] {
        let ours = console.row("SHOW DATABASES", "name", "app").await;
        assert_eq!(
            ours[column],
            theirs.row("SHOW DATABASES", "name", "app").await.get(column).cloned().unwrap_or_else(|| "transaction".into()),
            "{column}"
        );
    }
}
