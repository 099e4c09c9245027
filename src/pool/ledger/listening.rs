//! The ledger's part for connections that listen for all clients of their pool: they count like any other, but no tenant holds them.

use super::{Ledger, ServerId, State, Step};
use crate::net::Moment;

impl Ledger {
    /// A connection listens from now on for whoever wants to hear of its pool's clients, and its tenant holds it no more. False where that would leave less than half
    /// of the connections for work, or take one that is reserved: then all is as before.
    pub fn listens(&mut self, now: Moment, server: ServerId, steps: &mut Vec<Step>) -> bool {
        let leases = self.accounts.budget();
        let most = self.budget.min(self.configured) / 2;
        if self.listening >= most || leases <= 1 + self.accounts.all_reserved() {
            return false;
        }
        self.relieve(now, server, true);
        let book = self.book(server);
        (book.state, book.since) = (State::Listening, now);
        self.listening += 1;
        self.listening_changed();
        self.look_again = now;
        self.provide(now, steps);
        true
    }

    /// A connection listens no more.
    #[cold]
    pub(super) fn listens_no_more(&mut self) {
        self.listening -= 1;
        self.listening_changed();
    }
}
