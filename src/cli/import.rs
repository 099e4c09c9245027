//! `pgweir import`: a configuration made of another pooler's.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use crate::config::import;

/// Whose configuration it is.
#[derive(Debug, Subcommand)]
pub enum From {
    /// Of `PgBouncer`: an equivalent TOML, with what became of each setting; it has the passwords of the `auth_file` in it
    Pgbouncer {
        /// pgbouncer.ini
        file: PathBuf,
    },
}

/// Prints the TOML; what somebody should look at goes to `notes` too.
///
/// # Errors
/// When the file cannot be read, or the outcome not be written.
pub fn run(from: &From, out: &mut dyn Write, notes: &mut dyn Write) -> anyhow::Result<()> {
    let From::Pgbouncer { file } = from;
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    // As PgBouncer, from where one is; else from where the file is.
    let read = |name: &str| std::fs::read_to_string(name).or_else(|error| std::fs::read_to_string(folder.join(name)).map_err(|_| error));
    let imported = import(&file.display().to_string(), &text, &read);
    out.write_all(imported.toml.as_bytes())?;
    for open in &imported.open {
        writeln!(notes, "look at: {open}")?;
    }
    Ok(())
}
