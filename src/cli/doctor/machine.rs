//! This machine, and the way to it.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::finding::{Findings, Grade};
use crate::config::{ClientTlsMode, Config, ListenAddress};

/// After so long without a byte a Network Load Balancer forgets a connection.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(350);
/// Descriptors beside clients and servers.
const OTHERS: u64 = 100;

pub(super) fn examine(config: &Config, findings: &mut Findings) {
    descriptors(config, findings);
    keepalive(config, findings);
    protection(config, findings);
}

fn descriptors(config: &Config, findings: &mut Findings) {
    let servers: u64 = config.upstreams.values().map(|upstream| u64::from(upstream.max_connections + upstream.control_connections)).sum();
    let clients = u64::from(config.clients.max_clients);
    let needed = clients + servers + OTHERS;
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < needed => findings.add(
            Grade::Risk,
            "descriptors",
            format!("a process may open {limit} files here, and {clients} clients with their servers need {needed}"),
            format!("raise the limit (ulimit -Hn, LimitNOFILE=, nofile of the container) to {needed}, or lower clients.max_clients"),
        ),
        limit => {
            let limit = limit.map_or_else(|| "as many files as it likes".to_owned(), |limit| format!("{limit} files"));
            findings.well("descriptors", format!("a process may open {limit}, and {needed} are needed at most"));
        }
    }
}

fn keepalive(config: &Config, findings: &mut Findings) {
    match config.client_tcp.idle_keepalive {
        None => findings.add(
            Grade::Note,
            "idle clients",
            "nothing is sent on connections that are quiet, and a load balancer or NAT in the way may forget them (a Network Load Balancer after 350 s)",
            "where one is in the way, raise its idle timeout and set tcp.client.idle_keepalive = \"300s\"",
        ),
        Some(idle) if idle >= FORGOTTEN_AFTER => findings.add(
            Grade::Risk,
            "idle clients",
            format!("the first probe comes after {} s, and a Network Load Balancer forgets a quiet connection after 350 s", idle.as_secs()),
            "set tcp.client.idle_keepalive = \"300s\"",
        ),
        Some(_) => findings.well("idle clients", "probed before a Network Load Balancer forgets them"),
    }
    if config.server_tcp.idle.is_none_or(|idle| idle >= FORGOTTEN_AFTER) {
        findings.add(
            Grade::Risk,
            "idle server connections",
            "they are not probed within 350 s: one that something in the way has forgotten is noticed only when it is used",
            "set tcp.server.keepalive_idle = \"30s\"",
        );
    }
}

fn protection(config: &Config, findings: &mut Findings) {
    let is_public =
        config.listen.postgres.iter().any(|address| matches!(address, ListenAddress::Tcp(address) if !address.ip().is_loopback()));
    match config.client_tls.mode {
        ClientTlsMode::Disable if is_public => findings.add(
            Grade::Risk,
            "TLS toward clients",
            "it is off, and others than this machine may connect: queries and their answers can be read on the way",
            "give tls.client a certificate, and mode = \"require\"",
        ),
        ClientTlsMode::Prefer if is_public => findings.add(
            Grade::Note,
            "TLS toward clients",
            "clients that do not ask for it go without",
            "tls.client.mode = \"require\" when all of them ask",
        ),
        ClientTlsMode::Disable => findings.well("TLS toward clients", "off, and only this machine can connect"),
        ClientTlsMode::Prefer | ClientTlsMode::Require => findings.well("TLS toward clients", "on"),
    }
    if config.listen.http.is_some_and(|address| !address.ip().is_loopback()) {
        findings.add(
            Grade::Note,
            "operations port",
            "it answers everybody who reaches it, without a password (metrics, the page, names of tenants and databases)",
            "keep it on a private network, or listen.http = \"127.0.0.1:9632\"",
        );
    }
}
