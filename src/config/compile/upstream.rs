//! Upstreams and databases: where data lives.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Compiling;
use super::secrets::Written;
use crate::config::model::{AuthQuery, Database, Endpoint, Upstream};
use crate::config::settings::{ServerAuth, SslMode, UpstreamSettings};
use crate::config::words::{either, nearest, path};

impl Compiling<'_, '_> {
    pub(super) fn upstreams(&mut self) -> BTreeMap<String, Upstream> {
        let settings = self.settings;
        if settings.upstreams.is_empty() {
            let remedy = "add [upstreams.main] with `host`, or set PGWEIR_UPSTREAM=postgres://USER:PASSWORD@HOST:5432/DATABASE";
            self.findings.missing(&path(["upstreams"]), "there is no upstream: no PostgreSQL to connect to", remedy);
        }
        let at = path(["tls", "server"]);
        // Checked even where every upstream has its own: what is written should be right.
        let common = self.server_tls(&at, &settings.tls.server);
        let mut upstreams = BTreeMap::new();
        for (name, written) in &settings.upstreams {
            let at = path(["upstreams", name]);
            let tls = match &written.tls {
                Some(own) => self.server_tls(&[&at[..], &["tls".to_owned()]].concat(), own),
                None => common.clone(),
            };
            self.weigh_tokens(&at, tls.mode);
            let upstream = Upstream {
                name: name.clone(),
                endpoints: self.endpoints(&at, written),
                target_session_attrs: written.target_session_attrs,
                failover_window: written.failover_window.0,
                max_connections: written.max_connections,
                share: self.share(&at, written),
                limit: written.limit,
                limit_min: written.limit_min,
                control_connections: written.control_connections,
                min_idle: written.min_idle,
                server_idle_timeout: written.server_idle_timeout.limit(),
                server_lifetime: written.server_lifetime.limit(),
                server_connect_timeout: self.needed(
                    &[&at[..], &["server_connect_timeout".to_owned()]].concat(),
                    written.server_connect_timeout,
                    "write a time such as \"5s\": a server that does not answer must not hold its place for ever",
                ),
                server_check_delay: written.server_check_delay.0,
                settle_timeout: self.needed(
                    &[&at[..], &["settle_timeout".to_owned()]].concat(),
                    written.settle_timeout,
                    "write a time such as \"5s\": a vanished client's server must come back or be closed",
                ),
                prepared_statements: usize::try_from(written.prepared_statements.0).unwrap_or(usize::MAX),
                follow_functions: written.follow_functions,
                share_listen: written.share_listen,
                aws_region: written.aws_region.clone(),
                application_name: written.application_name.clone(),
                auth_query: self.auth_query(&at, written),
                tls,
            };
            self.weigh(&at, written);
            self.same_server(&upstreams, &upstream);
            upstreams.insert(name.clone(), upstream);
        }
        upstreams
    }

    fn weigh(&mut self, at: &[String], written: &UpstreamSettings) {
        let here = |key: &str| [at, &[key.to_owned()]].concat();
        if written.min_idle > written.max_connections {
            let what = format!("`min_idle` ({}) is more than `max_connections` ({})", written.min_idle, written.max_connections);
            if !self.findings.is_doubtful(&here("max_connections")) {
                self.findings.error(&here("min_idle"), what, format!("write at most {}", written.max_connections));
            }
        }
        if written.limit_min > written.max_connections {
            let what = format!("`limit_min` ({}) is more than `max_connections` ({})", written.limit_min, written.max_connections);
            if !self.findings.is_doubtful(&here("max_connections")) {
                self.findings.error(&here("limit_min"), what, format!("write at most {}", written.max_connections));
            }
        }
        let (idle, lifetime) = (written.server_idle_timeout.limit(), written.server_lifetime.limit());
        if let (Some(idle), Some(lifetime)) = (idle, lifetime)
            && idle > lifetime
        {
            let what = "`server_idle_timeout` is longer than `server_lifetime`, so it never comes to that";
            self.findings.warning(&here("server_idle_timeout"), what, "write a shorter time, or \"0\"");
        }
    }

    /// Whoever gets hold of a token may log in with it for a quarter of an hour.
    fn weigh_tokens(&mut self, at: &[String], mode: SslMode) {
        let sends_tokens = self.settings.users.values().any(|user| user.server_auth == ServerAuth::RdsIam);
        if sends_tokens && mode < SslMode::VerifyFull {
            let what = "tokens (`server_auth` = \"rds-iam\") go to a server whose certificate and name are not verified";
            let remedy = "write mode = \"verify-full\" and the `ca` of RDS (global-bundle.pem) below `tls`";
            self.findings.warning(at, what, remedy);
        }
    }

    /// A budget is a server's; two names for one server would be allowed both.
    fn same_server(&mut self, others: &BTreeMap<String, Upstream>, upstream: &Upstream) {
        let same = |other: &&Upstream| {
            let is_meant_alike = other.target_session_attrs == upstream.target_session_attrs;
            is_meant_alike && other.endpoints.first() == upstream.endpoints.first() && !upstream.endpoints.is_empty()
        };
        if let Some(other) = others.values().find(same) {
            let what = format!("`{}` and `{}` are the same server: it will see both budgets together", other.name, upstream.name);
            let remedy = "use one upstream with several databases, unless that is what you want";
            self.findings.warning(&path(["upstreams", &upstream.name, "host"]), what, remedy);
        }
    }

