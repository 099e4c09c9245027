//! Stopping without losing anybody's transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::worker::Workers;
use crate::session::{House, Mail};

/// How often it is looked whether something is still under way.
const LOOK: Duration = Duration::from_millis(20);
/// What is left, behind the end of the time, for what was cut off to be cancelled and rolled back: its server does not notice by itself that nobody waits for it.
const CUT: Duration = Duration::from_secs(1);
/// For so long logins that are under way may go on when no more begin.
const ENTERING: Duration = Duration::from_secs(1);
/// Within so long the workers have closed their doors, and who came in last is counted.
const CLOSING: Duration = Duration::from_millis(100);
/// So long after the last login may have begun idle clients are not told yet.
const SAYING: Duration = Duration::from_millis(250);
/// What is left for idle clients to hear that this was all.
const LAST: Duration = Duration::from_secs(2);

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// New clients are taken for a while, so that load balancers notice; then as `Prompt`.
    Graceful,
    /// No new clients; open transactions finish, as far as the time goes.
    Prompt,
    /// No new clients; those that are there leave when they like.
    Patient,
    /// Everybody is cut off.
    AtOnce,
}

/// Drains: new clients are still taken for the grace period, while `/readyz` tells load balancers to go elsewhere; then none; open transactions finish; idle clients
/// are told last, because many a program does not survive that; and when the time is over whoever is left is cut off.
///
/// Cancel safe: a dropped future leaves everything as far as it was.
pub async fn drain(house: &Arc<House>, workers: &Workers, ending: Ending) {
    let (grace, timeout) = {
        let config = house.config.load();
        (config.process.shutdown_grace, config.process.shutdown_timeout)
    };
    let began = Instant::now();
    let deadline = began + timeout;
    if ending == Ending::Graceful {
        tracing::info!(
            grace_ms = grace.as_millis(),
            timeout_ms = timeout.as_millis(),
            "draining: not ready any more, still taking clients"
        );
        sleep_until(began + grace.min(timeout)).await;
    }
    workers.stop_listening();
    // Who has come in by the old door is served: another process may listen beside this one, and nobody need notice.
    let closed = Instant::now();
    let entering = if ending == Ending::AtOnce { Duration::ZERO } else { ENTERING };
    until(deadline.min(closed + entering), || house.entering() == 0 && Instant::now() >= closed + CLOSING).await;
    house.draining.store(true, Ordering::Relaxed);
    tracing::info!(clients = house.clients(), "draining: no new clients, open transactions finish");
    // An answer over HTTP may still be on its way when its caller is no client any more.
    let is_over = || house.clients() == 0 && house.metrics.api.connections.get() == 0 && !is_busy(house);
    match ending {
        Ending::Graceful | Ending::Prompt => {
            // One that has just logged in is about to say what it came for.
            let said = closed + SAYING;
            until(deadline.checked_sub(LAST).unwrap_or(began), || !is_busy(house) && Instant::now() >= said).await;
            house.tell_all(|| Mail::Drain);
            until(deadline, is_over).await;
        }
        Ending::Patient => {
            while !is_over() {
                sleep(LOOK).await;
            }
        }
        Ending::AtOnce => house.tell_all(|| Mail::Kill),
    }
    let deadline = if ending == Ending::AtOnce { began } else { deadline };
    if house.clients() > 0 && ending != Ending::AtOnce {
        tracing::warn!(clients = house.clients(), "the time to drain is over: the clients that are left are cut off");
        house.tell_all(|| Mail::Kill);
    }
    until(deadline + CUT, is_over).await;
}

/// Whether some client has a server connection, waits for one, or has left one that is still put in order.
fn is_busy(house: &House) -> bool {
    house.upstreams().iter().any(|upstream| upstream.ledger.lock().is_busy())
}

/// Waits until something is so, but not beyond a deadline.
async fn until(deadline: Instant, so: impl Fn() -> bool) {
    while !so() && Instant::now() < deadline {
        sleep_until((Instant::now() + LOOK).min(deadline)).await;
    }
}
