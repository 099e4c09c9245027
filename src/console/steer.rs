//! Carrying out what changes something.

use std::time::Duration;

use tokio::time::sleep;

use super::complaint::Complaint;
use super::words::Command;
use super::{Order, Steward};
use crate::net::now;
use crate::session::{CONSOLE_NAMES, House, Mail, Victims};

/// How often it is looked whether connections are closed.
const LOOK: Duration = Duration::from_millis(10);

/// Carries out a command.
///
/// Cancel safe: what a dropped future has begun stays; only the wait for it ends.
pub(super) async fn carry_out(command: &Command, steward: &dyn Steward) -> Result<(), Complaint> {
    let house = steward.house();
    match command {
        Command::Pause(name) => pause(house, name.as_deref()).await,
        Command::Resume(name) => resume(house, name.as_deref()),
        Command::Reconnect(name) => reconnect(house, name.as_deref()),
        Command::WaitClose(name) => wait_close(house, name.as_deref()).await,
        Command::Enable(name) => set_disabled(house, name, false),
        Command::Disable(name) => set_disabled(house, name, true),
        Command::Kill(name) => kill(house, name.as_deref()),
        Command::KillClient(id) => kill_client(house, *id).await,
        Command::Reload => order(steward, Order::Reload).await,
        Command::Set { path, value } => order(steward, Order::Set { path: path.clone(), value: value.clone() }).await,
        Command::Drain => order(steward, Order::Drain).await,
        Command::Shutdown(when) => order(steward, Order::Shutdown(*when)).await,
        Command::Nothing(_) | Command::Show(_) | Command::Help | Command::Setting(..) => Ok(()),
    }
}

async fn order(steward: &dyn Steward, order: Order) -> Result<(), Complaint> {
    match steward.order(order).await {
        Ok(outcome) => outcome.map_err(Complaint::wrong),
        Err(_) => Err(Complaint::wrong("the proxy is stopping")),
    }
}

/// A database that clients may ask for.
fn known(house: &House, name: Option<&str>) -> Result<(), Complaint> {
    let Some(name) = name else { return Ok(()) };
    if CONSOLE_NAMES.contains(&name) {
        return Err(Complaint::wrong(format!("cannot do that to the admin database: {name}")));
    }
    let config = house.config.load();
    config.database(name).map(|_| ()).ok_or_else(|| Complaint::wrong(format!("no such database: {name}")))
}

async fn pause(house: &House, name: Option<&str>) -> Result<(), Complaint> {
    known(house, name)?;
    if house.gates.are_all_paused() || !house.gates.pause(name) {
        return Err(Complaint::wrong("already paused"));
    }
    close_gates(house, name);
    until_closed(house, name).await
}

fn close_gates(house: &House, name: Option<&str>) {
    for pool in house.pools_of(name) {
        pool.pause(now());
    }
}

/// Waits until no server connection is left of the pools that are meant now, and no longer than the pause lasts.
async fn until_closed(house: &House, name: Option<&str>) -> Result<(), Complaint> {
    let pools = house.pools_of(name);
    while !pools.iter().all(|pool| pool.is_empty()) {
        if !name.map_or_else(|| house.gates.are_all_paused(), |name| house.gates.is_paused(name)) {
            return Err(Complaint::wrong("resumed before the last server connection was closed"));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn resume(house: &House, name: Option<&str>) -> Result<(), Complaint> {
    known(house, name)?;
    if !house.gates.resume(name) {
        let what = name.map_or_else(|| "pooler is not paused/suspended".to_owned(), |name| format!("database {name} is not paused"));
        return Err(Complaint::wrong(what));
    }
    for pool in house.pools_of(name) {
        if !house.gates.is_paused(&String::from_utf8_lossy(&pool.key.database)) {
            pool.resume(now());
        }
    }
    Ok(())
}

fn reconnect(house: &House, name: Option<&str>) -> Result<(), Complaint> {
    known(house, name)?;
    for pool in house.pools_of(name) {
        pool.retire(now());
    }
    Ok(())
}

/// Waits for the end of connections that an earlier RECONNECT has told to close.
async fn wait_close(house: &House, name: Option<&str>) -> Result<(), Complaint> {
    known(house, name)?;
    let pools = house.pools_of(name);
    while pools.iter().any(|pool| pool.has_retired()) {
        sleep(LOOK).await;
    }
    Ok(())
}

fn set_disabled(house: &House, name: &str, disabled: bool) -> Result<(), Complaint> {
    known(house, Some(name))?;
    house.gates.set_disabled(name, disabled);
    Ok(())
}

/// As PgBouncer: the database stays paused until RESUME.
fn kill(house: &House, name: Option<&str>) -> Result<(), Complaint> {
    known(house, name)?;
    house.gates.pause(name);
    close_gates(house, name);
    let victims = name.map_or(Victims::All, |name| Victims::Database(name.to_owned()));
    house.tell_all(|| Mail::Evict(victims.clone()));
    Ok(())
}

async fn kill_client(house: &House, id: u32) -> Result<(), Complaint> {
    if !house.census().await.iter().any(|client| client.id == id) {
        return Err(Complaint::wrong("client not found"));
    }
    house.tell(house.keys.worker(id), Mail::Evict(Victims::Client(id)));
    Ok(())
}
