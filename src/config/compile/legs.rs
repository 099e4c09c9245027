//! Both legs: where clients come in, TLS and TCP toward them and toward servers.

use std::path::{Path, PathBuf};

use super::Compiling;
use crate::config::model::{ClientTcp, ClientTls, Clients, Identity, Keepalive, Listen, ServerTls};
use crate::config::settings::{ClientCertificates, ClientTlsMode, ServerTlsSettings, SslMode, TlsNegotiation};
use crate::config::value::{CertificateAuthority, ListenAddress};
use crate::config::words::path;

impl Compiling<'_, '_> {
    pub(super) fn listen(&mut self) -> Listen {
        let listen = &self.settings.listen;
        let at = path(["listen", "postgres"]);
        if listen.postgres.is_empty() && !self.findings.is_doubtful(&at) {
            self.findings.error(&at, "there is no address for PostgreSQL clients", "write [\"0.0.0.0:6432\"]");
        }
        let mut seen: Vec<(String, String)> = Vec::new();
        let postgres = listen.postgres.iter().map(|address| (address.to_string(), "postgres".to_owned()));
        let http = listen.http.0.iter().map(|address| (address.to_string(), "http".to_owned()));
        let api = listen.api.0.iter().map(|address| (address.to_string(), "api".to_owned()));
        for (address, key) in postgres.chain(http).chain(api) {
            // Port 0 asks for any free one.
            let twice = seen.iter().find(|(other, _)| *other == address && !address.ends_with(":0"));
            if let Some((_, other)) = twice {
                let what = format!("{address} is listened on twice, by `{other}` and by `{key}`");
                self.findings.error(&path(["listen", &key]), what, "give each its own port");
            }
            seen.push((address, key));
        }
        Listen { postgres: listen.postgres.clone(), http: listen.http.0, api: listen.api.0 }
    }

    pub(super) fn client_tls(&mut self) -> ClientTls {
        let tls = &self.settings.tls.client;
        let at = path(["tls", "client"]);
        let identity = self.identity(&at, tls.cert.as_deref(), tls.key.as_deref());
        if tls.mode != ClientTlsMode::Disable && tls.cert.is_none() && tls.key.is_none() {
            let here = [&at[..], &["mode".to_owned()]].concat();
            if !self.findings.is_doubtful(&at) {
                self.findings.error(&here, "TLS needs `cert` and `key`", "name both files, or write mode = \"disable\"");
            }
        }
        if tls.mode == ClientTlsMode::Disable && tls.cert.is_some() {
            let here = [&at[..], &["cert".to_owned()]].concat();
            self.findings.warning(&here, "this certificate is not used: `mode` is \"disable\"", "write mode = \"prefer\" or \"require\"");
        }
        let here = [&at[..], &["client_certificates".to_owned()]].concat();
        if tls.client_certificates != ClientCertificates::Off {
            if tls.ca.is_none() {
                self.findings.error(&here, "client certificates need a `ca` to be checked against", "name its PEM file as `ca`");
            }
            if tls.mode == ClientTlsMode::Disable {
                self.findings.error(&here, "client certificates need TLS", "write mode = \"prefer\" or \"require\"");
            }
        }
        self.authority(&at, tls.ca.as_ref());
        ClientTls { mode: tls.mode, identity, ca: tls.ca.clone(), client_certificates: tls.client_certificates }
    }

    pub(super) fn server_tls(&mut self, at: &[String], tls: &ServerTlsSettings) -> ServerTls {
        let here = |key: &str| [at, &[key.to_owned()]].concat();
        if matches!(tls.mode, SslMode::VerifyCa | SslMode::VerifyFull) && tls.ca.is_none() && !self.findings.is_doubtful(at) {
            let what = "the certificate cannot be verified without a `ca`";
            self.findings.error(&here("mode"), what, "name its PEM file as `ca` (in a URL: `sslrootcert`), or write ca = \"system\"");
        }
        if tls.ca == Some(CertificateAuthority::System) && tls.mode < SslMode::VerifyFull {
            // libpq's own rule: anybody has a certificate that some public authority signed.
            let what = "ca = \"system\" proves nothing without the host's name";
            self.findings.error(&here("ca"), what, "write mode = \"verify-full\"");
        }
        if tls.negotiation == TlsNegotiation::Direct && tls.mode < SslMode::Require {
            let what = "direct TLS leaves no way back to plaintext";
            self.findings.error(&here("negotiation"), what, "write mode = \"require\" or stricter");
        }
        self.authority(at, tls.ca.as_ref());
        ServerTls {
            mode: tls.mode,
            ca: tls.ca.clone(),
            identity: self.identity(at, tls.cert.as_deref(), tls.key.as_deref()),
            negotiation: tls.negotiation,
        }
    }

    /// A certificate and its key: both or neither.
    fn identity(&mut self, at: &[String], cert: Option<&Path>, key: Option<&Path>) -> Option<Identity> {
        let here = |name: &str| [at, &[name.to_owned()]].concat();
        let mut look = |name: &str, file: Option<&Path>| -> Option<PathBuf> { file.map(|file| self.file(&here(name), file)) };
        let (cert, key) = (look("cert", cert), look("key", key));
        match (&cert, &key) {
            (Some(_), None) => self.findings.error(&here("cert"), "`cert` needs its `key`", "name the file of the private key"),
            (None, Some(_)) => self.findings.error(&here("key"), "`key` needs its `cert`", "name the file of the certificate"),
            _ => {}
        }
        Some(Identity { cert: cert?, key: key? })
    }

    fn authority(&mut self, at: &[String], ca: Option<&CertificateAuthority>) {
        if let Some(CertificateAuthority::File(file)) = ca {
            self.file(&[at, &["ca".to_owned()]].concat(), file);
        }
    }

    pub(super) fn clients(&mut self) -> Clients {
        let clients = &self.settings.clients;
        Clients {
            max_clients: clients.max_clients,
            login_timeout: clients.login_timeout.limit(),
            write_stall_timeout: clients.write_stall_timeout.limit(),
        }
    }

    pub(super) fn client_tcp(&mut self) -> ClientTcp {
        let tcp = self.settings.tcp.client.clone();
        let at = path(["tcp", "client", "keepalive_interval"]);
        ClientTcp {
            working: Keepalive {
                idle: tcp.keepalive_idle.limit(),
                interval: self.needed(
                    &at,
                    tcp.keepalive_interval,
                    "write a time such as \"5s\"; to send no probes, set keepalive_idle = \"0\"",
                ),
                count: tcp.keepalive_count,
                user_timeout: tcp.user_timeout.limit(),
            },
            idle_keepalive: tcp.idle_keepalive.limit(),
        }
    }

    pub(super) fn server_tcp(&mut self) -> Keepalive {
        let tcp = self.settings.tcp.server.clone();
        let at = path(["tcp", "server", "keepalive_interval"]);
        Keepalive {
            idle: tcp.keepalive_idle.limit(),
            interval: self.needed(
                &at,
                tcp.keepalive_interval,
                "write a time such as \"10s\"; to send no probes, set keepalive_idle = \"0\"",
            ),
            count: tcp.keepalive_count,
            user_timeout: tcp.user_timeout.limit(),
        }
    }

    /// Whether somebody off this machine can reach the PostgreSQL port.
    pub(super) fn listens_publicly(&self) -> bool {
        self.settings.listen.postgres.iter().any(|address| match address {
            ListenAddress::Tcp(address) => !address.ip().is_loopback(),
            ListenAddress::Unix(_) => false,
        })
    }
}
