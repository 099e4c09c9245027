//! A host name that comes to mean another machine, as a managed database's does after a failover: it is resolved anew for each connection.
//!
//! What the name means is told to the resolver of the C library by `nss_wrapper` (Debian: libnss-wrapper), so that the machine's own names are left alone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use harness::frames::query;
use harness::{PATIENCE, Postgres, Proxy, ProxyOptions, Stop, Wire, eventually, in_time};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const NAME: &str = "writer.database.test";

/// What [`NAME`] means to one proxy.
struct Names {
    hosts: PathBuf,
}

impl Names {
    /// A proxy that asks for the server by name, and the name's first meaning.
    fn first(options: ProxyOptions, address: Ipv4Addr) -> (Self, ProxyOptions) {
        let names = Self { hosts: options.file("hosts", "") };
        names.mean(address);
        let options = options.set("upstreams.main.host", NAME).env("LD_PRELOAD", &wrapper());
        let hosts = names.hosts.to_str().unwrap().to_owned();
        (names, options.env("NSS_WRAPPER_HOSTS", &hosts))
    }

    /// From now on the name means this. The file is replaced as a whole, as nobody may read half of it.
    fn mean(&self, address: Ipv4Addr) {
        let next = self.hosts.with_extension("next");
        std::fs::write(&next, format!("{address} {NAME}\n")).unwrap();
        std::fs::rename(next, &self.hosts).unwrap();
    }
}

/// Where Debian has it.
fn wrapper() -> String {
    let path = format!("/usr/lib/{}-linux-gnu/libnss_wrapper.so", std::env::consts::ARCH);
    assert!(Path::new(&path).exists(), "no {path}: tests/setup test installs it");
    path
}

/// A primary and its standby, on one port of two addresses.
async fn pair() -> (Postgres, Postgres) {
    let mut primary = Postgres::start().await;
    let standby = primary.standby_at(ELSEWHERE).await;
    primary.sql("CREATE TABLE kept (who text); GRANT ALL ON kept TO app").await;
    eventually("the standby follows", PATIENCE, async || standby.value("SELECT to_regclass('kept') IS NOT NULL").await == "t").await;
    (primary, standby)
}

async fn is_recovering(client: &mut Wire) -> String {
    client.value("SELECT pg_is_in_recovery()").await
}

#[tokio::test]
async fn who_waits_is_served_by_the_machine_that_the_name_means_by_then() {
    let (mut primary, standby) = pair().await;
    let (names, options) = Names::first(Proxy::new(&primary).max_connections(2), HERE);
    let proxy = options.set("upstreams.main.failover_window", "60s").start().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
        assert_eq!(is_recovering(&mut client).await, "f");
        clients.push(client);
    }

    primary.stop(Stop::Immediate);
    for client in &mut clients {
        client.send(&query("INSERT INTO kept VALUES ('waited')")).await;
    }
    let depth = "pgweir_queue_depth{tenant=\"default\",upstream=\"main\"}";
    eventually("they wait", PATIENCE, async || proxy.metric(depth).await == 4.0).await;
    standby.promote().await;
    let up = "pgweir_upstream_up{upstream=\"main\"}";
    eventually("the name's old meaning is tried", PATIENCE, async || proxy.metric(up).await == 0.0).await;
    assert_eq!(standby.value("SELECT count(*)::text FROM kept").await, "0", "nobody is served before the name has moved");

    names.mean(ELSEWHERE);
    for client in &mut clients {
        let answer = in_time("an answer", client.until_ready()).await;
        assert!(answer.iter().all(|frame| frame.tag != b'E'), "{}", client.transcript());
    }
    assert_eq!(standby.value("SELECT count(*)::text FROM kept").await, "4");
}

#[tokio::test]
async fn a_refused_write_sends_everybody_to_the_machine_that_the_name_means_now() {
    let (primary, standby) = pair().await;
    let (names, options) = Names::first(Proxy::new(&primary).max_connections(2), ELSEWHERE);
    let proxy = options.start().await;
    let mut client = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(is_recovering(&mut client).await, "t", "the name is late: it still means what is no primary any more");

    names.mean(HERE);
    assert_eq!(is_recovering(&mut client).await, "t", "connections that work are kept");
    assert_eq!(client.try_query("INSERT INTO kept VALUES ('early')").await.unwrap_err().code(), "25006");
    eventually("the connections to it are given up", PATIENCE, async || standby.backends("app").await == 0).await;
    client.query("INSERT INTO kept VALUES ('kept')").await;
    assert_eq!(primary.value("SELECT string_agg(who, ',') FROM kept").await, "kept");
}
