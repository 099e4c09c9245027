//! The phases of a client's life, and what each may cost in time. Pure: state, limits, now.
//!
//! ```text
//! Login -> Idle -> Waiting -> Running <-> Open -> Idle
//!             \________________________________/
//! ```

use std::time::{Duration, Instant};

use crate::metrics::ClientState;

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
    pub since: Instant,
    /// Since when its transaction is open.
    pub transaction_since: Option<Instant>,
    /// When the time is over that its caller has left for what it does.
    pub until: Option<Instant>,
    /// Since when it has not taken a byte that was for it.
    pub stalled_since: Option<Instant>,
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
pub fn due(timing: &Timing, limits: &Limits, now: Instant) -> Option<Due> {
    let past = |since: Instant, limit: Option<Duration>| limit.filter(|limit| now.saturating_duration_since(since) >= *limit);
    if timing.stalled_since.is_some_and(|since| past(since, limits.write_stall).is_some()) {
        return Some(Due::Cut);
    }
    if timing.until.is_some_and(|until| now >= until) {
        match timing.phase {
            Phase::Waiting | Phase::Open => return Some(Due::Deadline),
            Phase::Running if !timing.cancelling => return Some(Due::Deadline),
            _ => {}
        }
    }
    let in_transaction = timing.transaction_since.and_then(|since| past(since, limits.transaction));
    match timing.phase {
        Phase::Idle | Phase::Pinned => past(timing.since, limits.idle).map(Due::EndIdle),
        Phase::Waiting => past(timing.since, limits.queue).map(Due::Refuse),
        Phase::Running if !timing.cancelling && (past(timing.since, limits.query).is_some() || in_transaction.is_some()) => {
            Some(Due::Cancel)
        }
        Phase::Open if past(timing.since, limits.idle_transaction).is_some() => limits.idle_transaction.map(Due::EndTransaction),
        Phase::Open if in_transaction.is_some() => in_transaction.map(Due::EndTransaction),
        Phase::Running | Phase::Open if !timing.watched && now.saturating_duration_since(timing.since) >= UNWATCHED => Some(Due::Watch),
        // After the watching has begun, which is due but once.
        Phase::Open if past(timing.since, limits.contended_idle_transaction).is_some() => limits.contended_idle_transaction.map(Due::Yield),
        Phase::Login | Phase::Running | Phase::Open => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timing(phase: Phase, since: Instant) -> Timing {
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
        let start = Instant::now();
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
        let start = Instant::now();
        let limits = Limits { idle_transaction: Some(SECOND), ..Limits::default() };
        assert_eq!(due(&timing(Phase::Running, start), &limits, start + 100 * SECOND), None);
    }

    #[test]
    fn who_holds_up_others_may_be_idle_for_less_long() {
        let start = Instant::now();
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
        let start = Instant::now();
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
        let start = Instant::now();
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
        let start = Instant::now();
        let mut stalled = timing(Phase::Running, start + SECOND);
        stalled.stalled_since = Some(start);
        assert_eq!(due(&stalled, &limits(), start + SECOND), Some(Due::Cut));
    }

    #[test]
    fn only_long_leases_are_watched_by_the_kernel() {
        let start = Instant::now();
        let mut running = timing(Phase::Running, start);
        running.watched = false;
        assert_eq!(due(&running, &Limits::default(), start + UNWATCHED / 2), None);
        assert_eq!(due(&running, &Limits::default(), start + UNWATCHED), Some(Due::Watch));
    }
}
