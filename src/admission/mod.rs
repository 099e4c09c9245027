//! Who may hold server connections, and who waits for one in which order. Pure: state, event, now.
//!
//! `Accounts` is about tenants: what each holds, may hold and has been promised. `Line` is the queue of one pool. The order in a line is first
//! come, first served among the tenants that may hold one more; a fair order takes this order's place here and nowhere else.

mod accounts;
mod line;

pub use accounts::{Accounts, Limits, Refusal, TenantId};
pub use line::{Entry, Line, Ticket};
