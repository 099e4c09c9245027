//! Connection strings: an upstream for each server that they lead to, and a tenant for each database where they share one.
//!
//! PgBouncer bounds the connections of each (database, user); we bound those of each server, whoever they are for. The budget is the sum of what PgBouncer would
//! open with one user for each database.

use std::collections::BTreeMap;

use super::ini::{Entry, parts};
use super::page::{key, text};
use super::{Import, seconds};

/// A database as PgBouncer has it.
#[derive(Clone, Debug, Default)]
struct Database {
    name: String,
    place: String,
    host: Option<String>,
    port: u32,
    dbname: Option<String>,
    pool_mode: Option<String>,
    pool_size: Option<u32>,
    min_pool_size: Option<u32>,
    reserve: Option<u32>,
    most: Option<u32>,
    most_clients: Option<u32>,
    lifetime: Option<String>,
    auth_user: Option<String>,
    auth_dbname: Option<String>,
    auth_query: Option<String>,
    forced: Option<(String, Option<String>)>,
}

/// The server that a database is on: its hosts and port.
type Place = (Option<String>, u32);

impl Import<'_> {
    pub(super) fn databases(&mut self) {
        let entries = self.ini.databases.clone();
        let databases: Vec<Database> = entries.iter().map(|entry| self.database(entry)).collect();
        if databases.is_empty() {
            self.page.open("there is no database: add [databases.NAME] with `upstream`, and the upstream".to_owned());
        }
        let mut places: Vec<Place> = Vec::new();
        for database in &databases {
            let place = (database.host.clone(), database.port);
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let names: Vec<String> = places.iter().map(|place| upstream_name(place, places.len())).collect();
        for (place, name) in places.iter().zip(&names) {
            let here: Vec<&Database> = databases.iter().filter(|database| (database.host.clone(), database.port) == *place).collect();
            self.upstream(name, place, &here);
        }
        for database in &databases {
            let at = places.iter().position(|place| *place == (database.host.clone(), database.port)).unwrap_or(0);
            self.write_database(database, names.get(at).map_or("main", String::as_str));
        }
        self.tenants(&databases);
        self.forced_users(&databases);
    }

    fn database(&mut self, entry: &Entry) -> Database {
        let mut database = Database { name: entry.name.clone(), place: entry.place.clone(), port: 5432, ..Database::default() };
        let (found, rest) = parts(&entry.value);
        if let Some(rest) = rest {
            self.page.open(format!("{}: `{rest}` in the connection string was not understood", entry.place));
        }
        let mut password = None;
        for (name, value) in found {
            let number = || value.parse::<u32>().ok();
            match name.as_str() {
                "host" => database.host = Some(value),
                "port" => database.port = number().unwrap_or(5432),
                "dbname" => database.dbname = Some(value),
                "pool_mode" => database.pool_mode = Some(value),
                "pool_size" => database.pool_size = number(),
                "min_pool_size" => database.min_pool_size = number(),
                "reserve_pool_size" | "reserve_pool" => database.reserve = number(),
                "max_db_connections" => database.most = number().filter(|most| *most > 0),
                "max_db_client_connections" => database.most_clients = number().filter(|most| *most > 0),
                "server_lifetime" => database.lifetime = seconds(&value),
                "auth_user" => database.auth_user = Some(value),
                "auth_dbname" => database.auth_dbname = Some(value),
                "auth_query" => database.auth_query = Some(value),
                "user" => database.forced = Some((value, None)),
                "password" => password = Some(value),
                "client_encoding" | "datestyle" | "timezone" | "application_name" => {
                    let advice = format!("databases.{}: {name}: at the server, ALTER DATABASE .. SET {name}", entry.name);
                    self.page.open(format!("{}: {advice}", entry.place));
                }
                "connect_query" => {
                    self.page.open(format!(
                        "{}: connect_query: there is none; ALTER DATABASE or ALTER ROLE .. SET does what settings need",
                        entry.place
                    ));
                }
                "load_balance_hosts" => {
                    self.page.open(format!(
                        "{}: load_balance_hosts: hosts are tried in their order, the one that worked last first",
                        entry.place
                    ));
                }
                name => self.page.open(format!("{}: `{name}` in the connection string is not known", entry.place)),
            }
        }
        if let (Some((_, secret)), Some(password)) = (&mut database.forced, password) {
            *secret = Some(password);
        }
        database
    }

    fn upstream(&mut self, name: &str, (host, port): &Place, here: &[&Database]) {
        let section = format!("upstreams.{}", key(name));
        let hosts: Vec<String> = host.as_deref().unwrap_or("/var/run/postgresql").split(',').map(|host| text(host.trim())).collect();
        let comment = if host.is_none() { "no host: the server's Unix socket, wherever PgBouncer was built to look for it" } else { "" };
        self.page.set(&section, "host", hosts.first().cloned().unwrap_or_default(), comment);
        if hosts.len() > 1 {
            self.page.set(&section, "hosts", format!("[{}]", hosts.get(1..).unwrap_or_default().join(", ")), "");
        }
        self.page.set(&section, "port", port.to_string(), "");
        let sizes: Vec<u32> = here.iter().map(|database| self.size(database)).collect();
        let budget: u32 = sizes.iter().sum();
        let comment = "for all users and databases here together; PgBouncer opens so many with one user for each database";
        self.page.set(&section, "max_connections", budget.to_string(), comment);
        let least = self.number("min_pool_size", 0);
        let least = here.iter().map(|database| database.min_pool_size.unwrap_or(least)).max().unwrap_or(0);
        if least > 0 {
            self.page.set(&section, "min_idle", least.min(budget).to_string(), "");
        }
        for (theirs, default, ours) in [
            ("server_idle_timeout", "600", "server_idle_timeout"),
            ("server_lifetime", "3600", "server_lifetime"),
            ("server_connect_timeout", "15", "server_connect_timeout"),
            ("server_check_delay", "30", "server_check_delay"),
        ] {
            let mut time = self.time(theirs, default);
            if let ("server_lifetime", Some(own)) = (theirs, here.iter().find_map(|database| database.lifetime.clone())) {
                time = own;
            }
            self.page.set(&section, ours, text(&time), "");
        }
        self.auth_query(&section, here);
    }

    fn auth_query(&mut self, section: &str, here: &[&Database]) {
        let of = |read: fn(&Database) -> Option<String>, global: &str| {
            here.iter().find_map(|database| read(database)).or_else(|| self.written(global).map(str::to_owned))
        };
        let Some(user) = of(|database| database.auth_user.clone(), "auth_user") else { return };
        let query = of(|database| database.auth_query.clone(), "auth_query");
        let dbname = of(|database| database.auth_dbname.clone(), "auth_dbname");
        let dbname = dbname.or_else(|| {
            here.iter().find_map(|database| database.dbname.clone().or_else(|| Some(database.name.clone()).filter(|name| name != "*")))
        });
        self.page.set(section, "auth_user", text(&user), "");
        match self.password_of(&user) {
            Some(secret) => self.page.set(section, "auth_password", text(&secret), ""),
            None => self.page.open(format!("{section}: add auth_password, auth_password_env or auth_password_file for `{user}`")),
        }
        if let Some(query) = query {
            self.page.set(section, "auth_query", text(&query), "");
        }
        if let Some(dbname) = dbname {
            self.page.set(section, "auth_dbname", text(&dbname), "");
        }
    }

    /// How many connections PgBouncer opens for a database, with one user.
    fn size(&mut self, database: &Database) -> u32 {
        let (size, reserve, most) =
            (self.number("default_pool_size", 20), self.number("reserve_pool_size", 0), self.number("max_db_connections", 0));
        let wanted = database.pool_size.unwrap_or(size).saturating_add(database.reserve.unwrap_or(reserve)).max(1);
        database.most.or(Some(most).filter(|most| *most > 0)).map_or(wanted, |most| wanted.min(most))
    }

    fn write_database(&mut self, database: &Database, upstream: &str) {
        let section = format!("databases.{}", key(&database.name));
        self.page.set(&section, "upstream", text(upstream), &database.place);
        if let Some(dbname) = database.dbname.as_ref().filter(|dbname| **dbname != database.name) {
            self.page.set(&section, "dbname", text(dbname), "");
        }
        let mode = database.pool_mode.clone().unwrap_or_else(|| self.value("pool_mode", "session").to_owned());
        self.page.set(&section, "pool_mode", text(&mode), "");
    }

    /// Users with limits of their own come first, then databases that have to share a server, or have limits of their own: a client belongs to the first that fits.
    fn tenants(&mut self, databases: &[Database]) {
        for entry in self.ini.users.clone() {
            let section = format!("tenants.{}", key(&format!("user-{}", entry.name)));
            let found: BTreeMap<String, String> = parts(&entry.value).0.into_iter().collect();
            let number = |name: &str| found.get(name).and_then(|value| value.parse::<u32>().ok());
            let most = number("max_user_connections").or(number("pool_size")).filter(|most| *most > 0);
            let clients = number("max_user_client_connections").filter(|most| *most > 0);
            if let Some(most) = most {
                self.page.set(&section, "max_server_connections", most.to_string(), &entry.place);
            }
            if let Some(clients) = clients {
                self.page.set(&section, "max_clients", clients.to_string(), &entry.place);
            }
            if most.is_some() || clients.is_some() {
                self.page.set(&format!("{section}.match"), "user", text(&entry.name), "");
            }
            if found.contains_key("pool_mode") {
                self.page.open(format!("{}: pool_mode of a user: the pool mode is the database's", entry.place));
            }
        }
        for database in databases.iter().filter(|database| database.name != "*") {
            let shares = databases.iter().filter(|other| (&other.host, other.port) == (&database.host, database.port)).count() > 1;
            if !shares && database.most_clients.is_none() {
                continue;
            }
            let section = format!("tenants.{}", key(&database.name));
            let size = self.size(database);
            self.page.set(&section, "max_server_connections", size.to_string(), "");
            if let Some(clients) = database.most_clients {
                self.page.set(&section, "max_clients", clients.to_string(), "");
            }
            self.page.set(&format!("{section}.match"), "database", text(&database.name), "");
        }
    }

    /// One user that all log in as: with us that belongs to the users.
    fn forced_users(&mut self, databases: &[Database]) {
        for database in databases {
            if let Some((user, secret)) = &database.forced {
                let secret = if secret.is_some() { "the password is in PgBouncer's file" } else { "with its password" };
                self.page.open(format!(
                    "{}: everybody logs in to {} as `{user}`: set server_user and server_password ({secret}) for the users who come to it",
                    database.place, database.name
                ));
            }
        }
    }
}

/// A name for an upstream: what its host is called, up to the first dot.
fn upstream_name((host, port): &Place, count: usize) -> String {
    if count == 1 {
        return "main".to_owned();
    }
    let first = host.as_deref().unwrap_or("local").split(',').next().unwrap_or("local");
    let short =
        if first.parse::<std::net::IpAddr>().is_ok() || first.starts_with('/') { first } else { first.split('.').next().unwrap_or(first) };
    let clean: String = short.trim_matches('/').chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if *port == 5432 { clean } else { format!("{clean}_{port}") }
}
