//! The limit of open files, for programs that play many clients at once.

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit};

/// Room for what is open beside the clients' sockets: logs, the runtime, sockets of one's own.
const OTHER_OPEN_FILES: u64 = 256;

/// Raises this process's limit of open files, as far as it may, to hold a socket for each of so many clients; children inherit it.
///
/// # Errors
/// When the system allows fewer, or does not let the limit be raised.
pub(super) fn raise_limit(clients: u64) -> anyhow::Result<()> {
    let needed = clients + OTHER_OPEN_FILES;
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if maximum.is_some_and(|maximum| maximum < needed) {
        bail!("{clients} clients at a time need {needed} open files, more than `ulimit -Hn` allows; try fewer");
    }
    let raised = Rlimit { current: Some(needed), maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}
