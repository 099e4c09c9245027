//! An upstream in one line: `postgres://user:secret@host:5432/db?sslmode=require`, as libpq reads it, turned into the settings that it stands for.

use percent_encoding::percent_decode_str;

use super::mistake::{Mistake, Place, Severity};
use super::tree::{Node, Origin, Table, Value};
use super::words::{nearest, path};

/// The upstream's name.
pub(super) const NAME: &str = "main";

const FORM: &str = "write postgres://USER:PASSWORD@HOST:5432/DATABASE, with special characters as %XX";

/// Keys of the query that are understood.
const KEYS: [&str; 14] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslnegotiation",
    "application_name",
    "connect_timeout",
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "max_connections",
    "target_session_attrs",
];

/// What a URL says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<(String, Option<String>)>,
    dbname: Option<String>,
    query: Vec<(String, String)>,
}

/// Lays the URL's settings over the tree. `origin` is the option or variable that it came from.
pub(super) fn overlay(tree: &mut Table, url: &str, origin: &str) -> Vec<Mistake> {
    let mistake = |what: String, remedy: String| Mistake {
        severity: Severity::Error,
        place: Place::Variable(origin.to_owned()),
        path: format!("upstreams.{NAME}"),
        what,
        remedy: Some(remedy),
    };
    let settings = match parse(url).and_then(|parts| settings(parts, origin)) {
        Ok(settings) => settings,
        Err((what, remedy)) => return vec![mistake(what, remedy)],
    };
    let mut mistakes = Vec::new();
    for (path, value) in settings {
        let node = Node { origin: Origin::Variable(origin.to_owned()), value };
        if let Err(other) = tree.put(&path, node, false) {
            let other = match other {
                Origin::File(_) => "the file".to_owned(),
                Origin::Variable(name) => name,
            };
            let what = format!("both this URL and {other} set `{}`", super::words::dotted(&path));
            mistakes.push(mistake(what, "keep one of them".to_owned()));
        }
    }
    mistakes
}

type Wrong = (String, String);

fn decoded(text: &str) -> Result<String, Wrong> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| ("the URL holds a %XX that is no UTF-8".to_owned(), FORM.to_owned()))
}

fn parse(url: &str) -> Result<Parts, Wrong> {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    // The URL itself is never quoted in a message: it holds a password.
    let rest = rest.ok_or_else(|| ("this is not a PostgreSQL URL".to_owned(), FORM.to_owned()))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let mut parts = Parts::default();
    // A password may hold a bare `@`; a host cannot.
    let hosts = match authority.rsplit_once('@') {
        Some((login, hosts)) => {
            let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
            parts.user = Some(decoded(user)?).filter(|user| !user.is_empty());
            parts.password = password.map(decoded).transpose()?;
            hosts
        }
        None => authority,
    };
    for host in hosts.split(',').filter(|host| !host.is_empty()) {
        parts.hosts.push(host_and_port(host)?);
    }
    parts.dbname = Some(decoded(dbname)?).filter(|dbname| !dbname.is_empty());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decoded(key)?, decoded(value)?);
        known(&key)?;
        match key.as_str() {
            "user" => parts.user = Some(value),
            "password" => parts.password = Some(value),
            "dbname" => parts.dbname = Some(value),
            "host" => parts.hosts = value.split(',').map(|host| (host.to_owned(), None)).collect(),
            _ => parts.query.push((key, value)),
        }
    }
    Ok(parts)
}

fn host_and_port(text: &str) -> Result<(String, Option<String>), Wrong> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    Ok((decoded(host)?, port.filter(|port| !port.is_empty()).map(str::to_owned)))
}

fn known(key: &str) -> Result<(), Wrong> {
    if KEYS.contains(&key) {
        return Ok(());
    }
    let remedy = match key {
        "channel_binding" => "leave it out: SCRAM-SHA-256-PLUS is used wherever the server offers it".to_owned(),
        "options" => "leave it out: clients give their own options, and the proxy replays them".to_owned(),
        "pgbouncer" | "connection_limit" | "pool_timeout" | "schema" => {
            "leave it out: it is meant for Prisma, in the URL that clients use".to_owned()
        }
        _ => match nearest(key, KEYS) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("understood are {}", KEYS.join(", ")),
        },
    };
    Err((format!("the URL's parameter `{key}` is unknown"), remedy))
}

/// The settings that the URL stands for.
fn settings(parts: Parts, origin: &str) -> Result<Vec<(Vec<String>, Value)>, Wrong> {
    let missing = |what: &str| (format!("the URL names no {what}"), FORM.to_owned());
    let user = parts.user.ok_or_else(|| missing("user"))?;
    let password = parts.password.ok_or_else(|| missing("password"))?;
    let mut hosts = parts.hosts.into_iter();
    let (host, port) = hosts.next().ok_or_else(|| missing("host"))?;
    let text = |text: &str| Value::Text(text.to_owned());
    let upstream = |key: &str| path(["upstreams", NAME, key]);
    let tls = |key: &str| path(["upstreams", NAME, "tls", key]);
    let number = |key: &str, digits: &str| {
        let remedy = || (format!("the URL's {key} is not a number"), "write digits only".to_owned());
        digits.parse().map(Value::Integer).map_err(|_| remedy())
    };

    let mut settings = vec![(upstream("host"), Value::Text(host))];
    if let Some(port) = port {
        settings.push((upstream("port"), number("port", &port)?));
    }
    let more = hosts.map(|(host, port)| Node {
        origin: Origin::Variable(origin.to_owned()),
        value: Value::Text(port.map_or(host.clone(), |port| format!("{host}:{port}"))),
    });
    let more: Vec<Node> = more.collect();
    if !more.is_empty() {
        settings.push((upstream("hosts"), Value::List(more)));
    }
    for (key, value) in &parts.query {
        settings.push(match key.as_str() {
            "sslmode" => (tls("mode"), text(value)),
            "sslrootcert" => (tls("ca"), text(value)),
            "sslcert" => (tls("cert"), text(value)),
            "sslkey" => (tls("key"), text(value)),
            "sslnegotiation" => (tls("negotiation"), text(value)),
            "port" | "max_connections" => (upstream(key), number(key, value)?),
            "connect_timeout" => (upstream("server_connect_timeout"), Value::Text(format!("{value}s"))),
            _ => (upstream(key), text(value)),
        });
    }
    let dbname = parts.dbname.unwrap_or_else(|| user.clone());
    settings.push((path(["databases", &dbname, "upstream"]), text(NAME)));
    // As with the server itself, any other database of it can be named too.
    settings.push((path(["databases", "*", "upstream"]), text(NAME)));
    settings.push((path(["users", &user, "password"]), Value::Text(password)));
    Ok(settings)
}
