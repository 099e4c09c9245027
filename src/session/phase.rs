//! The phases of a client's life, and what each may cost in time. Pure: state, limits, now.
//!
//! ```text
//! Login -> Idle -> Waiting -> Running <-> Open -> Idle
//!             \________________________________/
//! ```

use std::time::Duration;

use crate::metrics::ClientState;
use crate::net::Moment;

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has not logged in yet.
    Login,
    /// It holds nothing and nothing is under way.
    Idle,
    /// It waits for a server connection.
    Waiting,
    /// It holds a server connection that works for it.
    Running,
    /// It holds a server connection inside a transaction (or in the middle of a message), and the server waits for it.
    Open,
    /// It holds a server connection outside a transaction, for what it has left there.
    Pinned,
}

impl Phase {
    /// The name in metrics.
    pub fn state(self, pinned: bool) -> ClientState {
        match self {
            Self::Login => ClientState::Login,
            Self::Idle => ClientState::Idle,
            Self::Waiting => ClientState::Waiting,
            Self::Pinned => ClientState::Pinned,
            Self::Running | Self::Open if pinned => ClientState::Pinned,
            Self::Running | Self::Open => ClientState::Active,
        }
    }
}

/// A client's clock: what it has been doing since when.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// What it does.
    pub phase: Phase,
    /// Since when.
    pub since: Moment,
    /// Since when its transaction is open.
    pub transaction_since: Option<Moment>,
    /// When the time is over that its caller has left for what it does.
    pub until: Option<Moment>,
    /// Since when it has not taken a byte that was for it.
    pub stalled_since: Option<Moment>,
    /// Whether its running query has been told to end already.
    pub cancelling: bool,
    /// Whether its socket has been told to watch out for a silent peer.
    pub watched: bool,
}

/// How long a client may do what it does; `None` is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// In the queue.
    pub queue: Option<Duration>,
    /// One request.
    pub query: Option<Duration>,
    /// One transaction.
    pub transaction: Option<Duration>,
    /// In a transaction with nothing running.
    pub idle_transaction: Option<Duration>,
    /// The same while others wait for the server connection.
    pub contended_idle_transaction: Option<Duration>,
    /// Idle.
    pub idle: Option<Duration>,
    /// Without taking a byte.
    pub write_stall: Option<Duration>,
}

impl Limits {
    /// The shortest of those that a client would notice being kept late. A client's idle time is not among them.
    pub fn shortest(&self) -> Option<Duration> {
        [self.queue, self.query, self.transaction, self.idle_transaction, self.contended_idle_transaction].into_iter().flatten().min()
    }
}

/// What must be done about a client whose time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It has waited for that long: it is refused.
    Refuse(Duration),
    /// What it runs must be cancelled.
    Cancel,
    /// The time of its caller is over: it waits no more, what it runs is cancelled, its transaction is undone.
    Deadline,
    /// Its transaction, in which nothing runs, must be ended, and the session with it.
    EndTransaction(Duration),
    /// The same, if anybody waits for its server connection.
    Yield(Duration),
    /// The session must be ended.
    EndIdle(Duration),
    /// It does not read: it must be cut.
    Cut,
    /// It has been at it for a while: the kernel should watch out for a silent peer.
    Watch,
}

/// How long a lease lasts before the kernel is asked to watch the client: short ones, nearly all, cost no system call.
const UNWATCHED: Duration = Duration::from_millis(500);

/// What is due, if anything.
pub fn due(timing: &Timing, limits: &Limits, now: Moment) -> Option<Due> {
    ahead(timing, limits).into_iter().flatten().find(|(at, _)| *at <= now).map(|(_, due)| due)
}

/// When something will be due that is not yet, if the client goes on with what it does.
pub fn next_due(timing: &Timing, limits: &Limits, now: Moment) -> Option<Moment> {
    ahead(timing, limits).into_iter().flatten().map(|(at, _)| at).filter(|at| *at > now).min()
}

