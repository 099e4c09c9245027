//! The server connections of all upstreams: who holds what, how leases are taken and given back, how pools grow and shrink.

pub mod ledger;
mod ramp;
