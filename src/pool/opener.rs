//! The control thread's side of the pools: it opens connections and delivers cancels, so that no client's impatience wastes either.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::sync::mpsc::UnboundedReceiver;

use super::auth_query::AuthQueries;
use super::ledger::ServerId;
use super::mail::{Job, Mail};
use super::shared::{Open, Pool, Upstream};
use crate::metrics::ConnectOutcome;
use crate::net::{connect, now};
use crate::upstream::{self, Broken, CANCEL_LIMIT, Kind, Travelling};

/// Carries out jobs until nobody is left to send any.
pub async fn serve(mut jobs: UnboundedReceiver<Job>) {
    let auth_queries = Rc::new(AuthQueries::default());
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Open { pool, server, worker } => {
                tokio::task::spawn_local(open(pool, server, worker));
            }
            Job::Cancel { upstream, card, finished, worker } => {
                tokio::task::spawn_local(async move {
                    let _turn = upstream.cancels.acquire().await;
                    let target = upstream.target();
                    let still_wanted = || card.finished.load(Ordering::Acquire) == finished;
                    if let Err(why) = upstream::cancel(&target, &card, CANCEL_LIMIT, still_wanted).await {
                        tracing::warn!(upstream = upstream.name, %why, "a cancel could not be delivered");
                    }
                    upstream.send(worker, Mail::CancelDone { card });
                });
            }
            Job::Share { upstream, post } => {
                tokio::task::spawn_local(super::slots::hold(upstream, post));
            }
            Job::AuthQuery { upstream, config, user, reply } => {
                let auth_queries = Rc::clone(&auth_queries);
                tokio::task::spawn_local(async move {
                    // The client may have left meanwhile; the answer is remembered for its next attempt.
                    let _ = reply.send(auth_queries.ask(&upstream, &config, &user).await);
                });
            }
        }
    }
}

async fn open(pool: Arc<Pool>, server: ServerId, worker: u16) {
    let upstream = Arc::clone(&pool.upstream);
    let login = pool.login.load_full();
    let began = now();
    let opened = upstream.connect(&login).await;
    let opened = opened.and_then(|fresh| {
        let tls = fresh.io.tls_info().map(|info| info.version);
        Ok::<_, Broken>((tls, Travelling::fresh(fresh, now())?))
    });
    match opened {
        Ok((tls, travelling)) => {
            upstream.note_open(server, Open { card: Arc::clone(travelling.card()), tls, at: SystemTime::now() });
            upstream.numbers.connected(ConnectOutcome::Ok, now() - began);
            upstream.send(worker, Mail::Opened { pool, server, travelling });
        }
        Err(why) => {
            note_failure(&upstream, &pool, &why, now() - began);
            upstream.open_failed(now(), &pool, server, why);
        }
    }
}

/// The operator hears of every refusal, in the server's own words.
fn note_failure(upstream: &Upstream, pool: &Pool, why: &Broken, took: std::time::Duration) {
    let outcome = if why.server_error().is_some() { ConnectOutcome::Refused } else { ConnectOutcome::Failed };
    upstream.numbers.connected(outcome, took);
    let (user, database) = (String::from_utf8_lossy(&pool.key.user), String::from_utf8_lossy(&pool.key.database));
    let sqlstate = why.server_error().and_then(|error| error.fields().sqlstate().map(|code| String::from_utf8_lossy(code).into_owned()));
    if why.kind() == Kind::Unreachable && upstream.ledger.lock().is_down() {
        // It was said when it began.
        tracing::debug!(upstream = upstream.name, %user, %database, sqlstate, %why, "the upstream still does not answer");
        return;
    }
    tracing::warn!(upstream = upstream.name, %user, %database, sqlstate, %why, "a server connection could not be opened");
}

/// Asks an upstream that has no connection, and nobody who wants one, whether it is there: by connecting, no more.
pub async fn probe(upstream: Arc<Upstream>) {
    let target = upstream.target();
    let mut up = false;
    for place in &target.places {
        up = up || connect(&place.host, place.port, &target.options).await.is_ok();
    }
    if up != upstream.numbers.is_up() {
        tracing::info!(upstream = upstream.name, up, "the upstream's state has changed");
    }
    upstream.numbers.set_up(up);
}
