//! Certificates made for one test.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

use crate::net::tls::{ClientCertificates, ClientTls, ClientTlsSource};

/// An authority with what it has issued, as files.
pub(super) struct Authority {
    pub(super) folder: TempDir,
    pub(super) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files and as bytes.
pub(super) struct Pair {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) der: CertificateDer<'static>,
    secret: Vec<u8>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        // Each has a name of its own, or a stranger's signature would be looked at and found wrong.
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `host`.
    pub(super) fn issue(&self, host: &str) -> Pair {
        self.issue_with(host, |_| {})
    }

    pub(super) fn issue_expired(&self, host: &str) -> Pair {
        self.issue_with(host, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    fn issue_with(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.save(host, &certificate, &key)
    }

    /// A certificate that is its own authority, as PostgreSQL's manual makes it.
    pub(super) fn self_signed(&self, host: &str, expired: bool) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        self.save("self", &params.self_signed(&key).unwrap(), &key)
    }

    fn save(&self, name: &str, certificate: &rcgen::Certificate, key: &KeyPair) -> Pair {
        let number = fs::read_dir(self.folder.path()).unwrap().count();
        let cert = self.folder.path().join(format!("{number}-{name}.crt"));
        let file = self.folder.path().join(format!("{number}-{name}.key"));
        fs::write(&cert, certificate.pem()).unwrap();
        fs::write(&file, key.serialize_pem()).unwrap();
        Pair { cert, key: file, der: certificate.der().clone(), secret: key.serialize_der() }
    }

    /// Our server side with a certificate for localhost.
    pub(super) fn client_tls(&self) -> ClientTls {
        let pair = self.issue("localhost");
        let source = ClientTlsSource { cert: pair.cert, key: pair.key, client_certificates: ClientCertificates::Ignore };
        ClientTls::load(&source).unwrap()
    }

    /// The oracle as a client that trusts this authority.
    pub(super) fn oracle_client(&self, version: &'static SupportedProtocolVersion, alpn: &[&[u8]], pair: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_auth_cert(vec![pair.der.clone()], pair.secret.clone().try_into().unwrap()).unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }
}

impl Pair {
    /// The oracle as a server that shows this certificate.
    pub(super) fn oracle_server(&self, version: &'static SupportedProtocolVersion) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], self.secret.clone().try_into().unwrap())
            .unwrap()
    }
}
