//! What the process uses, as Linux says it in `/proc` (proc(5)); elsewhere nothing is published.

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// What the process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Memory that is in RAM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Open descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_fds: Option<u64>,
    /// CPU time, user's and system's, of all threads.
    pub cpu_seconds: f64,
}

impl Usage {
    /// What it uses now.
    pub(super) fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        #[expect(clippy::cast_precision_loss, reason = "seconds of CPU stay far below 2^52")]
        let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        Self { resident_bytes: resident_bytes(), open_fds: open_fds(), cpu_seconds }
    }
}

fn resident_bytes() -> Option<u64> {
    // "VmRSS:     12345 kB"; statm would need the size of a page.
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn open_fds() -> Option<u64> {
    let entries = u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?;
    // Less the one that reads the folder.
    Some(entries.saturating_sub(1))
}
