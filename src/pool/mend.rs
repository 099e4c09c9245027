//! Putting a connection in order after its client has left it in the middle of something. Checklist E2, E3, I7; rule 9 of admission.

use std::rc::Rc;

use bytes::BytesMut;

use super::lease::Lease;
use super::local::Local;
use crate::net::now;
use crate::upstream::{Broken, Server};
use crate::wire::{Status, say};

/// Cancels, drains, rolls back, resets and gives back; or closes, when that does not succeed in time.
pub(super) async fn mend(mut lease: Lease, local: Rc<Local>, cancel: bool) {
    let upstream = lease.pool().upstream.clone();
    let limit = upstream.times.load().settle;
    if cancel && lease.server().state.owed.owes() && !lease.server().state.owed.is_copying_in() {
        lease.cancel(Vec::new());
    }
    let clock = Rc::clone(&local.clock);
    match clock.within(limit, put_in_order(lease.server_mut())).await {
        Some(Ok(())) => lease.give_back(now()),
        Some(Err(why)) => {
            tracing::info!(upstream = upstream.name, %why, "a connection that its client had left could not be put in order and is closed");
        }
        None => tracing::info!(
            upstream = upstream.name,
            limit_ms = limit.as_millis(),
            "a connection that its client had left was not put in order in time and is closed"
        ),
    }
}

async fn put_in_order(server: &mut Server) -> Result<(), Broken> {
    finish(server).await?;
    while server.state.owed.is_copying_in() {
        // What was sent before its client had gone was a COPY, which has only begun now.
        finish(server).await?;
    }
    if server.state.owed.status() != Status::Idle {
        server.run_surely(b"ROLLBACK").await?.map_err(Broken::Refused)?;
    }
    if server.state.dirty {
        server.reset().await?.map_err(Broken::Refused)?;
    }
    if server.state.owed.is_settled() && !server.state.owed.is_doubtful() { Ok(()) } else { Err(Broken::Closed) }
}

/// Ends what the client has left open, and reads what is owed for it all, or up to the beginning of a COPY.
async fn finish(server: &mut Server) -> Result<(), Broken> {
    let mut out = BytesMut::new();
    let owed = &mut server.state.owed;
    if owed.is_copying_in() {
        say::copy_fail(&mut out, "the client has gone");
        owed.sent(b'f');
    }
    if owed.has_open_batch() && !owed.is_skipping() {
        // A Sync alone would commit what its client has not asked to be committed.
        say::spoil(&mut out);
        owed.sent(b'D');
    }
    if owed.has_open_batch() || owed.is_skipping() {
        say::sync(&mut out);
        owed.sent(b'S');
    }
    if !out.is_empty() {
        server.io.write_all(&out).await?;
    }
    // The answer to what was cancelled is an error, and no news.
    let _ = server.finish().await?;
    Ok(())
}
