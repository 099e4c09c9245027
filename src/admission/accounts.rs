//! The tenants' accounts against one upstream: held, reserved, queued, and the server time that each has had. Rules 1 to 3 of the design's admission.

use crate::net::Moment;
use std::time::Duration;

use super::pressure::{Around, Halves, Lately, Reading, Sum};
use super::share::Share;
use super::standing::Standing;

/// A tenant, by its place among the configured ones; 0 is `default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub u16);

/// What a tenant may have of one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most server connections it may hold; `None`: as many as the upstream has.
    pub most: Option<u32>,
    /// Server connections that are always there for it and never lent to others.
    pub reserved: u32,
    /// The most of its clients that may wait.
    pub queue: u32,
    /// How long each may wait.
    pub wait: Option<Duration>,
    /// Its share of server time when tenants wait for each other, relative to the others' weights.
    pub weight: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { most: None, reserved: 0, queue: 1000, wait: Some(Duration::from_secs(5)), weight: 1 }
    }
}

/// Why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many of the tenant's clients wait as may.
    #[error("the queue is full")]
    QueueFull {
        /// The most that may wait.
        limit: u32,
        /// When those who wait now will have been served, as far as that can be told.
        expected: Option<Duration>,
    },
    /// Its turn would come too late.
    #[error("the turn would come too late")]
    Hopeless {
        /// When its turn would come.
        expected: Duration,
        /// How long it may wait.
        within: Duration,
    },
    /// The wait took longer than it may.
    #[error("the wait for a server connection took too long")]
    WaitedTooLong {
        /// How long it took.
        waited: Duration,
    },
}

/// How much later than it may a turn must be expected before its client is refused at once: what is expected goes by averages.
const SURELY_LATE: u32 = 2;
/// So much of each server connection's time must have been seen before a client is refused for the pace at which others were served: the first leases of a
/// surge find cold servers and a machine that is busy with logins, and say little of those to come.
const PACE_IS_KNOWN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Account {
    limits: Limits,
    held: u32,
    queued: u32,
    /// Its clients that are logged in.
    clients: u32,
    share: Share,
    standing: Standing,
    lately: Lately,
}

impl Account {
    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.share.set_weight(limits.weight);
    }

    /// What is expected by the last leases, or by those of the last seconds where these were shorter, if that is beyond all hope of who may wait for `within`.
    fn surely(&self, expected: Duration, servers: u32, within: Duration) -> Option<Duration> {
        let lately = Sum::of(&self.lately);
        if lately.held() < PACE_IS_KNOWN.min(within).saturating_mul(servers) {
            return None;
        }
        let usual = Duration::from_nanos(self.share.usual()).as_secs_f64();
        let shorter = lately.usual_hold().map_or(1.0, |lately| (lately.as_secs_f64() / usual).min(1.0));
        let expected = expected.mul_f64(shorter);
        (expected > within.saturating_mul(SURELY_LATE)).then_some(expected)
    }
}

/// All tenants' accounts against one upstream.
#[derive(Debug)]
pub struct Accounts {
    budget: u32,
    /// How many leases there might be before long: what expectations go by.
    prospect: u32,
    held: u32,
    /// What is reserved and not held by those for whom it is reserved: the sum of `max(0, reserved - held)`.
    kept_free: u32,
    /// Where the clock of a tenant stands that wanted nothing so far: at that of the last who was served.
    floor: u64,
    opened: Moment,
    halves: Halves,
    tenants: Vec<Account>,
}

impl Accounts {
    /// Accounts over a budget of `budget` leases, for tenants with these limits.
    pub fn new(budget: u32, limits: &[Limits], now: Moment) -> Self {
        let mut accounts =
            Self { budget, prospect: budget, held: 0, kept_free: 0, floor: 0, opened: now, halves: Halves::default(), tenants: Vec::new() };
        accounts.set_limits(budget, limits);
        accounts
    }

    /// Applies new limits at once. What is held beyond a limit that shrank is not taken away: it is just not replaced.
    pub fn set_limits(&mut self, budget: u32, limits: &[Limits]) {
        self.set_budget(budget);
        self.tenants.resize_with(limits.len().max(self.tenants.len()).max(1), Account::default);
        for (account, limits) in self.tenants.iter_mut().zip(limits) {
            account.set_limits(*limits);
        }
        self.kept_free = self.tenants.iter().map(|account| account.limits.reserved.saturating_sub(account.held)).sum();
    }

