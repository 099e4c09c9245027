//! Where log lines go, and in which form.

use std::io::IsTerminal as _;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use crate::config::{Log, LogFormat};

/// Changes what is logged; directives that are none change nothing.
pub type SetLevel = Box<dyn Fn(&str)>;

/// Sends log lines to standard error, and answers how to change what is logged.
///
/// # Errors
/// Directives that are none. They have been checked with the configuration.
pub fn start(log: &Log) -> anyhow::Result<SetLevel> {
    let filter = EnvFilter::try_new(&log.level).context("log.level")?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = match log.format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        LogFormat::Text => fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(has_colours()).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(Box::new(move |level| {
        if let Ok(filter) = EnvFilter::try_new(level) {
            // It fails only when the subscriber is gone, at the very end.
            let _ = handle.reload(filter);
        }
    }))
}

/// Whether whoever reads the lines sees colours: at a terminal, unless <https://no-color.org> is asked for.
fn has_colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|wish| wish.is_empty())
}
