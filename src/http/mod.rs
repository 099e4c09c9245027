//! HTTP: the operations endpoints, and SQL over HTTP in a house of its own (`api`).
//!
//! Owns requests and answers; never a number of its own: what it says comes from one [`Snapshot`], as everywhere. It runs on the control thread and
//! answers without a password, so that it is for private networks.

mod answer;
pub mod api;
mod callers;
mod serve;
#[cfg(test)]
mod tests;

pub use serve::serve;

use crate::metrics::Snapshot;

/// What the endpoints ask the rest of the proxy.
pub trait Operations {
    /// Everything at this moment.
    fn snapshot(&self) -> Snapshot;

    /// What has been in the last hour, as JSON.
    fn history(&self) -> String;

    /// Whether clients should be sent here, or why not.
    fn readiness(&self) -> Result<(), String>;
}
