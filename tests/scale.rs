//! Many and large: ten thousand idle clients, a row of half a gigabyte, pgbench with hundreds of clients. What is asserted here are bounds that a
//! multiple lies between; how fast it all is, `benches/compare` tells.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use harness::{Light, PATIENCE, Postgres, Proxy, eventually, frames};
use pgweir::auth::KeyCache;

const SERVER_CONNECTIONS: u32 = 5;

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
        .set("defaults.max_queue", 20_000)
        .set("defaults.queue_timeout", "60s")
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
    // The kernel's pages and the allocator's slack are in this; tests/idle_memory.rs counts the heap itself.
    assert!(each < 4096, "an idle client costs {each} bytes");

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
    assert!(each < 3 * 4096, "a client that is idle again costs {each} bytes");
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
