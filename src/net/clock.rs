//! A worker's sense of time: one coarse tick for everything that waits, no timer for anything.
//!
//! Workers run without tokio's time driver, which costs a fifth of the instructions of a small transaction. Instead one timer descriptor wakes the worker
//! some times a second, and whatever waits is looked at then. How often depends on what there is to wait for: every [`SLOWEST`] at least, and earlier for
//! whoever asks for it in advance.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::moment::Moment;
use super::timer::Timer;

/// How coarse the clock is: nothing that was asked for in advance is later than this, and two ticks are no closer together.
pub const TICK: Duration = Duration::from_millis(10);

/// How far apart two ticks are when nothing was asked for.
pub const SLOWEST: Duration = Duration::from_millis(100);

/// The clock of one worker.
#[derive(Debug)]
pub struct Clock {
    now: Cell<Moment>,
    /// When it will tick.
    next: Cell<Moment>,
    /// How far apart two ticks are when nothing is due in between.
    pace: Cell<Duration>,
    sleepers: RefCell<Slab<(Moment, Waker)>>,
    timer: Timer,
}

impl Clock {
    /// A clock of this thread's runtime.
    pub fn new() -> io::Result<Rc<Self>> {
        let timer = Timer::new()?;
        timer.run(SLOWEST, SLOWEST)?;
        let now = now();
        Ok(Rc::new(Self {
            now: Cell::new(now),
            next: Cell::new(now + SLOWEST),
            pace: Cell::new(SLOWEST),
            sleepers: RefCell::default(),
            timer,
        }))
    }

    /// The time at the last tick: at most [`SLOWEST`] ago unless the worker is busy.
    pub fn coarse(&self) -> Moment {
        self.now.get()
    }

    /// The next tick. Ticks that were missed while the worker was busy, or the machine asleep, count as one (J4). After it the one who keeps the clock calls
    /// [`tick`](Self::tick). Cancel safe.
    pub async fn run_out(&self) -> io::Result<()> {
        self.timer.ran_out().await
    }

    /// Notes the time and wakes whoever has slept long enough. `due` is when something else is to be looked at.
    pub fn tick(&self, now: Moment, due: Option<Moment>) {
        self.now.set(now);
        let (mut first, mut awake) = (due, Vec::new());
        for (_, (until, waker)) in &*self.sleepers.borrow() {
            if *until <= now {
                awake.push(waker.clone());
            } else if first.is_none_or(|first| *until < first) {
                first = Some(*until);
            }
        }
        // The timer goes on by itself.
        self.next.set(now + self.pace.get());
        if let Some(first) = first {
            self.by(first);
        }
        awake.into_iter().for_each(Waker::wake);
    }

    /// There is to be a tick at this time, or a [`TICK`] from now.
    #[inline]
    pub fn by(&self, at: Moment) {
        if at < self.next.get() {
            self.hurry(at);
        }
    }

    #[cold]
    fn hurry(&self, at: Moment) {
        let now = now();
        let at = at.max(now + TICK);
        if at < self.next.get() {
            self.next.set(at);
            self.set(at - now);
        }
    }

    /// From now on ticks are no further apart than this, or than a [`TICK`]: whatever takes no less time than that needs no asking in advance.
    pub fn every(&self, pace: Duration) {
        let pace = pace.max(TICK);
        if pace < self.pace.get() {
            self.set_pace(pace);
        }
    }

    /// Takes back all that [`every`](Self::every) has asked for.
    pub fn slow_down(&self) {
        self.set_pace(SLOWEST);
    }

    fn set_pace(&self, pace: Duration) {
        self.pace.set(pace);
        let now = now();
        let first = self.next.get().saturating_duration_since(now).clamp(TICK, pace);
        self.next.set(now + first);
        self.set(first);
    }

    fn set(&self, first: Duration) {
        // It can only be refused for what does not occur; then the timer goes on as it did.
        let _ = self.timer.run(first, self.pace.get());
    }