    /// So many leases in all from now on; what is held beyond is not taken away.
    pub fn set_budget(&mut self, budget: u32) {
        self.budget = budget;
        self.prospect = budget;
    }

    /// So many there might be before long, where more can be had for the asking.
    pub fn set_prospect(&mut self, prospect: u32) {
        self.prospect = prospect.max(self.budget);
    }

    /// How many leases there may be in all.
    pub fn budget(&self) -> u32 {
        self.budget
    }

    /// How many server connections all tenants hold.
    pub fn all_held(&self) -> u32 {
        self.held
    }

    /// How many are reserved for tenants, held or not.
    pub fn all_reserved(&self) -> u32 {
        self.tenants.iter().map(|account| account.limits.reserved).sum()
    }

    /// How many are held, or reserved for those who do not hold them; where some are reserved, there is one besides for those who have reserved nothing.
    pub fn all_promised(&self) -> u32 {
        let reserved = self.all_reserved();
        (self.held + self.kept_free).max(if reserved > 0 { reserved + 1 } else { 0 })
    }

    /// How many more their tenants' caps leave to those who wait.
    pub fn all_wanted(&self) -> u32 {
        let wanted =
            |account: &Account| account.limits.most.map_or(account.queued, |most| account.queued.min(most.saturating_sub(account.held)));
        self.tenants.iter().map(wanted).sum()
    }

    /// The accounts' own reckoning of time, in nanoseconds.
    #[inline]
    fn at(&self, now: Moment) -> u64 {
        u64::try_from(now.saturating_duration_since(self.opened).as_nanos()).unwrap_or(u64::MAX)
    }

    fn account(&mut self, tenant: TenantId) -> &mut Account {
        let at = usize::from(tenant.0);
        if at >= self.tenants.len() {
            self.tenants.resize_with(at + 1, Account::default);
        }
        &mut self.tenants[at]
    }

    /// What a tenant's limits are.
    pub fn limits(&self, tenant: TenantId) -> Limits {
        self.tenants.get(usize::from(tenant.0)).map_or_else(Limits::default, |account| account.limits)
    }

    /// How many server connections a tenant holds.
    pub fn held(&self, tenant: TenantId) -> u32 {
        self.tenants.get(usize::from(tenant.0)).map_or(0, |account| account.held)
    }

    /// How many of a tenant's clients wait.
    pub fn queued(&self, tenant: TenantId) -> u32 {
        self.tenants.get(usize::from(tenant.0)).map_or(0, |account| account.queued)
    }

    /// Whether a tenant may hold one more: below its own cap, and without touching what is reserved for others.
    #[inline]
    pub fn may_hold(&self, tenant: TenantId) -> bool {
        let Some(account) = self.tenants.get(usize::from(tenant.0)) else { return self.held + self.kept_free < self.budget };
        if account.limits.most.is_some_and(|most| account.held >= most) {
            return false;
        }
        let own = account.limits.reserved.saturating_sub(account.held);
        self.held + (self.kept_free - own) < self.budget
    }

    /// How many more a tenant may hold.
    pub fn room(&self, tenant: TenantId) -> u32 {
        self.room_within(self.budget, tenant)
    }

    /// How many server connections a tenant has or could have before long.
    fn servers(&self, tenant: TenantId) -> u32 {
        self.held(tenant) + self.room_within(self.prospect, tenant)
    }

    fn room_within(&self, budget: u32, tenant: TenantId) -> u32 {
        let Limits { most, reserved, .. } = self.limits(tenant);
        let held = self.held(tenant);
        let own = reserved.saturating_sub(held);
        let free = budget.saturating_sub(self.held + (self.kept_free - own));
        most.map_or(free, |most| free.min(most.saturating_sub(held)))
    }

    /// A tenant has been given one for a client that has waited for so long.
    #[inline]
    pub fn hold(&mut self, tenant: TenantId, waited: Duration, now: Moment) {
        let (now, floor) = (self.at(now), self.floor);
        self.held += 1;
        let account = self.account(tenant);
        account.held += 1;
        if account.queued == 0 {
            account.share.wake(floor, now);
        }
        account.lately.waited(waited);
        let clock = account.share.clock(now);
        account.share.begin(now);
        let was_kept_free = account.held <= account.limits.reserved;
        self.kept_free -= u32::from(was_kept_free);
        self.floor = floor.max(clock);
    }

