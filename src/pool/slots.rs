//! How this proxy comes by its part of a budget that it shares with others: a slot of the budget is an advisory lock at the server, and who holds it may have one connection open.
//!
//! All locks of a proxy are held in one session, on the control thread. When the proxy dies the server ends that session and frees the locks, without anybody's clock. Everybody sees in
//! `pg_locks` who holds how many; how many more one wants, it shows by the number of one further lock, which it shares. What to do about it, `portion` says.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Error, Statement};

use super::adopted::{self, adopt};
use super::astray::{self, Astray, Post};
use super::portion::{Decision, Own, Portion, decide};
use super::shared::{Sharing, Upstream};
use crate::auth::random;
use crate::net::{Moment, now};
use crate::upstream::{Broken, Login};

/// How long the server may take to answer; beyond that the session is given up.
const LIMIT: Duration = Duration::from_secs(5);
/// How often it looks around while it is alone, and while others are there, who may want something.
const ALONE: Duration = Duration::from_millis(250);
const AMONG_OTHERS: Duration = Duration::from_millis(100);
/// The same after something has changed, since more is to come then: so often for so many looks in which nothing does.
const HURRIED: Duration = Duration::from_millis(10);
const HURRIED_LOOKS: u32 = 50;
/// A slot that nothing needed for so long, or up to twice that, is given up unasked.
const UNUSED: Duration = Duration::from_secs(1);
/// How long it waits before it begins anew; it doubles, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the session is set to: nothing of the role's or the database's may end it or change what is asked, and the server is to notice soon when this machine is gone.
const SETTINGS: &str = "SET search_path = pg_catalog, pg_temp; SET client_encoding = 'UTF8'; SET application_name = 'pgweir slots'; \
    SET statement_timeout = 5000; SET lock_timeout = 0; SET idle_session_timeout = 0; \
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";

const LOOK: &str = "SELECT pid, pg_catalog.array_agg(objid::int8), NOT pg_catalog.pg_is_in_recovery() FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND classid::int8 = $1 AND objsubid = 2 AND granted \
    AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) GROUP BY pid";
const TAKE: &str = "SELECT slot FROM pg_catalog.unnest($2::int4[]) AS slot WHERE pg_catalog.pg_try_advisory_lock($1::int4, slot)";
const GIVE: &str = "SELECT pg_catalog.pg_advisory_unlock($1::int4, slot) FROM pg_catalog.unnest($2::int4[]) AS slot";
const SHOW: &str = "SELECT pg_catalog.pg_try_advisory_lock_shared($1::int4, $2::int4)";
const SHOW_NO_MORE: &str = "SELECT pg_catalog.pg_advisory_unlock_shared($1::int4, $2::int4)";

