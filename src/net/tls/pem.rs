//! Certificates and keys from PEM files. Every error names the file.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

use crate::net::TlsSettingError;

/// A certificate chain and the key that belongs to its first certificate.
pub(super) fn load_pair(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsSettingError> {
    let chain = load_certificates(cert)?;
    let pem = read(key)?;
    let malformed = |reason: String| TlsSettingError::Malformed { file: key.to_owned(), reason };
    let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| malformed(format!("no private key: {error}")))?;
    let secret =
        provider.key_provider.load_private_key(secret).map_err(|error| malformed(format!("cannot use this private key: {error}")))?;
    let pair = CertifiedKey::new(chain, secret);
    match pair.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
        Err(Error::InconsistentKeys(_)) => Err(TlsSettingError::KeyMismatch { cert: cert.to_owned(), key: key.to_owned() }),
        Err(error) => Err(TlsSettingError::Malformed { file: cert.to_owned(), reason: error.to_string() }),
    }
}

/// All certificates of a file, of which there must be one.
pub(super) fn load_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSettingError> {
    let pem = read(file)?;
    let malformed = |reason: String| TlsSettingError::Malformed { file: file.to_owned(), reason };
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(format!("not a certificate: {error}")))?;
    if chain.is_empty() {
        return Err(malformed("no certificate in it".to_owned()));
    }
    Ok(chain)
}

/// A file of authorities to trust.
pub(super) fn load_roots(file: &Path) -> Result<(Arc<RootCertStore>, Vec<CertificateDer<'static>>), TlsSettingError> {
    let certificates = load_certificates(file)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| TlsSettingError::Malformed {
            file: file.to_owned(),
            reason: format!("not usable as an authority: {error}"),
        })?;
    }
    Ok((Arc::new(roots), certificates))
}

/// The authorities that the operating system trusts.
pub(super) fn system_roots() -> Result<Arc<RootCertStore>, TlsSettingError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsSettingError::EmptyStore(reasons.join("; ")));
    }
    Ok(Arc::new(roots))
}

fn read(file: &Path) -> Result<Vec<u8>, TlsSettingError> {
    fs::read(file).map_err(|source| TlsSettingError::Unreadable { file: file.to_owned(), source })
}
