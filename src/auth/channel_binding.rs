//! The channel binding `tls-server-end-point` (RFC 5929, section 4): both ends hash the certificate that they see.

use aws_lc_rs::digest::{self, Algorithm};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry as oids;
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::AlgorithmIdentifier;

/// The binding data of a server's certificate: its hash by the hash of its own signature, with SHA-256 for MD5 and SHA-1.
///
/// `None` for a certificate that names no hash (Ed25519, Ed448), where PostgreSQL and libpq fail too: then SCRAM-SHA-256-PLUS must
/// neither be offered nor chosen. `None` also for what is not a certificate.
pub fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let hash = signature_hash(&parsed.signature_algorithm)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

fn signature_hash(signature: &AlgorithmIdentifier<'_>) -> Option<&'static Algorithm> {
    let oid = &signature.algorithm;
    if *oid == oids::OID_PKCS1_RSASSAPSS {
        return pss_hash(signature);
    }
    let is_one_of = |list: &[oids::Oid<'static>]| list.iter().any(|known| known == oid);
    if is_one_of(&[
        oids::OID_PKCS1_MD5WITHRSAENC,
        oids::OID_PKCS1_SHA1WITHRSA,
        oids::OID_SHA1_WITH_RSA,
        OID_ECDSA_WITH_SHA1,
        oids::OID_PKCS1_SHA256WITHRSA,
        oids::OID_SIG_ECDSA_WITH_SHA256,
    ]) {
        Some(&digest::SHA256)
    } else if is_one_of(&[oids::OID_PKCS1_SHA384WITHRSA, oids::OID_SIG_ECDSA_WITH_SHA384]) {
        Some(&digest::SHA384)
    } else if is_one_of(&[oids::OID_PKCS1_SHA512WITHRSA, oids::OID_SIG_ECDSA_WITH_SHA512]) {
        Some(&digest::SHA512)
    } else if is_one_of(&[oids::OID_PKCS1_SHA224WITHRSA, oids::OID_SIG_ECDSA_WITH_SHA224]) {
        Some(&digest::SHA224)
    } else {
        None
    }
}

/// `ecdsa-with-SHA1`, which the registry does not name.
const OID_ECDSA_WITH_SHA1: oids::Oid<'static> = x509_parser::der_parser::oid!(1.2.840.10045.4.1);

/// RSASSA-PSS names its hash in its parameters.
fn pss_hash(signature: &AlgorithmIdentifier<'_>) -> Option<&'static Algorithm> {
    let params = RsaSsaPssParams::try_from(signature.parameters.as_ref()?).ok()?;
    let oid = params.hash_algorithm_oid();
    if *oid == oids::OID_HASH_SHA1 || *oid == oids::OID_NIST_HASH_SHA256 {
        Some(&digest::SHA256)
    } else if *oid == oids::OID_NIST_HASH_SHA384 {
        Some(&digest::SHA384)
    } else if *oid == oids::OID_NIST_HASH_SHA512 {
        Some(&digest::SHA512)
    } else {
        None
    }
}
