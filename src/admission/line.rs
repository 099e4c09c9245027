//! The line of one pool: its waiting clients, by tenant and by worker, oldest first.
//!
//! A client may leave from the middle at no cost: what it leaves behind in a queue is passed over when it comes to the front.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use slab::Slab;

use super::accounts::{Accounts, TenantId};

/// By how much a waiter of the worker that has the server may be younger than the first of all and still go first: moving a connection between workers
/// costs a wake-up and a few system calls.
const NEIGHBOURLY: Duration = Duration::from_millis(5);

/// A place in a line, by which its holder can leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    key: u32,
    number: u64,
}

/// A waiting client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Whose client it is.
    pub tenant: TenantId,
    /// The worker that it lives on.
    pub worker: u16,
    /// Where that worker keeps it.
    pub slot: u32,
    /// Since when it waits.
    pub since: Instant,
    number: u64,
}

#[derive(Debug)]
struct Queue {
    tenant: TenantId,
    worker: u16,
    places: VecDeque<Ticket>,
    /// How many of `places` are not left behind.
    waiting: u32,
}

/// The waiting clients of one pool.
#[derive(Debug, Default)]
pub struct Line {
    entries: Slab<Entry>,
    queues: Vec<Queue>,
    next_number: u64,
}

impl Line {
    /// How many wait.
    #[inline]
    pub fn len(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// Whether nobody waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A client comes to wait at the end.
    pub fn join(&mut self, tenant: TenantId, worker: u16, slot: u32, since: Instant) -> Ticket {
        self.next_number += 1;
        let number = self.next_number;
        let key = self.entries.insert(Entry { tenant, worker, slot, since, number });
        let ticket = Ticket { key: u32::try_from(key).unwrap_or(u32::MAX), number };
        let found = self.queues.iter().position(|queue| queue.tenant == tenant && queue.worker == worker);
        let at = found.unwrap_or_else(|| {
            self.queues.push(Queue { tenant, worker, places: VecDeque::new(), waiting: 0 });
            self.queues.len() - 1
        });
        self.queues[at].places.push_back(ticket);
        self.queues[at].waiting += 1;
        ticket
    }

    /// A client leaves; `None` where it has been served already.
    pub fn leave(&mut self, ticket: Ticket) -> Option<Entry> {
        let key = ticket.key as usize;
        if self.entries.get(key).is_none_or(|entry| entry.number != ticket.number) {
            return None;
        }
        Some(self.remove(key))
    }

    fn remove(&mut self, key: usize) -> Entry {
        let entry = self.entries.remove(key);
        if let Some(queue) = self.queues.iter_mut().find(|queue| queue.tenant == entry.tenant && queue.worker == entry.worker) {
            queue.waiting = queue.waiting.saturating_sub(1);
        }
        entry
    }

    /// The next to be served among the tenants that may hold one more, preferring equals on `worker`.
    pub fn next(&mut self, accounts: &Accounts, worker: u16) -> Option<Entry> {
        let key = self.first(accounts, Some(worker))?;
        Some(self.remove(key))
    }

    /// How many could be served if there were connections enough: those beyond their tenant's room do not count.
    pub fn demand(&self, accounts: &Accounts) -> u32 {
        let mut demand = 0;
        for (at, queue) in self.queues.iter().enumerate() {
            if self.queues[..at].iter().any(|earlier| earlier.tenant == queue.tenant) {
                continue;
            }
            let waiting: u32 = self.queues[at..].iter().filter(|later| later.tenant == queue.tenant).map(|later| later.waiting).sum();
            demand += waiting.min(accounts.room(queue.tenant));
        }
        demand
    }

    /// The worker of the next to be served.
    pub fn first_worker(&mut self, accounts: &Accounts) -> Option<u16> {
        let key = self.first(accounts, None)?;
        self.entries.get(key).map(|entry| entry.worker)
    }

    /// Since when the next to be served waits.
    pub fn oldest(&mut self, accounts: &Accounts) -> Option<Instant> {
        let key = self.first(accounts, None)?;
        self.entries.get(key).map(|entry| entry.since)
    }

    /// The key of the first eligible entry; those who left are dropped on the way.
    fn first(&mut self, accounts: &Accounts, worker: Option<u16>) -> Option<usize> {
        let mut best: Option<(u64, Instant, usize)> = None;
        let mut best_here: Option<(Instant, usize)> = None;
        let mut best_here_number = u64::MAX;
        for queue in &mut self.queues {
            while let Some(ticket) = queue.places.front()
                && self.entries.get(ticket.key as usize).is_none_or(|entry| entry.number != ticket.number)
            {
                queue.places.pop_front();
            }
            let Some(ticket) = queue.places.front() else { continue };
            if !accounts.may_hold(queue.tenant) {
                continue;
            }
            let key = ticket.key as usize;
            let Some(entry) = self.entries.get(key) else { continue };
            if best.is_none_or(|(number, _, _)| entry.number < number) {
                best = Some((entry.number, entry.since, key));
            }
            if Some(queue.worker) == worker && entry.number < best_here_number {
                best_here_number = entry.number;
                best_here = Some((entry.since, key));
            }
        }
        let (_, since, key) = best?;
        match best_here {
            Some((here, near)) if here.saturating_duration_since(since) <= NEIGHBOURLY => Some(near),
            _ => Some(key),
        }
    }

    /// Everyone leaves.
    pub fn drain(&mut self) -> impl Iterator<Item = Entry> {
        self.queues.clear();
        std::mem::take(&mut self.entries).into_iter().map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Limits;

    fn accounts() -> Accounts {
        Accounts::new(10, &[Limits::default(), Limits { most: Some(1), ..Limits::default() }])
    }

    #[test]
    fn first_come_first_served_across_tenants() {
        let (mut line, accounts, now) = (Line::default(), accounts(), Instant::now());
        for slot in 0..4 {
            line.join(TenantId(u16::from(slot % 2 == 1)), 0, slot, now);
        }
        let order: Vec<u32> = std::iter::from_fn(|| line.next(&accounts, 0)).map(|entry| entry.slot).collect();
        assert_eq!(order, [0, 1, 2, 3]);
    }

    #[test]
    fn a_tenant_at_its_cap_is_passed_over_and_keeps_its_place() {
        let (mut line, mut accounts, now) = (Line::default(), accounts(), Instant::now());
        accounts.hold(TenantId(1));
        line.join(TenantId(1), 0, 7, now);
        line.join(TenantId(0), 0, 8, now);
        assert_eq!(line.next(&accounts, 0).unwrap().slot, 8);
        assert_eq!(line.next(&accounts, 0), None);
        accounts.release(TenantId(1));
        assert_eq!(line.next(&accounts, 0).unwrap().slot, 7);
    }

    #[test]
    fn who_has_left_is_not_served_and_who_was_served_cannot_leave() {
        let (mut line, accounts, now) = (Line::default(), accounts(), Instant::now());
        let first = line.join(TenantId(0), 0, 1, now);
        let second = line.join(TenantId(0), 0, 2, now);
        assert!(line.leave(first).is_some());
        assert_eq!(line.leave(first), None);
        assert_eq!(line.next(&accounts, 0).unwrap().slot, 2);
        assert_eq!(line.leave(second), None);
        let third = line.join(TenantId(0), 0, 3, now);
        assert_eq!(line.leave(second), None, "a reused key is not the old place");
        assert!(line.leave(third).is_some());
        assert!(line.is_empty());
    }

    #[test]
    fn a_neighbour_goes_first_only_within_the_age_bound() {
        let (mut line, accounts, now) = (Line::default(), accounts(), Instant::now());
        line.join(TenantId(0), 0, 1, now);
        line.join(TenantId(0), 1, 2, now + Duration::from_millis(2));
        assert_eq!(line.next(&accounts, 1).unwrap().slot, 2);
        line.join(TenantId(0), 1, 3, now + Duration::from_millis(50));
        assert_eq!(line.next(&accounts, 1).unwrap().slot, 1);
    }
}
