//! The ways in which a client proves who it is, over its connection. The exchanges themselves are the `auth` room's.

use std::sync::Arc;

use bytes::BytesMut;
use zeroize::Zeroizing;

use super::greeting::Hello;
use super::login::Failed;
use super::secrets::Secrets;
use super::tokens::{Believed, Keyring};
use crate::auth::scram::server::WaitMechanism;
use crate::auth::{Denied, Md5Hash, Secret, certificate_names, random};
use crate::config::{Tokens, User};
use crate::fault::Fault;
use crate::net::Io;
use crate::upstream::PassThrough;
use crate::wire::{Malformed, message, say};

/// What a client has proven, and what that has shown.
#[derive(Debug)]
pub enum Proven {
    /// Nothing: its network is trusted.
    Trusted,
    /// Who it is, and the keys with which the proxy can log in as it wherever the same verifier is.
    Keys(Arc<PassThrough>),
    /// Who it is, with its password in the clear.
    Password(Zeroizing<String>),
    /// Who it is, by the md5 hash that is stored for it.
    Hash(Md5Hash),
    /// Who it is.
    Otherwise,
}

/// The longest message that a client may send before it is logged in, in bytes; tokens of cloud providers take a few thousand.
const LONGEST: usize = 65_536;

/// Reads one `p` message: its body.
async fn answer(hello: &mut Hello) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let mut buffer = Zeroizing::new(std::mem::take(&mut hello.rest));
    loop {
        if let Some(&[kind, a, b, c, d]) = buffer.first_chunk::<5>() {
            let length = u32::from_be_bytes([a, b, c, d]);
            if kind != b'p' {
                return Err(Fault::Malformed(Malformed::Kind(kind)).into());
            }
            let total = usize::try_from(length).ok().filter(|length| (4..=LONGEST).contains(length)).map(|length| length + 1);
            let total = total.ok_or(Fault::Malformed(Malformed::Length { kind, length }))?;
            if buffer.len() >= total {
                hello.rest = buffer[total..].to_vec();
                return Ok(Zeroizing::new(buffer[5..total].to_vec()));
            }
        }
        let mut chunk = [0; 1024];
        match hello.io.read(&mut chunk).await? {
            0 => return Err(Failed::Gone),
            count => buffer.extend_from_slice(&chunk[..count]),
        }
    }
}

fn malformed(_: Malformed) -> Failed {
    Fault::Malformed(Malformed::Body).into()
}

/// What a client hears whose proof does not hold; the operator hears why.
fn denied(user: &str, why: Denied) -> Failed {
    tracing::info!(user, %why, "a login was denied");
    match why {
        Denied::Protocol(_) => Fault::Malformed(Malformed::Body).into(),
        Denied::Unsupported(what) => Fault::Unsupported(what).into(),
        Denied::NoRandomness => Fault::Internal.into(),
        _ => Fault::Denied { user: user.to_owned() }.into(),
    }
}

/// SCRAM-SHA-256, and -PLUS where the client came over TLS.
pub async fn scram(hello: &mut Hello, user: &str, known: Option<&Arc<Secret>>, secrets: &Secrets) -> Result<Proven, Failed> {
    let denied = |why| denied(user, why);
    let binding = hello.certificate.as_ref().and_then(|shown| shown.binding.clone());
    let waiting = WaitMechanism::new(binding.as_deref());
    let mut out = BytesMut::new();
    say::sasl(&mut out, binding.is_some());
    hello.io.write_all(&out).await?;

    let body = answer(hello).await?;
    let (mechanism, first) = message::sasl_initial(&body).map_err(malformed)?;
    let waiting = waiting.select(mechanism).map_err(denied)?;
    let first = if let Some(first) = first {
        Zeroizing::new(first.to_vec())
    } else {
        out.clear();
        say::sasl_continue(&mut out, &[]);
        hello.io.write_all(&out).await?;
        answer(hello).await?
    };
    let verifier = match known {
        Some(secret) => secrets.verifier(user, secret).await.map_err(denied)?,
        None => Arc::new(secrets.mock(user.as_bytes())),
    };
    let nonce = random().map_err(denied)?;
    let (waiting, challenge) = waiting.challenge(&first, &verifier, nonce).map_err(denied)?;
    out.clear();
    say::sasl_continue(&mut out, &challenge);
    hello.io.write_all(&out).await?;

    let body = answer(hello).await?;
    let accepted = waiting.finish(&body).map_err(denied)?;
    out.clear();
    say::sasl_final(&mut out, &accepted.server_final);
    hello.unsaid = out;
    if let Some(Secret::Password(password)) = known.map(|known| &**known) {
        return Ok(Proven::Password(password.clone()));
    }
    Ok(Proven::Keys(Arc::new(PassThrough { keys: accepted.keys, salt: verifier.salt().to_vec(), iterations: verifier.iterations() })))
}

