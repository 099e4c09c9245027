//! Calls that an SDK makes once more because it has not heard what became of the first: they are carried out once, and each hears the same.
//!
//! SDKs number their calls (`amz-sdk-invocation-id`, the same for every attempt). A call with such a number does not end with its connection at once: the next
//! attempt may be on its way, and finds it. Only when none has come is it cancelled.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Outcome;
use super::complaint::Complaint;
use crate::net::{Moment, now};

/// How long an outcome is remembered: longer than an SDK goes on trying.
const REMEMBERED: Duration = Duration::from_mins(2);
/// How long a call whose caller has gone waits for the next attempt.
const GRACE: Duration = Duration::from_secs(2);
/// How many calls are remembered, and how many bytes of their outcomes; the oldest are forgotten first.
const MOST: usize = 100_000;
const MOST_BYTES: usize = 64 << 20;

/// What a call is known by: who makes it, its number, and a digest of what it asks for.
pub(super) type Number = (String, String, [u8; 32]);

/// The calls of the last minutes.
#[derive(Debug)]
pub(crate) struct Retries {
    /// How long a call whose caller has gone waits for the next attempt.
    grace: Duration,
    calls: RefCell<HashMap<Number, Rc<Call>>>,
    /// In the order of their beginning.
    order: RefCell<VecDeque<(Moment, Number)>>,
    bytes: Cell<usize>,
}

#[derive(Debug, Default)]
struct Call {
    outcome: RefCell<Option<Outcome>>,
    done: Notify,
    waiting: Cell<u32>,
    task: RefCell<Option<AbortHandle>>,
}

impl Default for Retries {
    fn default() -> Self {
        Self::new(GRACE)
    }
}

impl Retries {
    fn new(grace: Duration) -> Self {
        Self { grace, calls: RefCell::default(), order: RefCell::default(), bytes: Cell::new(0) }
    }

    /// The outcome of the call of this number: of `work`, unless it is under way already or was made a moment ago.
    ///
    /// Cancel safe: with the last who waits for it the call is cancelled, if nobody asks again soon.
    pub(super) async fn once(self: &Rc<Self>, number: Number, work: impl Future<Output = Outcome> + 'static) -> Outcome {
        self.forget_old();
        let known = self.calls.borrow().get(&number).cloned();
        let call = match known {
            Some(call) => call,
            None => self.begin(number.clone(), work),
        };
        let _waiting = Waiting::new(self, &call, &number);
        loop {
            let done = call.done.notified();
            if let Some(outcome) = &*call.outcome.borrow() {
                return outcome.clone();
            }
            done.await;
        }
    }

    fn begin(self: &Rc<Self>, number: Number, work: impl Future<Output = Outcome> + 'static) -> Rc<Call> {
        let call = Rc::new(Call::default());
        self.calls.borrow_mut().insert(number.clone(), Rc::clone(&call));
        self.order.borrow_mut().push_back((now(), number.clone()));
        let (all, running) = (Rc::clone(self), Running(Rc::clone(&call)));
        let task = tokio::task::spawn_local(async move {
            let outcome = work.await;
            // What is tried again because nothing was done is to be done then.
            if outcome.is_retried() {
                all.calls.borrow_mut().remove(&number);
            } else {
                all.bytes.set(all.bytes.get() + outcome.len());
            }
            running.0.settle(outcome);
        });
        *call.task.borrow_mut() = Some(task.abort_handle());
        call
    }

    fn forget_old(&self) {
        let mut order = self.order.borrow_mut();
        while let Some((since, number)) = order.front() {
            let is_old = now().saturating_duration_since(*since) > REMEMBERED;
            if !is_old && order.len() <= MOST && self.bytes.get() <= MOST_BYTES {
                return;
            }
            if let Some(call) = self.calls.borrow_mut().remove(number) {
                let length = call.outcome.borrow().as_ref().map_or(0, Outcome::len);
                self.bytes.set(self.bytes.get().saturating_sub(length));
            }
            order.pop_front();
        }
    }
}

impl Call {
    fn settle(&self, outcome: Outcome) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.done.notify_waiters();
    }
}

/// A call that is under way. However it ends, whoever waits for it hears of that; and who asks again must not have it done twice.
struct Running(Rc<Call>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.outcome.borrow().is_none() {
            self.0.settle(Outcome::Complaint(Complaint::left()));
        }
    }
}

/// Somebody who waits for a call.
struct Waiting<'r> {
    call: Rc<Call>,
    all: &'r Rc<Retries>,
    number: &'r Number,
}