    /// A tenant has given one back that it has held since then.
    #[inline]
    pub fn release(&mut self, tenant: TenantId, since: Moment, now: Moment) {
        let (since, now) = (self.at(since), self.at(now));
        self.held -= 1;
        let account = self.account(tenant);
        account.share.end(since, now);
        account.lately.held(now.saturating_sub(since));
        let is_kept_free = account.held <= account.limits.reserved;
        account.held -= 1;
        self.kept_free += u32::from(is_kept_free);
    }

    /// A tenant's clock: the server time in nanoseconds that it has had for each unit of its weight.
    #[inline]
    pub fn clock(&self, tenant: TenantId, now: Moment) -> u64 {
        self.tenants.get(usize::from(tenant.0)).map_or(self.floor, |account| account.share.clock(self.at(now)))
    }

    /// By how much server time a tenant is behind where its clock should stand.
    #[inline]
    pub fn lag(&self, tenant: TenantId, clock: u64, should: u64) -> Duration {
        let weight = self.tenants.get(usize::from(tenant.0)).map_or(1, |account| account.share.weight());
        Duration::from_nanos(should.saturating_sub(clock).saturating_mul(weight))
    }

    /// Whether a tenant's newest go first, because its queue does not drain.
    #[inline]
    pub fn is_newest_first(&self, tenant: TenantId) -> bool {
        self.tenants.get(usize::from(tenant.0)).is_some_and(|account| account.standing.stands())
    }

    /// A client of a tenant was served from its queue while the oldest of its equals had waited for `oldest`.
    #[inline]
    pub fn served(&mut self, tenant: TenantId, oldest: Duration, now: Moment) {
        let now = self.at(now);
        let account = self.account(tenant);
        account.standing.served(oldest, account.limits.wait, now);
    }

    /// How long one more client of a tenant would wait behind `ahead` others, where that can be told: the server connections that it has and could have,
    /// at the pace of its own leases.
    pub fn expected_wait(&self, tenant: TenantId, ahead: u32) -> Option<Duration> {
        let account = self.tenants.get(usize::from(tenant.0))?;
        let servers = self.servers(tenant);
        let usual = account.share.usual();
        (usual > 0 && servers > 0).then(|| Duration::from_nanos(usual.saturating_mul(u64::from(ahead) + 1) / u64::from(servers)))
    }

    /// What of an expectation is sure.
    fn surely(&self, tenant: TenantId, expected: Duration, within: Duration) -> Option<Duration> {
        let account = self.tenants.get(usize::from(tenant.0))?;
        account.surely(expected, self.servers(tenant), within)
    }

    /// One more client of a tenant wants to wait behind `ahead` others, for as long as its tenant's clients may, and no longer than `within`. One whom an
    /// opening will serve counts among those who wait, but is held to no limit.
    ///
    /// # Errors
    /// `QueueFull` where as many wait as may; `Hopeless` where its turn would surely come too late.
    pub fn enqueue(&mut self, request: Request, ahead: u32, now: Moment) -> Result<(), Refusal> {
        let Request { tenant, within, will_be_served } = request;
        let (floor, at) = (self.floor, self.at(now));
        let limits = self.limits(tenant);
        if !will_be_served {
            let ahead = if self.is_newest_first(tenant) { 0 } else { ahead };
            let expected = self.expected_wait(tenant, ahead);
            if self.queued(tenant) >= limits.queue {
                self.refused(tenant);
                return Err(Refusal::QueueFull { limit: limits.queue, expected });
            }
            let within = within.into_iter().chain(limits.wait).min();
            if let (Some(expected), Some(within)) = (expected, within)
                && expected > within.saturating_mul(SURELY_LATE)
                && let Some(expected) = self.surely(tenant, expected, within)
            {
                self.refused(tenant);
                return Err(Refusal::Hopeless { expected, within });
            }
        }
        let account = self.account(tenant);
        if account.queued == 0 {
            account.share.wake(floor, at);
        }
        account.queued += 1;
        Ok(())
    }

    /// A waiting client of a tenant waits no more.
    pub fn dequeue(&mut self, tenant: TenantId) {
        let account = self.account(tenant);
        account.queued = account.queued.saturating_sub(1);
        if account.queued == 0 {
            account.standing.emptied();
        }
    }
}

/// How hard the upstream is pressed.
impl Accounts {
    /// A client of a tenant has logged in.
    pub fn arrive(&mut self, tenant: TenantId) {
        self.account(tenant).clients += 1;
    }

