//! Requests that an operator wants in the log: those that took long, or all; with the digest of their text, or with the text itself.
//!
//! Where nobody wants that, nothing is kept and a request pays one comparison.

use std::time::Duration;

use super::relay::Relay;
use crate::config::{Log, LogQueries};
use crate::net::Moment;
use crate::wire::message;
use crate::wire::sql;

/// The most of a text that is kept, in bytes: what is behind it is seldom what makes a statement slow.
const KEPT: usize = 4 << 10;

/// What of requests is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Telling {
    /// Those that take as long.
    pub beyond: Duration,
    /// What their text is; else only its digest.
    pub text: bool,
    /// One line each, however many there are.
    pub all: bool,
}

impl Telling {
    /// Nothing.
    pub const NOTHING: Self = Self { beyond: Duration::MAX, text: false, all: false };

    /// As configured.
    pub fn of(log: &Log) -> Self {
        match (log.queries, log.slow_query) {
            (LogQueries::All, _) => Self { beyond: Duration::ZERO, text: true, all: true },
            (LogQueries::Slow, Some(beyond)) => Self { beyond, text: true, all: false },
            (LogQueries::None, Some(beyond)) => Self { beyond, text: false, all: false },
            (LogQueries::Slow | LogQueries::None, None) => Self::NOTHING,
        }
    }

    /// Whether the texts of requests are of use.
    pub fn wants_texts(self) -> bool {
        self != Self::NOTHING
    }
}

/// The text of the request that is under way.
#[derive(Debug, Default)]
pub struct Asked(Vec<u8>);

impl Relay<'_> {
    /// A request begins with these bytes, or goes on: the text of the first statement there, if there is one, is kept.
    #[cold]
    pub(super) fn keep_asked(&mut self, bytes: &[u8]) {
        let Some(asked) = &mut self.asked else { return };
        let client = &self.client;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (whole, behind) = message::first(rest).unwrap_or((rest, &[]));
            let text = match whole {
                [b'Q', _, _, _, _, body @ ..] => Some(message::query(body).unwrap_or(body)),
                [b'P', _, _, _, _, body @ ..] => Some(message::parse(body).map_or(body, |(_, text)| text)),
                [b'B', _, _, _, _, body @ ..] => message::bind(body).ok().and_then(|(_, name)| match name {
                    [] => client.unnamed.split(|byte| *byte == 0).next(),
                    name => client.names.text_of(name),
                }),
                [b'F', ..] => Some(&b"(a function call)"[..]),
                _ => None,
            };
            if let Some(text) = text {
                asked.0.clear();
                asked.0.extend_from_slice(&text[..text.len().min(KEPT)]);
                return;
            }
            rest = behind;
        }
    }

    /// A request has been answered and is to be told.
    #[cold]
    pub(super) fn tell_request(&self, telling: Telling, took: Duration, at: Moment) {
        let Some(Asked(asked)) = self.asked.as_deref() else { return };
        let (watch, worker) = (&self.client.watch, &self.client.worker);
        let digest = sql::digest(asked);
        if !telling.all && !worker.slow.is_first(digest, at) {
            return;
        }
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let text = telling.text.then(|| name(asked));
        tracing::info!(
            tenant = watch.tenant.borrow().name,
            client = %watch.peer,
            client_id = worker.id(self.client.slot as usize),
            user = name(&watch.pool.key.user),
            database = name(&watch.pool.key.database),
            server_pid = self.lease.server().state.card.pid,
            took_ms = took.as_secs_f64() * 1000.0,
            statement = format_args!("{digest:016x}").to_string(),
            text,
            "{}",
            if telling.all { "a request" } else { "a request took long" }
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    #[test]
    fn what_is_told_is_what_was_asked_for() {
        let of = |queries, slow_query: Option<u64>| {
            Telling::of(&Log { format: LogFormat::Json, level: String::new(), queries, slow_query: slow_query.map(Duration::from_millis) })
        };
        assert!(!of(LogQueries::None, None).wants_texts() && !of(LogQueries::Slow, None).wants_texts());
        let slow = of(LogQueries::None, Some(5));
        assert_eq!((slow.beyond, slow.text, slow.all), (Duration::from_millis(5), false, false));
        assert!(of(LogQueries::Slow, Some(5)).text);
        let all = of(LogQueries::All, Some(5));
        assert_eq!((all.beyond, all.text, all.all), (Duration::ZERO, true, true));
    }
}
