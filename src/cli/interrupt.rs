//! The signals that end what runs until it is told to stop: Ctrl-C, SIGTERM, and SIGHUP when the terminal goes away.

use std::io;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from its making on: a signal that comes before the first `next` is not lost.
pub(super) struct Interrupt {
    int: Signal,
    term: Signal,
    hup: Signal,
}

/// One received signal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received(SignalKind);

impl Interrupt {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())?, hup: signal(SignalKind::hangup())? })
    }

    /// The next signal. Cancel safe.
    pub(super) async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.int.recv() => Received(SignalKind::interrupt()),
            _ = self.term.recv() => Received(SignalKind::terminate()),
            _ = self.hup.recv() => Received(SignalKind::hangup()),
        }
    }
}

impl Received {
    /// 128 + the signal's number, as a shell reports it.
    pub(super) fn exit_code(self) -> ExitCode {
        ExitCode::from(u8::try_from(128 + self.0.as_raw_value()).unwrap_or(u8::MAX))
    }
}