/// What lies ahead of a client that goes on with what it does, and when. What comes first here is done where several are due.
fn ahead(timing: &Timing, limits: &Limits) -> [Option<(Moment, Due)>; 6] {
    let after = |since: Option<Moment>, limit: Option<Duration>, due: fn(Duration) -> Due| {
        let limit = limit?;
        Some((since?.checked_add(limit)?, due(limit)))
    };
    let since = Some(timing.since);
    let stalled = after(timing.stalled_since, limits.write_stall, |_| Due::Cut);
    let deadline = timing.until.map(|until| (until, Due::Deadline));
    let watch = if timing.watched { None } else { after(since, Some(UNWATCHED), |_| Due::Watch) };
    let transaction = |due| after(timing.transaction_since, limits.transaction, due);
    match timing.phase {
        Phase::Login => [stalled, None, None, None, None, None],
        Phase::Idle | Phase::Pinned => [stalled, after(since, limits.idle, Due::EndIdle), None, None, None, None],
        Phase::Waiting => [stalled, deadline, after(since, limits.queue, Due::Refuse), None, None, None],
        Phase::Running if timing.cancelling => [stalled, watch, None, None, None, None],
        Phase::Running => [stalled, deadline, after(since, limits.query, |_| Due::Cancel), transaction(|_| Due::Cancel), watch, None],
        Phase::Open => [
            stalled,
            deadline,
            after(since, limits.idle_transaction, Due::EndTransaction),
            transaction(Due::EndTransaction),
            watch,
            // After the watching has begun, which is due but once.
            after(since, limits.contended_idle_transaction, Due::Yield),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timing(phase: Phase, since: Moment) -> Timing {
        Timing { phase, since, transaction_since: None, until: None, stalled_since: None, cancelling: false, watched: true }
    }

    fn limits() -> Limits {
        Limits {
            queue: Some(SECOND),
            query: Some(SECOND),
            transaction: Some(3 * SECOND),
            idle_transaction: Some(SECOND),
            contended_idle_transaction: None,
            idle: Some(SECOND),
            write_stall: Some(SECOND),
        }
    }

    #[test]
    fn each_phase_has_its_own_limit() {
        let start = Moment::START;
        let later = start + SECOND;
        let expected = [
            (Phase::Login, None),
            (Phase::Idle, Some(Due::EndIdle(SECOND))),
            (Phase::Waiting, Some(Due::Refuse(SECOND))),
            (Phase::Running, Some(Due::Cancel)),
            (Phase::Open, Some(Due::EndTransaction(SECOND))),
            (Phase::Pinned, Some(Due::EndIdle(SECOND))),
        ];
        for (phase, what) in expected {
            assert_eq!(due(&timing(phase, start), &limits(), later), what, "{phase:?}");
            assert_eq!(due(&timing(phase, later), &limits(), later), None, "{phase:?} has only begun");
            assert_eq!(due(&timing(phase, start), &Limits::default(), later + 100 * SECOND), None, "{phase:?} without a limit");
        }
    }

    #[test]
    fn e4_idle_in_transaction_is_not_for_a_query_that_runs() {
        let start = Moment::START;
        let limits = Limits { idle_transaction: Some(SECOND), ..Limits::default() };
        assert_eq!(due(&timing(Phase::Running, start), &limits, start + 100 * SECOND), None);
    }

    #[test]
    fn who_holds_up_others_may_be_idle_for_less_long() {
        let start = Moment::START;
        let limits = Limits { idle_transaction: Some(3 * SECOND), contended_idle_transaction: Some(SECOND), ..Limits::default() };
        let open = timing(Phase::Open, start);
        assert_eq!(due(&open, &limits, start + SECOND), Some(Due::Yield(SECOND)));
        assert_eq!(due(&open, &limits, start + 3 * SECOND), Some(Due::EndTransaction(3 * SECOND)));
        let unwatched = Timing { watched: false, ..open };
        assert_eq!(due(&unwatched, &limits, start + SECOND), Some(Due::Watch), "that comes first, and once");
        assert_eq!(due(&timing(Phase::Running, start), &limits, start + SECOND), None);
    }

    #[test]
    fn a_transaction_is_ended_by_cancel_while_it_runs_and_by_force_while_it_does_not() {
        let start = Moment::START;
        let limits = Limits { transaction: Some(SECOND), ..Limits::default() };
        let mut open = timing(Phase::Open, start + SECOND);
        open.transaction_since = Some(start);
        assert_eq!(due(&open, &limits, start + SECOND), Some(Due::EndTransaction(SECOND)));
        open.phase = Phase::Running;
        assert_eq!(due(&open, &limits, start + SECOND), Some(Due::Cancel));
        open.cancelling = true;
        assert_eq!(due(&open, &limits, start + SECOND), None, "once is enough");
    }

    #[test]
    fn a_deadline_holds_wherever_somebody_works_or_waits_for_the_client() {
        let start = Moment::START;
        for (phase, what) in [
            (Phase::Waiting, Some(Due::Deadline)),
            (Phase::Running, Some(Due::Deadline)),
            (Phase::Open, Some(Due::Deadline)),
            (Phase::Idle, None),
            (Phase::Pinned, None),
        ] {
            let timing = Timing { until: Some(start + SECOND), ..timing(phase, start) };
            assert_eq!(due(&timing, &Limits::default(), start), None, "{phase:?} has time left");
            assert_eq!(due(&timing, &Limits::default(), start + SECOND), what, "{phase:?}");
        }
        let cancelling = Timing { until: Some(start), cancelling: true, ..timing(Phase::Running, start) };
        assert_eq!(due(&cancelling, &Limits::default(), start), None, "once is enough");
    }

    #[test]
    fn who_does_not_read_is_cut_whatever_else_it_does() {
        let start = Moment::START;
        let mut stalled = timing(Phase::Running, start + SECOND);
        stalled.stalled_since = Some(start);
        assert_eq!(due(&stalled, &limits(), start + SECOND), Some(Due::Cut));
    }

    proptest::proptest! {
        /// Who looks at nothing but these moments misses nothing.
        #[test]
        fn between_two_moments_that_are_named_nothing_new_is_due(
            phase in 0..6_usize,
            at in proptest::array::uniform4(proptest::option::of(0..40_u64)),
            limits in proptest::array::uniform7(proptest::option::of(1..40_u64)),
            (cancelling, watched) in proptest::prelude::any::<(bool, bool)>(),
        ) {
            let before = Moment::START;
            let start = before + SECOND;
            let after = |ms: u64| start + Duration::from_millis(20 * ms);
            let phases = [Phase::Login, Phase::Idle, Phase::Waiting, Phase::Running, Phase::Open, Phase::Pinned];
            let timing = Timing {
                phase: phases[phase],
                since: after(at[0].unwrap_or(0)),
                transaction_since: at[1].map(after),
                until: at[2].map(after),
                stalled_since: at[3].map(after),
                cancelling,
                watched,
            };
            let [queue, query, transaction, idle_transaction, contended_idle_transaction, idle, write_stall] =
                limits.map(|limit| limit.map(|limit| Duration::from_millis(20 * limit)));
            let limits = Limits { queue, query, transaction, idle_transaction, contended_idle_transaction, idle, write_stall };
            let mut next = next_due(&timing, &limits, before);
            let mut before = due(&timing, &limits, before);
            proptest::prop_assert_eq!(before, None);
            for now in (0..4_000).step_by(10).map(|ms| start + Duration::from_millis(ms)) {
                let found = due(&timing, &limits, now);
                let is_named = next == Some(now);
                proptest::prop_assert!(found == before || is_named, "{:?} became {:?} unforeseen", before, found);
                proptest::prop_assert!(!is_named || found.is_some());
                before = found;
                next = next_due(&timing, &limits, now);
                proptest::prop_assert!(next.is_none_or(|next| next > now));
            }
        }
    }

    #[test]
    fn only_long_leases_are_watched_by_the_kernel() {
        let start = Moment::START;
        let mut running = timing(Phase::Running, start);
        running.watched = false;
        assert_eq!(due(&running, &Limits::default(), start + UNWATCHED / 2), None);
        assert_eq!(due(&running, &Limits::default(), start + UNWATCHED), Some(Due::Watch));
    }
}
