//! What all workers' sessions share: the configuration, the upstreams, the keys, the counts of clients.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::census::ClientEntry;
use super::gates::Gates;
use super::keys::CancelKeys;
use super::phase;
use super::secrets::{Secrets, server_secret_of};
use super::telling::Telling;
use super::tokens::Keyring;
use super::visit::Visit;
use super::watch::Tenant;
use super::worker::{Mail, Mailbox};
use crate::admission::{Limits, Pace, Quotas, TenantId, Usage};
use crate::auth::{Denied, tls_server_end_point};
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::net::tls::ClientTls;
use crate::net::{Clock, now};
use crate::pool::ledger::Keep;
use crate::pool::{CancelRequest, Pool, PoolKey, Proof, Upstream};
use crate::upstream::{Login, ServerSecret};

/// TLS as clients see it, with what SCRAM binds to.
#[derive(Debug)]
pub struct Certificate {
    /// The TLS configuration.
    pub tls: ClientTls,
    /// The hash of our certificate, if its kind can be bound to.
    pub binding: Option<Vec<u8>>,
}

impl Certificate {
    /// A certificate and what SCRAM binds to.
    pub fn new(tls: ClientTls) -> Self {
        let binding = tls.certificate().and_then(|certificate| tls_server_end_point(certificate));
        Self { tls, binding }
    }
}

/// What all workers' sessions share.
#[derive(Debug)]
pub struct House {
    /// The configuration in force; read once per login, not per query.
    pub config: ArcSwap<Config>,
    /// TLS toward clients.
    pub certificate: ArcSwapOption<Certificate>,
    /// What cancel keys are made from.
    pub keys: CancelKeys,
    /// What is known of users' passwords.
    pub secrets: Secrets,
    /// What tokens in place of passwords are checked with.
    pub tokens: Arc<Keyring>,
    /// All numbers.
    pub metrics: Arc<Metrics>,
    /// New clients are turned away.
    pub draining: AtomicBool,
    /// Which databases are paused or disabled.
    pub gates: Gates,
    /// Where those go who want the admin database.
    console: OnceLock<UnboundedSender<Visit>>,
    upstreams: RwLock<Vec<Arc<Upstream>>>,
    workers: OnceLock<Vec<Mailbox>>,
    clients: AtomicU32,
    /// Connections that are not logged in yet.
    entering: AtomicU32,
    by_tenant: Mutex<HashMap<String, Arc<AtomicU32>>>,
    /// How many clients of each tenant keep a server connection.
    pinned: Mutex<HashMap<String, Arc<AtomicU32>>>,
    /// What each tenant has used of its quotas.
    usage: Mutex<HashMap<String, Arc<Mutex<Usage>>>>,
    /// Tenants' names by their number.
    tenant_names: Mutex<Vec<String>>,
}

