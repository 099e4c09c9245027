//! Who may log in, and how: users, methods, the admin database.

use std::collections::BTreeMap;

use super::Compiling;
use super::secrets::Written;
use crate::config::model::{Auth, Console, User};
use crate::config::secret::SecretText;
use crate::config::settings::{AuthMethod, ClientCertificates, ClientTlsMode, ServerAuth, UserSettings};
use crate::config::words::{nearest, path};

impl Compiling<'_, '_> {
    pub(super) fn users(&mut self) -> BTreeMap<String, User> {
        let settings = self.settings;
        if settings.users.is_empty() && !self.asks_servers() && !settings.upstreams.is_empty() {
            let remedy = "add [users.NAME] with a password, or `auth_user` to an upstream";
            self.findings.missing(&path(["users"]), "there is no user who could log in", remedy);
        }
        let mut users = BTreeMap::new();
        let mut certificates: BTreeMap<String, String> = BTreeMap::new();
        for (name, written) in &settings.users {
            let user = self.user(name, written);
            for certificate in &user.certificate_names {
                if let Some(other) = certificates.insert(certificate.clone(), name.clone()) {
                    let what = format!("the certificate name `{certificate}` would log in as both `{other}` and `{name}`");
                    let at = path(["users", name, "certificate_names"]);
                    self.findings.error(&at, what, "give it to one of them");
                }
            }
            users.insert(name.clone(), user);
        }
        users
    }

    fn user(&mut self, name: &str, written: &UserSettings) -> User {
        let at = path(["users", name]);
        let here = |key: &str| [&at[..], &[key.to_owned()]].concat();
        let password = self.secret(
            &at,
            "password",
            &Written { text: written.password.as_ref(), variable: written.password_env.as_deref(), file: written.password_file.as_deref() },
        );
        let server_password = self.secret(
            &at,
            "server_password",
            &Written {
                text: written.server_password.as_ref(),
                variable: written.server_password_env.as_deref(),
                file: written.server_password_file.as_deref(),
            },
        );
        if let Some(verifier) = &written.verifier {
            if !is_verifier(verifier) {
                let what = "`verifier` is not what PostgreSQL stores in place of a password";
                let remedy =
                    "write rolpassword from pg_authid: SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>, or md5<32 hex digits>";
                self.findings.error(&here("verifier"), what, remedy);
            }
            if password.is_some() {
                self.findings.error(&here("verifier"), "`password` and `verifier` are both set", "keep one of them");
            }
        }
        self.token_subjects(name, written, password.is_some() || written.verifier.is_some(), server_password.is_some());
        let has_password_line = written.password_env.is_some() || written.password_file.is_some();
        let has_proof = password.is_some() || written.verifier.is_some() || has_password_line || !written.token_subjects.is_empty();
        if !has_proof && !self.asks_servers() && self.settings.auth.method != AuthMethod::Cert {
            let ways = Self::ways_to_give(&at, "password");
            let what = format!("the user `{name}` has neither a password nor a verifier");
            self.findings.missing(&at, what, format!("add {ways}, or `verifier`"));
        }
        if written.server_auth == ServerAuth::RdsIam && server_password.is_some() {
            let what = "the server is logged in to with a token, and `server_password` is set, too";
            self.findings.error(&here("server_auth"), what, "keep one of them");
        }
        let certificate_names = match written.certificate_names.as_slice() {
            [] => vec![name.to_owned()],
            names => names.to_vec(),
        };
        User {
            name: name.to_owned(),
            verifier: written.verifier.clone(),
            certificate_names,
            token_subjects: written.token_subjects.clone(),
            server_user: written.server_user.clone().unwrap_or_else(|| name.to_owned()),
            server_password: server_password.or_else(|| password.clone()),
            server_auth: written.server_auth,
            password,
            may_name_tenant: written.may_name_tenant,
        }
    }

