//! A short rest for a listener that has run into a limit.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use super::timer::Timer;

/// An eternity for a loop that spins, a moment for a client.
const REST: Duration = Duration::from_millis(100);

/// Made with the listener, because it is needed just when no more descriptors are to be had.
#[derive(Debug)]
pub(super) struct Pause {
    timer: Timer,
    running: Cell<bool>,
}

impl Pause {
    /// Registers with this thread's runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { timer: Timer::new()?, running: Cell::new(false) })
    }

    /// Starts the rest.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.timer.run(REST, Duration::ZERO)?;
        self.running.set(true);
        Ok(())
    }

    /// Waits until the rest is over, if there is one. Cancel safe.
    pub(super) async fn over(&self) -> io::Result<()> {
        if self.running.get() {
            self.timer.ran_out().await?;
            self.running.set(false);
        }
        Ok(())
    }
}