/// The md5 exchange.
pub async fn md5(hello: &mut Hello, user: &str, known: Option<&Arc<Secret>>) -> Result<Proven, Failed> {
    let salt = random().map_err(|why| denied(user, why))?;
    let mut out = BytesMut::new();
    say::ask_md5(&mut out, salt);
    hello.io.write_all(&out).await?;
    let body = answer(hello).await?;
    let response = message::password(&body).map_err(malformed)?;
    let checked = known.map_or(Err(Denied::WrongPassword), |secret| secret.check_md5(user.as_bytes(), salt, response));
    checked.map_err(|why| denied(user, why))?;
    match known.map(|known| &**known) {
        Some(Secret::Password(password)) => Ok(Proven::Password(password.clone())),
        Some(Secret::Md5(hash)) => Ok(Proven::Hash(hash.clone())),
        _ => Ok(Proven::Otherwise),
    }
}

/// Asks for the password itself; over TLS only, or within this machine.
pub async fn in_the_clear(hello: &mut Hello) -> Result<Zeroizing<Vec<u8>>, Failed> {
    if hello.certificate.is_none() && !matches!(hello.io, Io::Unix(_) | Io::Duplex(_)) {
        return Err(Fault::TlsRequired.into());
    }
    let mut out = BytesMut::new();
    say::ask_cleartext(&mut out);
    hello.io.write_all(&out).await?;
    let body = answer(hello).await?;
    Ok(Zeroizing::new(message::password(&body).map_err(malformed)?.to_vec()))
}

/// The password itself.
pub async fn cleartext(hello: &mut Hello, user: &str, known: Option<&Arc<Secret>>, secrets: &Secrets) -> Result<Proven, Failed> {
    let password = in_the_clear(hello).await?;
    brought(password, user, known, secrets).await
}

/// A token that the client has shown in place of a password: it says who it is, and no more. The server is never logged in to with it.
pub async fn token(shown: &[u8], user: &User, settings: Option<&Tokens>, keyring: &Arc<Keyring>) -> Result<Proven, Failed> {
    let checked = match (std::str::from_utf8(shown), settings) {
        (Ok(token), Some(settings)) => keyring.believe(token, settings).await,
        (Err(_), _) => Err("it is not text".to_owned()),
        (_, None) => Err("there are no keys to check it with".to_owned()),
    };
    let checked = checked.and_then(|Believed { user: subject, .. }| {
        let may = user.token_subjects.iter().any(|pattern| pattern.matches(&subject));
        if may { Ok(Proven::Otherwise) } else { Err(format!("`{subject}` is none of the user's token_subjects")) }
    });
    checked.map_err(|why| {
        tracing::info!(user = user.name, why, "a token was not believed");
        Fault::Denied { user: user.name.clone() }.into()
    })
}

/// A password that the client has brought along, in the clear.
pub async fn brought(password: Zeroizing<Vec<u8>>, user: &str, known: Option<&Arc<Secret>>, secrets: &Secrets) -> Result<Proven, Failed> {
    secrets.check(user, known, &password).await.map_err(|why| denied(user, why))?;
    let text = std::str::from_utf8(&password).map(str::to_owned);
    Ok(text.map_or(Proven::Otherwise, |password| Proven::Password(Zeroizing::new(password))))
}

/// The certificate that the client showed in the TLS handshake.
pub fn certificate(hello: &Hello, user: &str, configured: Option<&User>) -> Result<Proven, Failed> {
    let refused = || Failed::With(Fault::Certificate { user: user.to_owned() });
    let info = hello.io.tls_info().ok_or_else(refused)?;
    let names = info.peer_certificates.first().and_then(|certificate| certificate_names(certificate)).ok_or_else(refused)?;
    let wanted = configured.ok_or_else(refused)?;
    let shown = names.common_name.iter().chain(&names.dns);
    if shown.into_iter().any(|name| wanted.certificate_names.contains(name)) { Ok(Proven::Otherwise) } else { Err(refused()) }
}
