//! The line of one pool: its waiting clients, by tenant and by worker.
//!
//! The tenant goes first whose clock is furthest behind; within it the client that has had the least server time lately, equals in order of arrival. Those
//! who have waited for longer than [`PASSED_OVER`] have a turn in between. Where a tenant's queue does not drain, its newest go first among equals.
//!
//! A client may leave from the middle at no cost: what it leaves behind in a queue is passed over when it comes to the front.

use crate::net::Moment;
use std::collections::VecDeque;
use std::time::Duration;

use slab::Slab;

use super::accounts::{Accounts, TenantId};
use super::recent::LEVELS;

/// By how much a waiter of the worker that has the server may be younger than the first of all, or its tenant ahead in server time, and still go first:
/// moving a connection between workers costs a wake-up and a few system calls.
const NEIGHBOURLY: Duration = Duration::from_millis(5);

/// Who has waited for so long takes turns with clients of its tenant that have had less lately.
const PASSED_OVER: Duration = Duration::from_secs(1);

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
    pub since: Moment,
    /// Its rank among the clients of its tenant; 0 is the first.
    pub level: u8,
    number: u64,
}

/// Who is next.
#[derive(Debug, Clone, Copy)]
pub struct Pick {
    key: usize,
    /// Whose client it is.
    pub tenant: TenantId,
    /// The worker that it lives on.
    pub worker: u16,
    /// Since when it waits.
    pub since: Moment,
    /// Where its tenant's clock stands.
    pub clock: u64,
    level: u8,
    /// Its place among equals: the lower goes first.
    order: u64,
    /// Since when the oldest of its equals waits.
    oldest: Moment,
    /// It goes before others for having waited so long.
    is_passed_over: bool,
}

impl Pick {
    fn goes_before(&self, other: &Self) -> bool {
        let rank = |pick: &Self| (pick.clock, pick.level, pick.order);
        if self.tenant != other.tenant && self.clock == other.clock {
            return self.since < other.since;
        }
        rank(self) < rank(other)
    }
}

#[derive(Debug)]
struct Queue {
    tenant: TenantId,
    worker: u16,
    places: [VecDeque<Ticket>; LEVELS],
    /// How many of `places` are not left behind.
    waiting: [u32; LEVELS],
    /// So many turns are for others before the next one that goes to whoever has waited so long.
    turns_for_others: u32,
}

impl Queue {
    fn new(tenant: TenantId, worker: u16) -> Self {
        Self { tenant, worker, places: Default::default(), waiting: [0; LEVELS], turns_for_others: 0 }
    }

    fn len(&self) -> u32 {
        self.waiting.iter().sum()
    }

    /// The first and the last of a level that have not left.
    fn ends(&mut self, level: usize, entries: &Slab<Entry>) -> Option<(Ticket, Ticket)> {
        let places = &mut self.places[level];
        if self.waiting[level] == 0 {
            places.clear();
            return None;
        }
        let has_left = |ticket: &Ticket| entries.get(ticket.key as usize).is_none_or(|entry| entry.number != ticket.number);
        while places.front().is_some_and(has_left) {
            places.pop_front();
        }
        while places.back().is_some_and(has_left) {
            places.pop_back();
        }
        Some((*places.front()?, *places.back()?))
    }

    /// Who of this queue is next.
    fn pick(&mut self, entries: &Slab<Entry>, newest_first: bool, clock: u64, now: Moment) -> Option<Pick> {
        let mut best: Option<Pick> = None;
        for level in 0..LEVELS {
            let Some((first, last)) = self.ends(level, entries) else { continue };
            let ticket = if newest_first { last } else { first };
            let key = ticket.key as usize;
            let (Some(entry), Some(oldest)) = (entries.get(key), entries.get(first.key as usize)) else { continue };
            let order = if newest_first { u64::MAX - entry.number } else { entry.number };
            let is_passed_over = !newest_first && self.turns_for_others == 0 && now.saturating_duration_since(entry.since) >= PASSED_OVER;
            let level = if is_passed_over { 0 } else { entry.level };
            let Entry { tenant, worker, since, .. } = *entry;
            let pick = Pick { key, tenant, worker, since, clock, level, order, oldest: oldest.since, is_passed_over };
            if best.is_none_or(|best| pick.goes_before(&best)) {
                best = Some(pick);
            }
        }
        best
    }
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

    /// How many of a tenant's clients would go before one more of rank `level`, were they all served in order.
    pub fn ahead(&self, tenant: TenantId, level: u8) -> u32 {
        let of_tenant = self.queues.iter().filter(|queue| queue.tenant == tenant);
        of_tenant.map(|queue| queue.waiting[..=rank(level)].iter().sum::<u32>()).sum()
    }

