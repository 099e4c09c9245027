//! Who is connected: so many at most, and the one that has been without a request for longest makes room.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// All connections. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Callers {
    limit: usize,
    next: Cell<u64>,
    present: Rc<RefCell<BTreeMap<u64, Present>>>,
    left: Rc<Notify>,
}

#[derive(Debug)]
struct Present {
    last_request: Rc<Cell<Instant>>,
    task: AbortHandle,
}

/// One connection's place among them; dropping it makes it free.
#[derive(Debug)]
pub(super) struct Call {
    number: u64,
    last_request: Rc<Cell<Instant>>,
    present: Rc<RefCell<BTreeMap<u64, Present>>>,
    left: Rc<Notify>,
}

impl Callers {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, next: Cell::new(0), present: Rc::default(), left: Rc::default() }
    }

    /// Starts a task for one more connection.
    pub(super) fn admit<F: Future<Output = ()> + 'static>(&self, connection: impl FnOnce(Call) -> F) {
        if self.present.borrow().len() >= self.limit {
            self.dismiss();
        }
        let number = self.next.replace(self.next.get() + 1);
        let last_request = Rc::new(Cell::new(Instant::now()));
        let call = Call { number, last_request: Rc::clone(&last_request), present: Rc::clone(&self.present), left: Rc::clone(&self.left) };
        let task = tokio::task::spawn_local(connection(call)).abort_handle();
        self.present.borrow_mut().insert(number, Present { last_request, task });
    }

    /// Waits until the last connection has ended by itself.
    pub(super) async fn last_left(&self) {
        while !self.present.borrow().is_empty() {
            self.left.notified().await;
        }
    }

    /// Ends the connection that has been without a request for longest.
    fn dismiss(&self) {
        let mut present = self.present.borrow_mut();
        let longest = present.iter().min_by_key(|(_, present)| present.last_request.get()).map(|(number, _)| *number);
        if let Some(Present { task, .. }) = longest.and_then(|number| present.remove(&number)) {
            task.abort();
        }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.present.borrow().values().for_each(|present| present.task.abort());
    }
}

impl Call {
    /// A request has come.
    pub(super) fn touch(&self) {
        self.last_request.set(Instant::now());
    }

    /// Waits until no request has come for so long. Cancel safe.
    pub(super) async fn without_request_for(&self, patience: Duration) {
        loop {
            let until = self.last_request.get() + patience;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Gone already where it was dismissed.
        self.present.borrow_mut().remove(&self.number);
        self.left.notify_one();
    }
}
