//! From the startup packet to the first ReadyForQuery: who the client is, whose tenant, which pool, and what it is told. Checklist A6-A13.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::census::Protection;
use super::door::{Door, Proof, Side};
use super::exchange::{self, Proven};
use super::greeting::Hello;
use super::house::{Admitted, keep};
use super::secrets::{secret_of, server_secret_of};
use super::visit::{self, Role};
use super::watch::{Tenant, Watch};
use super::worker::Worker;
use crate::auth::{Secret, random};
use crate::config::{AuthMethod, Config, Database, PoolMode};
use crate::fault::{Fault, Whose};
use crate::metrics::LoginOutcome;
use crate::net::{Io, Moment, Peer, now};
use crate::pool::ledger::Claim;
use crate::pool::ledger::Keep;
use crate::pool::{Attempt, Pool, PoolKey, Profile, auth_query};
use crate::upstream::{Login, ServerSecret, Settings};
use crate::wire::startup::Replication;
use crate::wire::{Status, say};

/// A client that is logged in.
#[derive(Debug)]
pub struct LoggedIn {
    /// Its connection.
    pub io: Io,
    /// What its worker knows of it.
    pub watch: Rc<Watch>,
    /// Its place there.
    pub slot: u32,
    /// What it asked for at startup.
    pub settings: Arc<Settings>,
    /// What it sent beyond its login.
    pub rest: Vec<u8>,
    /// Its place among the clients that may be connected.
    pub admitted: Admitted,
}

/// Why a login did not come about.
#[derive(Debug)]
pub enum Failed {
    /// The client hears this.
    With(Fault),
    /// The client has gone.
    Gone,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::With(fault)
    }
}

impl From<std::io::Error> for Failed {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

/// A client that is about to be logged in, and what is known of it so far.
struct Arrival<'a> {
    worker: &'a Rc<Worker>,
    config: Arc<Config>,
    peer: Peer,
    user: String,
    database: String,
}

/// What a login leaves to the session.
type Entered = (Rc<Watch>, u32, Arc<Settings>, Admitted);

/// Logs one client in.
///
/// Not cancel safe: a dropped future closes the connection. On failure the connection is still there, to say so.
pub async fn log_in(hello: &mut Hello, peer: Peer, worker: &Rc<Worker>, began: Moment) -> Result<Entered, Failed> {
    let arrival = Arrival::of(hello, peer, worker);
    let minor = arrival.negotiate(hello).await?;
    let tenant = arrival.tenant(hello);
    let is_login = hello.door.is_login();
    let limit = tenant.as_ref().map_or(Ok(()), |(tenant, _)| if is_login { may_log_in(tenant) } else { Ok(()) });
    let proven = match limit {
        Ok(()) => arrival.prove(hello).await,
        Err(fault) => Err(fault.into()),
    };
    let outcome = match (proven, &tenant) {
        (Err(failed), _) => Err(failed),
        (Ok(_), Err(fault)) => Err(fault.clone().into()),
        (Ok(proven), Ok((tenant, at))) => arrival.settle_in(hello, tenant, *at, proven, minor).await,
    };
    let tenant = tenant.map_or_else(|_| worker.tenant(0, arrival.config.database_name(&arrival.database)), |(tenant, _)| tenant);
    if is_login || outcome.is_err() {
        tenant.numbers.logins[outcome_of(&outcome).index()].add(1);
    }
    match &outcome {
        Ok(_) if !is_login => {}
        Ok(_) => tenant.numbers.login.observe(now().saturating_duration_since(began)),
        Err(Failed::With(fault)) => {
            tenant.numbers.refused[fault.number()].add(1);
            hello.tenant = Some(tenant.name.clone());
        }
        Err(Failed::Gone) => {}
    }
    outcome
}

/// Has a visitor of the admin database prove who it is. Neither the limits on clients nor a proxy that is stopping keep an operator out.
///
/// Not cancel safe: a dropped future closes the connection. On failure the connection is still there, to say so.
pub async fn log_in_to_console(hello: &mut Hello, peer: Peer, worker: &Rc<Worker>) -> Result<Role, Failed> {
    let arrival = Arrival::of(hello, peer, worker);
    arrival.negotiate(hello).await?;
    let is_own = visit::is_own(&arrival.user, peer);
    if !is_own {
        arrival.prove(hello).await?;
        hello.io.write_all(&std::mem::take(&mut hello.unsaid)).await?;
    }
    Ok(visit::role(&arrival.config, &arrival.user, is_own)?)
}