    /// A client comes to wait.
    pub fn join(&mut self, (tenant, level): (TenantId, u8), worker: u16, slot: u32, since: Moment) -> Ticket {
        self.next_number += 1;
        let number = self.next_number;
        let key = self.entries.insert(Entry { tenant, worker, slot, since, level, number });
        let ticket = Ticket { key: u32::try_from(key).unwrap_or(u32::MAX), number };
        let found = self.queues.iter().position(|queue| queue.tenant == tenant && queue.worker == worker);
        let at = found.unwrap_or_else(|| {
            self.queues.push(Queue::new(tenant, worker));
            self.queues.len() - 1
        });
        self.queues[at].places[rank(level)].push_back(ticket);
        self.queues[at].waiting[rank(level)] += 1;
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
        if let Some(queue) = self.queue_of(entry.tenant, entry.worker) {
            let waiting = &mut queue.waiting[rank(entry.level)];
            *waiting = waiting.saturating_sub(1);
        }
        entry
    }

    /// Takes the next to be served among the tenants that may hold one more, preferring equals on `worker`.
    pub fn next(&mut self, accounts: &mut Accounts, worker: u16, now: Moment) -> Option<Entry> {
        let pick = self.first(accounts, Some(worker), now)?;
        accounts.served(pick.tenant, now.saturating_duration_since(pick.oldest), now);
        let entry = self.remove(pick.key);
        if let Some(queue) = self.queue_of(pick.tenant, pick.worker) {
            // A turn of a client that has had much takes long, and others have as many short ones before the next: with each rank four times as many.
            queue.turns_for_others =
                if pick.is_passed_over { 1 << (2 * rank(entry.level)) } else { queue.turns_for_others.saturating_sub(1) };
        }
        Some(entry)
    }

    fn queue_of(&mut self, tenant: TenantId, worker: u16) -> Option<&mut Queue> {
        self.queues.iter_mut().find(|queue| queue.tenant == tenant && queue.worker == worker)
    }

    /// How many could be served if there were connections enough: those beyond their tenant's room do not count.
    pub fn demand(&self, accounts: &Accounts) -> u32 {
        let mut demand = 0;
        for (at, queue) in self.queues.iter().enumerate() {
            if self.queues[..at].iter().any(|earlier| earlier.tenant == queue.tenant) {
                continue;
            }
            let waiting: u32 = self.queues[at..].iter().filter(|later| later.tenant == queue.tenant).map(Queue::len).sum();
            demand += waiting.min(accounts.room(queue.tenant));
        }
        demand
    }

    /// Who is next among the tenants that may hold one more, preferring equals on `worker`.
    pub fn first(&mut self, accounts: &Accounts, worker: Option<u16>, now: Moment) -> Option<Pick> {
        let mut best: Option<Pick> = None;
        let mut near: Option<Pick> = None;
        for queue in &mut self.queues {
            if queue.len() == 0 || !accounts.may_hold(queue.tenant) {
                continue;
            }
            let (newest_first, clock) = (accounts.is_newest_first(queue.tenant), accounts.clock(queue.tenant, now));
            let Some(pick) = queue.pick(&self.entries, newest_first, clock, now) else { continue };
            if best.is_none_or(|best| pick.goes_before(&best)) {
                best = Some(pick);
            }
            if Some(queue.worker) == worker && near.is_none_or(|near| pick.goes_before(&near)) {
                near = Some(pick);
            }
        }
        let best = best?;
        match near {
            Some(near) if near.key == best.key || is_as_good(&near, &best, accounts) => Some(near),
            _ => Some(best),
        }
    }

    /// Everyone leaves.
    pub fn drain(&mut self) -> impl Iterator<Item = Entry> {
        self.queues.clear();
        std::mem::take(&mut self.entries).into_iter().map(|(_, entry)| entry)
    }
}

/// Whether one who is near may go before the first of all, for being near.
fn is_as_good(near: &Pick, best: &Pick, accounts: &Accounts) -> bool {
    if near.tenant != best.tenant {
        return accounts.lag(best.tenant, best.clock, near.clock) <= NEIGHBOURLY;
    }
    let apart = near.since.max(best.since).saturating_duration_since(near.since.min(best.since));
    near.level <= best.level && apart <= NEIGHBOURLY
}

