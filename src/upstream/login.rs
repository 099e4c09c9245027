//! Opening a server connection and logging in to it, on the control thread. Checklist A5, A8, A10, J5; manual: "Start-up".

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;

use super::broken::{Broken, ServerError};
use super::conversation::Conversation;
use super::target::{Login, ServerSecret, Target};
use crate::auth::scram::client::{self, Binding};
use crate::auth::{CacheKey, KeyCache, Keys, random, tls_server_end_point};
use crate::net::tls::{Attempt, negotiate_server_tls};
use crate::net::{Address, Io, connect, connect_to};
use crate::wire::message::{self, Authentication};
use crate::wire::say;

/// What a server has told of itself at login, and where a cancel for it goes.
#[derive(Debug)]
pub struct Card {
    /// The server's own process id for this connection; 0 where it gave none.
    pub pid: u32,
    /// The secret of its cancel key.
    pub secret: Box<[u8]>,
    /// The very address that was connected to (H7).
    pub address: Address,
    /// How TLS was tried.
    pub attempt: Attempt,
    /// Counts the requests that it has finished, so that a late cancel can see that what it meant is over (H2).
    pub finished: AtomicU64,
}

/// What a server reports of its settings: names as the server spells them, and values.
pub type Reported = Vec<(Box<[u8]>, Box<[u8]>)>;

/// A connection that is logged in to and idle.
#[derive(Debug)]
pub struct Fresh {
    /// The connection.
    pub io: Io,
    /// Its card.
    pub card: Card,
    /// What it reported.
    pub reported: Reported,
}

/// Connects and logs in within the target's time limit.
///
/// Cancel safe: a dropped future closes what it opened.
pub async fn open(target: &Target, login: &Login, keys: &Mutex<KeyCache>) -> Result<Fresh, Broken> {
    let limit = target.options.timeout;
    match tokio::time::timeout(limit, open_in_turn(target, login, keys)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Broken::TimedOut(limit)),
    }
}

/// Tries what `sslmode` allows one after the other, as libpq does: the next way only where the server turned the last one down.
async fn open_in_turn(target: &Target, login: &Login, keys: &Mutex<KeyCache>) -> Result<Fresh, Broken> {
    let mut outcome = Err(Broken::Closed);
    for attempt in target.tls.attempts() {
        outcome = open_once(target, login, keys, *attempt, 2).await;
        if let Err(Broken::Refused(error)) = &outcome
            && (error.is(PROTOCOL_VIOLATION) || error.is(NOT_SUPPORTED))
        {
            // Something before the server that does not know how to negotiate 3.2 down.
            outcome = open_once(target, login, keys, *attempt, 0).await;
        }
        match &outcome {
            Err(Broken::Refused(error)) if error.is(INVALID_AUTHORIZATION) => {}
            Err(Broken::Tls(_)) => {}
            _ => return outcome,
        }
    }
    outcome
}

const PROTOCOL_VIOLATION: &str = crate::wire::sqlstate::PROTOCOL_VIOLATION;
const NOT_SUPPORTED: &str = crate::wire::sqlstate::FEATURE_NOT_SUPPORTED;
const INVALID_AUTHORIZATION: &str = crate::wire::sqlstate::INVALID_AUTHORIZATION;

async fn open_once(target: &Target, login: &Login, keys: &Mutex<KeyCache>, attempt: Attempt, minor: u16) -> Result<Fresh, Broken> {
    let (io, address) = connect(&target.host, target.port, &target.options).await?;
    let mut io = negotiate_server_tls(io, &target.tls, attempt, &target.host).await?;
    let mut out = BytesMut::new();
    let application_name = target.application_name.as_bytes();
    let mut parameters: Vec<(&[u8], &[u8])> = vec![(b"user", &login.user), (b"database", &login.dbname)];
    if let Some(replication) = login.replication {
        parameters.push((b"replication", replication.value().as_bytes()));
    }
    parameters.push((b"application_name", application_name));
    say::startup(&mut out, minor, &parameters);
    io.write_all(&out).await?;
    let mut conversation = Conversation::default();
    authenticate(&mut io, &mut conversation, login, keys).await?;
    let mut card = Card { pid: 0, secret: Box::default(), address, attempt, finished: AtomicU64::new(0) };
    let mut reported = Reported::new();
    loop {
        let message = conversation.next(&mut io).await?;
        match message.kind {
            b'S' => {
                let (name, value) = message::parameter_status(&message.body)?;
                reported.push((name.into(), value.into()));
            }
            b'K' => {
                let (pid, secret) = message::backend_key(&message.body)?;
                card.pid = pid;
                card.secret = secret.into();
            }
            b'E' => return Err(Broken::Refused(ServerError::new(&message.body))),
            b'Z' if conversation.is_empty() => return Ok(Fresh { io, card, reported }),
            // Notices, and whatever else a login may bring; a ReadyForQuery with something behind it is followed by what is behind it.
            _ => {}
        }
    }
}

