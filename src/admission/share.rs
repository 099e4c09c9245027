//! A tenant's clock: the server time that it has had for each unit of its weight. Who is behind goes first (rule 3).
//!
//! It is start-time fair queueing over several servers. What a lease takes is known only at its end, so what is held counts from the start with what a
//! lease of this tenant usually takes, and with what it has taken where that is more. All times are nanoseconds since the accounts were opened.

/// A tenant's clock.
#[derive(Debug, Clone)]
pub(super) struct Share {
    /// Server time of leases that are over, for each unit of weight.
    had: u64,
    weight: u64,
    held: u32,
    /// The sum of the moments at which the leases that are held began.
    begun: u128,
    /// What a lease usually takes; 0 before the first has ended.
    usual: u64,
}

impl Default for Share {
    fn default() -> Self {
        Self { had: 0, weight: 1, held: 0, begun: 0, usual: 0 }
    }
}

impl Share {
    /// Another weight, for what is charged from now on.
    pub(super) fn set_weight(&mut self, weight: u32) {
        self.weight = u64::from(weight.max(1));
    }

    /// The weight.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// What a lease usually takes; 0 where that is not known.
    pub(super) fn usual(&self) -> u64 {
        self.usual
    }

    /// Server time per weight, with what is held.
    #[inline]
    pub(super) fn clock(&self, now: u64) -> u64 {
        if self.held == 0 {
            return self.had;
        }
        let held = u128::from(self.held);
        let so_far = (held * u128::from(now)).saturating_sub(self.begun);
        let in_all = u64::try_from(so_far.max(held * u128::from(self.usual))).unwrap_or(u64::MAX);
        self.had.saturating_add(in_all / self.weight)
    }

    /// A tenant that wanted nothing comes back: its clock is put on to `floor`, so that having slept earns nothing.
    #[inline]
    pub(super) fn wake(&mut self, floor: u64, now: u64) {
        self.had += floor.saturating_sub(self.clock(now));
    }

    /// A lease begins.
    #[inline]
    pub(super) fn begin(&mut self, now: u64) {
        self.held += 1;
        self.begun += u128::from(now);
    }

    /// A lease that began at `since` ends.
    #[inline]
    pub(super) fn end(&mut self, since: u64, now: u64) {
        let took = now.saturating_sub(since);
        self.held -= 1;
        self.begun -= u128::from(since);
        self.had = self.had.saturating_add(took / self.weight);
        self.usual = if self.usual == 0 { took } else { self.usual - self.usual / 8 + took / 8 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_from_the_start() {
        let mut share = Share::default();
        share.set_weight(2);
        share.begin(100);
        assert_eq!(share.clock(140), 20, "40 over a weight of 2");
        share.end(100, 200);
        assert_eq!((share.clock(500), share.usual()), (50, 100));
        share.begin(500);
        assert_eq!(share.clock(500), 100, "charged in advance with what is usual");
        share.end(500, 510);
        assert_eq!(share.clock(510), 55, "and put right at the end");
    }

    #[test]
    fn having_slept_earns_nothing_and_costs_nothing() {
        let mut share = Share::default();
        share.wake(70, 0);
        assert_eq!(share.clock(0), 70);
        share.wake(30, 0);
        assert_eq!(share.clock(0), 70, "a clock is never put back");
    }
}