impl House {
    /// A house with everything but its workers.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        config: Config,
        certificate: Option<Certificate>,
        upstreams: Vec<Arc<Upstream>>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, Denied> {
        Ok(Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            certificate: ArcSwapOption::from_pointee(certificate),
            keys: CancelKeys::new()?,
            secrets: Secrets::new()?,
            tokens: Arc::default(),
            metrics,
            draining: AtomicBool::new(false),
            gates: Gates::default(),
            console: OnceLock::new(),
            upstreams: RwLock::new(upstreams),
            workers: OnceLock::new(),
            clients: AtomicU32::new(0),
            entering: AtomicU32::new(0),
            by_tenant: Mutex::default(),
            pinned: Mutex::default(),
            usage: Mutex::default(),
            tenant_names: Mutex::default(),
        }))
    }

    /// The workers' mailboxes, once they are there.
    pub fn set_workers(&self, workers: Vec<Mailbox>) {
        // Set once, by the daemon.
        let _ = self.workers.set(workers);
    }

    /// Who wants the admin database goes there from now on.
    pub fn open_console(&self, door: UnboundedSender<Visit>) {
        // Opened once, by the daemon.
        let _ = self.console.set(door);
    }

    /// Shows a visitor of the admin database in; false where it is not open.
    pub fn show_in(&self, visit: Visit) -> bool {
        self.console.get().is_some_and(|door| door.send(visit).is_ok())
    }

    /// Every client there is, by worker.
    pub async fn census(&self) -> Vec<ClientEntry> {
        let workers: Vec<_> = self.workers.get().into_iter().flatten().collect();
        let mut answers = Vec::with_capacity(workers.len());
        for mailbox in workers {
            let (reply, answer) = oneshot::channel();
            if mailbox.send(Mail::Census(reply)).is_ok() {
                answers.push(answer);
            }
        }
        let mut all = Vec::new();
        for answer in answers {
            // A worker that ends meanwhile has no clients any more.
            all.extend(answer.await.unwrap_or_default());
        }
        all
    }

    /// The pools that a database's clients use, or all.
    pub fn pools_of(&self, database: Option<&str>) -> Vec<Arc<Pool>> {
        let is_meant = |pool: &Arc<Pool>| database.is_none_or(|name| pool.key.database == name.as_bytes());
        self.upstreams().iter().flat_map(|upstream| upstream.pools()).filter(is_meant).collect()
    }

    /// How many workers there are.
    pub fn worker_count(&self) -> usize {
        self.workers.get().map_or(0, Vec::len)
    }

    /// Puts a message into one worker's mailbox; nobody answers for a worker that there is not.
    pub fn tell(&self, worker: u16, mail: Mail) {
        if let Some(mailbox) = self.workers.get().and_then(|workers| workers.get(usize::from(worker))) {
            let _ = mailbox.send(mail);
        }
    }

    /// Has what a client does cancelled, if it is one of this proxy's.
    pub fn cancel(&self, request: CancelRequest) {
        let number = self.keys.worker(request.pid);
        match self.workers.get().and_then(|workers| workers.get(usize::from(number))) {
            // A worker that ends takes what it is told with it, and its clients.
            Some(mailbox) => drop(mailbox.send(Mail::Cancel(request))),
            None => drop(request.done.send(())),
        }
    }

    /// Has what a client does cancelled that is none of this proxy's, by the proxies that share a budget with it, and waits until that is done. A key that is nobody's is ignored
    /// without a word (H8).
    pub async fn cancel_elsewhere(&self, pid: u32, proof: Proof) {
        let upstreams = self.upstreams();
        let sharing = upstreams.iter().filter_map(|upstream| upstream.sharing.get()).max_by_key(|sharing| sharing.reach());
        if let Some(sharing) = sharing.filter(|sharing| sharing.reach() > 0) {
            tracing::debug!(client = pid, "a cancel request is for no client here: others are told");
            let (done, delivered) = oneshot::channel();
            sharing.pass_on(CancelRequest { pid, proof, done });
            // Dropped in any case.
            let _ = delivered.await;
        }
    }

    /// Tells all workers.
    pub fn tell_all(&self, mail: impl Fn() -> Mail) {
        for mailbox in self.workers.get().into_iter().flatten() {
            let _ = mailbox.send(mail());
        }
    }

    /// All upstreams, by their index.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.upstreams.read().clone()
    }

    /// The upstream of that name.
    pub fn upstream(&self, name: &str) -> Option<Arc<Upstream>> {
        self.upstreams.read().iter().find(|upstream| upstream.name == name).cloned()
    }

    /// Adds an upstream that a reload has brought.
    pub fn add_upstream(&self, make: impl FnOnce(usize) -> Arc<Upstream>) {
        let mut upstreams = self.upstreams.write();
        let index = upstreams.len();
        upstreams.push(make(index));
    }

    /// A tenant of the configuration, for the clients of one worker that ask for one database.
    pub fn tenant(&self, at: usize, worker: usize, database: &str, clock: &Rc<Clock>) -> Tenant {
        let config = self.config.load();
        let configured = config.tenants.get(at).or_else(|| config.tenants.first());
        let name = configured.map_or_else(|| "default".to_owned(), |tenant| tenant.name.clone());
        let limits = configured.map_or_else(phase::Limits::default, |tenant| times(&tenant.limits, &config.clients));
        self.metrics.set_tenants(std::slice::from_ref(&name));
        let numbers = self.metrics.tenant(worker, &name, database).unwrap_or_else(|| unreachable!("it has just been added"));
        let pinned = Arc::clone(self.pinned.lock().entry(name.clone()).or_default());
        let max_pinned = configured.map_or(0, |tenant| tenant.limits.max_pinned);
        let quotas = configured.map(|tenant| quotas(&tenant.limits)).filter(|quotas| *quotas != Quotas::default());
        let usage = Arc::clone(self.usage.lock().entry(name.clone()).or_insert_with(|| Arc::new(Mutex::new(Usage::new(now())))));
        Tenant {
            id: self.tenant_id(&name),
            name,
            database: database.into(),
            limits,
            numbers,
            pinned,
            max_pinned,
            quotas,
            usage,
            telling: Telling::of(&config.log),
            patience: None,
            clock: Rc::clone(clock),
        }
    }

    /// The number that a tenant's accounts go by. It stays with the name over reloads.
    pub fn tenant_id(&self, name: &str) -> TenantId {
        let mut known = self.tenant_names.lock();
        let at = known.iter().position(|known| known == name).unwrap_or_else(|| {
            known.push(name.to_owned());
            known.len() - 1
        });
        TenantId(u16::try_from(at).unwrap_or(u16::MAX))
    }

    /// All tenants that there have been, with their numbers.
    pub fn tenant_ids(&self) -> Vec<(String, TenantId)> {
        let known = self.tenant_names.lock().clone();
        (0..).map(TenantId).zip(known).map(|(id, name)| (name, id)).collect()
    }

    /// The tenants' limits, by their numbers; a tenant that is no longer configured has the defaults.
    pub fn limits(&self, config: &Config) -> Vec<Limits> {
        for tenant in &config.tenants {
            self.tenant_id(&tenant.name);
        }
        let of = |name: &str| config.tenants.iter().find(|tenant| tenant.name == name).or(config.tenants.first());
        let names = self.tenant_names.lock().clone();
        names.iter().map(|name| of(name).map_or_else(Limits::default, |tenant| admission_limits(&tenant.limits))).collect()
    }

    /// The pool of a configured user, for a database that is named.
    pub fn pool_of_user(&self, name: &str, database: &config::Database, user: &config::User) -> Option<Arc<Pool>> {
        let upstream = self.upstream(&database.upstream)?;
        let config = self.config.load();
        let keep = keep(config.upstreams.get(&database.upstream)?);
        let key = PoolKey { database: name.as_bytes().to_vec(), user: user.name.as_bytes().to_vec(), replication: None };
        let login = || Login {
            user: user.server_user.clone().into_bytes(),
            dbname: database.dbname.as_ref().map_or(name, |dbname| dbname).as_bytes().to_vec(),
            replication: None,
            secret: server_secret_of(user),
        };
        Some(upstream.pool(&key, database.pool_mode, keep, login))
    }

    /// After a reload: pools log in as the configuration now says.
    pub fn renew_logins(&self) {
        let config = self.config.load();
        for pool in self.upstreams().iter().flat_map(|upstream| upstream.pools()) {
            let Some(user) = std::str::from_utf8(&pool.key.user).ok().and_then(|name| config.users.get(name)) else { continue };
            let secret = server_secret_of(user);
            if matches!(secret, ServerSecret::None) {
                continue;
            }
            let login = pool.login.load();
            pool.renew(Login { user: user.server_user.clone().into_bytes(), secret, ..(**login).clone() });
        }
    }

    /// One more client of a tenant, if it may come in.
    ///
    /// # Errors
    /// The tenant's limit, or the proxy's own (with no tenant).
    pub fn admit(self: &Arc<Self>, tenant: &str, limit: u32) -> Result<Admitted, (Option<String>, u32)> {
        let most = self.config.load().clients.max_clients;
        if most > 0 && self.clients.fetch_add(1, Ordering::Relaxed) >= most {
            self.clients.fetch_sub(1, Ordering::Relaxed);
            return Err((None, most));
        }
        let count = Arc::clone(self.by_tenant.lock().entry(tenant.to_owned()).or_default());
        if count.fetch_add(1, Ordering::Relaxed) >= limit && limit > 0 {
            count.fetch_sub(1, Ordering::Relaxed);
            self.clients.fetch_sub(1, Ordering::Relaxed);
            return Err((Some(tenant.to_owned()), limit));
        }
        if most == 0 {
            self.clients.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Admitted { house: Arc::clone(self), count })
    }

    /// A connection has come; it counts as one that is not logged in yet until what is answered here is dropped.
    pub fn enter(self: &Arc<Self>) -> Entering {
        self.entering.fetch_add(1, Ordering::Relaxed);
        Entering(Arc::clone(self))
    }

    /// How many connections are not logged in yet.
    pub fn entering(&self) -> u32 {
        self.entering.load(Ordering::Relaxed)
    }

    /// How many clients are logged in.
    pub fn clients(&self) -> u32 {
        self.clients.load(Ordering::Relaxed)
    }
}

