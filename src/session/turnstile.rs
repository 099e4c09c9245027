//! The turnstile that logins pass one step at a time, so that a thousand that arrive at once do not stand between the others and their answers.
//!
//! A worker runs whatever is ready in turn. Steps of a login are long (a TLS handshake signs, SCRAM hashes) and in a storm there are hundreds of them; so only
//! a few are taken between two looks at the sockets. The rest waits in order of arrival, however quickly they could go on; who says nothing holds up nobody.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::Notify;

/// So many steps are taken between two looks at the sockets.
const STEPS: u32 = 4;

/// One worker's turnstile.
#[derive(Debug)]
pub struct Turnstile {
    /// Steps that may still be taken before the next look.
    left: Cell<u32>,
    /// How often the worker has waited for its sockets, as far as is known here.
    looks: Cell<u64>,
    runtime: RuntimeMetrics,
    /// Those who wait, in order of arrival.
    line: RefCell<VecDeque<Waker>>,
    /// The number of the next ticket, and of the first that may not pass yet.
    next: Cell<u64>,
    passed: Cell<u64>,
    keeper: Notify,
}

impl Turnstile {
    /// An open one, of the runtime that this thread is in.
    ///
    /// # Panics
    /// Where there is none.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            left: Cell::new(STEPS),
            looks: Cell::new(0),
            runtime: Handle::current().metrics(),
            line: RefCell::default(),
            next: Cell::new(0),
            passed: Cell::new(0),
            keeper: Notify::new(),
        })
    }

    /// A future each of whose steps passes here.
    pub fn through<F: Future + Unpin>(self: &Rc<Self>, inner: F) -> Through<F> {
        Through { inner, turnstile: Rc::clone(self), ticket: None }
    }

    /// Lets the next ones pass after each look at the sockets, for as long as anybody waits. It never ends.
    pub async fn keep(&self) {
        loop {
            self.keeper.notified().await;
            while !self.line.borrow().is_empty() {
                // Comes back after the sockets have been looked at.
                tokio::task::yield_now().await;
                self.note_look();
                self.left.set(STEPS);
                self.let_pass();
            }
        }
    }

    /// Where the worker had nothing to do it has waited for its sockets, and has looked at them.
    fn note_look(&self) {
        let looks = self.runtime.worker_park_count(0);
        if self.looks.replace(looks) != looks {
            self.left.set(STEPS);
        }
    }

    fn let_pass(&self) {
        while let Some(waker) = self.take_first() {
            self.passed.set(self.passed.get() + 1);
            waker.wake();
        }
    }

    fn take_first(&self) -> Option<Waker> {
        if self.left.get() == 0 {
            return None;
        }
        let first = self.line.borrow_mut().pop_front()?;
        self.left.set(self.left.get() - 1);
        Some(first)
    }
}

/// A future each of whose steps passes the turnstile.
#[derive(Debug)]
pub struct Through<F> {
    inner: F,
    turnstile: Rc<Turnstile>,
    /// Its number among those who have waited, while it waits.
    ticket: Option<u64>,
}

impl<F> Through<F> {
    fn may_pass(&mut self, waker: &Waker) -> bool {
        let turnstile = &self.turnstile;
        match self.ticket {
            Some(ticket) if ticket < turnstile.passed.get() => {
                self.ticket = None;
                true
            }
            Some(_) => false,
            None => {
                turnstile.note_look();
                if turnstile.left.get() > 0 && turnstile.line.borrow().is_empty() {
                    turnstile.left.set(turnstile.left.get() - 1);
                    return true;
                }
                // Not before: a look that nobody waits for is a system call too many.
                turnstile.keeper.notify_one();
                self.ticket = Some(turnstile.next.replace(turnstile.next.get() + 1));
                turnstile.line.borrow_mut().push_back(waker.clone());
                false
            }
        }
    }
}

impl<F: Future + Unpin> Future for Through<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !self.may_pass(cx.waker()) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    /// A future of so many steps, each of which could be followed by the next at once.
    fn steps(mut count: u32, taken: Rc<Cell<u32>>) -> impl Future<Output = ()> + Unpin {
        poll_fn(move |cx| {
            taken.set(taken.get() + 1);
            count -= 1;
            if count == 0 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn a_storm_of_logins_leaves_room_for_others_between_any_few_steps() {
        let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (turnstile, taken) = (Turnstile::new(), Rc::new(Cell::new(0)));
            let keeper = Rc::clone(&turnstile);
            tokio::task::spawn_local(async move { keeper.keep().await });
            let logins: Vec<_> = (0..200).map(|_| tokio::task::spawn_local(turnstile.through(steps(10, Rc::clone(&taken))))).collect();
            let mut most = 0;
            while taken.get() < 2000 {
                let before = taken.get();
                tokio::task::yield_now().await;
                most = most.max(taken.get() - before);
            }
            assert!((1..=2 * STEPS).contains(&most), "{most} steps of logins between two of another's");
            for login in logins {
                login.await.unwrap();
            }
        });
    }

    #[test]
    fn a_worker_that_looks_at_its_sockets_anyway_is_not_made_to() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let turnstile = Turnstile::new();
            let login = Box::pin(async {
                for _ in 0..10 * STEPS {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            turnstile.through(login).await;
            assert_eq!(turnstile.next.get(), 0, "so many steps had to wait in line");
        });
    }

    #[test]
    fn who_comes_first_goes_first_and_who_gives_up_holds_up_nobody() {
        let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let turnstile = Turnstile::new();
            let keeper = Rc::clone(&turnstile);
            tokio::task::spawn_local(async move { keeper.keep().await });
            let order = Rc::new(RefCell::new(Vec::new()));
            let mut tasks = Vec::new();
            for number in 0..50 {
                let (order, taken) = (Rc::clone(&order), Rc::default());
                let login = Box::pin(async move {
                    steps(3, taken).await;
                    order.borrow_mut().push(number);
                });
                tasks.push(tokio::task::spawn_local(turnstile.through(login)));
            }
            tokio::task::yield_now().await;
            for gone in tasks.iter().skip(20).step_by(2) {
                gone.abort();
            }
            for task in tasks {
                // Those that were aborted end with an error.
                let _ = task.await;
            }
            let order = order.borrow();
            assert!(order.is_sorted(), "{order:?}");
            assert_eq!(order.len(), 35, "all who have not given up");
        });
    }
}
