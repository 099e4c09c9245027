//! Listening: sharing an address, Unix socket files, running out of descriptors.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::{fs, mem};

use socket2::SockRef;

use super::{read_exactly, run, worker};
use crate::net::listen::UNSENT;
use crate::net::{Address, Bound, Io, ListenAt, ListenError, Peer};

fn tcp(address: &str) -> ListenAt {
    ListenAt::Tcp(address.parse().unwrap())
}

fn address(bound: &Bound) -> std::net::SocketAddr {
    match bound.address() {
        Some(Address::Tcp(address)) => address,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_connects_is_sent_small_messages_at_once_whoever_has_bound_the_address() {
    run(async {
        let ours = Bound::bind(&tcp("127.0.0.1:0")).unwrap();
        let anybodys = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let handed_over = Bound::handed_over(anybodys.into()).unwrap();
        for bound in [ours, handed_over] {
            // One before the listener is in a runtime, and one after.
            let to = address(&bound);
            let _early = tokio::net::TcpStream::connect(to).await.unwrap();
            let listener = bound.listen().unwrap();
            let _late = tokio::net::TcpStream::connect(to).await.unwrap();
            for _ in 0..2 {
                let (io, _) = listener.accept().await.unwrap();
                let Io::Tcp(stream) = &io else { panic!("{io:?}") };
                let socket = SockRef::from(stream);
                assert!(socket.tcp_nodelay().unwrap());
                assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT);
            }
        }
    });
}

#[test]
fn workers_share_a_port_that_the_system_chose() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let first = Bound::bind(&tcp(any)).unwrap();
        let second = first.share().unwrap();
        assert_eq!(address(&first), address(&second));
        assert_ne!(address(&first).port(), 0);
        let to = address(&first);
        let serve = |bound: Bound| {
            std::thread::spawn(move || {
                worker().block_on(async move {
                    let listener = bound.listen().unwrap();
                    loop {
                        let (mut io, peer) = listener.accept().await.unwrap();
                        assert!(matches!(peer, Peer::Tcp(from) if from.ip().is_loopback()));
                        let word = read_exactly(&mut io, 4).await;
                        io.write_all(&word).await.unwrap();
                        if word == b"done" {
                            return;
                        }
                    }
                });
            })
        };
        let mut workers = vec![serve(first), serve(second)];
        run(async {
            // Until each has been told, whichever the kernel chooses.
            while !workers.is_empty() {
                if let Ok(stream) = tokio::net::TcpStream::connect(to).await {
                    let mut io = Io::from(stream);
                    // Lost where it was queued for the one that has just gone.
                    if io.write_all(b"done").await.is_ok() {
                        let _ = io.read(&mut [0; 4]).await;
                    }
                }
                workers.retain(|worker| !worker.is_finished());
            }
        });
    }
}

#[test]
fn a_taken_address_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let error = Bound::bind(&tcp(&at)).unwrap_err().to_string();
    assert!(error.contains(&at) && error.contains("in use"), "{error}");
}

#[test]
fn a_unix_socket_is_open_to_all_and_gone_with_its_last_listener() {
    let folder = tempfile::tempdir().unwrap();
    let at = ListenAt::Unix { folder: folder.path().to_owned(), port: 6432 };
    let file = folder.path().join(".s.PGSQL.6432");
    let bound = Bound::bind(&at).unwrap();
    let shared = bound.share().unwrap();
    assert_eq!(bound.address(), Some(Address::Unix(file.clone())));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o777);
    drop(bound);
    run(async {
        let listener = shared.listen().unwrap();
        let _client = StdUnixStream::connect(&file).unwrap();
        let (_io, peer) = listener.accept().await.unwrap();
        assert!(matches!(peer, Peer::Unix { uid, .. } if uid == rustix::process::getuid().as_raw()));
    });
    assert!(!file.exists());
}

#[test]
fn only_a_stale_socket_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = ListenAt::Unix { folder: folder.path().to_owned(), port: 1 };
    let file = folder.path().join(".s.PGSQL.1");

    let alive = StdUnixListener::bind(&file).unwrap();
    let refused = run(async { Bound::bind(&at) });
    assert!(matches!(refused, Err(ListenError::InUse(at)) if at == file));
    assert!(file.exists());
    drop(alive);
    let successor = Bound::bind(&at).unwrap();

    // Its file has been taken over meanwhile: that one must survive it.
    fs::remove_file(&file).unwrap();
    let other = StdUnixListener::bind(&file).unwrap();
    drop(successor);
    assert!(file.exists());
    drop(other);

    fs::remove_file(&file).unwrap();
    fs::write(&file, "a letter").unwrap();
    assert!(matches!(Bound::bind(&at), Err(ListenError::NotASocket(_))));
    assert_eq!(fs::read(&file).unwrap(), b"a letter");

    let nowhere = ListenAt::Unix { folder: folder.path().join("nowhere"), port: 1 };
    let error = Bound::bind(&nowhere).unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn without_descriptors_it_rests_between_attempts_and_recovers() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // The limit is the whole process's: nextest runs each test in its own.
    if std::env::var_os("NEXTEST").is_none() {
        return;
    }
    worker().block_on(async {
        let bound = Bound::bind(&tcp("127.0.0.1:0")).unwrap();
        let to = address(&bound);
        let listener = bound.listen().unwrap();
        let _client = std::net::TcpStream::connect(to).unwrap();
        let limits = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limits }).unwrap();
        let mut hoard = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            hoard.push(file);
        }
        let before = crate::net::now();
        for _ in 0..4 {
            let error = listener.accept().await.unwrap_err();
            assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::MFILE));
        }
        // Three rests lie between four attempts.
        assert!(crate::net::now() - before >= std::time::Duration::from_millis(300), "{:?}", crate::net::now() - before);
        mem::take(&mut hoard);
        listener.accept().await.unwrap();
    });
}
