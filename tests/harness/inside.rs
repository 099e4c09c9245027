//! The proxy inside the test's own process, so that its allocations can be counted.

use std::net::{SocketAddr, TcpListener};

use pgweir::{config, daemon};

use super::{PATIENCE, Postgres, eventually};

/// Starts the proxy on a thread of this process, in front of `postgres`, with the user and database `app`; it ends with the process, of which nextest makes one for each
/// test. Where it listens.
pub async fn start_inside(postgres: &Postgres) -> SocketAddr {
    start_inside_with(postgres, 40).await
}

/// The same over so many server connections.
pub async fn start_inside_with(postgres: &Postgres, max_connections: u32) -> SocketAddr {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = postgres.port();
    let text = format!(
        r#"
        [listen]
        postgres = ["{address}"]
        http = "off"
        [upstreams.main]
        host = "127.0.0.1"
        port = {port}
        max_connections = {max_connections}
        [databases.app]
        upstream = "main"
        [users.app]
        password = "secret"
        "#
    );
    let loaded = config::parse_str(&text).unwrap_or_else(|mistakes| panic!("{}", mistakes[0]));
    let source = || daemon::Source { read: Box::new(|_| Err(Vec::new())), file: None };
    std::thread::spawn(move || daemon::run(loaded.config, source(), Box::new(|_| {})));
    eventually("the proxy listens", PATIENCE, || async { std::net::TcpStream::connect(address).is_ok() }).await;
    address
}