/// Holds slots for an upstream until the process ends, in one session after the other. On the control thread.
pub(super) async fn hold(upstream: Arc<Upstream>, mut post: Post) {
    let Some(sharing) = upstream.sharing.get() else { return };
    let mut pause = FIRST_PAUSE;
    // What the session before held is taken again first: the connections are still there.
    let mut held = BTreeSet::new();
    let mut said = String::new();
    loop {
        let login = sharing.login.load_full();
        // Before: who finds the server elsewhere meanwhile may be right where this is not.
        sharing.has_moved.store(false, Ordering::Release);
        let begun = Box::pin(within(Session::begin(&upstream, &login))).await;
        let why = match begun {
            Ok(mut session) => {
                (pause, said) = (FIRST_PAUSE, String::new());
                let why = Box::pin(session.keep(&upstream, sharing, &mut held, &mut post)).await;
                session.task.abort();
                why
            }
            Err(why) => why,
        };
        sharing.proxies.store(0, Ordering::Relaxed);
        sharing.reach.store(0, Ordering::Relaxed);
        // Later they might hit what is not meant.
        while post.requests.try_recv().is_ok() {}
        if sharing.has_moved.load(Ordering::Acquire) {
            tracing::info!(upstream = upstream.name, "the server is elsewhere: slots of the shared budget are taken there");
        } else if said == why.to_string() {
            tracing::debug!(upstream = upstream.name, %why, "still no slots of the shared budget are held");
        } else {
            said = why.to_string();
            tracing::warn!(upstream = upstream.name, %why, "no slots of the shared budget are held: nothing more is opened");
        }
        upstream.cannot_share(why);
        let jitter = random::<1>().map_or(0, |[byte]| byte);
        sleep(pause.mul_f64(0.5 + f64::from(jitter) / 256.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the server says, if it says it in time.
async fn within<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Broken> {
    match timeout(LIMIT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(adopted::broken(&error, Broken::Slots)),
        Err(_) => Err(Broken::TimedOut(LIMIT)),
    }
}

/// A session that holds slots.
struct Session {
    client: Client,
    task: JoinHandle<()>,
    look: Statement,
    /// The first word of all locks of this budget, and the server's process that holds ours.
    class: i32,
    pid: i32,
    /// What it shows that it wants, once it shows anything.
    shows: Option<u32>,
    lately: Lately,
    astray: Astray,
}

/// What is to be seen of all who share the budget.
#[derive(Debug, Default)]
struct Sight {
    own: BTreeSet<u32>,
    others: Vec<Portion>,
    /// Slots that others hold.
    taken: BTreeSet<u32>,
    /// The server takes writes, as far as can be seen.
    is_primary: bool,
}

impl Session {
    async fn begin(upstream: &Arc<Upstream>, login: &Login) -> Result<Self, Error> {
        let (hear, heard) = mpsc::channel(astray::MOST);
        // What is too much is lost, as it is for whoever does not listen.
        let (client, task) = adopt(upstream, login, SETTINGS, move |said| drop(hear.try_send(said))).await?;
        let look = client.prepare(LOOK).await?;
        let place = client.query_one("SELECT pg_catalog.pg_backend_pid(), NOT pg_catalog.pg_is_in_recovery()", &[]).await?;
        let (pid, class) = (place.get(0), class_of(&upstream.name));
        let mut astray = Astray::begin(&client, class, pid, heard).await?;
        if place.get(1) {
            // Before others see that it is there.
            astray.listen(&client).await?;
        }
        Ok(Self { client, task, look, class, pid, shows: None, lately: Lately::default(), astray })
    }

    /// Takes slots and gives them up, as they are needed here and elsewhere, until something is wrong.
    async fn keep(&mut self, upstream: &Arc<Upstream>, sharing: &Sharing, held: &mut BTreeSet<u32>, post: &mut Post) -> Broken {
        let before = std::mem::take(held);
        if let Err(why) = Box::pin(within(self.take(before.into_iter().collect()))).await {
            return why;
        }
        let (mut is_new, mut quiet) = (true, 0_u32);
        loop {
            let round = match Box::pin(within(self.round(upstream, held))).await {
                Ok(round) => round,
                Err(why) => return why,
            };
            let others = self.astray.reach(round.proxies);
            self.astray.expire(others);
            sharing.proxies.store(round.proxies, Ordering::Relaxed);
            sharing.reach.store(others, Ordering::Relaxed);
            if std::mem::take(&mut is_new) {
                upstream.answered();
                tracing::info!(
                    upstream = upstream.name,
                    slots = held.len(),
                    proxies = round.proxies,
                    "slots of the shared budget are held"
                );
            }
            quiet = if round.has_changed { 0 } else { quiet.saturating_add(1) };
            let pause = match round.proxies {
                _ if quiet < HURRIED_LOOKS => HURRIED,
                0 | 1 => ALONE,
                _ => AMONG_OTHERS,
            };
            let until = now() + pause;
            loop {
                let event = tokio::select! {
                    // The locks are gone with it.
                    _ = &mut self.task => return Broken::Closed,
                    () = sleep(until.saturating_duration_since(now())) => break,
                    // Where it wants more already, to be asked once more would change nothing.
                    () = sharing.more.notified(), if !round.is_unfinished => break,
                    event = self.astray.event(&mut post.requests) => event,
                };
                if let Err(why) = Box::pin(within(self.astray.attend(&self.client, event, &post.deliver, others))).await {
                    return why;
                }
            }
            if sharing.has_moved.load(Ordering::Acquire) {
                return Broken::Closed;
            }
        }
    }

    /// Looks around, and does what there is to be done.
    async fn round(&mut self, upstream: &Arc<Upstream>, held: &mut BTreeSet<u32>) -> Result<Round, Error> {
        let needs = upstream.ledger.lock().needs();
        let Sight { mut own, others, taken, is_primary } = self.look().await?;
        if is_primary {
            // It may have been promoted meanwhile.
            self.astray.listen(&self.client).await?;
        }
        let held_before = count(&own);
        let Decision { take, give, free } =
            decide(needs.budget, Own { held: held_before, wanted: needs.wanted, desired: needs.desired, least: needs.least }, &others);
        if take > 0 {
            // Each begins elsewhere, so that those who look at the same time seldom reach for the same.
            let start = self.pid.unsigned_abs() % needs.budget.max(1);
            let all = (start..needs.budget).chain(0..start).filter(|slot| !own.contains(slot) && !taken.contains(slot));
            own.extend(self.take(all.take(take as usize).collect()).await?);
        }
        let has_taken = count(&own) - held_before;
        // Slots beyond a budget that has shrunk are nobody's.
        let within_budget = count(&own.range(..needs.budget).copied().collect());
        let used = self.lately.most(needs.desired, now());
        let keep = (held_before.saturating_sub(give) + has_taken).min(within_budget).min(used);
        let open = allot(upstream, keep, keep + free.saturating_sub(has_taken));
        // Those beyond the budget are the last, and go first.
        let goes = count(&own).saturating_sub(keep.max(open));
        let given: Vec<i32> = own.iter().rev().take(goes as usize).map(|slot| word(*slot)).collect();
        if !given.is_empty() {
            self.client.query(GIVE, &[&self.class, &given]).await?;
            own.retain(|slot| !given.contains(&word(*slot)));
        }
        let wants = needs.wanted.saturating_sub(count(&own));
        let has_wanted = self.shows.is_some_and(|shows| shows > 0);
        self.show(wants).await?;
        let has_changed = has_wanted != (wants > 0) || held_before != count(&own);
        if has_changed {
            tracing::debug!(
                upstream = upstream.name,
                before = held_before,
                slots = count(&own),
                keep,
                open,
                wants,
                "slots of the shared budget"
            );
        }
        *held = own;
        let is_unfinished = wants > 0 || count(held) > keep;
        Ok(Round { proxies: number(others.len()) + 1, has_changed, is_unfinished })
    }

    async fn look(&self) -> Result<Sight, Error> {
        let class = i64::from(self.class.cast_unsigned());
        let mut sight = Sight::default();
        for row in self.client.query(&self.look, &[&class]).await? {
            let (pid, locks): (i32, Vec<i64>) = (row.get(0), row.get(1));
            sight.is_primary = row.get(2);
            let locks = || locks.iter().filter_map(|lock| u32::try_from(*lock).ok());
            let slots = locks().filter(|lock| *lock <= MOST_SLOTS);
            if pid == self.pid {
                sight.own = slots.collect();
                continue;
            }
            let before = sight.taken.len();
            sight.taken.extend(slots);
            // While it changes what it shows there are two of them for a moment.
            let wants = locks().filter(|lock| *lock > MOST_SLOTS).map(|lock| u32::MAX - lock).max().unwrap_or(0);
            sight.others.push(Portion { held: number(sight.taken.len() - before), wants });
        }
        Ok(sight)
    }

    /// Takes those of these slots that nobody holds.
    async fn take(&self, slots: Vec<u32>) -> Result<Vec<u32>, Error> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let slots: Vec<i32> = slots.into_iter().map(word).collect();
        let taken = self.client.query(TAKE, &[&self.class, &slots]).await?;
        Ok(taken.iter().map(|row| row.get::<_, i32>(0).cast_unsigned()).collect())
    }

    /// Shows the others how many more it wants: none, and that it is there.
    async fn show(&mut self, wants: u32) -> Result<(), Error> {
        if self.shows.is_some_and(|shows| still_says(shows, wants)) {
            return Ok(());
        }
        self.client.query(SHOW, &[&self.class, &shown(wants)]).await?;
        if let Some(before) = self.shows.replace(wants) {
            self.client.query(SHOW_NO_MORE, &[&self.class, &shown(before)]).await?;
        }
        Ok(())
    }
}

/// What came of a look around.
struct Round {
    /// How many share the budget, this one among them.
    proxies: u32,
    /// It has taken some or given some up, or has begun to want more, or ceased to.
    has_changed: bool,
    /// It wants more than it could take, or there are connections whose slots are to be given up when they have ended.
    is_unfinished: bool,
}

/// So many connections there may be from now on. How many there are.
fn allot(upstream: &Arc<Upstream>, slots: u32, prospect: u32) -> u32 {
    let mut steps = Vec::new();
    let open = {
        let mut ledger = upstream.ledger.lock();
        ledger.allot(slots, prospect, now(), &mut steps);
        ledger.total()
    };
    upstream.post(&mut steps, None);
    open
}

/// The most slots that were needed at once in the last second or two.
#[derive(Debug, Default)]
struct Lately {
    turned: Option<Moment>,
    now: u32,
    before: u32,
}

impl Lately {
    fn most(&mut self, needed: u32, at: Moment) -> u32 {
        if self.turned.is_none_or(|turned| at.saturating_duration_since(turned) >= UNUSED) {
            // The first time there is nothing before: whatever was held then has not been unused for long.
            self.before = if self.turned.is_some() { self.now } else { u32::MAX };
            self.now = 0;
            self.turned = Some(at);
        }
        self.now = self.now.max(needed);
        self.now.max(self.before)
    }
}

/// The first word of all locks of an upstream's budget: the same for all proxies in whose configuration it has this name.
fn class_of(upstream: &str) -> i32 {
    let digest = digest(&SHA256, format!("pgweir: slots of the budget of {upstream}").as_bytes());
    digest.as_ref().first_chunk().map_or(0, |first| i32::from_be_bytes(*first))
}

/// What is higher than this is no slot, but shows how many its holder wants.
const MOST_SLOTS: u32 = i32::MAX.cast_unsigned();

/// Whether what is shown will do: as many, or not twice as many as are wanted by now, since that changes with each client that comes and goes.
fn still_says(shows: u32, wants: u32) -> bool {
    shows == wants || wants > shows / 2 && wants < shows
}

/// The second word of the lock that shows it.
fn shown(wants: u32) -> i32 {
    word(u32::MAX - wants.min(MOST_SLOTS))
}

/// A lock's word as SQL has it.
fn word(slot: u32) -> i32 {
    slot.cast_signed()
}

fn count(slots: &BTreeSet<u32>) -> u32 {
    number(slots.len())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_no_slot_and_says_how_many() {
        for wants in [0, 1, 40, 100_000] {
            let lock = shown(wants).cast_unsigned();
            assert!(lock > MOST_SLOTS);
            assert_eq!(u32::MAX - lock, wants);
        }
        assert!(still_says(8, 8) && still_says(8, 5) && !still_says(8, 4) && !still_says(8, 9));
        assert!(still_says(0, 0) && !still_says(0, 1) && !still_says(1, 0));
        assert_eq!(class_of("main"), class_of("main"));
        assert_ne!(class_of("main"), class_of("other"));
    }

    #[test]
    fn what_was_needed_a_moment_ago_is_kept() {
        let (mut lately, start) = (Lately::default(), Moment::START);
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(lately.most(3, at(0)), u32::MAX, "nobody has looked before");
        assert_eq!(lately.most(20, at(500)), u32::MAX);
        assert_eq!(lately.most(2, at(1000)), 20);
        assert_eq!(lately.most(2, at(1900)), 20);
        assert_eq!(lately.most(2, at(2000)), 2, "for a second it was not needed");
        assert_eq!(lately.most(9, at(2100)), 9);
    }
}
