//! The server connections of all upstreams: who holds what, how leases are taken and given back, how pools grow and shrink.
//!
//! The ledger of an upstream decides and is shared by all threads; a worker's `Local` has the sockets; the control thread opens and cancels.

mod adopted;
mod astray;
mod auth_query;
mod circuit;
mod home;
mod lease;
pub mod ledger;
mod local;
mod mail;
mod mend;
mod opener;
mod portion;
mod profiles;
mod ramp;
mod shared;
mod slots;
pub mod switchboard;

pub use astray::{CancelRequest, Deliver, Proof};
pub use auth_query::{AuthQueries, auth_query};
pub use lease::Lease;
pub use local::{Attempt, Local, Unavailable, Wait, size_scratch, with_scratch};
pub use mail::{Inbox, Job, Jobs, Mail, Mailbox, mailbox};
pub use opener::{probe, serve as serve_jobs};
pub use profiles::{Profile, Profiles};
pub use shared::{Around, Open, Pool, PoolKey, ServerEntry, Sharing, Times, Upstream};
