//! What an idle client costs in heap, counted by the allocator: the proxy runs inside this test.

#![allow(clippy::unwrap_used, reason = "a test stops at whatever surprises it")]

mod harness;

use std::alloc::System;
use std::net::{SocketAddr, TcpListener};

use harness::{Light, PATIENCE, Postgres, eventually};
use pgweir::auth::KeyCache;
use pgweir::config;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes of heap in use.
fn heap() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn an_idle_plaintext_client_costs_little_more_than_a_kibibyte_of_heap() {
    const CLIENTS: usize = 5_000;
    let pg = Postgres::start().await;
    let (address, port) = (free_address(), pg.port());
    let text = format!(
        r#"
        [listen]
        postgres = ["{address}"]
        http = "off"
        [upstreams.main]
        host = "127.0.0.1"
        port = {port}
        [databases.app]
        upstream = "main"
        [users.app]
        password = "secret"
        "#
    );
    let loaded = config::parse_str(&text).unwrap_or_else(|mistakes| panic!("{}", mistakes[0]));
    // It ends with the process: nextest runs each test in its own.
    std::thread::spawn(move || pgweir::daemon::run(loaded.config, Box::new(|_| Err(Vec::new())), Box::new(|_| {})));
    eventually("the proxy listens", PATIENCE, || async { std::net::TcpStream::connect(address).is_ok() }).await;

    let mut keys = KeyCache::new(4);
    // The tables that grow with the number of clients have doubled by then to what 8,192 need.
    let mut clients = Vec::with_capacity(2 * CLIENTS);
    clients.extend((0..CLIENTS).map(|_| Light::login(address, &mut keys)));
    let before = heap();
    clients.extend((0..CLIENTS / 2).map(|_| Light::login(address, &mut keys)));
    let each = (heap() - before) / (CLIENTS / 2);
    println!("an idle client costs {each} bytes of heap");
    // The budget is a kibibyte; tokio's task is rounded up to a multiple of 128 bytes and takes more than half of this.
    assert!(each <= 1280, "an idle client costs {each} bytes of heap");
    assert_eq!(clients[0].value("SELECT 1"), "1");
}