fn rank(level: u8) -> usize {
    usize::from(level).min(LEVELS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Limits;

    const A: TenantId = TenantId(0);
    const B: TenantId = TenantId(1);

    fn accounts(now: Moment) -> Accounts {
        Accounts::new(10, &[Limits::default(), Limits { most: Some(1), ..Limits::default() }], now)
    }

    fn served(line: &mut Line, accounts: &mut Accounts, now: Moment) -> Vec<u32> {
        std::iter::from_fn(|| line.next(accounts, 0, now)).map(|entry| entry.slot).collect()
    }

    #[test]
    fn first_come_first_served_where_nobody_is_behind() {
        let now = Moment::START;
        let (mut line, mut accounts) = (Line::default(), accounts(now));
        for slot in 0..4 {
            line.join((TenantId(u16::from(slot % 2 == 1)), 0), 0, slot, now + Duration::from_nanos(slot.into()));
        }
        assert_eq!(served(&mut line, &mut accounts, now), [0, 1, 2, 3]);
    }

    #[test]
    fn the_tenant_that_is_behind_goes_first() {
        let start = Moment::START;
        let later = start + Duration::from_millis(50);
        let (mut line, mut accounts) = (Line::default(), accounts(start));
        accounts.hold(A, Duration::ZERO, start);
        line.join((A, 0), 0, 1, start);
        line.join((B, 0), 0, 2, later);
        assert_eq!(served(&mut line, &mut accounts, later), [2, 1]);
    }

    #[test]
    fn a_tenant_at_its_cap_is_passed_over_and_keeps_its_place() {
        let now = Moment::START;
        let (mut line, mut accounts) = (Line::default(), accounts(now));
        accounts.hold(B, Duration::ZERO, now);
        line.join((B, 0), 0, 7, now);
        line.join((A, 0), 0, 8, now);
        assert_eq!(served(&mut line, &mut accounts, now), [8]);
        accounts.release(B, now, now);
        assert_eq!(served(&mut line, &mut accounts, now), [7]);
    }

    #[test]
    fn within_a_tenant_who_has_had_little_goes_first_but_not_for_ever() {
        let start = Moment::START;
        let (mut line, mut accounts) = (Line::default(), accounts(start));
        line.join((A, 3), 0, 1, start);
        line.join((A, 0), 0, 2, start + Duration::from_millis(10));
        assert_eq!(line.ahead(A, 0), 1);
        assert_eq!(line.ahead(A, 3), 2);
        assert_eq!(line.next(&mut accounts, 0, start + Duration::from_millis(20)).unwrap().slot, 2);
        line.join((A, 1), 0, 5, start + Duration::from_millis(20));
        for slot in 10..20 {
            line.join((A, 0), 0, slot, start + Duration::from_millis(20));
        }
        let late = start + 2 * PASSED_OVER;
        let order = served(&mut line, &mut accounts, late);
        let at = |slot| order.iter().position(|served| *served == slot).unwrap();
        assert_eq!((at(1), at(5)), (0, 11), "one long turn, and others have theirs: {order:?}");
        line.queues.clear();
        for slot in 30..40 {
            line.join((A, 1), 0, slot, start);
            line.join((A, 0), 0, 10 + slot, late);
        }
        let order = served(&mut line, &mut accounts, late);
        assert_eq!(order[..7], [30, 40, 41, 42, 43, 31, 44], "one that has waited for long after four of the others");
    }

    #[test]
    fn a_standing_queue_serves_the_newest_of_equals() {
        let start = Moment::START;
        let at = |millis: u64| start + Duration::from_millis(millis);
        let (mut line, mut accounts) = (Line::default(), accounts(start));
        accounts.enqueue(crate::admission::Request { tenant: A, within: None, will_be_served: false }, 0, start).unwrap();
        for slot in 0..10 {
            line.join((A, 0), 0, slot, at(slot.into()));
        }
        assert_eq!(line.next(&mut accounts, 0, at(4000)).unwrap().slot, 0);
        assert_eq!(line.next(&mut accounts, 0, at(4600)).unwrap().slot, 1);
        assert_eq!(line.next(&mut accounts, 0, at(4600)).unwrap().slot, 9, "every wait was nearly too long for more than half a second");
        line.join((A, 0), 0, 20, at(4700));
        assert_eq!(line.next(&mut accounts, 0, at(4700)).unwrap().slot, 20);
        for slot in 2..8 {
            line.leave(Ticket { key: slot, number: u64::from(slot) + 1 }).unwrap();
        }
        line.join((A, 0), 0, 21, at(4800));
        assert_eq!(line.next(&mut accounts, 0, at(4900)).unwrap().slot, 21, "the ninth has waited for long");
        assert_eq!(line.next(&mut accounts, 0, at(4900)).unwrap().slot, 8);
    }

    #[test]
    fn who_has_left_is_not_served_and_who_was_served_cannot_leave() {
        let now = Moment::START;
        let (mut line, mut accounts) = (Line::default(), accounts(now));
        let first = line.join((A, 0), 0, 1, now);
        let second = line.join((A, 0), 0, 2, now);
        assert!(line.leave(first).is_some());
        assert_eq!(line.leave(first), None);
        assert_eq!(line.next(&mut accounts, 0, now).unwrap().slot, 2);
        assert_eq!(line.leave(second), None);
        let third = line.join((A, 0), 0, 3, now);
        assert_eq!(line.leave(second), None, "a reused key is not the old place");
        assert!(line.leave(third).is_some());
        assert!(line.is_empty());
    }

    #[test]
    fn a_neighbour_goes_first_only_within_the_age_bound() {
        let now = Moment::START;
        let (mut line, mut accounts) = (Line::default(), accounts(now));
        line.join((A, 0), 0, 1, now);
        line.join((A, 0), 1, 2, now + Duration::from_millis(2));
        assert_eq!(line.next(&mut accounts, 1, now).unwrap().slot, 2);
        line.join((A, 0), 1, 3, now + Duration::from_millis(50));
        assert_eq!(line.next(&mut accounts, 1, now).unwrap().slot, 1);
    }
}
