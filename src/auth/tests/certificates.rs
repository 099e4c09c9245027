//! Channel binding data and names of real certificates. The files were made by OpenSSL, each signed as its name says.

use aws_lc_rs::digest::{self, Algorithm};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::super::{CertificateNames, certificate_names, tls_server_end_point};

fn self_signed(params: &CertificateParams, algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn a_certificate_is_hashed_as_it_is_signed() {
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let made: [(&str, Vec<u8>, &'static Algorithm); 7] = [
        ("ecdsa sha256", self_signed(&params, &rcgen::PKCS_ECDSA_P256_SHA256), &digest::SHA256),
        ("ecdsa sha384", self_signed(&params, &rcgen::PKCS_ECDSA_P384_SHA384), &digest::SHA384),
        ("ecdsa sha1", include_bytes!("certificates/ecdsa-sha1.der").to_vec(), &digest::SHA256),
        ("rsa sha1", include_bytes!("certificates/rsa-sha1.der").to_vec(), &digest::SHA256),
        ("rsa sha224", include_bytes!("certificates/rsa-sha224.der").to_vec(), &digest::SHA224),
        ("pss sha256", include_bytes!("certificates/pss-sha256.der").to_vec(), &digest::SHA256),
        ("pss sha512", include_bytes!("certificates/pss-sha512.der").to_vec(), &digest::SHA512),
    ];
    for (name, certificate, hash) in made {
        let expected = digest::digest(hash, &certificate);
        assert_eq!(tls_server_end_point(&certificate).as_deref(), Some(expected.as_ref()), "{name}");
    }
}

#[test]
fn a_certificate_without_a_hash_cannot_be_bound_to() {
    assert_eq!(tls_server_end_point(include_bytes!("certificates/ed25519.der")), None);
    assert_eq!(tls_server_end_point(b"not a certificate"), None);
    let followed = [include_bytes!("certificates/rsa-sha1.der"), &b"x"[..]].concat();
    assert_eq!(tls_server_end_point(&followed), None);
}

#[test]
fn the_names_of_a_client_are_read() {
    let mut params = CertificateParams::new(vec!["app.example".to_owned(), "*.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://example/app".try_into().unwrap()));
    params.subject_alt_names.push(SanType::Rfc822Name("app@example".try_into().unwrap()));
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, "app_\u{e9}");
    let expected = CertificateNames {
        common_name: Some("app_\u{e9}".to_owned()),
        dns: vec!["app.example".to_owned(), "*.example".to_owned()],
        uris: vec!["spiffe://example/app".to_owned()],
        emails: vec!["app@example".to_owned()],
    };
    assert_eq!(certificate_names(&self_signed(&params, &rcgen::PKCS_ECDSA_P256_SHA256)), Some(expected));
}

#[test]
fn a_name_with_a_zero_byte_is_no_name() {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "admin\0.example");
    let names = certificate_names(&self_signed(&params, &rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
    assert_eq!(names.common_name, None);
    assert_eq!(certificate_names(b"not a certificate"), None);
}
