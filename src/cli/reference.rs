//! `pgweir config reference|schema|example`: the pages made from the settings' doc comments.

use std::io::{self, Write};

use crate::config;

/// Which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Page {
    /// Every setting, as a page in Markdown
    Reference,
    /// The JSON schema of the file, for editors
    Schema,
    /// An annotated file with every setting at its default
    Example,
}

/// Prints a page.
pub fn print(page: Page, out: &mut dyn Write) -> io::Result<()> {
    let text = match page {
        Page::Reference => config::reference(),
        Page::Schema => config::schema(),
        Page::Example => config::example(),
    };
    out.write_all(text.as_bytes())
}