    /// Looks at a user who shows a token, if this is one.
    fn token_subjects(&mut self, name: &str, written: &UserSettings, has_password: bool, has_server_password: bool) {
        if written.token_subjects.is_empty() {
            return;
        }
        let at = path(["users", name, "token_subjects"]);
        if has_password {
            let what = "who shows a token has no password here, and both are set";
            self.findings.error(&at, what, "keep one of them; the password of the role at the server is `server_password`");
        }
        if self.settings.tls.client.mode == ClientTlsMode::Disable {
            self.findings.error(&at, "a token is taken over TLS only, and TLS is off", "set up [tls.client]");
        }
        let shows_certificate = self.settings.tls.server.cert.is_some();
        if !has_server_password && !shows_certificate && written.server_auth == ServerAuth::Password {
            let what = format!("there is nothing to log in to the server with as `{name}`");
            let remedy = "add server_password, server_password_env or server_password_file, or server_auth = \"rds-iam\"";
            self.findings.warning(&at, what, remedy);
        }
    }

    /// Whether users who are not listed can be asked about.
    fn asks_servers(&self) -> bool {
        self.settings.upstreams.values().any(|upstream| upstream.auth_user.is_some())
    }

    pub(super) fn auth(&mut self) -> Auth {
        let auth = &self.settings.auth;
        let at = path(["auth", "method"]);
        let tls = &self.settings.tls.client;
        if auth.method == AuthMethod::Cert && tls.client_certificates == ClientCertificates::Off {
            let remedy = "write client_certificates = \"request\" or \"require\" below [tls.client]";
            self.findings.error(&at, "clients are not asked for the certificate that they must show", remedy);
        }
        if auth.method == AuthMethod::Cleartext && tls.mode == ClientTlsMode::Disable {
            let what = "a cleartext password is taken over TLS only, and TLS is off";
            self.findings.error(&at, what, "set up [tls.client], or write \"scram-sha-256\"");
        }
        let trusts_all = auth.trust_networks.iter().any(|network| network.0.prefix_len() == 0);
        if trusts_all && self.listens_publicly() {
            let what = "everybody who reaches the port is believed to be whoever they say";
            self.findings.warning(&path(["auth", "trust_networks"]), what, "name the networks that you mean");
        }
        let trust_networks = auth.trust_networks.iter().map(|network| network.0).collect();
        Auth { method: auth.method, trust_networks, tokens: self.login_tokens() }
    }

    pub(super) fn console(&mut self) -> Console {
        let console = &self.settings.console;
        let lists = [("admin_users", &console.admin_users), ("stats_users", &console.stats_users)];
        for (key, list) in lists {
            for (index, name) in list.iter().enumerate() {
                self.known_user(&path(["console", key, &index.to_string()]), name);
            }
        }
        Console { admin_users: console.admin_users.clone(), stats_users: console.stats_users.clone() }
    }

    /// Tells when nobody of that name can ever log in.
    pub(super) fn known_user(&mut self, at: &[String], name: &str) {
        let users = &self.settings.users;
        if users.contains_key(name) || self.asks_servers() {
            return;
        }
        let remedy = match nearest(name, users.keys().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("add [users.{name}]"),
        };
        self.findings.error(at, format!("there is no user `{name}`"), remedy);
    }
}

/// Whether the text has the outer form of a verifier; the exchange itself decides whether its parts are right.
fn is_verifier(verifier: &SecretText) -> bool {
    let text = verifier.reveal();
    if let Some(digest) = text.strip_prefix("md5") {
        return digest.len() == 32 && digest.bytes().all(|c| c.is_ascii_hexdigit());
    }
    let parts = || {
        let (salted, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = salted.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        iterations.parse::<u32>().ok().filter(|iterations| *iterations > 0)?;
        Some([salt, stored_key, server_key])
    };
    let is_base64 = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"+/=".contains(&c));
    parts().is_some_and(|parts| parts.iter().all(|part| is_base64(part)) && parts.iter().skip(1).all(|key| key.len() == 44))
}
