//! Who calls, and to which database: by the headers of a request, turned into a client of the front door.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::trouble::Trouble;
use crate::config::{Api, Config};
use crate::fault::Fault;
use crate::net::Peer;
use crate::session::door::{Proof, Side};
use crate::wire::say;
use crate::wire::startup::{self, BadPacket, Packet, Setting, Startup};

/// The header in which a caller says how many milliseconds it has left.
pub(super) const DEADLINE: &str = "pgweir-deadline-ms";

/// The setting that bounds each transaction of a session, in milliseconds.
const BUDGET: &str = "pgweir.budget_ms";

/// Where a request comes from.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    /// The other end of its connection.
    pub(super) peer: Peer,
    /// The server name that it asked for in TLS.
    pub(super) tls_name: Option<String>,
}

/// A caller that is to be let in as a client.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) proof: Proof,
    /// The tenant that was vouched for.
    pub(super) tenant: Option<String>,
    /// Settings of its session, as a client sends them at startup.
    pub(super) settings: Vec<(String, String)>,
    /// How long each of its transactions may take, waiting included; the least of this and what its settings say is meant.
    pub(super) budget: Option<Duration>,
    /// How long it may leave a transaction open with nothing running.
    pub(super) patience: Option<Duration>,
    pub(super) guest: Guest,
}

/// What a caller has shown.
#[derive(Debug)]
pub(super) enum Shown {
    /// A user and a password (`Authorization: Basic`).
    Password(String, Zeroizing<String>),
    /// A token (`Authorization: Bearer`).
    Token(String),
    /// Nothing that is understood here.
    Nothing,
}

