//! Listening: one listener for each worker and each address.
//!
//! A [`Bound`] is an address that is taken; it belongs to no runtime. Each worker gets its own from [`Bound::share`] and turns it
//! into a [`Listener`] in its runtime. Over TCP these are separate sockets among which the kernel spreads the clients
//! (`SO_REUSEPORT`); over a Unix socket they are one.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::getuid;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::address::socket_file;
use super::pause::Pause;
use super::{Address, Io, ListenError, Peer};

/// Clients that the kernel keeps for us while a worker is busy; `net.core.somaxconn` may make it less.
const BACKLOG: i32 = 4096;

/// How many bytes may wait in a client's socket before it counts as not writable.
pub(super) const UNSENT: u32 = 128 << 10;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAt {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A folder for a Unix socket, whose file is named for `port` as PostgreSQL does it.
    Unix {
        /// The folder; it must exist.
        folder: PathBuf,
        /// The port in the file's name.
        port: u16,
    },
}

/// An address that is taken, outside any runtime.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    /// The socket's file, removed with the last that shares it.
    file: Option<Arc<SocketFile>>,
    /// Somebody else has it, too, and keeps it when this process has gone.
    is_handed_over: bool,
}

/// A worker's listener.
#[derive(Debug)]
pub struct Listener {
    socket: Accepting,
    /// Whether a connection that it accepts has its options from it, by having come about after they were set (tcp(7): Linux passes them on).
    passes_options: bool,
    pause: Pause,
    _file: Option<Arc<SocketFile>>,
}

#[derive(Debug)]
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Takes the address.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, where somebody listens on a Unix socket already: it is asked who that is.
    pub fn bind(at: &ListenAt) -> Result<Self, ListenError> {
        match at {
            ListenAt::Tcp(address) => match bind_tcp(*address) {
                Ok(socket) => Ok(Self { socket, file: None, is_handed_over: false }),
                Err(source) => Err(ListenError::Refused { address: address.to_string(), source }),
            },
            ListenAt::Unix { folder, port } => bind_unix(&socket_file(folder, *port)),
        }
    }

    /// A socket that listens already, and that the process was started with.
    pub(super) fn handed_over(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, file: None, is_handed_over: true })
    }

    /// Another one for another worker, at the same address; also where the system chose the port.
    pub fn share(&self) -> Result<Self, ListenError> {
        let shared = match (&self.file, self.tcp_address()) {
            (None, Some(address)) if !self.is_handed_over => bind_tcp(address),
            _ => self.socket.try_clone(),
        };
        match shared {
            Ok(socket) => Ok(Self { socket, file: self.file.clone(), is_handed_over: self.is_handed_over }),
            Err(source) => {
                Err(ListenError::Refused { address: self.address().map_or_else(String::new, |address| address.to_string()), source })
            }
        }
    }

    /// Where clients find it.
    pub fn address(&self) -> Option<Address> {
        match &self.file {
            Some(file) => Some(Address::Unix(file.path.clone())),
            None => self.tcp_address().map(Address::Tcp).or_else(|| self.unix_address()),
        }
    }

    fn tcp_address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok().and_then(|address| address.as_socket())
    }

    fn unix_address(&self) -> Option<Address> {
        self.socket.local_addr().ok().and_then(|address| address.as_pathname().map(|path| Address::Unix(path.to_owned())))
    }

    /// Registers with this thread's runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio's own sockets do.
    pub fn listen(self) -> io::Result<Listener> {
        let socket = match self.tcp_address() {
            Some(_) => Accepting::Tcp(TcpListener::from_std(self.socket.into())?),
            None => Accepting::Unix(UnixListener::from_std(self.socket.into())?),
        };
        Ok(Listener { socket, passes_options: !self.is_handed_over, pause: Pause::new()?, _file: self.file })
    }
}

impl Listener {
    /// The next client. Cancel safe: a dropped future has taken none.
    ///
    /// Clients that went away while they waited are passed over. An error means that the process or the system is out of
    /// something (descriptors, memory): log it and call again, which waits a moment before it tries, so that this never spins.
    pub async fn accept(&self) -> io::Result<(Io, Peer)> {
        self.pause.over().await?;
        loop {
            match self.accept_once().await {
                Ok(accepted) => return Ok(accepted),
                Err(error) if is_about_one_client(&error) => {}
                Err(error) => {
                    self.pause.begin()?;
                    return Err(error);
                }
            }
        }
    }

