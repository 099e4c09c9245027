//! Who may hold server connections, and who waits for one in which order. Pure: state, event, now.
//!
//! `Accounts` is about tenants: what each holds, may hold, has been promised and has had. `Line` is the queue of one pool. In a line the tenant goes first
//! that has had the least server time for its weight, and within a tenant the client that has had the least lately. `Usage` counts against quotas over time, and a
//! `Reading` tells how hard an upstream is pressed.

mod accounts;
mod levels;
mod limiter;
mod line;
mod pressure;
mod quota;
mod recent;
mod share;
mod standing;

pub use accounts::{Accounts, Limits, Refusal, Request, TenantId};
pub use levels::Levels;
pub use limiter::{Limiter, Sight};
pub use line::{Entry, Line, Pick, Ticket};
pub use pressure::{Reading, Strain};
pub use quota::{Exceeded, Pace, Quotas, Usage};
pub use recent::{LEVELS, Recent};