/// Whether the tenant's logins are few enough; before the client is asked for a proof, which is what a login costs.
fn may_log_in(tenant: &Tenant) -> Result<(), Fault> {
    let Some(quotas) = &tenant.quotas else { return Ok(()) };
    let whose = || Whose { tenant: tenant.name.clone(), upstream: String::new() };
    tenant.usage.lock().log_in(quotas, now()).map_err(|(which, wait)| Fault::Quota { whose: whose(), which, wait })
}

fn outcome_of<T>(outcome: &Result<T, Failed>) -> LoginOutcome {
    match outcome {
        Ok(_) => LoginOutcome::Ok,
        Err(Failed::With(
            Fault::TooManyClients { .. }
            | Fault::QueueFull { .. }
            | Fault::QueueTimeout { .. }
            | Fault::TooLate { .. }
            | Fault::Quota { .. }
            | Fault::Draining
            | Fault::UpstreamDown { .. },
        )) => LoginOutcome::Refused,
        Err(Failed::With(Fault::Malformed(_) | Fault::LoginTimeout | Fault::Internal) | Failed::Gone) => LoginOutcome::Failed,
        Err(Failed::With(_)) => LoginOutcome::Denied,
    }
}

/// Names are bytes to PostgreSQL; to the configuration they are text, and what is not text matches nothing there.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_trusted(config: &Config, peer: Peer) -> bool {
    let Peer::Tcp(address) = peer else { return false };
    // A v4 client of a v6 listener is a v4 client.
    let address: IpAddr = address.ip().to_canonical();
    config.auth.trust_networks.iter().any(|network| network.contains(&address))
}

impl<'a> Arrival<'a> {
    fn of(hello: &Hello, peer: Peer, worker: &'a Rc<Worker>) -> Self {
        let (user, database) = (text(&hello.startup.user), text(&hello.startup.database));
        Self { worker, config: worker.house.config.load_full(), peer, user, database }
    }

    /// Tells the client which protocol it is, where it asked for a newer one; the minor version that it is.
    async fn negotiate(&self, hello: &mut Hello) -> Result<u16, Failed> {
        let (minor, negotiate) = hello.startup.negotiated();
        if negotiate {
            let mut out = BytesMut::new();
            say::negotiate(&mut out, minor, &hello.startup.unrecognised);
            hello.io.write_all(&out).await?;
        }
        Ok(minor)
    }

    /// Has the client prove that it is who it says.
    async fn prove(&self, hello: &mut Hello) -> Result<Proven, Failed> {
        let (config, user) = (&self.config, self.user.as_str());
        let secrets = &self.worker.house.secrets;
        let brought = match &mut hello.door {
            Door::Side(Side { proof: Proof::Vouched { .. }, .. }) => return Ok(Proven::Otherwise),
            Door::Side(Side { proof: Proof::Password(password), .. }) => Some(std::mem::take(password)),
            Door::Front if is_trusted(config, self.peer) && config.users.contains_key(user) => return Ok(Proven::Trusted),
            Door::Side(Side { proof: Proof::Asked, .. }) | Door::Front => None,
        };
        if let Some(user) = config.users.get(user).filter(|user| !user.token_subjects.is_empty()) {
            let shown = match brought {
                Some(shown) => shown,
                None => exchange::in_the_clear(hello).await?,
            };
            return exchange::token(&shown, user, config.auth.tokens.as_ref(), &self.worker.house.tokens).await;
        }
        let known = self.known(hello).await?;
        let known = known.as_ref();
        if let Some(password) = brought {
            return exchange::brought(password, user, known, secrets).await;
        }
        if matches!(hello.door, Door::Side(_)) {
            return exchange::cleartext(hello, user, known, secrets).await;
        }
        let has_verifier = matches!(known.map(|known| &**known), Some(Secret::Scram(_)));
        match config.auth.method {
            AuthMethod::Md5 if !has_verifier => exchange::md5(hello, user, known).await,
            AuthMethod::ScramSha256 | AuthMethod::Md5 => exchange::scram(hello, user, known, secrets).await,
            AuthMethod::Cleartext => exchange::cleartext(hello, user, known, secrets).await,
            AuthMethod::Cert => exchange::certificate(hello, user, config.users.get(user)),
        }
    }

    /// What is known of its password: from the configuration, else from the database's upstream, where that may be asked. Whether anything is known is told
    /// to nobody: the exchange that follows is the same (A11).
    async fn known(&self, hello: &Hello) -> Result<Option<Arc<Secret>>, Fault> {
        let config = &self.config;
        if let Some(user) = config.users.get(&self.user) {
            return Ok(secret_of(user).map(Arc::new));
        }
        // A certificate names configured users only. And a name that is not text is nobody's here, however it would look when made into one.
        if (config.auth.method == AuthMethod::Cert && matches!(hello.door, Door::Front)) || hello.startup.user != self.user.as_bytes() {
            return Ok(None);
        }
        let Some(upstream) = config.database(&self.database).and_then(|database| self.worker.house.upstream(&database.upstream)) else {
            return Ok(None);
        };
        let whose = || Whose { tenant: String::new(), upstream: upstream.name.clone() };
        auth_query(&upstream, config, &self.user).await.map_err(|why| Fault::broken(&why, whose))
    }

