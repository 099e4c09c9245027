//! Where PostgreSQL's programs are: `PG_BIN`, then PATH, then the folders that packages use.

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

const REMEDY: &str = "install it (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; \
    macOS: brew install postgresql), or name the folder of initdb and postgres in PG_BIN";

/// Folders to look in, where `*` stands for one whole or partial name. Of several matches the highest version wins.
const USUAL_FOLDERS: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/usr", "pgsql-", "bin"),
    ("/usr/local", "pgsql", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A folder that holds both `initdb` and `postgres`.
pub(super) struct Binaries {
    folder: PathBuf,
    version: String,
}

impl Binaries {
    /// Finds PostgreSQL. A folder that the user named is taken or refused, never passed over for another.
    pub(super) fn find(named: Option<&Path>) -> anyhow::Result<Self> {
        let folder = match named {
            Some(folder) if holds_postgres(folder) => folder.to_owned(),
            Some(folder) => bail!("PG_BIN={}: no initdb and postgres in there; {REMEDY}", folder.display()),
            None => on_path().or_else(in_usual_folders).with_context(|| format!("PostgreSQL was not found; {REMEDY}"))?,
        };
        let version = version_of(&folder.join("postgres"))?;
        Ok(Self { folder, version })
    }

    /// As PostgreSQL says it, for instance `PostgreSQL 15.18`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }
}

fn holds_postgres(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file())
}

fn on_path() -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).find(|folder| holds_postgres(folder))
}

fn in_usual_folders() -> Option<PathBuf> {
    USUAL_FOLDERS.iter().find_map(|(parent, prefix, below)| newest_in(Path::new(parent), prefix, below))
}

/// Of `parent/PREFIX*/below`, the one with the highest number in its name that holds PostgreSQL.
fn newest_in(parent: &Path, prefix: &str, below: &str) -> Option<PathBuf> {
    let mut found: Vec<(Reverse<u32>, PathBuf)> = fs::read_dir(parent)
        .ok()?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let rest = name.strip_prefix(prefix)?;
            let folder = parent.join(&name).join(below);
            holds_postgres(&folder).then(|| (Reverse(major_version(rest)), folder))
        })
        .collect();
    found.sort();
    found.into_iter().next().map(|(_, folder)| folder)
}

/// The first number in a folder's name; 0 without one.
fn major_version(name: &str) -> u32 {
    let digits: String = name.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

fn version_of(postgres: &Path) -> anyhow::Result<String> {
    let output = Command::new(postgres).arg("--version").output().with_context(|| format!("cannot run {}", postgres.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
    let number = text.split_whitespace().nth(2).unwrap_or("of an unknown version");
    Ok(format!("PostgreSQL {number}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Binaries, major_version, newest_in};

    fn install(folder: &std::path::Path) {
        fs::create_dir_all(folder).unwrap();
        for program in ["initdb", "postgres"] {
            fs::write(folder.join(program), "").unwrap();
        }
    }

    #[test]
    fn the_highest_version_wins_by_number_not_by_letter() {
        let parent = tempfile::tempdir().unwrap();
        for version in ["9.6", "14", "17"] {
            install(&parent.path().join(version).join("bin"));
        }
        // Newer, but not a server: only its client programs are installed.
        fs::create_dir_all(parent.path().join("18/bin")).unwrap();
        assert_eq!(newest_in(parent.path(), "", "bin"), Some(parent.path().join("17/bin")));
    }

    #[test]
    fn a_folder_named_by_the_user_is_never_passed_over() {
        let empty = tempfile::tempdir().unwrap();
        let message = Binaries::find(Some(empty.path())).err().unwrap().to_string();
        assert!(message.contains("PG_BIN") && message.contains("apt-get install postgresql"), "{message}");
    }

    #[test]
    fn versions_are_read_from_folder_names() {
        assert_eq!(major_version("17"), 17);
        assert_eq!(major_version("9.6"), 9);
        assert_eq!(major_version("@16"), 16);
        assert_eq!(major_version("latest"), 0);
    }
}
