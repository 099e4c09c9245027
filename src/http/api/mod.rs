//! SQL over HTTP: Neon's protocol, the RDS Data API, a plain one, and a WebSocket tunnel, all on one port.
//!
//! Owns requests and their answers; never a server connection. Each caller is a client of the proxy's own front door, through a pipe: so tenants, quotas, deadlines,
//! the queue and the numbers are the same ones, and what a caller leaves behind ends with its pipe. All of it lives on a worker of its own, which has no clients but these.

mod answer;
mod caller;
mod data;
mod desk;
mod front;
mod json;
mod line;
mod neon;
mod query;
pub mod readers;
mod reply;
mod serve;
mod trouble;
mod tunnel;

pub use serve::serve;
