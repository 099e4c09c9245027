//! pgweir: a PostgreSQL proxy that lets a surge of short-lived clients share few server connections.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests of pure rooms make up their own time"))]

pub mod admission;
pub mod auth;
pub mod cli;
pub mod config;
pub mod console;
pub mod daemon;
pub mod fault;
pub mod http;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod session;
pub mod upstream;
pub mod wire;

#[cfg(test)]
mod architecture;
