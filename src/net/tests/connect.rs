//! Connecting to what is there, and what is said when nothing is.

use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};

use super::run;
use crate::net::{Address, ConnectError, ConnectOptions, Found, Io, Keepalive, connect, connect_to, now};

const OPTIONS: ConnectOptions = ConnectOptions {
    timeout: Duration::from_secs(5),
    keepalive: Some(Keepalive { idle: Duration::from_secs(7), interval: Duration::from_secs(3), count: 4 }),
    user_timeout: Some(Duration::from_secs(9)),
};

#[test]
fn a_name_is_resolved_and_the_address_that_answered_is_told() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // `localhost` may be ::1 first, where nobody listens.
        let Found { io, address, addresses } = connect("localhost", port, &OPTIONS).await.unwrap();
        assert_eq!(address, Address::Tcp(listener.local_addr().unwrap()));
        assert!(addresses.contains(&address), "{addresses:?}");
        let Io::Tcp(stream) = &io else { panic!("{io:?}") };
        let socket = SockRef::from(stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
        connect_to(&address, &OPTIONS).await.unwrap();
    });
}

#[test]
fn a_folder_is_a_unix_socket() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".s.PGSQL.5433");
        let _listener = UnixListener::bind(&file).unwrap();
        let Found { io, address, .. } = connect(folder.path().to_str().unwrap(), 5433, &OPTIONS).await.unwrap();
        assert!(matches!(io, Io::Unix(_)));
        assert_eq!(address, Address::Unix(file.clone()));
        connect_to(&address, &OPTIONS).await.unwrap();
        let error = connect(folder.path().to_str().unwrap(), 1, &OPTIONS).await.unwrap_err().to_string();
        assert!(error.contains(".s.PGSQL.1") && error.contains("No such file"), "{error}");
    });
}

#[test]
fn a_closed_port_is_refused_by_name_and_address() {
    run(async {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = connect("127.0.0.1", free.port(), &OPTIONS).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }));
        assert!(error.to_string().contains(&free.to_string()) && error.to_string().contains("refused"), "{error}");
    });
}

#[test]
fn a_name_that_is_none_is_told() {
    run(async {
        let error = connect("no-such-host.invalid", 5432, &OPTIONS).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Resolve { .. }), "{error}");
        assert!(error.to_string().contains("no-such-host.invalid"));
    });
}

#[test]
fn a_server_that_swallows_packets_is_given_up_in_time() {
    run(async {
        // A backlog that is full drops further attempts without a word.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let options = ConnectOptions { timeout: Duration::from_millis(200), ..OPTIONS };
        let mut kept = Vec::new();
        let error = loop {
            let start = now();
            match connect("127.0.0.1", port, &options).await {
                Ok(io) => kept.push(io),
                Err(error) => {
                    assert!(now() - start >= Duration::from_millis(190), "{:?}", now() - start);
                    break error;
                }
            }
            assert!(kept.len() < 10, "the backlog has no end");
        };
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    });
}