    /// The client's tenant: the one it names, where it may, else the first whose rule fits.
    fn tenant(&self, hello: &Hello) -> Result<(Rc<Tenant>, usize), Fault> {
        let config = &self.config;
        let at = if let Some(named) = hello.startup.setting("pgweir.tenant") {
            let named = text(named);
            let may = hello.door.vouches_for_tenant() || config.users.get(&self.user).is_some_and(|user| user.may_name_tenant);
            config.tenant_named(&named).filter(|_| may).ok_or(Fault::Tenant { tenant: named })?
        } else {
            let application_name = hello.startup.setting("application_name").map(text).unwrap_or_default();
            let tls_name = match &hello.door {
                Door::Side(side) => side.tls_name.clone(),
                Door::Front => hello.io.tls_info().and_then(|info| info.server_name.map(str::to_owned)),
            };
            config.tenant_for(&self.user, &self.database, &application_name, tls_name.as_deref())
        };
        Ok((self.worker.tenant(at, config.database_name(&self.database)), at))
    }

    /// A believed client gets its place, its pool, and what it must know of its server.
    async fn settle_in(&self, hello: &mut Hello, tenant: &Rc<Tenant>, at: usize, proven: Proven, minor: u16) -> Result<Entered, Failed> {
        let (worker, house) = (self.worker, &self.worker.house);
        if worker.is_draining() {
            return Err(Fault::Draining.into());
        }
        let unknown = || Fault::UnknownDatabase { database: self.database.clone() };
        let database = self.config.database(&self.database).ok_or_else(unknown)?;
        if house.gates.is_disabled(&self.database) {
            return Err(Fault::DatabaseDisabled { database: self.database.clone() }.into());
        }
        let limit = self.config.tenants.get(at).map_or(0, |tenant| tenant.limits.max_clients);
        let admitted = house.admit(&tenant.name, limit).map_err(|(tenant, limit)| Fault::TooManyClients { tenant, limit })?;
        let pool = self.pool(hello, at, database).ok_or_else(unknown)?;
        if house.gates.is_paused(&self.database) {
            // It may be a pool that was not there when the pause began; and the pause may have ended meanwhile, without this one.
            pool.pause(now());
            if !house.gates.is_paused(&self.database) {
                pool.resume(now());
            }
        }
        let budget = budget(hello)?;
        let configured = self.config.users.get(&self.user).map_or(ServerSecret::None, server_secret_of);
        if matches!(configured, ServerSecret::None) {
            remember_keys(&pool, proven);
        }
        let settings = match hello.startup.replication {
            // A server's sender of physical replication runs no SQL: there is no way to set them once it is logged in to.
            Some(Replication::Physical) => Settings::default(),
            Some(Replication::Logical) | None => Settings::new(std::mem::take(&mut hello.startup.settings)),
        };
        let profile = profile(worker, &pool, tenant, settings).await?;

        let tenant = match &hello.door {
            Door::Side(Side { patience: Some(patience), .. }) => Rc::new(tenant.with_patience(*patience)),
            _ => Rc::clone(tenant),
        };
        let nonce = u32::from_be_bytes(random().map_err(|_| Fault::Internal)?);
        let long_key = minor >= 2;
        let (slot, watch) = worker.enroll(|| Watch::new((nonce, long_key), self.peer, (pool, database.strict, budget), tenant, now()));
        watch.introduce(Protection::of(hello.io.tls_info().map(|info| info.version)), &profile.settings);
        let pid = house.keys.pid(worker.number, slot);
        let mut out = std::mem::take(&mut hello.unsaid);
        out.reserve(512);
        say::authentication_ok(&mut out);
        for (name, value) in profile.reported.iter() {
            say::parameter_status(&mut out, name, value);
        }
        say::backend_key(&mut out, pid, &house.keys.secret(pid, nonce, long_key));
        say::ready(&mut out, Status::Idle);
        if let Err(error) = hello.io.write_all(&out).await {
            worker.strike_off(slot, &watch);
            return Err(error.into());
        }
        Ok((watch, slot, profile.settings, admitted))
    }