    fn endpoints(&mut self, at: &[String], written: &UpstreamSettings) -> Vec<Endpoint> {
        let Some(first) = written.host.as_deref().filter(|host| !host.is_empty()) else {
            let what = format!("the upstream `{}` has no host", at.last().map_or("", String::as_str));
            self.findings.missing(at, what, "add host = \"..\"");
            return Vec::new();
        };
        let mut endpoints = vec![self.endpoint(&[at, &["host".to_owned()]].concat(), first, None, written.port)];
        for (index, host) in written.hosts.iter().enumerate() {
            let here = [at, &["hosts".to_owned(), index.to_string()]].concat();
            let (host, port) = match host.rsplit_once(':') {
                // A bare IPv6 address has colons of its own.
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
                _ => (host.as_str(), None),
            };
            endpoints.push(self.endpoint(&here, host, port, written.port));
        }
        endpoints
    }

    fn endpoint(&mut self, at: &[String], host: &str, port: Option<&str>, otherwise: u16) -> Endpoint {
        let port = match port.map(str::parse::<u16>) {
            None => otherwise,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => {
                self.findings.error(at, "this host's port is not a number from 1 to 65535", "write \"host:5432\"");
                otherwise
            }
        };
        if host.starts_with('/') {
            return Endpoint::Unix(PathBuf::from(host).join(format!(".s.PGSQL.{port}")));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(is_name) {
            let remedy = "write a host name, an IP address, or the folder of a Unix socket; the port goes into `port`";
            self.findings.error(at, "this is not a host", remedy);
        } else if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err() && !host.contains('%') {
            self.findings.error(at, "this is a host and a port in one", "write the port as `port`");
        }
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    fn auth_query(&mut self, at: &[String], written: &UpstreamSettings) -> Option<AuthQuery> {
        let password = self.secret(
            at,
            "auth_password",
            &Written {
                text: written.auth_password.as_ref(),
                variable: written.auth_password_env.as_deref(),
                file: written.auth_password_file.as_deref(),
            },
        );
        let here = |key: &str| [at, &[key.to_owned()]].concat();
        let Some(user) = &written.auth_user else {
            if password.is_some() {
                self.findings.error(&here("auth_password"), "`auth_password` needs `auth_user`", "name the role that runs `auth_query`");
            }
            if written.auth_query != UpstreamSettings::default().auth_query {
                self.findings.error(&here("auth_query"), "`auth_query` needs `auth_user`", "name the role that runs it");
            }
            return None;
        };
        if !written.auth_query.contains("$1") {
            let remedy = "write `$1` where the user's name belongs";
            self.findings.error(&here("auth_query"), "`auth_query` does not ask about the user", remedy);
        }
        if written.control_connections == 0 {
            let what = "`auth_query` runs on a control connection, and there is none";
            self.findings.error(&here("control_connections"), what, "write at least 1");
        }
        Some(AuthQuery { query: written.auth_query.clone(), user: user.clone(), password, dbname: written.auth_dbname.clone() })
    }

    pub(super) fn databases(&mut self) -> BTreeMap<String, Database> {
        let settings = self.settings;
        if settings.databases.is_empty() && !settings.upstreams.is_empty() {
            let remedy = "add [databases.NAME], or [databases.\"*\"] for any name, with `upstream`";
            self.findings.missing(&path(["databases"]), "there is no database that clients could connect to", remedy);
        }
        let mut databases = BTreeMap::new();
        for (name, written) in &settings.databases {
            let at = path(["databases", name]);
            if matches!(name.as_str(), "pgweir" | "pgbouncer") {
                let what = format!("`{name}` is the admin database");
                self.findings.error(&at, what, "choose another name, and give the one at the server as `dbname`");
            }
            let Some(upstream) = &written.upstream else {
                let what = format!("the database `{name}` has no upstream");
                let names = either(settings.upstreams.keys().map(String::as_str));
                let remedy = if names.is_empty() { "add upstream = \"..\"".to_owned() } else { format!("add upstream = {names}") };
                self.findings.missing(&at, what, remedy);
                continue;
            };
            self.known_upstream(&[&at[..], &["upstream".to_owned()]].concat(), upstream);
            let dbname = written.dbname.clone();
            let own_name = (name != "*").then(|| name.clone());
            let (upstream, dbname) = (upstream.clone(), dbname.or(own_name));
            databases.insert(name.clone(), Database { upstream, dbname, pool_mode: written.pool_mode, strict: written.strict });
        }
        databases
    }

    /// Tells when no upstream has that name.
    pub(super) fn known_upstream(&mut self, at: &[String], name: &str) {
        let known = &self.settings.upstreams;
        if known.contains_key(name) {
            return;
        }
        let names = || known.keys().map(String::as_str);
        let remedy = match nearest(name, names()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if known.is_empty() => format!("add [upstreams.{name}]"),
            None => format!("write {}, or add [upstreams.{name}]", either(names())),
        };
        self.findings.error(at, format!("there is no upstream `{name}`"), remedy);
    }
}
