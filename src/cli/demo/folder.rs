//! The demo's temporary folder: private, and gone when its value is.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::account::Account;
use super::progress::note;
use super::tenants::random_hex;

/// A PostgreSQL or a child of it that is just ending may still add a file while the folder is being removed.
const REMOVAL_TRIES: u32 = 5;

/// A folder under the system's temporary one. Dropping it removes it with everything inside.
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn create() -> anyhow::Result<Self> {
        let path = env::temp_dir().join(format!("pgweir-demo-{}-{}", std::process::id(), random_hex::<4>()?));
        // Others may pass through it (PostgreSQL's account must), but not look around.
        DirBuilder::new().mode(0o711).create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder below that only `owner` (or the caller) may enter.
    pub(super) fn create_for(&self, owner: Option<Account>, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        give(&path, owner)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for _ in 1..REMOVAL_TRIES {
            if is_gone(&fs::remove_dir_all(&self.path)) {
                return;
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            note(&format!("could not remove {}: {error}", self.path.display()));
        }
    }
}

fn is_gone(removal: &io::Result<()>) -> bool {
    removal.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
}

/// Makes a new file that only `owner` (or the caller) may read, with `text` in it.
pub(super) fn write_secret(path: &Path, text: &str, owner: Option<Account>) -> io::Result<()> {
    let mut file = private_file(path)?;
    file.write_all(text.as_bytes())?;
    give(path, owner)
}

/// Makes a new file that only the caller may read.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

fn give(path: &Path, owner: Option<Account>) -> io::Result<()> {
    owner.map_or(Ok(()), |account| chown(path, Some(account.uid), Some(account.gid)))
}

#[cfg(test)]
mod tests {
    use super::Folder;

    #[test]
    fn a_dropped_folder_is_gone_with_all_that_is_in_it() {
        let folder = Folder::create().unwrap();
        let path = folder.path().to_owned();
        let inner = folder.create_for(None, "inner").unwrap();
        super::write_secret(&inner.join("secret"), "x", None).unwrap();
        assert!(inner.join("secret").is_file());
        drop(folder);
        assert!(!path.exists());
    }
}
