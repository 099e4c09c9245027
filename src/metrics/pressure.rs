//! How hard upstreams are pressed, for whoever drives the callers: what `/pressure` says, out of the same snapshot as everything else.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::Snapshot;
use super::labels::PressureState;

/// How hard an upstream is pressed, in all or by one tenant, over the last five to ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pressure {
    /// How it stands.
    pub state: PressureState,
    /// From 0 to 1: up to a half how busy the server connections are, above that how long clients wait for what they may wait; 1 where clients are refused.
    pub pressure: f64,
    /// The 99th percentile of the waits for a server connection.
    pub queue_wait_p99_ms: f64,
    /// When a caller that is refused should come back.
    pub retry_after_ms: u64,
    /// How many callers like those that there are would keep four fifths of the server connections busy; absent where none was at work.
    pub suggested_concurrency: Option<u64>,
    /// How many clients are logged in.
    pub clients: u32,
}

impl Serialize for PressureState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

#[derive(Serialize)]
struct Page<'a> {
    upstreams: BTreeMap<&'a str, Upstream<'a>>,
}

#[derive(Serialize)]
struct Upstream<'a> {
    #[serde(flatten)]
    pressure: Pressure,
    limit: u32,
    tenants: BTreeMap<&'a str, Pressure>,
}

impl Snapshot {
    /// As JSON, for `/pressure`.
    pub fn pressure_json(&self) -> String {
        let upstreams = self.upstreams.iter().map(|upstream| {
            let tenants = upstream.tenants.iter().map(|(name, pressure)| (name.as_str(), *pressure)).collect();
            (upstream.name.as_str(), Upstream { pressure: upstream.pressure, limit: upstream.limit, tenants })
        });
        // Every key is text and every number finite, so that there is nothing to fail.
        serde_json::to_string(&Page { upstreams: upstreams.collect() }).unwrap_or_default()
    }
}
