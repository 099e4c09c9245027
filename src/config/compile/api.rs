//! SQL over HTTP.

use super::Compiling;
use super::secrets::Written;
use crate::config::model::{AccessKey, Api};
use crate::config::settings::ClientTlsMode;
use crate::config::words::{nearest, path};

/// The least that a request or an answer may be limited to.
const LEAST: u64 = 4 << 10;
/// The most: what one message of the protocol can carry, with room for its JSON form.
const MOST: u64 = 256 << 20;

impl Compiling<'_, '_> {
    pub(super) fn api(&mut self) -> Api {
        let api = &self.settings.api;
        if let Some(address) = self.settings.listen.api.0 {
            let has_tls = self.settings.tls.client.mode != ClientTlsMode::Disable;
            if !address.ip().is_loopback() && !has_tls && !api.allow_plaintext {
                let what = "SQL over HTTP needs TLS beyond this machine, and TLS is off";
                let remedy = "set up [tls.client], or set api.allow_plaintext where something in front of the proxy ends TLS";
                self.findings.error(&path(["listen", "api"]), what, remedy);
            }
        }
        if let Some(database) = &api.database {
            self.known_database(&path(["api", "database"]), database);
        }
        let (max_request, max_response) = (self.length("max_request", api.max_request.0), self.length("max_response", api.max_response.0));
        let idle_timeout = self.needed(&path(["api", "idle_timeout"]), api.idle_timeout, "write \"75s\"");
        let why = "write \"3m\": a transaction holds a server connection";
        let transaction_idle_timeout = self.needed(&path(["api", "transaction_idle_timeout"]), api.transaction_idle_timeout, why);
        Api {
            database: api.database.clone(),
            allow_plaintext: api.allow_plaintext,
            max_request,
            max_response,
            max_connections: usize::try_from(api.max_connections).unwrap_or(usize::MAX),
            idle_timeout,
            statement_timeout: api.statement_timeout.limit(),
            transaction_idle_timeout,
            shed_status: api.shed_status,
            access_keys: self.access_keys(),
            tokens: self.bearer_tokens(),
        }
    }

    fn length(&mut self, name: &str, bytes: u64) -> usize {
        if !(LEAST..=MOST).contains(&bytes) {
            let what = format!("`{name}` cannot be {bytes} bytes");
            self.findings.error(&path(["api", name]), what, "write a size from \"4KiB\" to \"256MiB\"");
        }
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    fn known_database(&mut self, at: &[String], name: &str) {
        let databases = &self.settings.databases;
        if databases.contains_key(name) || databases.contains_key("*") {
            return;
        }
        let remedy = match nearest(name, databases.keys().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("add [databases.{name}]"),
        };
        self.findings.error(at, format!("there is no database `{name}`"), remedy);
    }

    fn access_keys(&mut self) -> Vec<AccessKey> {
        let settings = self.settings;
        let mut keys: Vec<AccessKey> = Vec::new();
        for (index, written) in settings.api.access_keys.iter().enumerate() {
            let at = path(["api", "access_keys", &index.to_string()]);
            let secret = self.secret(
                &at,
                "secret",
                &Written { text: written.secret.as_ref(), variable: written.secret_env.as_deref(), file: written.secret_file.as_deref() },
            );
            let (Some(id), Some(user)) = (&written.id, &written.user) else {
                self.findings.missing(&at, "an access key needs `id` and `user`", "add what is missing");
                continue;
            };
            self.known_user(&[&at[..], &["user".to_owned()]].concat(), user);
            if let Some(database) = &written.database {
                self.known_database(&[&at[..], &["database".to_owned()]].concat(), database);
            }
            if keys.iter().any(|key| key.id == *id) {
                let what = format!("the access key `{id}` is defined twice");
                self.findings.error(&[&at[..], &["id".to_owned()]].concat(), what, "keep one of them");
            }
            let is_written = written.secret_env.is_some() || written.secret_file.is_some();
            match secret {
                Some(secret) => keys.push(AccessKey { id: id.clone(), secret, user: user.clone(), database: written.database.clone() }),
                None if is_written => {}
                None => {
                    let what = format!("the access key `{id}` has no secret");
                    self.findings.missing(&at, what, "add `secret`, `secret_env` or `secret_file`");
                }
            }
        }
        keys
    }
}
