//! An upstream, asked directly.

use std::time::Duration;

use parking_lot::Mutex;

use super::finding::{Findings, Grade};
use crate::auth::KeyCache;
use crate::config::{self, Config, Endpoint, ServerAuth, SslMode, TargetSessionAttrs, User};
use crate::net::{now, since_1970};
use crate::session::server_secret_of;
use crate::upstream::{self, Broken, Choice, Login, Server, Target, Travelling};

/// What the server is asked: one row of what matters here.
const QUESTION: &[u8] = b"SELECT current_setting('server_version'), current_setting('max_connections'), current_setting('superuser_reserved_connections'), \
coalesce(current_setting('reserved_connections', true), '0'), (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'), \
current_setting('password_encryption'), current_setting('ssl'), \
(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'), (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'), \
(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'idle_in_transaction_session_timeout'), \
pg_catalog.pg_is_in_recovery(), current_setting('default_transaction_read_only'), extract(epoch FROM pg_catalog.clock_timestamp()), \
(SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user), (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), \
(SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = current_database())";

/// More than this and a deadline that a client names as a time of day is off by it.
const CLOCKS_APART: f64 = 1.0;

/// What it has answered.
struct Answers(Vec<Option<String>>);

impl Answers {
    fn text(&self, at: usize) -> &str {
        self.0.get(at).and_then(Option::as_deref).unwrap_or_default()
    }

    fn number(&self, at: usize) -> i64 {
        self.text(at).parse().unwrap_or(0)
    }

    fn is(&self, at: usize) -> bool {
        matches!(self.text(at), "t" | "on")
    }
}

pub(super) async fn examine(config: &Config, upstream: &config::Upstream, replicas: u32, findings: &mut Findings) {
    let about = format!("upstream {}", upstream.name);
    let Some((dbname, user)) = visitor(config, upstream) else {
        let what = "no user with a password is configured who could ask it directly";
        findings.add(Grade::Note, &about, what, "name one below [users] to have it examined");
        return;
    };
    let asked = Box::pin(ask(config, upstream, &dbname, user)).await;
    let (answers, clock_offset, tls) = match asked {
        Ok(answered) => answered,
        Err(why) => {
            findings.add(Grade::Wrong, &about, format!("`{}` cannot log in to `{dbname}`: {why}", user.server_user), remedy(&why));
            return;
        }
    };
    findings.well(&about, format!("PostgreSQL {} answers; `{}` can log in to `{dbname}`", answers.text(0), user.server_user));
    budget(&about, upstream, replicas, &answers, findings);
    timeouts(&about, upstream, &answers, findings);
    role(&about, upstream, &answers, findings);
    security(&about, upstream, &answers, tls, findings);
    if clock_offset.abs() > CLOCKS_APART {
        let what = format!(
            "its clock and this one are {clock_offset:.1} s apart: deadlines that clients name as a time (pgweir.deadline_at) are off by as much"
        );
        findings.add(Grade::Risk, &about, what, "let both follow a time server");
    }
}

/// Who can be asked about, and in which database.
fn visitor<'c>(config: &'c Config, upstream: &config::Upstream) -> Option<(String, &'c User)> {
    let user = config.users.values().find(|user| user.server_password.is_some() || user.server_auth == ServerAuth::RdsIam)?;
    let named = config.databases.iter().find(|(_, database)| database.upstream == upstream.name);
    let dbname = named.map(|(name, database)| database.dbname.clone().unwrap_or_else(|| name.clone()));
    let any = config.any_database.as_ref().filter(|database| database.upstream == upstream.name);
    let dbname = dbname.or_else(|| any.map(|database| database.dbname.clone().unwrap_or_else(|| "postgres".to_owned())));
    // A tenant's own upstream has the databases of the others.
    let dbname = dbname
        .or_else(|| config.databases.iter().next().map(|(name, database)| database.dbname.clone().unwrap_or_else(|| name.clone())))?;
    Some((dbname, user))
}

/// The answers, how far its clock is ahead in seconds, and the version of TLS that was agreed on.
async fn ask(
    config: &Config,
    upstream: &config::Upstream,
    dbname: &str,
    user: &User,
) -> Result<(Answers, f64, Option<&'static str>), Broken> {
    let target = Target::new(upstream, &config.server_tcp).map_err(|why| Broken::from(std::io::Error::other(why.to_string())))?;
    let login = Login {
        user: user.server_user.clone().into_bytes(),
        dbname: dbname.as_bytes().to_vec(),
        replication: None,
        secret: server_secret_of(user),
    };
    let fresh = upstream::open(&target, &login, &Mutex::new(KeyCache::new(1)), Choice::default()).await?;
    let tls = fresh.io.tls_info().map(|info| info.version);
    let mut server: Server = Travelling::fresh(fresh, now())?.arrive()?;
    let before = seconds();
    let rows = server.ask(QUESTION).await?.map_err(Broken::Refused)?;
    let here = f64::midpoint(before, seconds());
    let text = |value: Option<Box<[u8]>>| value.map(|value| String::from_utf8_lossy(&value).into_owned());
    let answers = Answers(rows.into_iter().next().unwrap_or_default().into_iter().map(text).collect());
    let there: f64 = answers.text(12).parse().unwrap_or(here);
    Ok((answers, there - here, tls))
}

fn seconds() -> f64 {
    since_1970().as_secs_f64()
}