    /// A client of a tenant has left.
    pub fn depart(&mut self, tenant: TenantId) {
        let account = self.account(tenant);
        account.clients = account.clients.saturating_sub(1);
    }

    /// A client of a tenant was refused for want of a connection.
    pub fn refused(&mut self, tenant: TenantId) {
        let is_full = self.held + self.kept_free >= self.budget;
        self.account(tenant).lately.refused(is_full);
    }

    /// Takes a look at everything; some times a second.
    pub fn sample(&mut self, now: Moment) {
        let turn = self.halves.turn(self.at(now));
        for account in &mut self.tenants {
            account.lately.sample(account.held, account.queued, turn);
        }
    }

    /// What can be told of all tenants together.
    pub fn reading(&self, now: Moment) -> Reading {
        let mut sum = Sum::default();
        self.tenants.iter().for_each(|account| sum.add(&account.lately));
        let total = |of: fn(&Account) -> u32| self.tenants.iter().map(of).sum::<u32>();
        let queued = total(|account| account.queued);
        let limits =
            self.tenants.iter().filter(|account| account.queued > 0 || account.clients > 0).filter_map(|account| account.limits.wait);
        let around = Around {
            halves: self.halves,
            now: self.at(now),
            clients: total(|account| account.clients),
            queued,
            limit: limits.min().or(self.limits(TenantId(0)).wait),
            expected: sum.usual_hold().map(|hold| hold * (queued + 1) / self.prospect.max(1)),
            in_all: true,
        };
        sum.reading(around, |held| f64::from(self.prospect) - held)
    }

    /// What can be told of each tenant that has clients, or has had lately.
    pub fn readings(&self, now: Moment) -> impl Iterator<Item = (TenantId, Reading)> {
        let all = self.reading(now).held;
        let present = (0..).map(TenantId).zip(&self.tenants);
        let present = present.filter(|(_, account)| account.clients > 0 || Sum::of(&account.lately).served() > 0);
        present.map(move |(tenant, account)| {
            let limits = account.limits;
            let around = Around {
                halves: self.halves,
                now: self.at(now),
                clients: account.clients,
                queued: account.queued,
                limit: limits.wait,
                expected: self.expected_wait(tenant, account.queued),
                in_all: false,
            };
            let others: u32 = self.tenants.iter().map(|account| account.limits.reserved).sum::<u32>() - limits.reserved;
            let free = f64::from(self.prospect.saturating_sub(others)) - all;
            let reading =
                Sum::of(&account.lately).reading(around, |held| limits.most.map_or(free, |most| free.min(f64::from(most) - held)));
            (tenant, reading)
        })
    }
}

