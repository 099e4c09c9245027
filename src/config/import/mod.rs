//! From PgBouncer's configuration to ours: an equivalent TOML, with every setting accounted for: taken over, not needed, or without a counterpart.
//!
//! `ini` reads PgBouncer's files, `known` says what becomes of each setting, `databases` makes upstreams and tenants of connection strings, `login` users and the
//! ways to log in, and `page` writes. What PgBouncer has by default and we have otherwise is written out, so that the outcome is the same.

mod databases;
mod ini;
mod known;
mod login;
mod page;

use std::collections::BTreeMap;

use ini::{Entry, Ini};
pub use known::reference as pgbouncer_reference;
use known::{Fate, fate};
use page::{Page, seconds, text};

/// Reads a file that another names.
pub type ReadFile<'r> = &'r dyn Fn(&str) -> std::io::Result<String>;

/// What has been made of PgBouncer's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The TOML, with comments on everything that needs one.
    pub toml: String,
    /// What somebody should look at before it is used, in short.
    pub open: Vec<String>,
}

/// PgBouncer's configuration as it is understood.
struct Import<'r> {
    ini: Ini,
    read: ReadFile<'r>,
    page: Page,
    /// What is kept of users' passwords.
    users: BTreeMap<String, String>,
}

/// Makes our configuration of PgBouncer's file `name`; `read` answers with the files that it names.
pub fn import(name: &str, text: &str, read: ReadFile<'_>) -> Imported {
    let ini = Ini::read(name, text, read);
    let mut import = Import { ini, read, page: Page::new(name), users: BTreeMap::new() };
    import.listen();
    import.tls();
    import.list_users();
    import.databases();
    import.login();
    import.limits();
    import.account();
    import.page.finish()
}

