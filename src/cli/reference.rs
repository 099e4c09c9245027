//! `pgweir config ..`: the pages made from doc comments and tables.

use std::io::{self, Write};

use crate::{config, fault, metrics};

/// Which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Page {
    /// Every setting, as a page in Markdown
    Reference,
    /// The JSON schema of the file, for editors
    Schema,
    /// An annotated file with every setting at its default
    Example,
    /// Everything that a refused client can hear, as a page in Markdown
    Faults,
    /// Every metric, as a page in Markdown
    Metrics,
    /// What becomes of each of `PgBouncer`'s settings, as a page in Markdown
    Pgbouncer,
}

/// Prints a page.
pub fn print(page: Page, out: &mut dyn Write) -> io::Result<()> {
    let text = match page {
        Page::Reference => config::reference(),
        Page::Schema => config::schema(),
        Page::Example => config::example(),
        Page::Faults => fault::reference(),
        Page::Metrics => metrics::reference(),
        Page::Pgbouncer => config::pgbouncer_reference(),
    };
    out.write_all(text.as_bytes())
}
