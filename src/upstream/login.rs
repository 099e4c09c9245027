//! Opening a server connection and logging in to it, on the control thread. Checklist A5, A8, A10, J5; manual: "Start-up".

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::broken::{Broken, Kind, ServerError};
use super::conversation::Conversation;
use super::role::{self, Role};
use super::target::{Login, ServerSecret, Target};
use crate::auth::scram::client::{self, Binding};
use crate::auth::{CacheKey, KeyCache, Keys, random, tls_server_end_point};
use crate::config::TargetSessionAttrs;
use crate::net::tls::{Attempt, negotiate_server_tls};
use crate::net::{Address, ConnectOptions, Found, Io, connect, connect_to};
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
    /// The name that was looked up for it.
    pub host: Arc<str>,
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
    /// What it is.
    pub role: Role,
    /// Which of the target's places it was found at.
    pub place: usize,
    /// All addresses that its name has now.
    pub addresses: Vec<Address>,
}

/// Where to look first, and for what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice {
    /// Which of the target's places is tried first; the others follow in their order.
    pub first: usize,
    /// Where the target wants nothing in particular: whether it must be a primary.
    pub primary: bool,
}

/// Connects and logs in within the target's time limit: at the first of its places where there is a server that will do.
///
/// # Errors
/// Why there is none. One that is full, or that lets nobody in, is the last that is tried: that is the server that was meant.
///
/// Cancel safe: a dropped future closes what it opened.
pub async fn open(target: &Target, login: &Login, keys: &Mutex<KeyCache>, choice: Choice) -> Result<Fresh, Broken> {
    let wanted = target.wanted.unwrap_or(if choice.primary { TargetSessionAttrs::Primary } else { TargetSessionAttrs::Any });
    let deadline = Instant::now() + target.options.timeout;
    if wanted == TargetSessionAttrs::PreferStandby {
        // Half of the time for a standby, the rest for any other.
        let half = Instant::now() + target.options.timeout / 2;
        if let Ok(fresh) = open_at_some_place(target, login, keys, (choice.first, TargetSessionAttrs::Standby), half).await {
            return Ok(fresh);
        }
    }
    open_at_some_place(target, login, keys, (choice.first, wanted), deadline).await
}

async fn open_at_some_place(
    target: &Target,
    login: &Login,
    keys: &Mutex<KeyCache>,
    (first, wanted): (usize, TargetSessionAttrs),
    deadline: Instant,
) -> Result<Fresh, Broken> {
    let all = target.places.len();
    let first = if first < all { first } else { 0 };
    let places = std::iter::once(first).chain((0..all).filter(|place| *place != first));
    let mut failures: Vec<(usize, Broken)> = Vec::new();
    for (tried, at) in places.enumerate() {
        // Each has an equal share of the time that is left, so that one that says nothing does not hide the next.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(all - tried).unwrap_or(u32::MAX).max(1);
        let outcome = tokio::time::timeout(share, open_at(target, login, keys, (at, share), wanted)).await;
        match outcome.unwrap_or(Err(Broken::TimedOut(target.options.timeout))) {
            Ok(fresh) => return Ok(fresh),
            Err(why) if why.kind() != Kind::Unreachable => return Err(why),
            Err(why) => failures.push((at, why)),
        }
    }
    match failures.len() {
        0 | 1 => Err(failures.pop().map_or(Broken::Closed, |(_, why)| why)),
        _ => Err(Broken::NoneOf(failures.iter().filter_map(|(at, why)| Some(why.at(target.places.get(*at)?))).collect())),
    }
}

/// The server at one place, if it is what is wanted.
async fn open_at(
    target: &Target,
    login: &Login,
    keys: &Mutex<KeyCache>,
    (at, limit): (usize, Duration),
    wanted: TargetSessionAttrs,
) -> Result<Fresh, Broken> {
    let mut fresh = Box::pin(open_with_token(target, login, keys, (at, limit))).await?;
    let takes_any = matches!(wanted, TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby);
    if fresh.role.standby.is_none() && !takes_any && login.replication.is_none() {
        fresh.role = role::ask(&mut fresh.io, &mut Conversation::default()).await?;
    }
    if fresh.role.is(wanted) {
        return Ok(fresh);
    }
    let host = target.places.get(at).map(ToString::to_string).unwrap_or_default().into();
    let is = match fresh.role {
        Role { standby: Some(true), .. } => "a standby",
        Role { read_only: true, .. } => "read-only",
        Role { .. } => "a primary",
    };
    let wanted = match wanted {
        TargetSessionAttrs::ReadWrite => "one that can be written to",
        TargetSessionAttrs::ReadOnly => "one that is read-only",
        TargetSessionAttrs::Standby => "a standby",
        TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby | TargetSessionAttrs::Primary => "a primary",
    };
    Err(Broken::WrongRole { host, is, wanted })
}

