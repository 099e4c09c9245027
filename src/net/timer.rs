//! A timer that the kernel keeps, as a descriptor (`timerfd_create(2)`): for runtimes that have no timers of their own.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of this thread's runtime.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// A timer that does not run yet.
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; what that guards against is a type that changes its descriptor, which OwnedFd does not"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Runs out after `first`, and again each time that `then` has passed, or, when that is zero, not again. What it was told before is forgotten.
    pub(super) fn run(&self, first: Duration, then: Duration) -> io::Result<()> {
        let spec = Itimerspec { it_value: timespec(first)?, it_interval: timespec(then)? };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }

    /// Waits until it has run out, once or more often, since this was last asked. Cancel safe.
    pub(super) async fn ran_out(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut count = [0; 8];
            let read = rustix::io::read(self.0.get_ref(), &mut count);
            // What was read was all there was, so there is no need to find out by reading once more.
            ready.clear_ready();
            match read {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn timespec(duration: Duration) -> io::Result<Timespec> {
    Timespec::try_from(duration).map_err(|_| io::ErrorKind::InvalidInput.into())
}