/// A client that wants to wait.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Whose it is.
    pub tenant: TenantId,
    /// How long it may wait, where its own deadline says so.
    pub within: Option<Duration>,
    /// Whether it only waits for a connection to be opened, in nobody's way.
    pub will_be_served: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(most: u32, reserved: u32) -> Limits {
        Limits { most: (most > 0).then_some(most), reserved, ..Limits::default() }
    }

    #[test]
    fn a_cap_is_never_passed_and_a_reservation_never_lent() {
        let (a, b) = (TenantId(0), TenantId(1));
        let now = Moment::START;
        let mut accounts = Accounts::new(4, &[limits(0, 0), limits(0, 2)], now);
        accounts.hold(a, Duration::ZERO, now);
        accounts.hold(a, Duration::ZERO, now);
        assert!(!accounts.may_hold(a), "the last two are b's");
        assert!(accounts.may_hold(b));
        accounts.hold(b, Duration::ZERO, now);
        assert!(!accounts.may_hold(a));
        accounts.hold(b, Duration::ZERO, now);
        assert!(!accounts.may_hold(b), "the budget is used up");
        accounts.release(a, now, now);
        assert!(accounts.may_hold(b), "beyond its reservation it competes like any other");
        let capped = Accounts::new(4, &[limits(1, 0)], now);
        assert!(capped.may_hold(a));
    }

    #[test]
    fn who_was_served_less_for_its_weight_is_behind() {
        let (a, b) = (TenantId(0), TenantId(1));
        let start = Moment::START;
        let later = start + Duration::from_secs(1);
        let mut accounts = Accounts::new(4, &[limits(0, 0), Limits { weight: 4, ..limits(0, 0) }], start);
        accounts.hold(a, Duration::ZERO, start);
        accounts.hold(b, Duration::ZERO, start);
        assert!(accounts.clock(b, later) < accounts.clock(a, later));
        assert_eq!(accounts.lag(b, accounts.clock(b, later), accounts.clock(a, later)), Duration::from_secs(3), "three of four seconds");
        accounts.release(a, start, later);
        accounts.hold(a, Duration::ZERO, later);
        let c = TenantId(2);
        accounts.hold(c, Duration::ZERO, later);
        assert_eq!(accounts.clock(c, later), 1_000_000_000, "a tenant that comes later has no credit");
    }

    #[test]
    fn who_cannot_be_served_in_time_is_refused_at_once() {
        let a = TenantId(0);
        let start = Moment::START;
        let second = Duration::from_secs(1);
        let mut accounts = Accounts::new(2, &[Limits { queue: 100, ..limits(0, 0) }], start);
        let request = Request { tenant: a, within: None, will_be_served: false };
        assert_eq!(accounts.enqueue(request, 90, start), Ok(()), "nothing is known yet");
        for _ in 0..2 {
            accounts.hold(a, Duration::ZERO, start);
            accounts.release(a, start, start + second);
        }
        assert_eq!(accounts.expected_wait(a, 9), Some(5 * second), "ten leases of a second over two servers");
        assert_eq!(accounts.enqueue(request, 9, start + second), Ok(()));
        let hopeless = Refusal::Hopeless { expected: Duration::from_millis(10_500), within: 5 * second };
        assert_eq!(accounts.enqueue(request, 20, start + second), Err(hopeless));
        let soon = Request { within: Some(second), ..request };
        assert_eq!(accounts.enqueue(soon, 9, start + second), Err(Refusal::Hopeless { expected: 5 * second, within: second }));
    }

    #[test]
    fn the_first_leases_of_a_surge_make_nobody_hopeless() {
        let a = TenantId(0);
        let start = Moment::START;
        let millis = Duration::from_millis;
        let mut accounts = Accounts::new(1, &[Limits { queue: 10_000, ..limits(0, 0) }], start);
        let request = Request { tenant: a, within: None, will_be_served: false };
        assert_eq!(accounts.enqueue(request, 0, start), Ok(()));
        let lease = |accounts: &mut Accounts, from: u64, took: u64| {
            accounts.hold(a, Duration::ZERO, start + millis(from));
            accounts.release(a, start + millis(from), start + millis(from + took));
        };
        lease(&mut accounts, 0, 500);
        assert_eq!(accounts.enqueue(request, 999, start + millis(500)), Ok(()), "500 s by that lease, but what does it say");
        for number in 0..500 {
            lease(&mut accounts, 500 + number, 1);
        }
        assert_eq!(accounts.enqueue(request, 4_000, start + millis(1_000)), Ok(()), "by now it is known to go faster");
        // A slow one among many is no pace either.
        lease(&mut accounts, 1_000, 500);
        assert_eq!(accounts.enqueue(request, 999, start + millis(1_500)), Ok(()));
        let hopeless = accounts.enqueue(request, 9_999, start + millis(1_500));
        assert!(matches!(hopeless, Err(Refusal::Hopeless { expected, .. }) if expected < millis(60_000)), "{hopeless:?}");
    }

    proptest! {
        #[test]
        fn what_is_kept_free_is_always_the_sum(
            tenants in prop::collection::vec((0u32..4, 0u32..3), 1..5),
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200),
        ) {
            let all: Vec<Limits> = tenants.iter().map(|(most, reserved)| limits(*most, *reserved)).collect();
            let now = Moment::START;
            let mut accounts = Accounts::new(6, &all, now);
            for (take, who) in steps {
                let tenant = TenantId(u16::try_from(who.index(all.len())).unwrap());
                if take && accounts.may_hold(tenant) {
                    accounts.hold(tenant, Duration::ZERO, now);
                } else if !take && accounts.held(tenant) > 0 {
                    accounts.release(tenant, now, now);
                }
                let held: u32 = accounts.tenants.iter().map(|a| a.held).sum();
                let kept: u32 = accounts.tenants.iter().map(|a| a.limits.reserved.saturating_sub(a.held)).sum();
                prop_assert_eq!((accounts.held, accounts.kept_free), (held, kept));
                prop_assert!(held <= 6);
                for (account, limits) in accounts.tenants.iter().zip(&all) {
                    prop_assert!(limits.most.is_none_or(|most| account.held <= most));
                }
            }
        }
    }
}
