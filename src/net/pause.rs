//! A short rest for a worker's listener. Workers have no timers (the time driver would cost every turn), so the kernel keeps
//! this one: a `timerfd`, made beforehand because it is needed just when no descriptor is to be had.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long: an eternity for a spinning loop, a moment for a client.
const REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

#[derive(Debug)]
pub(super) struct Pause {
    timer: AsyncFd<OwnedFd>,
    running: Cell<bool>,
}

impl Pause {
    /// Registers with this thread's runtime.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; what that guards against is a type that changes its descriptor, which OwnedFd does not"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { timer, running: Cell::new(false) })
    }

    /// Starts the rest.
    pub(super) fn begin(&self) -> io::Result<()> {
        let once = Itimerspec { it_interval: Timespec::default(), it_value: REST };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.running.set(true);
        Ok(())
    }

    /// Waits until the rest is over, if there is one. Cancel safe.
    pub(super) async fn over(&self) -> io::Result<()> {
        while self.running.get() {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
            // Else it was readiness from an earlier rest.
            if let Ok(done) = read {
                done?;
                self.running.set(false);
            }
        }
        Ok(())
    }
}
