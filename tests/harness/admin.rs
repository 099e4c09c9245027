//! A session of an admin database, ours or PgBouncer's, and a real PgBouncer to compare with.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{PATIENCE, Postgres, eventually, free_port, in_time};

/// One row by its columns' names; NULL is absent.
pub type Row = BTreeMap<String, String>;

/// A session of an admin database.
pub struct Admin(Client);

impl Admin {
    /// Logs in on this port of 127.0.0.1, with the password `secret`.
    pub async fn login(port: u16, user: &str, database: &str) -> Result<Self, tokio_postgres::Error> {
        let url = format!("postgres://{user}:secret@127.0.0.1:{port}/{database}");
        let (client, connection) = in_time("a login", Box::pin(tokio_postgres::connect(&url, NoTls))).await?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    /// The columns and rows of a command's answer.
    pub async fn table(&self, command: &str) -> Result<(Vec<String>, Vec<Row>), tokio_postgres::Error> {
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        for message in in_time(command, self.0.simple_query(command)).await? {
            match message {
                SimpleQueryMessage::RowDescription(described) => {
                    columns = described.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    let value = |(at, name): (usize, &String)| Some((name.clone(), row.get(at)?.to_owned()));
                    rows.push(columns.iter().enumerate().filter_map(value).collect());
                }
                _ => {}
            }
        }
        Ok((columns, rows))
    }

    /// The rows of a command that succeeds.
    pub async fn rows(&self, command: &str) -> Vec<Row> {
        self.table(command).await.unwrap_or_else(|error| panic!("{command}: {error:?}")).1
    }

    /// The only row in which this column has this value.
    pub async fn row(&self, command: &str, column: &str, value: &str) -> Row {
        let rows = self.rows(command).await;
        let mut found = rows.iter().filter(|row| row.get(column).is_some_and(|found| found == value));
        match (found.next(), found.next()) {
            (Some(row), None) => row.clone(),
            _ => panic!("{command}: not one row with {column} = {value} in {rows:?}"),
        }
    }

    /// The SQLSTATE and message with which a command fails.
    pub async fn refused(&self, command: &str) -> (String, String) {
        let error = self.table(command).await.expect_err(command);
        let error = error.as_db_error().unwrap_or_else(|| panic!("{command}: {error:?}"));
        (error.code().code().to_owned(), error.message().to_owned())
    }

    /// The client itself.
    pub fn client(&self) -> &Client {
        &self.0
    }
}

/// Debian's PgBouncer, running; dropping it ends it.
pub struct PgBouncer {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl PgBouncer {
    /// One in front of `postgres`, with the database and user `app`.
    pub async fn start(postgres: &Postgres) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        let users = folder.path().join("users.txt");
        fs::write(&users, "\"app\" \"secret\"\n").unwrap();
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = plain\nauth_file = {}\nadmin_users = app\npool_mode = transaction\n",
            postgres.port(),
            users.display()
        );
        fs::write(&settings, text).unwrap();
        let mut command = Command::new("pgbouncer");
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        let process =
            command.arg(&settings).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbouncer, which tests/setup installs");
        let started = Self { process, port, folder };
        eventually("PgBouncer listens", PATIENCE, async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        started
    }

    /// Its configuration.
    pub fn settings(&self) -> PathBuf {
        self.folder.path().join("pgbouncer.ini")
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
