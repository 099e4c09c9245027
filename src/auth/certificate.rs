//! Whom a client's certificate names. Whether it is to be believed, TLS has decided before.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The names in a certificate that a user or a tenant can be told by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// The subject's common name, the first if there are several, as PostgreSQL's method `cert` takes it.
    pub common_name: Option<String>,
    /// The DNS names among the subject's alternative names.
    pub dns: Vec<String>,
    /// The URIs among them, for example SPIFFE identities.
    pub uris: Vec<String>,
    /// The e-mail addresses among them.
    pub emails: Vec<String>,
}

/// Reads the names of a certificate in DER; `None` if it is none.
///
/// A name with a zero byte in it is left out: it is made to be read as a shorter one (CVE-2009-4034).
pub fn certificate_names(certificate: &[u8]) -> Option<CertificateNames> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let mut names = CertificateNames { common_name: common_name.and_then(whole), ..CertificateNames::default() };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.dns.extend(whole(name)),
            GeneralName::URI(name) => names.uris.extend(whole(name)),
            GeneralName::RFC822Name(name) => names.emails.extend(whole(name)),
            _ => {}
        }
    }
    Some(names)
}

fn whole(name: &str) -> Option<String> {
    (!name.is_empty() && !name.contains('\0')).then(|| name.to_owned())
}
