//! What a transaction costs that no clock is needed for: allocations, counted by the allocator with the proxy inside this test; system calls, counted by strace.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at whatever surprises it")]

mod harness;

use std::alloc::System;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use harness::frames::{bind, describe, execute, parse, query, sync};
use harness::{Light, PATIENCE, Postgres, Proxy, eventually, start_inside, start_inside_with};
use pgweir::auth::KeyCache;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TRANSACTIONS: usize = 3_000;

/// The ways to say a transaction, as drivers do.
fn ways(client: &mut Light) -> Vec<(&'static str, Vec<u8>)> {
    client.answer_length(&[parse("kept", "SELECT $1::int + 1", &[23]), sync()].concat());
    vec![
        ("simple", query("SELECT 1")),
        ("a block in one text", query("BEGIN; SELECT 1; COMMIT")),
        ("prepared", [bind("", "kept", &[Some("1")]), execute("", 0), sync()].concat()),
        ("unnamed", [parse("", "SELECT 1", &[]), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat()),
        ("pipelined", [bind("", "kept", &[Some("1")]), execute("", 0), bind("", "kept", &[Some("2")]), execute("", 0), sync()].concat()),
    ]
}

/// The control thread looks after the pools some times a second meanwhile; a transaction that allocates would count thousands.
const BESIDE: usize = TRANSACTIONS / 5;

/// How often the process allocates while this is done over and over.
fn allocations(mut transaction: impl FnMut()) -> usize {
    (0..100).for_each(|_| transaction());
    let before = ALLOCATOR.stats();
    (0..TRANSACTIONS).for_each(|_| transaction());
    let after = ALLOCATOR.stats();
    after.allocations + after.reallocations - before.allocations - before.reallocations
}

#[tokio::test]
async fn a_steady_transaction_allocates_nothing() {
    let pg = Postgres::start().await;
    let address = start_inside(&pg).await;
    let mut client = Light::login(address, &mut KeyCache::new(4));
    let mut bad = Vec::new();
    for (name, request) in ways(&mut client) {
        let mut answer = vec![0; client.answer_length(&request)];
        let count = allocations(|| client.exchange(&request, &mut answer));
        println!("{name}: {count} allocations in {TRANSACTIONS} transactions");
        if count >= BESIDE {
            bad.push((name, count));
        }
    }
    assert!(bad.is_empty(), "allocations in {TRANSACTIONS} transactions: {bad:?}");
}

/// One that waits for the only server connection: it asks while another has that, and is served when the other is done.
#[tokio::test]
async fn a_transaction_that_has_to_wait_allocates_nothing_either() {
    let pg = Postgres::start().await;
    let address = start_inside_with(&pg, 1).await;
    let mut keys = KeyCache::new(4);
    let (mut holder, mut waiter) = (Light::login(address, &mut keys), Light::login(address, &mut keys));
    let held = ["BEGIN", "SELECT 1", "COMMIT"].map(query);
    let mut answers = held.clone().map(|request| vec![0; holder.answer_length(&request)]);
    let mut bad = Vec::new();
    for (name, request) in ways(&mut waiter) {
        let mut answer = vec![0; waiter.answer_length(&request)];
        let wait_once = || {
            for (at, (request_of_holder, taken)) in held.iter().zip(&mut answers).enumerate() {
                holder.send(request_of_holder);
                holder.take(taken);
                // Behind BEGIN; the proxy knows of it when the holder has its next answer.
                if at == 0 {
                    waiter.send(&request);
                }
            }
            waiter.take(&mut answer);
        };
        let count = allocations(wait_once);
        println!("{name}: {count} allocations in {TRANSACTIONS} transactions");
        if count >= BESIDE {
            bad.push((name, count));
        }
    }
    assert!(bad.is_empty(), "allocations in {TRANSACTIONS} transactions that waited: {bad:?}");
}

/// How often each system call was made by this process, as strace counts them, while `work` was done.
async fn counted(pid: u32, work: impl FnOnce()) -> BTreeMap<String, f64> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-q", "-o"])
        .arg(file.path())
        .args(["-p", &pid.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace, which tests/setup installs");
    // Each thread is stopped by whoever traces it, which its status names.
    let is_traced = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads
            .flatten()
            .all(|thread| std::fs::read_to_string(thread.path().join("status")).is_ok_and(|status| !status.contains("TracerPid:\t0\n")))
    };
    eventually("strace is there", PATIENCE, async || is_traced()).await;
    work();
    rustix::process::kill_process(rustix::process::Pid::from_raw(strace.id().cast_signed()).unwrap(), rustix::process::Signal::INT)
        .unwrap();
    strace.wait().unwrap();
    let table = std::fs::read_to_string(file.path()).unwrap();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(((*words.last()?).to_owned(), words.get(3)?.parse().ok()?))
    };
    table.lines().filter_map(row).filter(|(name, _)| name != "total").collect()
}

#[tokio::test]
async fn a_transaction_makes_the_system_calls_that_it_must_and_no_other() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let mut client = Light::login(proxy.address(), &mut KeyCache::new(4));
    for (name, request) in ways(&mut client) {
        let mut answer = vec![0; client.answer_length(&request)];
        let calls = counted(proxy.pid(), || {
            for _ in 0..TRANSACTIONS {
                client.exchange(&request, &mut answer);
            }
        })
        .await;
        let each = |name: &str| calls.get(name).copied().unwrap_or(0.0) / f64::from(u32::try_from(TRANSACTIONS).unwrap());
        let (sends, receives, waits) = (each("sendto"), each("recvfrom"), each("epoll_wait"));
        println!("{name}: {sends:.3} sendto, {receives:.3} recvfrom, {waits:.3} epoll_wait; all: {calls:?}");
        // One to each side, one from each, and a wait before either. Timers, and the control thread's looks, come some times a second; under strace a transaction is slow.
        assert!((1.9..2.1).contains(&sends) && (1.9..2.1).contains(&receives), "{name}: {calls:?}");
        assert!(waits < 2.4, "{name}: {calls:?}");
        for rare in ["epoll_ctl", "futex", "write", "read"] {
            assert!(each(rare) < 0.25, "{name}: {rare} in {calls:?}");
        }
    }
}

#[tokio::test]
async fn a_login_makes_no_more_system_calls_than_its_exchange_needs() {
    const LOGINS: u32 = 200;
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let mut keys = KeyCache::new(4);
    // The first has a server asked what there is to report.
    drop(Light::login(proxy.address(), &mut keys));
    let calls = counted(proxy.pid(), || {
        for _ in 0..LOGINS {
            drop(Light::login(proxy.address(), &mut keys));
        }
    })
    .await;
    let each = |name: &str| calls.get(name).copied().unwrap_or(0.0) / f64::from(LOGINS);
    println!("{calls:?}");
    // Which mechanisms there are, the challenge, and the end of the exchange together with all that follows.
    assert!((2.9..3.2).contains(&each("sendto")), "{calls:?}");
    // What a socket's options are to be is known to the one that listens.
    assert!(each("setsockopt") < 0.1, "{calls:?}");
}
