//! The numbers of SQL over HTTP as such; what its callers do as clients is counted with everybody's.

use std::time::Duration;

use serde::Serialize;

use super::labels::By;
use super::{Api, ApiOutcome, Counter, Durations, Gauge, Histogram};

/// What is counted, by the one thread that serves HTTP callers.
#[derive(Debug, Default)]
pub struct ApiNumbers {
    requests: [[Counter; ApiOutcome::ALL.len()]; Api::ALL.len()],
    took: [Histogram; Api::ALL.len()],
    /// Connections that are open.
    pub connections: Gauge,
    /// Transactions that are held between calls.
    pub transactions: Gauge,
}

impl ApiNumbers {
    /// A request has been answered.
    pub fn answered(&self, api: Api, outcome: ApiOutcome, took: Duration) {
        self.requests[api.index()][outcome.index()].add(1);
        self.took[api.index()].observe(took);
    }

    /// All of it.
    pub(super) fn snapshot(&self) -> ApiSnapshot {
        ApiSnapshot {
            connections: self.connections.get(),
            transactions: self.transactions.get(),
            requests: Api::ALL
                .iter()
                .map(|&api| {
                    let outcomes = By::each(|outcome: ApiOutcome| self.requests[api.index()][outcome.index()].get());
                    ApiRequests { api: api.label(), outcomes, took: self.took[api.index()].durations() }
                })
                .collect(),
        }
    }
}

/// SQL over HTTP at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct ApiSnapshot {
    /// Connections that are open.
    pub connections: i64,
    /// Transactions that are held between calls.
    pub transactions: i64,
    /// Requests, by the way in which they were made.
    pub requests: Vec<ApiRequests>,
}

/// Requests of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct ApiRequests {
    /// The way in which they were made.
    pub api: &'static str,
    /// How they ended.
    pub outcomes: By<ApiOutcome, u64>,
    /// How long they took.
    pub took: Durations,
}
