//! Many and large: ten thousand idle clients, a row of half a gigabyte, pgbench with hundreds of clients. What is asserted here are bounds that a
//! multiple lies between; how fast it all is, `benches/compare` tells.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use harness::{PATIENCE, Postgres, Proxy, eventually, frames};
use pgweir::auth::scram::client::{self, Binding};
use pgweir::auth::{CacheKey, KeyCache, random};

const SERVER_CONNECTIONS: u32 = 5;

/// A client that needs a socket and nothing else, so that ten thousand of them fit beside everything else of a test.
struct Light {
    socket: TcpStream,
}

impl Light {
    /// Logs in by SCRAM. The keys are derived once: the proxy's salt for a user stays the same.
    fn login(to: SocketAddr, keys: &mut KeyCache) -> Self {
        let socket = TcpStream::connect(to).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut light = Self { socket };
        light.send(&frames::startup(0x0003_0000, &[("user", "app"), ("database", "app")]));
        let (_, offered) = light.read();
        let start = client::start(offered[4..].split(|byte| *byte == 0), Binding::Unavailable, random().unwrap()).unwrap();
        light.send(&frames::sasl_initial(start.mechanism.name(), &start.message));
        let (_, first) = light.read();
        let challenged = start.next.challenge(&first[4..]).unwrap();
        let key = CacheKey::new(b"secret", challenged.salt(), challenged.iterations());
        let found = keys.find(&key).unwrap_or_else(|| {
            let derived = pgweir::auth::Keys::derive(b"secret", challenged.salt(), challenged.iterations()).unwrap();
            keys.insert(key, derived.clone());
            derived
        });
        let (wait, answer) = challenged.answer(&found);
        light.send(&frames::sasl(&answer));
        let (_, last) = light.read();
        wait.verify(&last[4..]).unwrap();
        light.until_ready();
        light
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn read(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.socket.read_exact(&mut head).unwrap();
        let [kind, length @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.socket.read_exact(&mut body).unwrap();
        assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&body));
        (kind, body)
    }

    /// Reads up to ReadyForQuery: the rows' bodies.
    fn until_ready(&mut self) -> Vec<Vec<u8>> {
        let mut rows = Vec::new();
        loop {
            match self.read() {
                (b'Z', _) => return rows,
                (b'D', row) => rows.push(row),
                _ => {}
            }
        }
    }

    /// A query of one row and one column.
    fn value(&mut self, sql: &str) -> String {
        self.send(&frames::query(sql));
        let rows = self.until_ready();
        String::from_utf8(rows[0][6..].to_vec()).unwrap()
    }
}

/// Resident bytes once they have come to rest: within a tenth of what they were a moment ago.
async fn resident(proxy: &Proxy) -> u64 {
    let mut before = 0;
    eventually("the proxy's memory comes to rest", PATIENCE, || {
        let now = proxy.resident_bytes();
        let rests = now.abs_diff(before) < now / 100;
        before = now;
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            rests
        }
    })
    .await;
    before
}

#[tokio::test]
async fn ten_thousand_idle_clients_cost_little_and_are_all_served_over_five_connections() {
    const CLIENTS: usize = 8_000;
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg)
        .max_connections(SERVER_CONNECTIONS)
        .set("clients.max_clients", 20_000)
        .set("defaults.max_clients", 20_000)
        .start()
        .await;
    let address = proxy.address();
    let mut keys = KeyCache::new(4);
    // What the first clients bring about (pools, buffers, the allocator's own pages) is not theirs alone.
    let mut clients: Vec<Light> = (0..2_000).map(|_| Light::login(address, &mut keys)).collect();
    let before = resident(&proxy).await;
    clients.extend((0..CLIENTS).map(|_| Light::login(address, &mut keys)));
    let each = resident(&proxy).await.saturating_sub(before) / CLIENTS as u64;
    println!("an idle client costs {each} bytes of resident memory");
    assert!(each < 2048, "an idle client costs {each} bytes");

    // A proxy that takes a server connection before it has read anything parks all of them at idle clients, and stands still.
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value(&format!("SELECT {number}")), number.to_string());
    }
    for client in &mut clients {
        client.send(&frames::query("SELECT 1"));
    }
    for client in &mut clients {
        assert_eq!(client.until_ready().len(), 1);
    }
    assert!(pg.backends("app").await <= SERVER_CONNECTIONS as usize);
    let each = resident(&proxy).await.saturating_sub(before) / CLIENTS as u64;
    println!("after they have all been served at once, {each} bytes");
    assert!(each < 3 * 2048, "a client that is idle again costs {each} bytes");
}

#[tokio::test]
async fn a_row_of_half_a_gigabyte_passes_in_little_memory() {
    const LENGTH: u64 = 500 * 1024 * 1024;
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let mut keys = KeyCache::new(4);
    let mut client = Light::login(proxy.address(), &mut keys);
    client.value("SELECT 1");
    let idle = proxy.resident_bytes();
    client.socket.set_read_timeout(Some(PATIENCE * 6)).unwrap();
    client.send(&frames::query(&format!("SELECT pg_catalog.repeat('x', {LENGTH})")));
    let (mut received, mut most) = (0u64, 0u64);
    let mut chunk = vec![0; 1 << 20];
    while received < LENGTH {
        let count = client.socket.read(&mut chunk).unwrap();
        assert_ne!(count, 0, "the connection ended after {received} bytes");
        received += count as u64;
        most = most.max(proxy.resident_bytes());
    }
    let grown = most.saturating_sub(idle);
    println!("the proxy grew by {grown} bytes");
    assert!(grown < 64 << 20, "the proxy grew by {grown} bytes");
}

/// Runs pgbench against the proxy: what it says of failed transactions, and that it exits well.
fn pgbench(proxy: &Proxy, arguments: &[&str]) {
    let done = Command::new("pgbench")
        .args(["-h", "127.0.0.1", "-p", &proxy.port().to_string(), "-U", "app", "-n", "-S", "-j", "2"])
        .args(arguments)
        .arg("app")
        .env("PGPASSWORD", "secret")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "pgbench {arguments:?}: {out}{err}");
    assert!(out.contains("number of failed transactions: 0 "), "pgbench {arguments:?}: {out}{err}");
}

#[tokio::test]
async fn pgbench_runs_clean_and_the_budget_holds() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(SERVER_CONNECTIONS).set("defaults.queue_timeout", "60s").start().await;
    let init = Command::new("pgbench").args(["-i", "-q", "-s", "1", &pg.url("app", "secret")]).output().unwrap();
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let work = async {
        tokio::task::spawn_blocking(move || {
            for mode in ["simple", "extended"] {
                for clients in ["1", "16", "64", "256"] {
                    pgbench(&proxy, &["-M", mode, "-c", clients, "-T", "1"]);
                }
            }
            // A connection for each transaction, as a Lambda function has it.
            pgbench(&proxy, &["-C", "-c", "16", "-t", "10"]);
        })
        .await
        .unwrap();
    };
    let ((), most) = pg.most_backends("app", Box::pin(work)).await;
    assert!((1..=SERVER_CONNECTIONS as usize).contains(&most), "{most} server connections were seen");
}
