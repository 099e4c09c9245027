//! Users, and how they log in.

use std::collections::BTreeMap;

use super::Import;
use super::ini::users;
use super::page::{key, text};

impl Import<'_> {
    /// The users of the file that PgBouncer keeps them in.
    pub(super) fn list_users(&mut self) {
        self.users = self.listed();
        for (name, secret) in &self.users {
            let section = format!("users.{}", key(name));
            if secret.is_empty() {
                self.page.open(format!("{section}: no password is known: add password, password_env, password_file or verifier"));
            }
            self.page.set(&section, if is_verifier(secret) { "verifier" } else { "password" }, text(secret), "");
        }
    }

    fn listed(&mut self) -> BTreeMap<String, String> {
        let Some(file) = self.written("auth_file").map(str::to_owned) else { return BTreeMap::new() };
        match (self.read)(&file) {
            Ok(text) => users(&text).into_iter().collect(),
            Err(error) => {
                self.page.open(format!("auth_file {file} cannot be read ({error}): add [users.NAME] with a password or a verifier"));
                BTreeMap::new()
            }
        }
    }

    /// A user's password, where it is known as such.
    pub(super) fn password_of(&self, user: &str) -> Option<String> {
        self.users.get(user).filter(|secret| !secret.is_empty() && !is_verifier(secret)).cloned()
    }

    pub(super) fn login(&mut self) {
        let wanted = self.value("auth_type", "md5").to_owned();
        let (method, networks) = if wanted == "hba" { self.hba() } else { (wanted.clone(), Vec::new()) };
        let (method, comment) = match method.as_str() {
            "md5" => ("md5", "clients whose password is known as a SCRAM verifier are asked for SCRAM"),
            "cert" => ("cert", ""),
            "plain" => ("scram-sha-256", "plain: drivers send no clear password where SCRAM is asked for"),
            _ => ("scram-sha-256", ""),
        };
        self.page.set("auth", "method", text(method), comment);
        if method == "cert" && self.value("client_tls_sslmode", "disable") != "verify-full" {
            self.page
                .open("auth_type = cert: clients must show a certificate: tls.client.client_certificates and tls.client.ca".to_owned());
        }
        match wanted.as_str() {
            "any" | "trust" => {
                self.page.set("auth", "trust_networks", "[\"0.0.0.0/0\", \"::/0\"]".to_owned(), "everybody is believed");
                if wanted == "any" {
                    self.page.open("auth_type = any: users must be listed, and log in as themselves or as their server_user".to_owned());
                }
            }
            "pam" | "ldap" => {
                self.page.open(format!("auth_type = {wanted}: there is none: SCRAM is asked for; give users verifiers, or use auth_query"));
            }
            _ if !networks.is_empty() => {
                let list: Vec<String> = networks.iter().map(|network| text(network)).collect();
                self.page.set("auth", "trust_networks", format!("[{}]", list.join(", ")), "");
            }
            _ => {}
        }
        self.console();
    }

    fn console(&mut self) {
        let has_query = self.written("auth_user").is_some();
        for list in ["admin_users", "stats_users"] {
            let names: Vec<String> =
                self.value(list, "").split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
            let (known, unknown): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| self.users.contains_key(name) || has_query);
            for name in unknown {
                self.page.open(format!("{list}: `{name}` is in no list of users; over a Unix socket the process's own user needs no line"));
            }
            if !known.is_empty() {
                let known: Vec<String> = known.iter().map(|name| text(name)).collect();
                self.page.set("console", list, format!("[{}]", known.join(", ")), "");
            }
        }
    }

    /// The method of an HBA file, and the networks that it trusts.
    fn hba(&mut self) -> (String, Vec<String>) {
        let file = self.value("auth_hba_file", "").to_owned();
        let lines = (self.read)(&file).unwrap_or_else(|error| {
            self.page.open(format!("auth_hba_file {file} cannot be read ({error}): SCRAM is asked for"));
            String::new()
        });
        let (mut methods, mut networks) = (Vec::new(), Vec::new());
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["host" | "hostssl" | "hostnossl", "all", "all", network, "trust", ..] => networks.push((*network).to_owned()),
                [kind, "all", "all", rest @ ..] if *kind == "local" || rest.len() > 1 => {
                    let method = rest.get(usize::from(*kind != "local")).copied().unwrap_or_default();
                    match method {
                        "md5" | "scram-sha-256" | "cert" | "password" => methods.push(method.to_owned()),
                        _ => self.page.open(format!("{file}: `{line}`: there is no such rule here")),
                    }
                }
                _ => self.page.open(format!(
                    "{file}: `{line}`: the way to log in is the same for all; networks that are trusted are trusted for all users"
                )),
            }
        }
        methods.dedup();
        if methods.len() > 1 {
            self.page.open(format!("{file}: {} are asked for in turn; here one is for all", methods.join(", ")));
        }
        (methods.into_iter().next().unwrap_or_else(|| "scram-sha-256".to_owned()), networks)
    }
}

/// Whether this is what PostgreSQL keeps in place of a password.
fn is_verifier(secret: &str) -> bool {
    secret.starts_with("SCRAM-SHA-256$") || secret.starts_with("md5") && secret.len() == 35
}
