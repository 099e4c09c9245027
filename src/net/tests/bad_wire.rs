//! TLS over a wire that cuts what it carries into any pieces, and sometimes changes it.

use std::cell::Cell;
use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, split};
use tokio_rustls::TlsConnector;

use super::certs::Authority;
use super::stream::VERSIONS;
use super::{run, stream_of};
use crate::net::tls::{Opening, accept_tls};

/// A small generator of numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// Passes bytes on in pieces of any size, and perhaps with one bit changed.
async fn pass_on(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, seed: u64, spoil: Option<usize>, moves: &Cell<usize>) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut passed = 0;
    let mut buf = vec![0; 20_000];
    loop {
        let size = match dice.roll(3) {
            0 => 1 + dice.roll(8),
            1 => 1 + dice.roll(600),
            _ => 1 + dice.roll(20_000),
        };
        let Ok(count @ 1..) = from.read(&mut buf[..size]).await else { break };
        if let Some(at) = spoil.filter(|at| (passed..passed + count).contains(at)) {
            buf[at - passed] ^= 1 << dice.roll(8);
        }
        passed += count;
        moves.set(moves.get() + 1);
        if to.write_all(&buf[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// We greet the oracle over a wire that cuts and perhaps spoils what it says: what each of us makes of it.
async fn over_a_bad_wire(
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    seed: u64,
    spoil: Option<usize>,
) -> (Result<(), String>, bool) {
    let (near, near_wire) = tokio::io::duplex(8000);
    let (far, far_wire) = tokio::io::duplex(8000);
    #[expect(clippy::disallowed_methods, reason = "this is the wire between the two ends, not one of them")]
    let ((near_out, near_in), (far_out, far_in)) = (split(near_wire), split(far_wire));
    let tls = authority.client_tls();
    let connector = TlsConnector::from(Arc::new(authority.oracle_client(version, &[], None)));
    let said = stream_of(60_000, 4);
    let ours = async {
        let mut io = accept_tls(near.into(), &[], &tls, Opening::Requested).await.map_err(|error| error.to_string())?;
        let mut got = vec![0; said.len()];
        let mut filled = 0;
        while filled < got.len() {
            match io.read(&mut got[filled..]).await {
                Ok(0) => return Err("ended".to_owned()),
                Ok(count) => filled += count,
                Err(error) => {
                    // It stays so, and nothing can be said any more.
                    assert!(io.read(&mut got[filled..]).await.is_err() && io.try_send(b"x").is_err());
                    io.shutdown();
                    return Err(error.to_string());
                }
            }
        }
        assert!(got == said, "wrong bytes were let through");
        io.write_all(&got).await.map_err(|error| error.to_string())?;
        Ok(())
    };
    let theirs = async {
        let Ok(mut oracle) = connector.connect("localhost".try_into().unwrap(), far).await else { return false };
        let mut echo = vec![0; said.len()];
        oracle.write_all(&said).await.is_ok() && oracle.flush().await.is_ok() && oracle.read_exact(&mut echo).await.is_ok() && echo == said
    };
    let moves = Cell::new(0);
    let all = async {
        tokio::join!(ours, theirs, pass_on(far_out, near_in, seed, spoil, &moves), pass_on(near_out, far_in, seed + 1, None, &moves))
    };
    tokio::select! {
        (ours, theirs, (), ()) = all => (ours, theirs),
        () = standstill(&moves) => (Err("both wait".to_owned()), false),
    }
}

/// Ends when nothing has moved for many turns: a changed length makes us wait for what was never sent.
async fn standstill(moves: &Cell<usize>) {
    let mut quiet = 0;
    while quiet < 1000 {
        let before = moves.get();
        tokio::task::yield_now().await;
        quiet = if moves.get() == before { quiet + 1 } else { 0 };
    }
}

#[test]
fn records_may_arrive_in_any_pieces() {
    run(async {
        let authority = Authority::new();
        for seed in 0..30 {
            for version in VERSIONS {
                assert_eq!(Box::pin(over_a_bad_wire(&authority, version, seed, None)).await, (Ok(()), true), "seed {seed}");
            }
        }
    });
}

#[test]
fn a_changed_bit_is_an_error_and_never_a_byte() {
    run(async {
        let authority = Authority::new();
        let mut dice = Dice(42);
        for round in 0..150 {
            for version in VERSIONS {
                // In the handshake as often as after it.
                let at = if round % 2 == 0 { dice.roll(600) } else { dice.roll(50_000) };
                let (ours, _) = Box::pin(over_a_bad_wire(&authority, version, round, Some(at))).await;
                // Some bits mean nothing: the version in a record's head, or in TLS 1.2 what the other side alone checks.
                assert!(ours.is_err() || at < 700, "round {round}: bit changed at {at} was not noticed");
            }
        }
    });
}