    /// Waits until a tick finds the time past `until`. Cancel safe.
    pub fn sleep_until(self: &Rc<Self>, until: Moment) -> Sleep {
        Sleep { clock: Rc::clone(self), until, place: None }
    }

    /// The outcome of `work`, or `None` when it takes longer than `limit`, within a tick. `work` is dropped then.
    pub async fn within<T>(self: &Rc<Self>, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut sleep = self.sleep_until(now() + limit);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| None),
        })
        .await
    }
}

/// The one place where workers ask what time it is.
#[inline]
pub fn now() -> Moment {
    let start = *START.get_or_init(instant);
    Moment::START + instant().saturating_duration_since(start)
}

/// When this process asked first.
static START: OnceLock<Instant> = OnceLock::new();

#[expect(clippy::disallowed_methods, reason = "this is the edge where time comes in")]
fn instant() -> Instant {
    Instant::now()
}

/// The time since the beginning of 1970, by the system's clock.
pub fn since_1970() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// A sleep; see [`Clock::sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    clock: Rc<Clock>,
    until: Moment,
    place: Option<usize>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.coarse() >= self.until {
            return Poll::Ready(());
        }
        let (clock, until) = (Rc::clone(&self.clock), self.until);
        let mut sleepers = clock.sleepers.borrow_mut();
        if let Some((_, waker)) = self.place.and_then(|place| sleepers.get_mut(place)) {
            waker.clone_from(cx.waker());
        } else {
            self.place = Some(sleepers.insert((until, cx.waker().clone())));
            clock.by(until);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.clock.sleepers.borrow_mut().try_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn with_clock(test: impl AsyncFnOnce(Rc<Clock>)) {
        let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async { test(Clock::new().unwrap()).await });
    }

    #[test]
    fn it_ticks_at_its_slowest_unless_asked_and_never_earlier_than_asked() {
        let began = now();
        with_clock(async |clock| {
            clock.run_out().await.unwrap();
            assert!(now() >= began + SLOWEST, "nobody has asked for anything");
            clock.tick(now(), None);
            let at = now() + 3 * TICK;
            clock.by(at);
            clock.by(at + TICK);
            clock.run_out().await.unwrap();
            assert!(now() >= at, "it would have to tick again at once");
            clock.tick(now(), None);
            clock.run_out().await.unwrap();
            assert!(now() >= at + SLOWEST, "that was for once");
        });
    }

    #[test]
    fn what_is_due_already_is_looked_at_again_a_tick_later() {
        with_clock(async |clock| {
            let began = now();
            clock.tick(began, Some(began));
            assert!(clock.next.get() <= now() + TICK);
            clock.run_out().await.unwrap();
            assert!(now() >= began + TICK);
        });
    }

    #[test]
    fn who_sleeps_is_woken_when_the_time_is_over_and_who_has_gone_is_forgotten() {
        with_clock(async |clock| {
            let kept = Rc::clone(&clock);
            tokio::task::spawn_local(async move {
                loop {
                    kept.run_out().await.unwrap();
                    kept.tick(now(), None);
                }
            });
            let until = now() + 2 * TICK;
            clock.sleep_until(until).await;
            assert!(now() >= until);
            assert!(clock.within(2 * TICK, std::future::pending::<()>()).await.is_none());
            assert_eq!(clock.within(HOUR, async { 5 }).await, Some(5));
            assert!(clock.sleepers.borrow().is_empty());
        });
    }

    #[test]
    fn a_pace_holds_until_it_is_taken_back() {
        with_clock(async |clock| {
            clock.every(Duration::ZERO);
            assert_eq!(clock.pace.get(), TICK);
            clock.every(HOUR);
            assert_eq!(clock.pace.get(), TICK, "the quickest of them");
            clock.run_out().await.unwrap();
            clock.tick(now(), None);
            assert!(clock.next.get() <= now() + TICK);
            let slower = now();
            clock.slow_down();
            clock.run_out().await.unwrap();
            clock.run_out().await.unwrap();
            assert!(now() >= slower + SLOWEST, "what was asked for already has been kept, once");
        });
    }
}