impl<'r> Waiting<'r> {
    fn new(all: &'r Rc<Retries>, call: &Rc<Call>, number: &'r Number) -> Self {
        call.waiting.set(call.waiting.get() + 1);
        Self { call: Rc::clone(call), all, number }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let call = Rc::clone(&self.call);
        call.waiting.set(call.waiting.get() - 1);
        if call.waiting.get() > 0 || call.outcome.borrow().is_some() {
            return;
        }
        let (grace, number) = (self.all.grace, self.number.clone());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(grace).await;
            if call.waiting.get() > 0 || call.outcome.borrow().is_some() {
                return;
            }
            if let Some(task) = call.task.take() {
                task.abort();
            }
            tracing::info!(invocation = number.1, "a call of the Data API was cancelled: its caller has left");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, LocalOptions};

    fn number(id: &str) -> Number {
        ("key".into(), id.into(), [0; 32])
    }

    fn answered(text: &str) -> Outcome {
        Outcome::Answer(text.to_owned().into())
    }

    fn run(test: impl Future<Output = ()>) {
        Builder::new_current_thread().enable_time().build_local(LocalOptions::default()).unwrap().block_on(test);
    }

    /// Work that counts how often it is begun, and waits to be let through.
    #[derive(Default)]
    struct Work {
        begun: Cell<u32>,
        gate: Notify,
    }

    impl Work {
        fn once(self: &Rc<Self>, outcome: Outcome) -> impl Future<Output = Outcome> + 'static {
            let work = Rc::clone(self);
            async move {
                work.begun.set(work.begun.get() + 1);
                work.gate.notified().await;
                outcome
            }
        }
    }

    /// Lets everything go on that can.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_call_is_carried_out_once_however_often_it_is_made() {
        run(async {
            let (retries, work) = (Rc::new(Retries::default()), Rc::new(Work::default()));
            let once = |id: &str| {
                let (retries, number, work) = (Rc::clone(&retries), number(id), work.once(answered("a")));
                tokio::task::spawn_local(async move { retries.once(number, work).await })
            };
            let (first, second) = (once("1"), once("1"));
            settle().await;
            work.gate.notify_one();
            assert_eq!((first.await.unwrap(), second.await.unwrap()), (answered("a"), answered("a")));
            assert_eq!(once("1").await.unwrap(), answered("a"), "and is remembered");
            assert_eq!(work.begun.get(), 1);
            work.gate.notify_one();
            once("2").await.unwrap();
            assert_eq!(work.begun.get(), 2);
        });
    }

    #[test]
    fn an_attempt_finds_the_call_of_the_one_that_broke_off() {
        run(async {
            let (retries, work) = (Rc::new(Retries::new(Duration::from_hours(1))), Rc::new(Work::default()));
            let first = tokio::task::spawn_local({
                let (retries, work) = (Rc::clone(&retries), work.once(answered("a")));
                async move { retries.once(number("1"), work).await }
            });
            settle().await;
            first.abort();
            settle().await;
            work.gate.notify_one();
            assert_eq!(retries.once(number("1"), work.once(answered("b"))).await, answered("a"));
            assert_eq!(work.begun.get(), 1);
        });
    }

    #[test]
    fn a_call_that_nobody_waits_for_is_cancelled_and_not_made_again() {
        run(async {
            let (retries, work) = (Rc::new(Retries::new(Duration::ZERO)), Rc::new(Work::default()));
            let first = tokio::task::spawn_local({
                let (retries, work) = (Rc::clone(&retries), work.once(answered("a")));
                async move { retries.once(number("1"), work).await }
            });
            settle().await;
            first.abort();
            // Whoever comes while it is being given up still waits for it, and hears what became of it.
            let outcome = loop {
                let known = retries.calls.borrow().get(&number("1")).and_then(|call| call.outcome.borrow().clone());
                match known {
                    Some(outcome) => break outcome,
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            };
            assert_eq!(outcome, Outcome::Complaint(Complaint::left()));
            assert_eq!(retries.once(number("1"), work.once(answered("b"))).await, outcome);
            assert_eq!(work.begun.get(), 1);
        });
    }

    #[test]
    fn a_call_that_breaks_leaves_nobody_waiting() {
        run(async {
            let retries = Rc::new(Retries::default());
            let broken = async { panic!("a call of the test's that breaks") };
            assert_eq!(retries.once(number("1"), broken).await, Outcome::Complaint(Complaint::left()));
        });
    }

    #[test]
    fn what_was_not_done_is_done_by_the_next_attempt() {
        run(async {
            let (retries, work) = (Rc::new(Retries::default()), Rc::new(Work::default()));
            let whose = crate::fault::Whose { tenant: "a".into(), upstream: "b".into() };
            let full = crate::fault::Fault::QueueFull { whose, limit: 1, expected: None };
            let refusal = Outcome::Complaint(crate::http::api::trouble::Trouble::from(full).into());
            assert!(refusal.is_retried());
            work.gate.notify_one();
            assert_eq!(retries.once(number("1"), work.once(refusal.clone())).await, refusal);
            work.gate.notify_one();
            assert_eq!(retries.once(number("1"), work.once(answered("a"))).await, answered("a"));
        });
    }
}
