//! That the checker sees each breach of the law on a sample, and that the house itself keeps it.

use super::*;

fn only(path: &str, text: &str) -> String {
    let found = offences(path, &format!("//! A sample.\n{text}"));
    assert_eq!(found.len(), 1, "{text}\ngave {found:?}");
    found[0].clone()
}

fn none(path: &str, text: &str) {
    let found = offences(path, &format!("//! A sample.\n{text}"));
    assert!(found.is_empty(), "{text}\ngave {found:?}");
}

#[test]
fn the_house_keeps_its_law() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &root, &mut files).unwrap();
    assert!(files.iter().any(|(path, _)| path == "architecture.rs"), "the reader found no sources in {}", root.display());
    let found: Vec<_> = files.iter().flat_map(|(path, text)| offences(path, text)).collect();
    assert!(found.is_empty(), "the law of the house is broken in {} places:\n{}", found.len(), list(&found));
}

#[test]
fn the_drawn_floors_are_the_checked_ones() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md")).unwrap();
    assert!(page.contains(&FLOORS.join(" < ")), "docs/ARCHITECTURE.md draws other floors than {}", FLOORS.join(" < "));
}

#[test]
fn an_upward_reference_is_caught_however_it_is_written() {
    assert_eq!(only("wire/scan.rs", "use crate::session::Phase;"), "src/wire/scan.rs:2: `wire` names `session`, which stands above it");
    assert!(only("pool/mod.rs", "fn f() { crate::daemon::stop(); }").contains("names `daemon`"));
    assert!(only("auth.rs", "use crate::{config::Secret, http::{self, Server}};").contains("names `http`"));
    assert!(only("net/tls.rs", "use crate::{\n    config,\n    cli,\n};").contains("names `cli`"));
    assert!(only("net/tls.rs", "use super::super::pool::Lease;").contains("names `pool`"));
    assert!(only("fault.rs", "use super::session;").contains("names `session`"));
    assert!(only("wire/mod.rs", "pub(in crate::session) fn f() {}").contains("names `session`"));
    assert!(only("wire/mod.rs", "use crate::*;").contains("every room"));
    assert!(only("wire/mod.rs", "#[cfg(test)]\nmod tests { use crate::pool::Pool; }").contains("names `pool`"));
}

#[test]
fn what_stands_below_may_be_named() {
    none("session/relay.rs", "use crate::{wire::Scan, pool::{Lease, ledger}};\nuse super::phase::Phase;\nuse super::super::fault::Fault;");
    none("wire/scan.rs", "use crate::wire::head;");
    none("wire/scan.rs", "// crate::session is above\n/* crate::cli /* crate::cli */ */ const A: &str = \"crate::cli\";");
    none(
        "wire/scan.rs",
        "/// See [`crate::session`].\nconst A: &str = r#\"crate::cli \" \"#; const B: char = '\"'; const C: char = '\\'';",
    );
    none("main.rs", "use crate::daemon;");
    none("config/mod.rs", "mod tests { use super::*; }\nuse othercrate::session;");
}

#[test]
fn a_room_with_no_floor_is_caught() {
    assert!(only("helpers/mod.rs", "").contains("`helpers` stands on no floor"));
    assert!(only("helpers.rs", "").contains("`helpers` stands on no floor"));
}

#[test]
fn a_sqlstate_is_spelt_out_in_its_table_alone() {
    assert!(only("session/startup.rs", "const A: &str = \"57P01\";").contains("SQLSTATE 57P01"));
    assert!(only("pool/mod.rs", "const A: &[u8; 5] = b\"53300\";").contains("SQLSTATE 53300"));
    assert!(only("http/mod.rs", "const A: &str = r\"08P01\";").contains("SQLSTATE 08P01"));
    none("fault.rs", "const A: &str = \"57P01\";");
    none("wire/sqlstate.rs", "const A: &str = \"57P01\";");
    none("cli/demo.rs", "const A: &str = \"53300\";");
    none("session/tests.rs", "const A: &str = \"53300\";");
    none("session/mod.rs", "#[cfg(test)]\nmod tests { const A: &str = \"53300\"; }");
    none("session/mod.rs", "// \"57P01\" is said last\nconst A: &str = \"HELLO\"; const B: &str = \"65536\"; const C: &str = \"57P01 \";");
    assert!(only("session/mod.rs", "#[cfg(test)]\nmod tests;\nconst A: &str = \"57014\";").contains("57014"));
}

#[test]
fn a_metric_is_named_in_the_table_alone() {
    assert!(only("session/mod.rs", "const A: &str = \"pgweir_clients\";").contains("metric"));
    none("metrics.rs", "const A: &str = \"pgweir_clients\";");
    none("metrics/table.rs", "const A: &str = \"pgweir_clients\";");
}

#[test]
fn sockets_live_in_one_room() {
    assert!(only("session/mod.rs", "use tokio::net::TcpStream;").contains("tokio::net"));
    assert!(only("http/mod.rs", "use tokio::{io, net::{self, TcpListener}};").contains("tokio::net"));
    none("net/tcp.rs", "use tokio::net::TcpStream;");
    none("session/mod.rs", "use tokio::{io::AsyncRead, time};\n#[cfg(test)]\nmod tests { use tokio::net::TcpStream; }");
}

#[test]
fn a_pure_room_has_no_clock_socket_lock_or_log() {
    assert!(only("admission/queue.rs", "fn f() { let now = Instant::now(); }").contains("Instant::now"));
    assert!(only("admission/queue.rs", "use crate::net::{Moment, now};\nfn f() { g(now()); }").contains("what time"));
    none("admission/queue.rs", "use crate::net::Moment;\nfn f(now: Moment) { g(now); self.now(); }");
    assert!(only("pool/ledger.rs", "use parking_lot::Mutex;").contains("parking_lot"));
    assert!(only("session/phase/mod.rs", "fn f() { tracing::info!(\"x\"); }").contains("tracing"));
    none("pool/mod.rs", "use parking_lot::Mutex;");
    none("wire/scan.rs", "#[cfg(test)]\nmod tests { fn f() { std::fs::read(\"corpus\").ok(); } }");
}

#[test]
fn every_file_says_what_it_owns_and_stays_short() {
    assert!(offences("wire/scan.rs", "use std::fmt;\n")[0].contains("open with //!"));
    assert!(only("wire/scan.rs", &"\n".repeat(MAX_LINES)).contains("second noun"));
    none("wire/scan.rs", &"\n".repeat(MAX_LINES - 1));
}
