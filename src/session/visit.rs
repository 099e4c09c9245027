//! Visitors of the admin database: who is let in, and with what right. What they see there is the business of the room above.

use crate::config::Config;
use crate::fault::Fault;
use crate::net::{Peer, Portable};

/// The names of the admin database: our own, and the one that tools for PgBouncer ask for.
pub const NAMES: [&str; 2] = ["pgweir", "pgbouncer"];

/// What a visitor may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Look.
    Stats,
}

/// A visitor who has been believed, and has not been told so yet.
#[derive(Debug)]
pub struct Visit {
    /// The connection.
    pub io: Portable,
    /// What was read and not yet looked at.
    pub rest: Vec<u8>,
    /// The user.
    pub user: String,
    /// Where it comes from.
    pub peer: Peer,
    /// What it may do.
    pub role: Role,
}

/// Whether a database's name means the admin database.
pub fn is_console(database: &[u8]) -> bool {
    NAMES.iter().any(|name| name.as_bytes() == database)
}

/// Whether the visitor is the operating system's user that runs the proxy, and says so by the name: it needs no proof, as with PgBouncer.
pub fn is_own(user: &str, peer: Peer) -> bool {
    let Peer::Unix { uid, .. } = peer else { return false };
    NAMES.contains(&user) && uid == rustix::process::geteuid().as_raw()
}

/// What a user may do.
///
/// # Errors
/// Nothing at all.
pub fn role(config: &Config, user: &str, is_own: bool) -> Result<Role, Fault> {
    let is_in = |users: &[String]| users.iter().any(|name| name == user);
    if is_own || is_in(&config.console.admin_users) {
        Ok(Role::Admin)
    } else if is_in(&config.console.stats_users) {
        Ok(Role::Stats)
    } else {
        Err(Fault::ConsoleDenied { user: user.to_owned() })
    }
}
