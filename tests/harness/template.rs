//! Where PostgreSQL's programs are, whom they run as, and a data folder to copy instead of running `initdb` each time.
//!
//! The template is made once per PostgreSQL version under Cargo's target folder, behind a file lock, and has a superuser
//! `postgres` (password `postgres`), a user `app` (password `secret`) and a database `app` that belongs to it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Raised when the statements or settings below change, so that an old template is not used again.
const EDITION: u32 = 1;

const STATEMENTS: &str = "\
ALTER ROLE postgres PASSWORD 'postgres'
CREATE ROLE app LOGIN PASSWORD 'secret'
ALTER DATABASE postgres RENAME TO app
ALTER DATABASE app OWNER TO app
UPDATE pg_database SET datistemplate = false WHERE datname = 'template0'
DROP DATABASE template0
";

/// Nothing here needs to survive a crash of the machine; all of it needs to be quick.
const SETTINGS: &str = "
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
shared_buffers = 16MB
listen_addresses = '127.0.0.1'
unix_socket_directories = '..'
timezone = 'UTC'
log_timezone = 'UTC'
";

/// The folder that holds `postgres` and `initdb`: `PG_BIN`, else on PATH, else the usual folders (15 before the newest).
pub fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("PG_BIN") {
        return folder.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut usual: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    usual.sort_by_key(|folder| {
        let version = folder.parent().and_then(Path::file_name).and_then(|name| name.to_str()?.parse::<u32>().ok());
        (version != Some(15), std::cmp::Reverse(version))
    });
    std::env::split_paths(&path)
        .chain(usual)
        .find(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file())
        .expect("PostgreSQL's programs: set PG_BIN to the folder that holds `postgres` and `initdb`")
}

/// Where clusters live: `TMPDIR` if set, else in memory if there is a gigabyte of room (making a thousand small files takes
/// tenths of a second on some disks), else the system's temporary folder.
pub fn storage() -> PathBuf {
    const ROOM: u64 = 1 << 30;
    let memory = Path::new("/dev/shm");
    let roomy = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) >= ROOM);
    if std::env::var_os("TMPDIR").is_none() && roomy { memory.to_owned() } else { std::env::temp_dir() }
}

/// Whom a server runs as: PostgreSQL refuses to run as root.
#[derive(Clone, Copy)]
pub enum RunAs {
    /// Whoever runs the test.
    Myself,
    /// This user, because the test runs as root.
    Other {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

impl RunAs {
    /// `postgres`, or `nobody` where there is no such user, if the test runs as root.
    pub fn unprivileged() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::Myself;
        }
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        let ids = |wanted: &str| {
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(wanted)).then_some(())?;
                Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
            })
        };
        let (uid, gid) = ids("postgres").or_else(|| ids("nobody")).expect("a user postgres or nobody");
        Self::Other { uid, gid }
    }

    /// The words that run `program` as this user.
    pub fn command(self, program: &Path) -> Vec<String> {
        let program = program.to_str().expect("a path in UTF-8").to_owned();
        match self {
            Self::Myself => vec![program],
            Self::Other { uid, gid } => vec![
                "setpriv".to_owned(),
                format!("--reuid={uid}"),
                format!("--regid={gid}"),
                "--clear-groups".to_owned(),
                "--".to_owned(),
                program,
            ],
        }
    }

    /// Makes `path` this user's.
    pub fn own(self, path: &Path) {
        if let Self::Other { uid, gid } = self {
            chown(path, Some(uid), Some(gid)).expect("root may give files away");
        }
    }
}

/// Copies the template, made first if need be, to `data`, which must not exist and will belong to `user`.
pub fn copy_to(data: &Path, user: RunAs) {
    let template = ready(user);
    copy_tree(&template, data, user);
    fs::set_permissions(data, fs::Permissions::from_mode(0o700)).unwrap();
}

fn ready(user: RunAs) -> PathBuf {
    let shelf = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let version = output(Command::new(binaries().join("postgres")).arg("--version"));
    let version = version.split_whitespace().nth(2).expect("a version in `postgres --version`").to_owned();
    let template = shelf.join(format!("postgres-{version}-edition-{EDITION}"));

    let lock = File::create(shelf.join("postgres.lock")).expect("Cargo's folder for tests is writable");
    lock.lock().expect("a file lock");
    if !template.exists() {
        make(&template, user);
    }
    template
}

fn make(template: &Path, user: RunAs) {
    // PostgreSQL's user may not be able to reach the target folder: made elsewhere, and copied from there.
    let workshop = tempfile::tempdir_in(storage()).unwrap();
    fs::set_permissions(workshop.path(), fs::Permissions::from_mode(0o755)).unwrap();
    user.own(workshop.path());
    let data = workshop.path().join("data");

    let words = user.command(&binaries().join("initdb"));
    output(
        Command::new(&words[0])
            .args(&words[1..])
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"])
            .args(["--no-instructions", "-D"])
            .arg(&data)
            .current_dir("/"),
    );
    let mut conf = File::options().append(true).open(data.join("postgresql.conf")).unwrap();
    conf.write_all(SETTINGS.as_bytes()).unwrap();

    let words = user.command(&binaries().join("postgres"));
    let mut single = Command::new(&words[0])
        .args(&words[1..])
        .args(["--single", "-j", "-D"])
        .arg(&data)
        .arg("template1")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("postgres --single starts");
    // With -j a statement ends at a semicolon and an empty line.
    let script = STATEMENTS.replace('\n', ";\n\n");
    single.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let done = single.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && !said.contains("ERROR"), "postgres --single: {said}");

    let unfinished = template.with_extension("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    copy_tree(&data, &unfinished, RunAs::Myself);
    fs::rename(&unfinished, template).unwrap();
}

/// Copies a folder with all that is in it, for `user`.
pub fn copy_tree(from: &Path, to: &Path, user: RunAs) {
    fs::create_dir(to).unwrap();
    user.own(to);
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target, user);
        } else {
            fs::copy(entry.path(), &target).unwrap();
            user.own(&target);
        }
    }
}

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
