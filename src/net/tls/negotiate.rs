//! Asking a PostgreSQL server for TLS (manual: "SSL Session Encryption" in the protocol chapter; checklist A3, A5).

use super::handshake::{ALPN, connect_tls};
use super::servers::{Attempt, ServerTls, SslNegotiation};
use crate::net::{HandshakeError, Io, NegotiationError};

/// Length 8, code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Brings a fresh connection to where the startup packet can be sent: with TLS or without, as `attempt` has it.
///
/// `host` is the server's name as configured. A Unix socket never has TLS, as in libpq. There is no time limit here: the caller
/// has one. Not cancel safe: a dropped future closes the connection.
pub async fn negotiate_server_tls(mut io: Io, tls: &ServerTls, attempt: Attempt, host: &str) -> Result<Io, NegotiationError> {
    let config = match (attempt, tls.config(), &io) {
        (Attempt::Plain, ..) | (_, None, _) | (_, _, Io::Unix(_)) => return Ok(io),
        (_, Some(config), _) => config,
    };
    let name = tls.name_of(host)?;
    if tls.negotiation() == SslNegotiation::Postgres {
        match ask(&mut io).await? {
            Answer::Yes => {}
            Answer::No if attempt == Attempt::TlsIfOffered => return Ok(io),
            Answer::No => return Err(NegotiationError::Refused),
        }
    }
    let mut io = connect_tls(io, config.clone(), name).await?;
    let agreed = io.tls_info().and_then(|info| info.alpn);
    // Only servers that know ALPN know direct TLS.
    if tls.negotiation() == SslNegotiation::Direct && agreed != Some(ALPN) {
        io.shutdown();
        return Err(HandshakeError::NoAlpn.into());
    }
    Ok(io)
}

enum Answer {
    Yes,
    No,
}

async fn ask(io: &mut Io) -> Result<Answer, NegotiationError> {
    io.write_all(&SSL_REQUEST).await?;
    // Room for more than the one byte, to see whether there is more: what a stranger slipped in before the handshake must not
    // be taken for the server's words after it.
    let mut answer = [0; 16];
    let count = io.read(&mut answer).await?;
    match answer.get(..count).unwrap_or_default() {
        [] => Err(NegotiationError::Cut),
        [b'S'] => Ok(Answer::Yes),
        [b'N'] => Ok(Answer::No),
        [b'E', ..] => Err(NegotiationError::ServerError),
        [b'S' | b'N', _, ..] => Err(NegotiationError::EarlyData),
        [other, ..] => Err(NegotiationError::Nonsense(*other)),
    }
}
