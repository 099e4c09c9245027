//! What can be shown: PgBouncer's tables with PgBouncer's columns in PgBouncer's order, ours behind them; and tables of our own.
//!
//! Everything is read from one [`View`] taken for the command, whose numbers are those of `/metrics`.

mod configured;
mod connections;
mod own;
mod process;
mod traffic;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::table::{Column, Kind, Row};
use crate::metrics::{DatabaseSnapshot, Snapshot};
use crate::pool::ServerEntry;
use crate::session::{ClientEntry, House};

/// Everything at one moment.
#[derive(Debug)]
pub struct View {
    /// What all threads share.
    pub house: Arc<House>,
    /// All numbers.
    pub snapshot: Snapshot,
    /// Every client, where the table is about clients.
    pub clients: Vec<ClientEntry>,
    /// Every server connection.
    pub servers: Vec<ServerEntry>,
    /// The numbers at the ends of a period.
    pub period: Period,
    /// When it was taken.
    pub now: SystemTime,
}

/// The databases' numbers at both ends of the last period for which averages are told.
#[derive(Debug, Clone, Default)]
pub struct Period {
    /// At its beginning.
    pub older: Vec<DatabaseSnapshot>,
    /// At its end.
    pub newer: Vec<DatabaseSnapshot>,
    /// How long it was.
    pub length: Duration,
}

/// A table that can be shown.
#[derive(Debug)]
pub struct Show {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Its columns.
    pub columns: &'static [Column],
    /// Whether it tells of single clients, which costs a look at each of them.
    pub counts_clients: bool,
    /// Its rows.
    pub rows: fn(&View) -> Vec<Row>,
}

impl PartialEq for Show {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// Every table.
pub static SHOWS: [Show; 20] = [
    Show { name: "active_sockets", columns: &connections::SOCKETS, counts_clients: true, rows: connections::active_sockets },
    Show { name: "clients", columns: &connections::CLIENTS, counts_clients: true, rows: connections::clients },
    Show { name: "config", columns: &configured::CONFIG, counts_clients: false, rows: configured::config },
    Show { name: "databases", columns: &configured::DATABASES, counts_clients: true, rows: configured::databases },
    Show { name: "faults", columns: &own::FAULTS, counts_clients: false, rows: own::faults },
    Show { name: "lists", columns: &process::LISTS, counts_clients: false, rows: process::lists },
    Show { name: "mem", columns: &process::MEM, counts_clients: false, rows: process::mem },
    Show { name: "pins", columns: &own::PINS, counts_clients: false, rows: own::pins },
    Show { name: "pools", columns: &connections::POOLS, counts_clients: true, rows: connections::pools },
    Show { name: "queues", columns: &own::QUEUES, counts_clients: true, rows: own::queues },
    Show { name: "servers", columns: &connections::SERVERS, counts_clients: true, rows: connections::servers },
    Show { name: "sockets", columns: &connections::SOCKETS, counts_clients: true, rows: connections::sockets },
    Show { name: "state", columns: &process::STATE, counts_clients: false, rows: process::state },
    Show { name: "stats", columns: &traffic::STATS, counts_clients: false, rows: traffic::stats },
    Show { name: "stats_averages", columns: &traffic::AVERAGES, counts_clients: false, rows: traffic::averages },
    Show { name: "stats_totals", columns: &traffic::TOTALS, counts_clients: false, rows: traffic::totals },
    Show { name: "tenants", columns: &own::TENANTS, counts_clients: false, rows: own::tenants },
    Show { name: "upstreams", columns: &own::UPSTREAMS, counts_clients: false, rows: own::upstreams },
    Show { name: "users", columns: &configured::USERS, counts_clients: true, rows: configured::users },
    Show { name: "version", columns: &process::VERSION, counts_clients: false, rows: process::version },
];

const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

const fn int(name: &'static str) -> Column {
    Column { name, kind: Kind::Int }
}

const fn big(name: &'static str) -> Column {
    Column { name, kind: Kind::Big }
}

const fn real(name: &'static str) -> Column {
    Column { name, kind: Kind::Real }
}

/// A moment as PgBouncer writes it.
fn moment(at: SystemTime) -> String {
    let at = time::OffsetDateTime::from(at);
    format!("{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute(), at.second())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn moments_are_in_utc() {
        assert_eq!(moment(SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_209_830)), "2024-02-29 12:30:30 UTC");
    }

    #[test]
    fn tables_have_names_of_their_own_and_so_have_their_columns() {
        let names: HashSet<&str> = SHOWS.iter().map(|show| show.name).collect();
        assert_eq!(names.len(), SHOWS.len());
        for show in &SHOWS {
            let columns: HashSet<&str> = show.columns.iter().map(|column| column.name).collect();
            assert_eq!(columns.len(), show.columns.len(), "{}", show.name);
        }
    }
}
