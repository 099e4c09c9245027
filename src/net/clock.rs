//! A worker's sense of time: one coarse tick for everything that waits, no timer for anything.
//!
//! Workers run without tokio's time driver, which costs a fifth of the instructions of a small transaction. Instead one timer descriptor wakes the worker
//! every [`TICK`], and whatever waits is looked at then.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::timer::Timer;

/// How coarse the clock is.
pub const TICK: Duration = Duration::from_millis(10);

/// The clock of one worker.
#[derive(Debug)]
pub struct Clock {
    now: Cell<Instant>,
    sleepers: RefCell<Slab<(Instant, Waker)>>,
}

impl Clock {
    /// A clock that nobody has wound yet: see [`Ticker`].
    pub fn new() -> Rc<Self> {
        Rc::new(Self { now: Cell::new(now()), sleepers: RefCell::default() })
    }

    /// The time at the last tick: at most a tick ago unless the worker is busy.
    pub fn coarse(&self) -> Instant {
        self.now.get()
    }

    /// Notes the time and wakes whoever has slept long enough.
    pub fn tick(&self) {
        let now = now();
        self.now.set(now);
        let due: Vec<Waker> =
            self.sleepers.borrow().iter().filter(|(_, (until, _))| *until <= now).map(|(_, (_, waker))| waker.clone()).collect();
        due.into_iter().for_each(Waker::wake);
    }

    /// Waits until a tick finds the time past `until`. Cancel safe.
    pub fn sleep_until(self: &Rc<Self>, until: Instant) -> Sleep {
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
#[expect(clippy::disallowed_methods, reason = "this is the edge where time comes in")]
pub fn now() -> Instant {
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
    until: Instant,
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
        match self.place.and_then(|place| sleepers.get_mut(place)) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => self.place = Some(sleepers.insert((until, cx.waker().clone()))),
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

/// What wakes a worker every [`TICK`].
#[derive(Debug)]
pub struct Ticker(Timer);

impl Ticker {
    /// A ticker of this thread's runtime.
    pub fn new() -> io::Result<Self> {
        let timer = Timer::new()?;
        timer.run_every(TICK)?;
        Ok(Self(timer))
    }

    /// The next tick. Ticks that were missed while the worker was busy, or the machine asleep, count as one (J4). Cancel safe.
    pub async fn tick(&self) -> io::Result<()> {
        self.0.ran_out().await
    }
}