    /// Takes no more clients; those that wait are the outcome.
    pub fn close(self) -> Vec<(Io, Peer)> {
        let mut waiting = Vec::new();
        match self.socket {
            Accepting::Tcp(listener) => {
                let Ok(listener) = listener.into_std() else { return waiting };
                while let Ok((stream, address)) = listener.accept() {
                    if stream.set_nonblocking(true).is_ok()
                        && let Ok(stream) = TcpStream::from_std(stream)
                    {
                        waiting.push(of_tcp(stream, address, self.passes_options));
                    }
                }
            }
            // Another process cannot have the same file: there is nobody else whom they could wait for.
            Accepting::Unix(listener) => {
                let Ok(listener) = listener.into_std() else { return waiting };
                while let Ok((stream, _)) = listener.accept() {
                    if stream.set_nonblocking(true).is_ok()
                        && let Ok(io) = UnixStream::from_std(stream).map(Io::Unix)
                        && let Ok(peer) = io.peer()
                    {
                        waiting.push((io, peer));
                    }
                }
            }
        }
        waiting
    }

    async fn accept_once(&self) -> io::Result<(Io, Peer)> {
        match &self.socket {
            Accepting::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(of_tcp(stream, address, self.passes_options))
            }
            Accepting::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let io = Io::Unix(stream);
                let peer = io.peer()?;
                Ok((io, peer))
            }
        }
    }
}

fn of_tcp(stream: TcpStream, address: SocketAddr, has_options: bool) -> (Io, Peer) {
    let io = Io::Tcp(stream);
    if !has_options {
        // Refused only where the client has gone already, which its first read will say.
        let _ = io.set_nodelay();
        let _ = io.set_unsent_limit(UNSENT);
    }
    (io, Peer::Tcp(address))
}

/// What Linux's `accept` passes on of a connection that broke before we took it (accept(2), "Error handling").
fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::OPNOTSUPP
                | Errno::INTR
                | Errno::PERM
        )
    )
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can both be listed, whatever the system's default.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Whoever connects has these, too: two system calls less for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn bind_unix(path: &Path) -> Result<Bound, ListenError> {
    let refused = |source| ListenError::Refused { address: path.display().to_string(), source };
    match who_has(path).map_err(refused)? {
        Holder::Nobody => {}
        Holder::TheDead => fs::remove_file(path).map_err(refused)?,
        Holder::AnotherOfUs => return take_over(path).map_err(refused),
        Holder::Somebody => return Err(ListenError::InUse(path.to_owned())),
        Holder::NoSocket => return Err(ListenError::NotASocket(path.to_owned())),
    }
    listen_unix(path).map_err(refused)
}

/// In place of an older process of ours, which keeps those who have reached it: from one moment to the next whoever comes finds the new socket.
fn take_over(path: &Path) -> io::Result<Bound> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = path.with_file_name(format!("{name}.{}", std::process::id()));
    // Left there by a process with our number that has died.
    let _ = fs::remove_file(&beside);
    let bound = listen_unix(&beside)?;
    fs::rename(&beside, path)?;
    Ok(Bound { file: Some(Arc::new(SocketFile::claim(path)?)), ..bound })
}

fn listen_unix(path: &Path) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::claim(path)?;
    // Whoever reaches the folder may connect, as with PostgreSQL; who may log in is another question.
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    socket.listen(BACKLOG)?;
    Ok(Bound { socket, file: Some(Arc::new(file)), is_handed_over: false })
}

/// Who has the place of a Unix socket.
enum Holder {
    Nobody,
    /// A process that has ended without removing it.
    TheDead,
    /// A process of the same program and user.
    AnotherOfUs,
    /// Any other process.
    Somebody,
    NoSocket,
}

fn who_has(path: &Path) -> io::Result<Holder> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Holder::Nobody),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Ok(Holder::NoSocket),
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Ok(stream) => Ok(if is_another_of_us(stream) { Holder::AnotherOfUs } else { Holder::Somebody }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Holder::TheDead),
        Err(error) => Err(error),
    }
}

/// Whether the process that listens is another one of the same program and user, as far as the kernel tells.
fn is_another_of_us(stream: StdUnixStream) -> bool {
    let listens = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)).and_then(|stream| Io::Unix(stream).peer());
    let Ok(Peer::Unix { uid, pid }) = listens else { return false };
    let name = |pid: i32| fs::read(format!("/proc/{pid}/comm")).ok();
    let own = std::process::id().cast_signed();
    pid != own && uid == getuid().as_raw() && name(own).is_some_and(|ours| name(pid) == Some(ours))
}

/// The file of a Unix socket of ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn claim(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Only our own: whoever took the name since then has a socket there that must stay.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours {
            // If it stays behind, the next to listen finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}
