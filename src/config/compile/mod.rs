//! From settings that fit their types to the [`Config`] that the program goes by: names looked up, secrets resolved, files looked for, numbers weighed
//! against each other. Every mistake is told, not only the first.

mod api;
mod legs;
mod login;
mod secrets;
mod share;
mod tenant;
mod tokens;
mod upstream;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;

use super::environment::Variables;
use super::findings::Findings;
use super::model::{Cloudwatch, Config, Log, Process};
use super::settings::{CloudwatchSettings, LogQueries, LogSettings, ProcessSettings, Settings};
use super::snapshot::Snapshot;
use super::value::Period;
use super::words::path;

/// What compiling needs at hand.
struct Compiling<'a, 'f> {
    settings: &'a Settings,
    variables: &'a Variables,
    findings: &'a mut Findings<'f>,
    snapshot: Snapshot,
}

/// The configuration; its value counts only when no error was found.
pub(super) fn compile(settings: &Settings, written: &Json, variables: &Variables, findings: &mut Findings<'_>) -> Config {
    let snapshot = Snapshot::of(findings.shape, written);
    let mut compiling = Compiling { settings, variables, findings, snapshot };
    let upstreams = compiling.upstreams();
    let databases = compiling.databases();
    let users = compiling.users();
    let tenants = compiling.tenants();
    let mut named = databases;
    let any_database = named.remove("*");
    Config {
        listen: compiling.listen(),
        client_tls: compiling.client_tls(),
        upstreams,
        any_database,
        databases: named,
        users,
        auth: compiling.auth(),
        tenants,
        console: compiling.console(),
        cloudwatch: compiling.cloudwatch(),
        api: compiling.api(),
        clients: compiling.clients(),
        client_tcp: compiling.client_tcp(),
        server_tcp: compiling.server_tcp(),
        process: compiling.process(),
        log: compiling.log(),
        snapshot: compiling.snapshot,
    }
}

impl Compiling<'_, '_> {
    /// A duration that cannot be switched off.
    fn needed(&mut self, at: &[String], period: Period, why: &str) -> Duration {
        if period.0.is_zero() && !self.findings.is_doubtful(at) {
            let name = at.last().map_or("", String::as_str);
            self.findings.error(at, format!("`{name}` cannot be off"), why);
        }
        period.0
    }

    /// A file that must be there and be readable.
    fn file(&mut self, at: &[String], file: &Path) -> PathBuf {
        // Opening is the honest question: it also sees missing rights.
        let problem = match std::fs::File::open(file).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_file() => None,
            Ok(_) => Some("it is not a file".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            let what = format!("the file {} cannot be read: {problem}", file.display());
            self.findings.error(at, what, "name a file that pgweir's user may read");
        }
        file.to_owned()
    }

    fn process(&mut self) -> Process {
        let ProcessSettings { workers, read_buffer, shutdown_grace, shutdown_timeout, watch } = self.settings.process;
        if shutdown_grace >= shutdown_timeout {
            let what = format!("`shutdown_grace` ({shutdown_grace}) is not shorter than `shutdown_timeout` ({shutdown_timeout})");
            let remedy = "leave time between them for open transactions to finish";
            self.findings.error(&path(["process", "shutdown_grace"]), what, remedy);
        }
        let bytes = usize::try_from(read_buffer.0).unwrap_or(usize::MAX);
        if !(4 << 10..=1 << 20).contains(&bytes) {
            let what = format!("`read_buffer` cannot be {read_buffer}");
            self.findings.error(&path(["process", "read_buffer"]), what, "write a size from \"4KiB\" to \"1MiB\"");
        }
        Process {
            workers: usize::try_from(workers).ok().filter(|workers| *workers > 0),
            read_buffer: bytes,
            shutdown_grace: shutdown_grace.0,
            shutdown_timeout: shutdown_timeout.0,
            watch: Some(watch.0).filter(|period| !period.is_zero()),
        }
    }

    fn cloudwatch(&mut self) -> Option<Cloudwatch> {
        let CloudwatchSettings { interval, namespace, proxy_name } = self.settings.cloudwatch.clone();
        for (key, text) in [("namespace", &namespace), ("proxy_name", &proxy_name)] {
            if text.is_empty() || text.len() > 255 {
                self.findings.error(
                    &path(["cloudwatch", key]),
                    "CloudWatch takes names of 1 to 255 bytes",
                    "write a shorter name, or leave it out",
                );
            }
        }
        interval.limit().map(|interval| Cloudwatch { interval, namespace, proxy_name })
    }

    fn log(&mut self) -> Log {
        let LogSettings { format, level, slow_query, queries } = self.settings.log.clone();
        for directive in level.split(',') {
            let word = directive.rsplit_once('=').map_or(directive, |(_, word)| word).trim();
            let words = ["off", "error", "warn", "info", "debug", "trace"];
            let is_target = !directive.contains('=') && directive.contains("::");
            if !is_target && !words.iter().any(|known| known.eq_ignore_ascii_case(word)) {
                let what = format!("\"{word}\" is no level of logging");
                let remedy = format!("write {}, or directives such as \"info,pgweir::pool=debug\"", super::words::either(words));
                self.findings.error(&path(["log", "level"]), what, remedy);
            }
        }
        let slow_query = slow_query.limit();
        if queries == LogQueries::Slow && slow_query.is_none() {
            let remedy = "set log.slow_query, or leave log.queries out";
            self.findings.error(&path(["log", "queries"]), "no request is slow: log.slow_query is 0", remedy);
        }
        Log { format, level, slow_query, queries }
    }
}
