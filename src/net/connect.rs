//! Connecting to servers. On the control thread: it needs the resolver and timers, which workers do not have.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use super::address::socket_file;
use super::{Address, ConnectError, Io};

/// How a silent peer is told from a slow one: after `idle`, ask every `interval`, and give up after `count` questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first question.
    pub idle: Duration,
    /// Between questions.
    pub interval: Duration,
    /// Questions without an answer.
    pub count: u32,
}

/// How connections to servers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectOptions {
    /// For all of it: resolving, and every address together.
    pub timeout: Duration,
    /// `None` leaves silent servers unasked.
    pub keepalive: Option<Keepalive>,
    /// How long what was sent may stay unacknowledged; `None` is the system's default.
    pub user_timeout: Option<Duration>,
}

/// A connection, and where it leads.
#[derive(Debug)]
pub struct Found {
    /// The connection.
    pub io: Io,
    /// The address that it leads to.
    pub address: Address,
    /// All addresses that the name has, that one among them.
    pub addresses: Vec<Address>,
}

/// Connects to `host`, trying its addresses in turn, and says which one it was. A host that begins with `/` is the folder of a
/// Unix socket, as in libpq.
///
/// Each address gets an equal share of the time that is left, so that one that swallows packets does not hide the next. Cancel
/// safe: a dropped future leaves nothing behind but a resolver that may still be waiting.
pub async fn connect(host: &str, port: u16, options: &ConnectOptions) -> Result<Found, ConnectError> {
    let deadline = Instant::now() + options.timeout;
    let candidates = resolve(host, port, deadline, options.timeout).await?;
    let name = format!("{host}:{port}");
    let mut outcome =
        Err(ConnectError::Resolve { host: host.to_owned(), source: io::Error::new(io::ErrorKind::NotFound, "the name has no address") });
    for position in 0..candidates.len() {
        let Some(address) = candidates.get(position) else { continue };
        let to_go = u32::try_from(candidates.len().saturating_sub(position)).unwrap_or(u32::MAX);
        let left = deadline.saturating_duration_since(Instant::now());
        let share = Instant::now() + left / to_go.max(1);
        match attempt(address, options, share, &name).await {
            Ok(io) => return Ok(Found { io, address: address.clone(), addresses: candidates }),
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

/// Connects to a place that [`connect`] has found before: for cancels.
///
/// Cancel safe: a dropped future leaves nothing behind.
pub async fn connect_to(address: &Address, options: &ConnectOptions) -> Result<Io, ConnectError> {
    attempt(address, options, Instant::now() + options.timeout, &address.to_string()).await
}

async fn resolve(host: &str, port: u16, deadline: Instant, limit: Duration) -> Result<Vec<Address>, ConnectError> {
    if host.starts_with('/') {
        return Ok(vec![Address::Unix(socket_file(Path::new(host), port))]);
    }
    match timeout_at(deadline, lookup_host((host, port))).await {
        Ok(Ok(addresses)) => Ok(addresses.map(Address::Tcp).collect()),
        Ok(Err(source)) => Err(ConnectError::Resolve { host: host.to_owned(), source }),
        Err(_) => Err(ConnectError::TimedOut { host: format!("{host}:{port}"), limit }),
    }
}

async fn attempt(address: &Address, options: &ConnectOptions, until: Instant, name: &str) -> Result<Io, ConnectError> {
    match timeout_at(until, open(address, options)).await {
        Ok(Ok(io)) => Ok(io),
        Ok(Err(source)) => Err(ConnectError::Refused { host: name.to_owned(), address: address.to_string(), source }),
        Err(_) => Err(ConnectError::TimedOut { host: name.to_owned(), limit: options.timeout }),
    }
}

async fn open(address: &Address, options: &ConnectOptions) -> io::Result<Io> {
    let io = match address {
        Address::Tcp(address) => open_tcp(*address).await?,
        Address::Unix(file) => Io::Unix(UnixStream::connect(file).await?),
    };
    if let Some(Keepalive { idle, interval, count }) = options.keepalive {
        io.set_keepalive(idle, interval, count)?;
    }
    if options.user_timeout.is_some() {
        io.set_user_timeout(options.user_timeout)?;
    }
    Ok(io)
}

async fn open_tcp(address: SocketAddr) -> io::Result<Io> {
    let io = Io::Tcp(TcpStream::connect(address).await?);
    io.set_nodelay()?;
    Ok(io)
}