impl Import<'_> {
    /// A setting's value as it is written last; PgBouncer's default has to be known by whoever asks.
    fn written(&self, name: &str) -> Option<&str> {
        self.ini.settings.iter().rev().find(|entry| entry.name == name).map(|entry| entry.value.as_str()).filter(|value| !value.is_empty())
    }

    fn value<'s>(&'s self, name: &str, default: &'s str) -> &'s str {
        self.written(name).unwrap_or(default)
    }

    /// A number; what is none is put down.
    fn number(&mut self, name: &str, default: u32) -> u32 {
        let value = self.written(name).map(str::to_owned);
        value.map_or(default, |value| {
            value.parse().unwrap_or_else(|_| {
                self.page.open(format!("{name} = {value} is no number: PgBouncer's default {default} was taken"));
                default
            })
        })
    }

    /// A time, given in seconds, as we write it.
    fn time(&mut self, name: &str, default: &str) -> String {
        let value = self.value(name, default).to_owned();
        seconds(&value).unwrap_or_else(|| {
            self.page.open(format!("{name} = {value} is no number of seconds: PgBouncer's default {default} was taken"));
            seconds(default).unwrap_or_default()
        })
    }

    fn listen(&mut self) {
        let port = self.number("listen_port", 6432);
        let mut at = Vec::new();
        let addresses = self.value("listen_addr", "").to_owned();
        for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            match address {
                "*" => at.push(format!("0.0.0.0:{port}")),
                "localhost" => at.push(format!("127.0.0.1:{port}")),
                address if address.parse::<std::net::Ipv6Addr>().is_ok() => at.push(format!("[{address}]:{port}")),
                address if address.parse::<std::net::Ipv4Addr>().is_ok() => at.push(format!("{address}:{port}")),
                name => self.page.open(format!("listen_addr: write the address of `{name}`: names are not looked up")),
            }
        }
        match self.ini.settings.iter().rev().find(|entry| entry.name == "unix_socket_dir").map(|entry| entry.value.clone()) {
            Some(folder) if folder.is_empty() => {}
            Some(folder) if folder.starts_with('@') => self.page.open("unix_socket_dir: abstract sockets are not supported".to_owned()),
            Some(folder) => at.push(format!("unix:{folder}")),
            None => at.push("unix:/tmp".to_owned()),
        }
        let at: Vec<String> = at.iter().map(|address| text(address)).collect();
        self.page.set("listen", "postgres", format!("[{}]", at.join(", ")), "");
        self.page.set("listen", "http", text("127.0.0.1:9632"), "/metrics, /status, /healthz; PgBouncer has none");
    }

    fn tls(&mut self) {
        let mode = self.value("client_tls_sslmode", "disable").to_owned();
        let checks_clients = mode.starts_with("verify");
        let ours = match mode.as_str() {
            "disable" => "disable",
            "allow" | "prefer" => "prefer",
            _ => "require",
        };
        self.page.set("tls.client", "mode", text(ours), "");
        if ours != "disable" {
            self.files("tls.client", "client_tls", &["cert", "key"]);
            if checks_clients {
                self.page.set("tls.client", "client_certificates", text("require"), "client_tls_sslmode = verify-..");
                self.files("tls.client", "client_tls", &["ca"]);
            }
        }
        let mode = self.value("server_tls_sslmode", "prefer").to_owned();
        self.page.set("tls.server", "mode", text(&mode), "PgBouncer before 1.24 had \"disable\" by default");
        if mode != "disable" {
            self.files("tls.server", "server_tls", &["cert", "key"]);
            if mode.starts_with("verify") {
                self.files("tls.server", "server_tls", &["ca"]);
                if self.written("server_tls_ca_file").is_none() {
                    self.page.set("tls.server", "ca", text("system"), "");
                }
            }
        }
    }

    fn files(&mut self, section: &str, prefix: &str, kinds: &[&str]) {
        for kind in kinds {
            if let Some(file) = self.written(&format!("{prefix}_{kind}_file")).map(str::to_owned) {
                self.page.set(section, kind, text(&file), "");
            }
        }
    }

    /// Limits and times that are for all.
    fn limits(&mut self) {
        let clients = self.number("max_client_conn", 100);
        self.page.set("clients", "max_clients", clients.to_string(), "");
        self.page.set("defaults", "max_clients", clients.to_string(), "as many as all; PgBouncer knows no tenants");
        self.page.set("defaults", "max_queue", clients.to_string(), "PgBouncer's queue has no bound but the clients");
        let login = self.time("client_login_timeout", "60");
        self.page.set("clients", "login_timeout", text(&login), "");
        for (name, default, ours) in [
            ("query_wait_timeout", "120", "queue_timeout"),
            ("query_timeout", "0", "query_timeout"),
            ("transaction_timeout", "0", "transaction_timeout"),
            ("idle_transaction_timeout", "0", "idle_transaction_timeout"),
            ("client_idle_timeout", "0", "client_idle_timeout"),
        ] {
            let time = self.time(name, default);
            self.page.set("defaults", ours, text(&time), "");
        }
        self.page.set("defaults", "contended_idle_transaction_timeout", text("0"), "PgBouncer has none");
        for (name, ours) in [("tcp_keepidle", "keepalive_idle"), ("tcp_keepintvl", "keepalive_interval")] {
            if self.written(name).is_some_and(|value| value != "0") {
                let time = self.time(name, "0");
                self.page.set("tcp.server", ours, text(&time), "");
            }
        }
        let count = self.number("tcp_keepcnt", 0);
        if count > 0 {
            self.page.set("tcp.server", "keepalive_count", count.to_string(), "");
        }
        let user_timeout = self.number("tcp_user_timeout", 0);
        if user_timeout > 0 {
            self.page.set("tcp.server", "user_timeout", text(&format!("{user_timeout}ms")), "");
        }
    }

    /// Tells what has become of each setting.
    fn account(&mut self) {
        // The last of two lines counts, as in PgBouncer.
        let mut last: BTreeMap<&str, &Entry> = BTreeMap::new();
        for entry in &self.ini.settings {
            last.insert(&entry.name, entry);
        }
        for entry in last.into_values() {
            match fate(&entry.name) {
                Some(Fate::Taken(path)) => self.page.taken(entry, path),
                Some(Fate::NotNeeded(why)) => self.page.not_needed(entry, why),
                Some(Fate::NoCounterpart(advice)) => self.page.no_counterpart(entry, advice),
                None => self.page.open(format!("{}: {} is no setting of PgBouncer's that is known here", entry.place, entry.name)),
            }
        }
        for peer in &self.ini.peers {
            self.page.no_counterpart(peer, "several processes are not joined");
        }
        for strange in &self.ini.strange {
            self.page.open(format!("{strange}: was not understood"));
        }
    }
}

#[cfg(test)]
mod tests;