/// The same with a token in the place of a password, where the login is one by IAM; once more where keys were taken back before their time.
async fn open_with_token(target: &Target, login: &Login, keys: &Mutex<KeyCache>, at: (usize, Duration)) -> Result<Fresh, Broken> {
    let Some(place) = target.places.get(at.0) else { return Err(Broken::Closed) };
    let Some(signed) = target.aws.sign(login, place).await? else { return open_in_turn(target, login, keys, at).await };
    let outcome = open_in_turn(target, &signed.login, keys, at).await;
    let is_refused = |error: &ServerError| error.is(INVALID_AUTHORIZATION) || error.is(INVALID_PASSWORD);
    if matches!(&outcome, Err(Broken::Refused(error)) if is_refused(error))
        && target.aws.has_others(&signed).await
        && let Some(signed) = target.aws.sign(login, place).await?
    {
        return open_in_turn(target, &signed.login, keys, at).await;
    }
    outcome
}

/// Tries what `sslmode` allows one after the other, as libpq does: the next way only where the server turned the last one down.
async fn open_in_turn(target: &Target, login: &Login, keys: &Mutex<KeyCache>, at: (usize, Duration)) -> Result<Fresh, Broken> {
    let mut outcome = Err(Broken::Closed);
    for attempt in target.tls.attempts() {
        outcome = open_once(target, login, keys, at, (*attempt, 2)).await;
        if let Err(Broken::Refused(error)) = &outcome
            && (error.is(PROTOCOL_VIOLATION) || error.is(NOT_SUPPORTED))
        {
            // Something before the server that does not know how to negotiate 3.2 down.
            outcome = open_once(target, login, keys, at, (*attempt, 0)).await;
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
const INVALID_PASSWORD: &str = crate::wire::sqlstate::INVALID_PASSWORD;

async fn open_once(
    target: &Target,
    login: &Login,
    keys: &Mutex<KeyCache>,
    (at, limit): (usize, Duration),
    (attempt, minor): (Attempt, u16),
) -> Result<Fresh, Broken> {
    let Some(place) = target.places.get(at) else { return Err(Broken::Closed) };
    let options = ConnectOptions { timeout: limit, ..target.options };
    let Found { io, address, addresses } = connect(&place.host, place.port, &options).await?;
    let mut io = negotiate_server_tls(io, &target.tls, attempt, &place.host).await?;
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
    let mut card = Card { pid: 0, secret: Box::default(), address, host: Arc::clone(&place.host), attempt, finished: AtomicU64::new(0) };
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
            b'Z' if conversation.is_empty() => {
                let role = Role::reported(&reported);
                return Ok(Fresh { io, card, reported, role, place: at, addresses });
            }
            // Notices, and whatever else a login may bring; a ReadyForQuery with something behind it is followed by what is behind it.
            _ => {}
        }
    }
}

/// RDS asks a role that is granted `rds_iam` for its token, and every other for the proof of a password.
const NOT_GRANTED: Broken = Broken::NoSecret("the proof of a password, not for a token (is the role granted rds_iam?)");

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
                let (ServerSecret::Password(password) | ServerSecret::Token(password)) = &login.secret else {
                    return Err(Broken::NoSecret("a password"));
                };
                say::password(&mut out, password);
            }
            Authentication::Md5(salt) => {
                let hash = match &login.secret {
                    ServerSecret::Password(password) => crate::auth::Md5Hash::from_password(&login.user, password.as_bytes()),
                    ServerSecret::Md5(hash) => hash.clone(),
                    ServerSecret::RdsIam | ServerSecret::Token(_) => return Err(NOT_GRANTED),
                    ServerSecret::PassThrough(_) | ServerSecret::None => return Err(Broken::NoSecret("a password or its md5 hash")),
                };
                say::password(&mut out, &String::from_utf8_lossy(&hash.response(salt)));
            }
            Authentication::Sasl(_) if matches!(login.secret, ServerSecret::Token(_)) => return Err(NOT_GRANTED),
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
        ServerSecret::RdsIam | ServerSecret::Token(_) => Err(NOT_GRANTED),
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
        let mut io = negotiate_server_tls(io, &target.tls, card.attempt, &card.host).await?;
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