impl Caller {
    /// The client that it is: what is known of it, its startup packet, and where it comes from.
    ///
    /// # Errors
    /// What cannot be a user, a database or a setting.
    pub(super) fn into_client(self) -> Result<(Side, Startup, Peer), Trouble> {
        let mut parameters: Vec<(&[u8], &[u8])> =
            vec![(b"user", self.user.as_bytes()), (b"database", self.database.as_bytes()), (b"client_encoding", b"UTF8")];
        parameters.extend(self.settings.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        if let Some(tenant) = &self.tenant {
            parameters.push((b"pgweir.tenant", tenant.as_bytes()));
        }
        if parameters.iter().any(|(name, value)| name.contains(&0) || value.contains(&0)) {
            return Err(Fault::BadPacket(BadPacket::Layout).into());
        }
        let mut packet = BytesMut::new();
        say::startup(&mut packet, 0, &parameters);
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let read = if length > startup::LONGEST_PACKET { Err(BadPacket::Length) } else { startup::read(&packet) };
        let Packet::Startup(mut startup) = read.map_err(Fault::BadPacket)? else { return Err(Fault::Internal.into()) };
        if startup.replication.is_some() {
            return Err(Fault::Unsupported("replication over HTTP").into());
        }
        // The admin database speaks to its own kind of client.
        if crate::session::CONSOLE_NAMES.contains(&self.database.as_str()) {
            return Err(Fault::UnknownDatabase { database: self.database }.into());
        }
        limit(&mut startup, self.budget);
        let side = Side { proof: self.proof, tls_name: self.guest.tls_name, patience: self.patience };
        Ok((side, startup, self.guest.peer))
    }
}

/// Sets the session's budget to the least of its own and this.
fn limit(startup: &mut Startup, budget: Option<Duration>) {
    let Some(budget) = budget else { return };
    let millis = u32::try_from(budget.as_millis()).unwrap_or(u32::MAX).max(1);
    let own = startup.setting(BUDGET).and_then(|own| std::str::from_utf8(own).ok());
    match own.map(|own| own.trim().parse::<u32>()) {
        // What is no number is refused at login, in its own words.
        Some(Err(_)) => return,
        Some(Ok(own)) if own > 0 && own <= millis => return,
        Some(Ok(_)) | None => {}
    }
    startup.settings.retain(|setting| *setting.name != *BUDGET.as_bytes());
    startup.settings.push(Setting { name: BUDGET.as_bytes().into(), value: millis.to_string().into_bytes().into() });
}

/// What a caller has shown in its `Authorization` header.
pub(super) fn shown(headers: &HeaderMap) -> Shown {
    let Some(value) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else { return Shown::Nothing };
    let Some((scheme, rest)) = value.split_once(' ') else { return Shown::Nothing };
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Shown::Token(rest.to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic")
        && let Ok(decoded) = STANDARD.decode(rest).map(Zeroizing::new)
        && let Some((user, password)) = std::str::from_utf8(&decoded).ok().and_then(|text| text.split_once(':'))
    {
        return Shown::Password(user.to_owned(), Zeroizing::new(password.to_owned()));
    }
    Shown::Nothing
}

/// The time that a request may take: what its caller says that it has left, or what a statement may take at most.
///
/// # Errors
/// A header that is no number of milliseconds.
pub(super) fn budget(headers: &HeaderMap, api: &Api) -> Result<Option<Duration>, Trouble> {
    let Some(value) = headers.get(DEADLINE) else { return Ok(api.statement_timeout) };
    let millis = value.to_str().ok().and_then(|text| text.trim().parse::<u32>().ok());
    let asked = Duration::from_millis(u64::from(millis.ok_or(Fault::BadDeadline)?));
    Ok(Some(api.statement_timeout.map_or(asked, |most| most.min(asked))))
}

/// The database of a caller who names none.
pub(super) fn default_database(config: &Config) -> Option<String> {
    let mut databases = config.databases.keys();
    let only = || databases.next().filter(|_| databases.next().is_none()).cloned();
    // Whatever clients call it, it is always the same one there.
    let always = || config.any_database.as_ref().filter(|_| config.databases.is_empty())?.dbname.clone();
    config.api.database.clone().or_else(only).or_else(always)
}

/// What a connection string says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionString {
    pub(super) user: String,
    pub(super) password: Option<Zeroizing<String>>,
    /// Empty where it names none.
    pub(super) database: String,
    /// `application_name` and `options`, as far as they are there.
    pub(super) settings: Vec<(String, String)>,
}

/// Reads a connection string as Neon's driver sends it: the host and the port are where the request was sent, and so mean nothing here; the query is written as
/// browsers write forms.
///
/// # Errors
/// What is wrong with it, without its own words: it holds a password.
pub(super) fn read_connection_string(text: &str) -> Result<ConnectionString, Trouble> {
    let wrong = |what: &str| Trouble::from(Fault::BadRequest(format!("the connection string {what}")));
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.ok_or_else(|| wrong("does not begin with postgres:// or postgresql://"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, _) = authority.rsplit_once('@').ok_or_else(|| wrong("names no user"))?;
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let decoded = |text: &str| {
        percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| wrong("holds a %XX that is no UTF-8"))
    };
    let mut parts = ConnectionString {
        user: decoded(user)?,
        password: password.map(decoded).transpose()?.map(Zeroizing::new),
        database: decoded(database)?,
        settings: Vec::new(),
    };
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if matches!(&*key, "application_name" | "options") {
            parts.settings.push((key.into_owned(), value.into_owned()));
        }
    }
    if parts.user.is_empty() {
        return Err(wrong("names no user"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn a_connection_string_is_read_as_neons_driver_writes_it() {
        let text = "postgresql://a%40b:s%2Fe@c@db.example:6432/app?sslmode=require&options=-c+x.y%3D1&application_name=pkg%3Anpm";
        let read = read_connection_string(text).unwrap();
        assert_eq!((read.user.as_str(), read.password.as_ref().map(|p| p.as_str())), ("a@b", Some("s/e@c")));
        assert_eq!(read.database, "app");
        assert_eq!(read.settings, [("options".into(), "-c x.y=1".into()), ("application_name".into(), "pkg:npm".into())]);
        for wrong in ["mysql://a:b@c/d", "postgres://host/db", "postgres://:pw@host/db", "postgres://%ff:pw@host/db"] {
            let told = read_connection_string(wrong).unwrap_err();
            assert!(told.message().starts_with("the connection string ") && !told.message().contains("pw"), "{told:?}");
        }
    }

    #[test]
    fn only_two_kinds_of_authorization_are_understood() {
        let with = |value: &'static str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
        assert!(matches!(shown(&with("Basic YXBwOnM6dA==")), Shown::Password(user, password) if user == "app" && *password == "s:t"));
        assert!(matches!(shown(&with("bearer a.b.c")), Shown::Token(token) if token == "a.b.c"));
        for other in ["Basic !", "Basic YXBw", "Digest x", "Basic"] {
            assert!(matches!(shown(&with(other)), Shown::Nothing), "{other}");
        }
    }

    #[test]
    fn the_least_of_the_budgets_counts() {
        let startup = |own: Option<&str>| {
            let settings = own.iter().map(|own| Setting { name: BUDGET.as_bytes().into(), value: own.as_bytes().into() }).collect();
            Startup { settings, ..Startup::default() }
        };
        for (own, given, counts) in
            [(None, 50, "50"), (Some("20"), 50, "20"), (Some("0"), 50, "50"), (Some("80"), 50, "50"), (Some("x"), 50, "x")]
        {
            let mut startup = startup(own);
            limit(&mut startup, Some(Duration::from_millis(given)));
            assert_eq!(startup.setting(BUDGET), Some(counts.as_bytes()), "{own:?}");
        }
    }
}
