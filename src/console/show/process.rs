//! SHOW LISTS, MEM, STATE and VERSION: the process as a whole.

use super::{Column, Row, View, big, int, text};
use crate::console::table::Value;
use crate::metrics::Lifecycle;

pub(super) const LISTS: [Column; 2] = [text("list"), int("items")];
pub(super) const MEM: [Column; 5] = [text("name"), big("size"), big("used"), big("free"), big("memtotal")];
pub(super) const STATE: [Column; 2] = [text("key"), text("value")];
pub(super) const VERSION: [Column; 1] = [text("version")];

pub(super) fn lists(view: &View) -> Vec<Row> {
    let config = view.house.config.load();
    let upstreams = view.house.upstreams();
    let (clients, most) = (view.house.clients(), config.clients.max_clients);
    let budget: usize = upstreams.iter().map(|upstream| upstream.ledger.lock().budget() as usize).sum();
    let pools: usize = upstreams.iter().map(|upstream| upstream.pools().len()).sum();
    let row = |name: &str, items: Value| vec![name.into(), items];
    vec![
        row("databases", config.databases.len().into()),
        row("users", config.users.len().into()),
        row("peers", 0_u32.into()),
        row("pools", pools.into()),
        row("peer_pools", 0_u32.into()),
        row("free_clients", most.saturating_sub(clients).into()),
        row("used_clients", clients.into()),
        row("login_clients", view.house.entering().into()),
        row("free_servers", budget.saturating_sub(view.servers.len()).into()),
        row("used_servers", view.servers.len().into()),
        // Names are looked up anew for each connection: nothing of them is kept.
        row("dns_names", 0_u32.into()),
        row("dns_zones", 0_u32.into()),
        row("dns_queries", 0_u32.into()),
        row("dns_pending", 0_u32.into()),
        row("tenants", config.tenants.len().into()),
        row("upstreams", upstreams.len().into()),
    ]
}

/// The workers' read buffers, which are all the buffers that idle clients share, and the process as the system counts it.
pub(super) fn mem(view: &View) -> Vec<Row> {
    let config = view.house.config.load();
    let (buffer, workers) = (config.process.read_buffer, view.house.worker_count());
    let buffers: Row = vec!["read_buffer".into(), buffer.into(), workers.into(), 0_u32.into(), (buffer * workers).into()];
    let resident = view.snapshot.process.usage.resident_bytes;
    let process = resident.map(|bytes| vec!["process_resident".into(), bytes.into(), 1_u32.into(), 0_u32.into(), bytes.into()]);
    std::iter::once(buffers).chain(process).collect()
}

pub(super) fn state(view: &View) -> Vec<Row> {
    let is_paused = view.house.gates.are_all_paused();
    let word = |is_so: bool| if is_so { "yes" } else { "no" };
    let row = |key: &str, value: &str| vec![key.into(), value.into()];
    vec![
        row("active", word(!is_paused && view.snapshot.state == Lifecycle::Ready)),
        row("paused", word(is_paused)),
        row("suspended", "no"),
        row("lifecycle", view.snapshot.state.label()),
    ]
}

pub(super) fn version(view: &View) -> Vec<Row> {
    vec![vec![format!("pgweir {}", view.snapshot.version).into()]]
}
