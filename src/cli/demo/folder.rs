//! The demo's temporary folder: private, and gone when its value is. Should a demo be killed outright, the next one
//! removes what it left.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::account::Account;
use super::progress::note;
use super::tenants::random_hex;

/// A PostgreSQL or a child of it that is just ending may still add a file while the folder is being removed.
const REMOVAL_TRIES: u32 = 5;

const PREFIX: &str = "pgweir-demo-";

/// A file in the folder that its demo holds locked for as long as it lives. The kernel lets go of the lock however the
/// demo ends, so a folder whose lock is free is nobody's. (A process id would lie across containers that share /tmp.)
const LOCK: &str = "lock";

/// A folder under the system's temporary one. Dropping it removes it with everything inside.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(super) fn create() -> anyhow::Result<Self> {
        Self::create_in(&env::temp_dir())
    }

    fn create_in(parent: &Path) -> anyhow::Result<Self> {
        remove_leftovers(parent);
        let path = parent.join(format!("{PREFIX}{}", random_hex::<6>()?));
        // Others may pass through it (PostgreSQL's account must), but not look around.
        DirBuilder::new().mode(0o711).create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let lock = private_file(&path.join(LOCK)).and_then(|lock| lock.lock().map(|()| lock));
        Ok(Self { _lock: lock.context("cannot lock the temporary folder")?, path })
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

/// Removes the folders of demos that were killed before they could.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
        if is_ours && is_abandoned(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Whether `path` is a demo's folder, made by this user, that no living demo holds. One without a lock is left alone:
/// it may be another's that is just being made.
fn is_abandoned(path: &Path) -> bool {
    let caller = rustix::process::geteuid().as_raw();
    let is_callers = fs::symlink_metadata(path).is_ok_and(|folder| folder.is_dir() && folder.uid() == caller);
    is_callers && File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
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
    use std::fs;

    use super::{Folder, LOCK};

    #[test]
    fn a_dropped_folder_is_gone_with_all_that_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create_in(parent.path()).unwrap();
        let path = folder.path().to_owned();
        let inner = folder.create_for(None, "inner").unwrap();
        super::write_secret(&inner.join("secret"), "x", None).unwrap();
        assert!(inner.join("secret").is_file());
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_demo_left_is_removed_by_the_next_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (dead, unlocked, foreign) = (make("pgweir-demo-dead"), make("pgweir-demo-new"), make("another"));
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(foreign.join(LOCK), "").unwrap();
        let living = Folder::create_in(parent.path()).unwrap();
        let _next = Folder::create_in(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.path().exists() && unlocked.exists() && foreign.exists());
    }
}
