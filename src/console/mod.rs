//! The admin database: what operators see and say over the PostgreSQL protocol, in PgBouncer's words and columns.
//!
//! `words` reads commands, `show` makes tables, `steer` carries out what changes something, `visit` speaks the protocol. It lives on the control thread, takes
//! no server connection and counts against no limit but its own, so that it answers while the proxy is full, paused or stopping.

mod complaint;
mod show;
mod steer;
mod table;
mod visit;
mod words;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::metrics::Snapshot;
use crate::session::{House, Visit};

pub use show::Period;
pub use words::Shutdown;

/// How many visitors there may be at once.
const MOST: usize = 64;

/// For how long averages are taken.
pub const PERIOD: Duration = Duration::from_mins(1);

/// What the console wants of the process.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration again.
    Reload,
    /// The same, with a setting that is to have this value from now on.
    Set {
        /// Its path.
        path: String,
        /// Its value.
        value: String,
    },
    /// Stop as at SIGTERM.
    Drain,
    /// Stop.
    Shutdown(Shutdown),
}

/// What the console asks the rest of the proxy.
pub trait Steward {
    /// What all threads share.
    fn house(&self) -> &Arc<House>;

    /// Everything at this moment.
    fn snapshot(&self) -> Snapshot;

    /// The numbers at the ends of the last period.
    fn period(&self) -> Period;

    /// Has something done; the answer comes when it is, or says why it was not.
    fn order(&self, order: Order) -> oneshot::Receiver<Result<(), String>>;
}

/// Serves visitors until nobody is left to send any. Runs in a local runtime that has timers.
pub async fn serve(mut visits: UnboundedReceiver<Visit>, steward: Rc<dyn Steward>) {
    let present = Rc::new(());
    while let Some(visit) = visits.recv().await {
        // One is the porter's own.
        let is_full = Rc::strong_count(&present) > MOST;
        let (steward, place) = (Rc::clone(&steward), Rc::clone(&present));
        tokio::task::spawn_local(async move {
            let peer = visit.peer;
            let outcome = if is_full { visit::turn_away(visit).await } else { visit::receive(visit, &*steward).await };
            if let Err(error) = outcome {
                tracing::debug!(client = %peer, %error, "a session of the admin database broke");
            }
            drop(place);
        });
    }
}
