//! What systemd is told of the process, where it wants to know (`Type=notify`).

use sd_notify::NotifyState;

use crate::metrics::Lifecycle;

/// Tells it that the process has come so far. Where nobody listens that is nothing.
pub fn tell(stage: Lifecycle) {
    let state = match stage {
        Lifecycle::Starting => return,
        Lifecycle::Ready => NotifyState::Ready,
        Lifecycle::Draining => NotifyState::Stopping,
    };
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "systemd cannot be told how far the process is");
    }
}
