//! Where an upstream was found last, and for how long clients have waited in vain: what its failures leave behind between openings. Bookkeeping only.

use std::time::Duration;

use crate::config::TargetSessionAttrs;
use crate::net::{Address, Moment};
use crate::upstream::{Choice, Fresh, Role, Target};

/// All connections are not given up more often than this: what makes a server look moved may be a client's doing, or a name's with many addresses.
const SELDOM: Duration = Duration::from_secs(5);

/// Where an upstream was found last.
#[derive(Debug, Default)]
pub(super) struct Home {
    found: Option<(usize, Address)>,
    was_primary: bool,
    retired: Option<Moment>,
}

impl Home {
    /// Where to look, and for what.
    pub(super) fn choice(&self) -> Choice {
        Choice { first: self.found.as_ref().map_or(0, |(place, _)| *place), primary: self.was_primary }
    }

    /// A connection has been opened. Whether the upstream is elsewhere now, so that all others lead to where it was.
    pub(super) fn arrived(&mut self, fresh: &Fresh, target: &Target, now: Moment) -> bool {
        self.found_at((fresh.place, &fresh.card.address), &fresh.addresses, (fresh.role, target.wanted), now)
    }

    fn found_at(
        &mut self,
        (place, address): (usize, &Address),
        all: &[Address],
        (role, wanted): (Role, Option<TargetSessionAttrs>),
        now: Moment,
    ) -> bool {
        use TargetSessionAttrs::{Primary, ReadWrite};
        let is_primary = role.standby == Some(false);
        self.was_primary |= is_primary;
        let before = self.found.replace((place, address.clone()));
        let Some((old_place, old_address)) = before else { return false };
        // There is one primary: where its name leads elsewhere, it has moved. Of standbys a name may lead to any.
        let is_the_one = is_primary && wanted.is_none_or(|wanted| matches!(wanted, Primary | ReadWrite));
        let has_moved = place != old_place || is_the_one && !all.contains(&old_address);
        has_moved && self.is_due(now)
    }

    /// A server has said that it is read-only, which it `reports` to be a standby for. Whether all connections should be given up for it: not where
    /// standbys are wanted, or whatever there is.
    pub(super) fn refused_a_write(&mut self, reports: Option<bool>, wanted: Option<TargetSessionAttrs>, now: Moment) -> bool {
        use TargetSessionAttrs::{Primary, ReadWrite};
        let is_wrong = reports == Some(true) && wanted.is_none_or(|wanted| matches!(wanted, Primary | ReadWrite));
        if !is_wrong || !self.is_due(now) {
            return false;
        }
        // The places are tried from the first on, and names are looked up anew.
        self.found = None;
        true
    }

    fn is_due(&mut self, now: Moment) -> bool {
        if self.retired.is_some_and(|at| now.saturating_duration_since(at) < SELDOM) {
            return false;
        }
        self.retired = Some(now);
        true
    }
}

/// Whether the time that clients may wait for a connection runs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum QueueTime {
    /// It always has.
    #[default]
    Runs,
    /// It stands still: the upstream has ceased to answer, and is hoped to come back.
    Stands,
    /// It runs again since then.
    Since(Moment),
}

impl QueueTime {
    /// Whether who waits since then has waited for `limit`.
    pub(super) fn is_over(self, since: Moment, limit: Duration, now: Moment) -> bool {
        let since = match self {
            Self::Runs => since,
            Self::Stands => return false,
            Self::Since(at) => since.max(at),
        };
        now.saturating_duration_since(since) >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: Role = Role { standby: Some(false), read_only: false };
    const STANDBY: Role = Role { standby: Some(true), read_only: true };

    fn at(port: u16) -> Address {
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn a_primary_whose_name_leads_elsewhere_has_moved() {
        let (mut home, now) = (Home::default(), Moment::START);
        assert!(!home.found_at((0, &at(1)), &[at(1)], (PRIMARY, None), now), "it was never anywhere");
        assert!(!home.found_at((0, &at(2)), &[at(2), at(1)], (PRIMARY, None), now), "one of several addresses");
        assert!(home.found_at((0, &at(3)), &[at(3)], (PRIMARY, None), now));
        assert!(!home.found_at((0, &at(4)), &[at(4)], (PRIMARY, None), now), "again so soon");
        assert!(home.found_at((1, &at(5)), &[at(5)], (PRIMARY, None), now + SELDOM), "another host");
        assert_eq!((home.choice().first, home.choice().primary), (1, true));
    }

    #[test]
    fn a_name_of_many_standbys_leads_to_any() {
        let (mut home, now) = (Home::default(), Moment::START);
        for port in 1..5 {
            assert!(!home.found_at((0, &at(port)), &[at(port)], (STANDBY, None), now));
        }
        assert!(!home.choice().primary);
        let any = Some(TargetSessionAttrs::Any);
        home.found_at((0, &at(1)), &[at(1)], (PRIMARY, any), now);
        assert!(!home.found_at((0, &at(2)), &[at(2)], (PRIMARY, any), now), "any will do");
    }

    #[test]
    fn a_refused_write_counts_only_where_writes_are_meant_to_be_possible() {
        let (mut home, now) = (Home::default(), Moment::START);
        assert!(!home.refused_a_write(Some(false), None, now), "the client's own read-only transaction");
        assert!(!home.refused_a_write(None, None, now), "nobody knows");
        assert!(!home.refused_a_write(Some(true), Some(TargetSessionAttrs::Any), now));
        assert!(!home.refused_a_write(Some(true), Some(TargetSessionAttrs::Standby), now));
        home.found_at((1, &at(1)), &[at(1)], (STANDBY, None), now);
        assert!(home.refused_a_write(Some(true), None, now));
        assert_eq!(home.choice().first, 0, "from the first on");
        assert!(!home.refused_a_write(Some(true), None, now), "a client must not be able to keep all others without connections");
        assert!(home.refused_a_write(Some(true), Some(TargetSessionAttrs::ReadWrite), now + SELDOM));
    }

    #[test]
    fn an_outage_is_not_held_against_those_who_wait() {
        let (start, limit) = (Moment::START, Duration::from_secs(5));
        assert!(QueueTime::Runs.is_over(start, limit, start + limit));
        assert!(!QueueTime::Stands.is_over(start, limit, start + 2 * limit));
        let back = QueueTime::Since(start + limit);
        assert!(!back.is_over(start, limit, start + limit + limit / 2) && back.is_over(start, limit, start + 2 * limit));
    }
}