fn remedy(why: &Broken) -> &'static str {
    match why {
        Broken::Refused(_) | Broken::Denied(_) => {
            "what the server says; users.NAME.server_user, server_password and pg_hba.conf decide that"
        }
        Broken::Tls(_) => "tls.server.mode, and tls.server.ca where the server is to be verified",
        Broken::WrongRole { .. } | Broken::NoneOf(_) => "hosts, and target_session_attrs",
        _ => "host, port, security groups and routes between here and the server",
    }
}

fn budget(about: &str, upstream: &config::Upstream, replicas: u32, answers: &Answers, findings: &mut Findings) {
    // A budget that is shared is that of all of them.
    let pools = if upstream.share.is_some() { 1 } else { i64::from(replicas.max(1)) };
    let control = i64::from(upstream.control_connections) * i64::from(replicas.max(1));
    let ours = i64::from(upstream.max_connections) * pools + control;
    let reserved = answers.number(2) + answers.number(3);
    let room = answers.number(1) - reserved;
    let proxies = if replicas > 1 { format!("{replicas} proxies want") } else { "the proxy wants".to_owned() };
    let sum = format!("{proxies} up to {ours} connections, and the server has {} less {reserved} that are reserved", answers.number(1));
    if ours > room {
        let remedy = format!("max_connections = {} at most, or more at the server", ((room - control) / pools).max(1));
        findings.add(Grade::Wrong, about, sum, remedy);
    } else if ours * 10 > room * 9 {
        findings.add(
            Grade::Risk,
            about,
            format!("{sum}: what others use (now {} connections) hardly fits beside it", answers.number(4)),
            "leave a tenth for migrations, monitoring and people",
        );
    } else {
        findings.well(about, sum);
    }
    for (limit, whose, alter) in [
        (answers.number(13), "the role's", "ALTER ROLE .. CONNECTION LIMIT"),
        (answers.number(15), "the database's", "ALTER DATABASE .. CONNECTION LIMIT"),
    ] {
        if limit >= 0 && limit < i64::from(upstream.max_connections) * pools {
            findings.add(
                Grade::Risk,
                about,
                format!("{whose} own limit is {limit} connections, below the budget: the pool will not grow beyond it"),
                alter,
            );
        }
    }
}

fn timeouts(about: &str, upstream: &config::Upstream, answers: &Answers, findings: &mut Findings) {
    let millis = |at: usize| Duration::from_millis(u64::try_from(answers.number(at)).unwrap_or(0));
    let idle = millis(7);
    if !idle.is_zero() && upstream.server_idle_timeout.is_none_or(|ours| ours >= idle) {
        let what = format!("idle_session_timeout is {} ms: the server ends connections that the pool keeps", idle.as_millis());
        findings.add(Grade::Risk, about, what, "ALTER ROLE .. SET idle_session_timeout = 0, or a shorter server_idle_timeout");
    }
    if !millis(8).is_zero() {
        let what = format!(
            "statement_timeout is {} ms for this role: longer statements are cancelled, whatever the proxy allows",
            millis(8).as_millis()
        );
        findings.add(Grade::Note, about, what, "");
    }
    if !millis(9).is_zero() {
        let what = format!(
            "idle_in_transaction_session_timeout is {} ms: what the proxy's idle_transaction_timeout does later, the server does before",
            millis(9).as_millis()
        );
        findings.add(Grade::Note, about, what, "");
    }
}

fn role(about: &str, upstream: &config::Upstream, answers: &Answers, findings: &mut Findings) {
    use TargetSessionAttrs::{Any, PreferStandby, ReadOnly, Standby};
    let wants_standby = matches!(upstream.target_session_attrs, Some(Any | PreferStandby | ReadOnly | Standby));
    if answers.is(10) && !wants_standby {
        findings.add(
            Grade::Risk,
            about,
            "it is a standby: writes fail",
            "the primary's name as host, or target_session_attrs = \"primary\" with all hosts",
        );
    } else if answers.is(11) && !answers.is(10) {
        findings.add(
            Grade::Risk,
            about,
            "default_transaction_read_only is on: writes fail unless a transaction says READ WRITE",
            "ALTER ROLE .. RESET default_transaction_read_only",
        );
    }
    if answers.is(14) {
        findings.add(
            Grade::Risk,
            about,
            "the role is a superuser: whoever gets through the proxy may do everything, and reserved connections can be used up",
            "a role of the application's own",
        );
    }
}

fn security(about: &str, upstream: &config::Upstream, answers: &Answers, tls: Option<&'static str>, findings: &mut Findings) {
    if answers.text(5) == "md5" {
        findings.add(
            Grade::Risk,
            about,
            "password_encryption is md5: new passwords are kept in a form that is as good as the password",
            "password_encryption = 'scram-sha-256', then set the passwords again",
        );
    }
    let is_local = upstream.endpoints.iter().all(|endpoint| match endpoint {
        Endpoint::Unix(_) => true,
        Endpoint::Tcp { host, .. } => host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    });
    match (tls, upstream.tls.mode) {
        (Some(version), SslMode::VerifyCa | SslMode::VerifyFull) => findings.well(about, format!("{version}, and the server is verified")),
        (Some(version), _) if !is_local => {
            let what = format!("{version}, but nobody checks that it is the server that is meant");
            findings.add(Grade::Note, about, what, "tls.server.mode = \"verify-full\" and its ca");
        }
        (None, _) if !is_local => {
            let offer = if answers.is(6) { "the server offers it" } else { "the server has ssl = off" };
            findings.add(
                Grade::Risk,
                about,
                format!("no TLS toward the server ({offer}): the proxy's own logins and all data can be read on the way"),
                "tls.server.mode = \"verify-full\" and its ca",
            );
        }
        _ => {}
    }
}