/// Answers what the server asks until it says that it is satisfied.
async fn authenticate(io: &mut Io, conversation: &mut Conversation, login: &Login, keys: &Mutex<KeyCache>) -> Result<(), Broken> {
    let mut out = BytesMut::new();
    loop {
        let message = conversation.next(io).await?;
        match message.kind {
            b'R' => {}
            b'E' => return Err(Broken::Refused(ServerError::new(&message.body))),
            // NegotiateProtocolVersion: the server names what it does not know; nothing that was asked for needs it. And notices.
            _ => continue,
        }
        out.clear();
        match message::authentication(&message.body)? {
            Authentication::Ok => return Ok(()),
            Authentication::Cleartext => {
                if !io.is_tls() && !matches!(io, Io::Unix(_)) {
                    return Err(Broken::ClearWithoutTls);
                }
                let ServerSecret::Password(password) = &login.secret else { return Err(Broken::NoSecret("a password")) };
                say::password(&mut out, password);
            }
            Authentication::Md5(salt) => {
                let hash = match &login.secret {
                    ServerSecret::Password(password) => crate::auth::Md5Hash::from_password(&login.user, password.as_bytes()),
                    ServerSecret::Md5(hash) => hash.clone(),
                    ServerSecret::PassThrough(_) | ServerSecret::None => return Err(Broken::NoSecret("a password or its md5 hash")),
                };
                say::password(&mut out, &String::from_utf8_lossy(&hash.response(salt)));
            }
            Authentication::Sasl(offered) => {
                scram(io, conversation, login, keys, offered).await?;
                continue;
            }
            Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => return Err(crate::wire::Malformed::Body.into()),
            Authentication::Other(method) => return Err(Broken::Method(method)),
        }
        io.write_all(&out).await?;
    }
}

/// The SCRAM exchange, up to the server's proof.
async fn scram(io: &mut Io, conversation: &mut Conversation, login: &Login, keys: &Mutex<KeyCache>, offered: &[u8]) -> Result<(), Broken> {
    let certificate = io.tls_info().and_then(|info| info.peer_certificates.first().and_then(|first| tls_server_end_point(first)));
    let binding = certificate.as_deref().map_or(Binding::Unavailable, Binding::Prefer);
    let names = offered.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let start = client::start(names, binding, random()?)?;
    let mut out = BytesMut::new();
    say::sasl_initial(&mut out, start.mechanism.name(), &start.message);
    io.write_all(&out).await?;

    let first = sasl_message(io, conversation).await?;
    let Authentication::SaslContinue(first) = message::authentication(&first)? else { return Err(crate::wire::Malformed::Body.into()) };
    let challenged = start.next.challenge(first)?;
    let keys = keys_for(login, keys, challenged.salt(), challenged.iterations()).await?;
    let (wait, answer) = challenged.answer(&keys);
    out.clear();
    say::sasl_response(&mut out, &answer);
    io.write_all(&out).await?;

    let last = sasl_message(io, conversation).await?;
    let Authentication::SaslFinal(last) = message::authentication(&last)? else { return Err(crate::wire::Malformed::Body.into()) };
    wait.verify(last)?;
    Ok(())
}

async fn sasl_message(io: &mut Io, conversation: &mut Conversation) -> Result<BytesMut, Broken> {
    loop {
        let message = conversation.next(io).await?;
        match message.kind {
            b'R' => return Ok(message.body),
            b'E' => return Err(Broken::Refused(ServerError::new(&message.body))),
            _ => {}
        }
    }
}

/// The keys for this salt and count: a client's own, or derived from the password, or derived before.
async fn keys_for(login: &Login, cache: &Mutex<KeyCache>, salt: &[u8], iterations: std::num::NonZeroU32) -> Result<Keys, Broken> {
    match &login.secret {
        ServerSecret::PassThrough(known) if known.salt == salt && known.iterations == iterations => Ok(known.keys.clone()),
        ServerSecret::PassThrough(_) => {
            Err(Broken::NoSecret("a password (its verifier differs from the one that the client logged in with)"))
        }
        ServerSecret::Md5(_) | ServerSecret::None => Err(Broken::NoSecret("a password")),
        ServerSecret::Password(password) => {
            let key = CacheKey::new(password.as_bytes(), salt, iterations);
            if let Some(keys) = cache.lock().find(&key) {
                return Ok(keys);
            }
            let (password, salt) = (Arc::clone(password), salt.to_vec());
            let derived = tokio::task::spawn_blocking(move || Keys::derive(password.as_bytes(), &salt, iterations)).await;
            let keys = derived.map_err(|_| Broken::Closed)??;
            cache.lock().insert(key, keys.clone());
            Ok(keys)
        }
    }
}

/// Asks a server to cancel what one of its connections runs, and waits until it has taken note: it closes the connection when it has signalled.
///
/// `still_wanted` is asked once more right before the request is sent, since the query may have ended while this connected.
pub async fn cancel(target: &Target, card: &Card, limit: Duration, still_wanted: impl Fn() -> bool) -> Result<(), Broken> {
    let send = async {
        let io = connect_to(&card.address, &target.options).await?;
        let mut io = negotiate_server_tls(io, &target.tls, card.attempt, &target.host).await?;
        if !still_wanted() {
            return Ok(());
        }
        let mut out = BytesMut::new();
        say::cancel(&mut out, card.pid, &card.secret);
        io.write_all(&out).await?;
        let mut rest = [0; 64];
        while io.read(&mut rest).await.is_ok_and(|count| count > 0) {}
        Ok(())
    };
    match tokio::time::timeout(limit, send).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Broken::TimedOut(limit)),
    }
}
