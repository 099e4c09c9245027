//! The proxy that runs with this configuration, if one does: a client's way through it, and what it has counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;

use super::finding::{Findings, Grade};
use crate::auth::KeyCache;
use crate::cli::healthcheck;
use crate::config::{Config, ListenAddress, User};
use crate::net::ConnectOptions;
use crate::net::now;
use crate::net::tls::{ServerTls, ServerTlsSource, SslMode, SslNegotiation};
use crate::upstream::{self, Aws, Broken, Choice, Login, Place, ServerSecret, Target, Travelling};

/// How long the proxy may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is read of its numbers at most, in bytes.
const LONGEST: u64 = 4 << 20;

pub(super) async fn examine(config: &Config, findings: &mut Findings) {
    let Some(http) = config.listen.http.map(reachable) else {
        findings.add(Grade::Note, "proxy", "its operations port is off: what it has counted cannot be seen", "");
        return through(config, findings).await;
    };
    let url = format!("http://{http}/live");
    let page = tokio::task::spawn_blocking(move || healthcheck::page(&url, PATIENCE, LONGEST)).await;
    let Ok(Ok(page)) = page else {
        findings.add(Grade::Note, "proxy", format!("none answers at {http}: only the way to the servers was examined"), "");
        return;
    };
    counted(&page, findings);
    through(config, findings).await;
}

/// An address as one connects to it from here.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// A client's way: through the proxy to each database that is named.
async fn through(config: &Config, findings: &mut Findings) {
    let address = config.listen.postgres.iter().find_map(|address| match address {
        ListenAddress::Tcp(address) => Some(reachable(*address)),
        ListenAddress::Unix(_) => None,
    });
    let user = config.users.values().find(|user| user.password.is_some());
    let (Some(address), Some(user)) = (address, user) else {
        findings.add(Grade::Note, "through the proxy", "no user with a password, or no TCP address, to try a client's way with", "");
        return;
    };
    for name in config.databases.keys() {
        match Box::pin(select_one(address, name, user)).await {
            Ok(()) => findings.well("through the proxy", format!("`{}` is answered in `{name}`", user.name)),
            Err(why) => findings.add(
                Grade::Wrong,
                "through the proxy",
                format!("`{}` is not answered in `{name}`: {why}", user.name),
                "docs/reference/faults.md has every answer of the proxy's own",
            ),
        }
    }
}

async fn select_one(address: SocketAddr, database: &str, user: &User) -> Result<(), Broken> {
    let source = ServerTlsSource { mode: SslMode::Prefer, negotiation: SslNegotiation::Postgres, ca: None, pair: None };
    let tls = ServerTls::load(&source).map_err(|why| Broken::from(std::io::Error::other(why.to_string())))?;
    let target = Target {
        places: vec![Place { host: address.ip().to_string().into(), port: address.port() }],
        wanted: None,
        tls,
        options: ConnectOptions { timeout: PATIENCE, keepalive: None, user_timeout: None },
        application_name: "pgweir doctor".to_owned(),
        aws: Aws::new(None, |_| None),
    };
    let secret =
        user.password.as_ref().map_or(ServerSecret::None, |password| ServerSecret::Password(Arc::new(password.reveal().to_owned().into())));
    let login = Login { user: user.name.clone().into_bytes(), dbname: database.as_bytes().to_vec(), replication: None, secret };
    let fresh = upstream::open(&target, &login, &Mutex::new(KeyCache::new(1)), Choice::default()).await?;
    let mut session = Travelling::fresh(fresh, now())?.arrive()?;
    session.run(b"SELECT 1").await?.map_err(Broken::Refused)
}

/// What the proxy has counted since it began.
fn counted(page: &str, findings: &mut Findings) {
    let live: Value = serde_json::from_str(page).unwrap_or_default();
    findings.well("proxy", format!("version {} is {}", live["version"].as_str().unwrap_or("?"), live["state"].as_str().unwrap_or("?")));
    for upstream in live["upstreams"].as_array().into_iter().flatten() {
        let (name, state) = (upstream["name"].as_str().unwrap_or("?"), upstream["state"].as_str().unwrap_or("?"));
        match state {
            "ok" => findings.well("proxy", format!("upstream {name}: nobody waits to speak of")),
            "down" => findings.add(
                Grade::Wrong,
                "proxy",
                format!("upstream {name} does not answer"),
                "what is said of it above; the proxy's log says since when",
            ),
            "shedding" => findings.add(
                Grade::Risk,
                "proxy",
                format!("upstream {name}: clients are refused for want of server connections"),
                "fewer callers at once (/pressure suggests how many), shorter transactions, or a larger budget: pgweir plan",
            ),
            _ => findings.add(
                Grade::Note,
                "proxy",
                format!("upstream {name}: clients wait"),
                "/pressure says for how long, and how many callers it could take",
            ),
        }
    }
    for (reason, count) in live["all"]["pins"].as_object().into_iter().flatten() {
        let what = format!("{count} times a client has kept a server connection beyond its transaction, for: {reason}");
        findings.add(Grade::Note, "proxy", what, "pgweir check-compat finds the statements; max_pinned bounds such clients");
    }
    for (fault, count) in live["all"]["refused"].as_object().into_iter().flatten() {
        findings.add(Grade::Note, "proxy", format!("{count} times clients were told: {fault}"), "docs/reference/faults.md says what to do");
    }
}
