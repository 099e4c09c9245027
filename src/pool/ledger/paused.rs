//! The ledger's part for pools that an operator has paused: who asks waits, what is idle is closed, what is in use is closed when it comes back.

use super::{Ledger, PoolId, State, Step};
use crate::net::Moment;

impl Ledger {
    /// Nobody gets a connection of this pool until it goes on.
    pub fn pause(&mut self, pool: PoolId, now: Moment, steps: &mut Vec<Step>) {
        self.pool(pool).paused = true;
        self.close_all_idle(pool, steps);
        self.look_again = now;
        self.provide(now, steps);
    }

    /// Those who wait for this pool are served again.
    pub fn resume(&mut self, pool: PoolId, now: Moment, steps: &mut Vec<Step>) {
        self.pool(pool).paused = false;
        self.look_again = now;
        self.provide(now, steps);
    }

    /// Connections of this pool that are there, in whatever state; those that are being opened do not count, as nobody will get them while it is paused.
    pub fn is_empty(&self, pool: PoolId) -> bool {
        !self.servers.iter().any(|(_, book)| book.pool == pool && book.state != State::Opening)
    }
}