    /// The pool for this client's server connections.
    fn pool(&self, hello: &Hello, tenant: usize, database: &Database) -> Option<Arc<Pool>> {
        let config = &self.config;
        let tenants_own = config.tenants.get(tenant).and_then(|tenant| tenant.upstream.as_ref());
        let name = tenants_own.unwrap_or(&database.upstream);
        let upstream = self.worker.house.upstream(name)?;
        let replication = hello.startup.replication;
        let key = PoolKey { database: hello.startup.database.clone(), user: hello.startup.user.clone(), replication };
        let user = config.users.get(&self.user);
        let login = || Login {
            user: user.map_or_else(|| hello.startup.user.clone(), |user| user.server_user.clone().into_bytes()),
            dbname: database.dbname.as_ref().map_or_else(|| hello.startup.database.clone(), |name| name.clone().into_bytes()),
            replication,
            secret: user.map_or(ServerSecret::None, server_secret_of),
        };
        let keep = Keep { once: replication.is_some(), ..keep(config.upstreams.get(name)?) };
        // Slots and streams belong to the session (A13).
        let mode = if replication.is_some() { PoolMode::Session } else { database.pool_mode };
        Some(upstream.pool(&key, mode, keep, login))
    }
}

/// The time that each transaction of this client's may take, waiting included, in milliseconds; 0 is no limit: `options=-c pgweir.budget_ms=N`.
fn budget(hello: &Hello) -> Result<u32, Fault> {
    let Some(written) = hello.startup.setting("pgweir.budget_ms") else { return Ok(0) };
    text(written).trim().parse().map_err(|_| Fault::BadDeadline)
}

/// Where the configuration has nothing to log in to the server with, the client's own login has shown what to use.
fn remember_keys(pool: &Pool, proven: Proven) {
    let login = pool.login.load();
    let secret = match proven {
        Proven::Keys(keys) => ServerSecret::PassThrough(keys),
        // The user's name is a part of the hash.
        Proven::Hash(hash) if login.user == pool.key.user => ServerSecret::Md5(hash),
        Proven::Password(password) => ServerSecret::Password(Arc::new(password)),
        Proven::Hash(_) | Proven::Trusted | Proven::Otherwise => return,
    };
    if let (ServerSecret::PassThrough(old), ServerSecret::PassThrough(new)) = (&login.secret, &secret)
        && old.salt == new.salt
        && old.iterations == new.iterations
        && old.keys.client.matches(&new.keys.client)
    {
        return;
    }
    pool.renew(Login { secret, ..(**login).clone() });
}

/// What a server of the pool reports to a client with these settings: remembered, or asked of one (A12). A setting that the server does not take is
/// this client's error and nobody else's (I6).
async fn profile(worker: &Rc<Worker>, pool: &Arc<Pool>, tenant: &Rc<Tenant>, settings: Settings) -> Result<Profile, Failed> {
    {
        let mut profiles = pool.profiles.lock();
        if let Some(profile) = profiles.find(&settings).or_else(|| profiles.find_but_for_name(&settings)) {
            return Ok(profile);
        }
    }
    let whose = || Whose { tenant: tenant.name.clone(), upstream: pool.upstream.name.clone() };
    let began = now();
    let claim = Claim { tenant: tenant.id, level: 0, within: None };
    let attempt = worker.local.request(pool, claim, began).map_err(|why| Fault::unavailable(&why, whose))?;
    let mut lease = match attempt {
        Attempt::Ready(lease) => lease,
        Attempt::Wait(mut wait) => {
            let limit = tenant.limits.queue.unwrap_or(Duration::MAX / 4);
            let waited = loop {
                match worker.clock.within(limit, &mut wait).await {
                    // Through an outage the time does not run.
                    None if !pool.has_waited(began, limit, now()) => {}
                    waited => break waited,
                }
            };
            let lease = waited.ok_or_else(|| match pool.never_opened() {
                Some(why) => Fault::broken(&why, whose),
                None => Fault::QueueTimeout { whose: whose(), waited: limit },
            })?;
            lease.map_err(|why| Fault::unavailable(&why, whose))?
        }
    };
    tenant.numbers.queue_wait.observe(now().saturating_duration_since(began));
    let settings = Arc::new(settings);
    let applied = lease.server_mut().apply(&settings).await.map_err(|broken| Fault::broken(&broken, whose))?;
    if let Err(refusal) = applied {
        lease.give_back(now());
        return Err(Fault::ServerRefused(refusal.as_fatal()).into());
    }
    let profile = Profile { settings, reported: Arc::new(lease.server().state.reported.clone()) };
    lease.give_back(now());
    pool.profiles.lock().insert(profile.clone());
    Ok(profile)
}
