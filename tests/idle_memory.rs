//! What an idle client costs in heap, counted by the allocator: the proxy runs inside this test.

#![allow(clippy::unwrap_used, reason = "a test stops at whatever surprises it")]

mod harness;

use std::alloc::System;

use harness::{Light, Postgres, start_inside};
use pgweir::auth::KeyCache;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes of heap in use.
fn heap() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

#[tokio::test]
async fn an_idle_plaintext_client_costs_little_more_than_a_kibibyte_of_heap() {
    const CLIENTS: usize = 5_000;
    let pg = Postgres::start().await;
    let address = start_inside(&pg).await;
    let mut keys = KeyCache::new(4);
    // The tables that grow with the number of clients have doubled by then to what 8,192 need.
    let mut clients = Vec::with_capacity(2 * CLIENTS);
    clients.extend((0..CLIENTS).map(|_| Light::login(address, &mut keys)));
    // What else grows meanwhile grows once: it is in one half's figure and not in the other's.
    let each = (0..2).map(|_| {
        let before = heap();
        clients.extend((0..CLIENTS / 4).map(|_| Light::login(address, &mut keys)));
        (heap() - before) / (CLIENTS / 4)
    });
    let each = each.min().unwrap();
    println!("an idle client costs {each} bytes of heap");
    // The budget is a kibibyte; tokio's task is rounded up to a multiple of 128 bytes and takes more than half of this.
    assert!(each <= 1280, "an idle client costs {each} bytes of heap");
    assert_eq!(clients[0].value("SELECT 1"), "1");
}