/// A client that counts; dropping it counts it out.
#[derive(Debug)]
pub struct Admitted {
    house: Arc<House>,
    count: Arc<AtomicU32>,
}

/// A connection that is not logged in yet.
#[derive(Debug)]
pub struct Entering(Arc<House>);

impl Drop for Entering {
    fn drop(&mut self) {
        self.0.entering.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.house.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

fn times(limits: &config::Limits, clients: &config::Clients) -> phase::Limits {
    phase::Limits {
        queue: limits.queue_timeout,
        query: limits.query_timeout,
        transaction: limits.transaction_timeout,
        idle_transaction: limits.idle_transaction_timeout,
        contended_idle_transaction: limits.contended_idle_transaction_timeout,
        idle: limits.client_idle_timeout,
        write_stall: clients.write_stall_timeout,
    }
}

/// What a tenant may use over time.
fn quotas(limits: &config::Limits) -> Quotas {
    Quotas {
        transactions: Pace::per_second(limits.transactions_per_second, limits.transactions_burst),
        logins: Pace::per_second(limits.logins_per_second, limits.logins_burst),
        server_seconds: limits.server_seconds_per_minute,
    }
}

/// What a tenant may have of an upstream.
fn admission_limits(limits: &config::Limits) -> Limits {
    Limits {
        most: (limits.max_server_connections > 0).then_some(limits.max_server_connections),
        reserved: limits.reserved_server_connections,
        queue: limits.max_queue,
        wait: limits.queue_timeout,
        weight: limits.weight,
    }
}

/// How an upstream's connections live.
pub fn keep(upstream: &config::Upstream) -> Keep {
    Keep { idle: upstream.server_idle_timeout, lifetime: upstream.server_lifetime, min_idle: upstream.min_idle, once: false }
}
