//! From the configuration to a house with everything in it.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::mpsc;

use super::worker::{Doors, Seat, Workers};
use crate::admission::Limits;
use crate::config::{self, ClientCertificates, ClientTlsMode, Config, LimitSetting, ListenAddress};
use crate::fault;
use crate::metrics::Metrics;
use crate::net::tls::{self, ClientTls, ClientTlsSource};
use crate::net::{Address, Bound, HandedOver, ListenAt, ListenError, TlsSettingError, now};
use crate::pool::ledger::{Ledger, LimitMode};
use crate::pool::{self, Around, Deliver, Job, Times, Upstream};
use crate::session::{Certificate, House, PIN_LABELS, server_secret_of};
use crate::upstream::{Login, Target};

/// A house, ready to be lived in.
#[derive(Debug)]
pub struct Built {
    /// What all threads share.
    pub house: Arc<House>,
    /// Jobs for the control thread.
    pub jobs: mpsc::UnboundedReceiver<Job>,
    /// How upstreams reach the threads, for those that a reload brings.
    pub around: Threads,
    /// The operations port.
    pub http: Option<Bound>,
    /// The workers, not yet started.
    pub workers: Workers,
}

/// How upstreams reach the threads.
#[derive(Debug, Clone)]
pub struct Threads {
    /// The control thread.
    pub jobs: pool::Jobs,
    /// The workers.
    pub mail: Arc<[pool::Mailbox]>,
}

/// Builds everything and takes all addresses.
///
/// # Errors
/// An address that is taken, or a certificate that cannot be used.
pub fn build(config: Config) -> anyhow::Result<Built> {
    let relaying = worker_count(config.process.workers);
    // SQL over HTTP has a worker of its own: what JSON and its cryptography take is not taken from those who relay.
    let count = relaying + usize::from(config.listen.api.is_some());
    let tenants: Vec<String> = config.tenants.iter().map(|tenant| tenant.name.clone()).collect();
    let metrics = Metrics::new(count, &tenants, &fault::LABELS, &PIN_LABELS);
    let (jobs, job_queue) = mpsc::unbounded_channel();
    let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| pool::mailbox()).unzip();
    let around = Threads { jobs, mail: mailboxes.into() };
    let certificate = certificate(&config)?;
    let house = House::new(config, certificate, Vec::new(), metrics)?;
    let config = house.config.load_full();
    let limits = house.limits(&config);
    for upstream in config.upstreams.values() {
        let target = Target::new(upstream, &config.server_tcp).with_context(|| format!("upstream {}", upstream.name))?;
        house.add_upstream(|index| make_upstream(index, upstream, target, &limits, &house.metrics, &around));
    }
    for upstream in config.upstreams.values() {
        share_budget(&house, &upstream.name);
    }
    let (mails, mail_queues): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    house.set_workers(mails);
    let mut handed_over = HandedOver::from_env();
    let bound = bind(&config, &mut handed_over)?;
    let mut listeners: Vec<Vec<Bound>> = (1..relaying).map(|_| bound.iter().map(Bound::share).collect()).collect::<Result<_, _>>()?;
    // The sockets that were announced serve too: to close one would reset whoever has connected to it already.
    listeners.push(bound);
    let api = config.listen.api.map(|address| take(&ListenAt::Tcp(address), &mut handed_over)).transpose()?;
    if let Some(api) = &api {
        announce("api", api);
    }
    let doors = listeners.into_iter().map(Doors::Postgres).chain(api.map(Doors::Api));
    let seats = (0..).zip(inboxes).zip(mail_queues).zip(doors);
    let seats = seats.map(|(((number, inbox), mail), doors)| Seat { number, doors, inbox, mail }).collect();
    let http = config.listen.http.map(|address| take(&ListenAt::Tcp(address), &mut handed_over)).transpose()?;
    if let Some(http) = &http {
        announce("http", http);
    }
    for address in handed_over.left() {
        tracing::warn!(%address, "a socket was handed over for an address that is not configured, and is closed");
    }
    let workers = Workers::new(Arc::clone(&house), seats);
    Ok(Built { house, jobs: job_queue, around, http, workers })
}

/// An upstream as the configuration has it.
pub fn make_upstream(
    index: usize,
    upstream: &config::Upstream,
    target: Target,
    limits: &[Limits],
    metrics: &Metrics,
    threads: &Threads,
) -> Arc<Upstream> {
    let workers = u16::try_from(threads.mail.len()).unwrap_or(u16::MAX);
    let mut ledger = Ledger::new(upstream.max_connections, workers, limits, now());
    ledger.set_failover_window(upstream.failover_window);
    // There is nothing yet that could be opened or closed for it.
    ledger.set_limit_mode(limit_mode(upstream), now(), &mut Vec::new());
    let around = Around { numbers: metrics.upstream(&upstream.name), jobs: threads.jobs.clone(), mail: Arc::clone(&threads.mail) };
    Upstream::new((index, &upstream.name), ledger, target, times(upstream), around)
}

/// Has an upstream share its budget with other proxies, where the configuration says so; said again, its slots are held with the login that is right by then.
pub fn share_budget(house: &Arc<House>, name: &str) {
    let config = house.config.load();
    let share = config.upstreams.get(name).and_then(|upstream| upstream.share.as_ref());
    if let (Some(share), Some(upstream)) = (share, house.upstream(name))
        && let Some(user) = config.users.get(&share.user)
    {
        let login = Login {
            user: user.server_user.clone().into_bytes(),
            dbname: share.dbname.clone().into_bytes(),
            replication: None,
            secret: server_secret_of(user),
        };
        let house = Arc::downgrade(house);
        let deliver = move |request| {
            if let Some(house) = house.upgrade() {
                house.cancel(request);
            }
        };
        upstream.share_budget(login, Deliver(Box::new(deliver)));
    }
}

/// What an upstream's limit goes by.
pub fn limit_mode(upstream: &config::Upstream) -> LimitMode {
    match upstream.limit {
        LimitSetting::Fixed => LimitMode::Fixed,
        LimitSetting::Observe => LimitMode::Observe,
        LimitSetting::Adaptive => LimitMode::Adaptive { least: upstream.limit_min },
    }
}

/// An upstream's timeouts.
pub fn times(upstream: &config::Upstream) -> Times {
    Times {
        check_after: upstream.server_check_delay,
        settle: upstream.settle_timeout,
        prepared_bytes: upstream.prepared_statements,
        follow_functions: upstream.follow_functions,
        // The only one there is is for work.
        share_listen: upstream.share_listen && upstream.max_connections > 1,
    }
}

/// TLS toward clients, as configured.
///
/// # Errors
/// A file that cannot be used.
pub fn certificate(config: &Config) -> Result<Option<Certificate>, TlsSettingError> {
    let client_tls = &config.client_tls;
    let (ClientTlsMode::Prefer | ClientTlsMode::Require, Some(identity)) = (client_tls.mode, &client_tls.identity) else { return Ok(None) };
    let ca = match &client_tls.ca {
        Some(config::CertificateAuthority::File(file)) => Some(file.clone()),
        // Client certificates come from an authority of one's own.
        Some(config::CertificateAuthority::System) | None => None,
    };
    let client_certificates = match (client_tls.client_certificates, ca) {
        (ClientCertificates::Request, Some(ca)) => tls::ClientCertificates::Request(ca),
        (ClientCertificates::Require, Some(ca)) => tls::ClientCertificates::Require(ca),
        _ => tls::ClientCertificates::Ignore,
    };
    let source = ClientTlsSource { cert: identity.cert.clone(), key: identity.key.clone(), client_certificates };
    ClientTls::load(&source).map(|tls| Some(Certificate::new(tls)))
}

/// The socket that was handed over for an address, or one of our own.
fn take(at: &ListenAt, handed_over: &mut HandedOver) -> Result<Bound, ListenError> {
    handed_over.take(at).map_or_else(|| Bound::bind(at), Ok)
}

fn bind(config: &Config, handed_over: &mut HandedOver) -> anyhow::Result<Vec<Bound>> {
    let mut port = config.listen.unix_port();
    let mut bound = Vec::new();
    for address in &config.listen.postgres {
        let at = match address {
            ListenAddress::Tcp(address) => ListenAt::Tcp(*address),
            ListenAddress::Unix(folder) => ListenAt::Unix { folder: folder.clone(), port },
        };
        let one = take(&at, handed_over)?;
        if let (0, Some(Address::Tcp(found))) = (port, one.address()) {
            port = found.port();
        }
        announce(if matches!(address, ListenAddress::Unix(_)) { "unix" } else { "postgres" }, &one);
        bound.push(one);
    }
    Ok(bound)
}

fn announce(kind: &str, bound: &Bound) {
    let address = match bound.address() {
        Some(Address::Unix(file)) => file.display().to_string(),
        Some(address) => address.to_string(),
        None => String::new(),
    };
    tracing::info!(kind, address, "listening");
}

/// Opens what `min_idle` wants for users and databases that are named, so that the first callers find connections.
pub fn warm_up(house: &House) {
    let config = house.config.load();
    for (name, database) in &config.databases {
        let Some(upstream) = config.upstreams.get(&database.upstream).filter(|upstream| upstream.min_idle > 0) else { continue };
        for user in config.users.values() {
            house.pool_of_user(name, database, user);
        }
        if let Some(upstream) = house.upstream(&upstream.name) {
            upstream.sweep(now());
        }
    }
}

/// One on up to two cores, else half of what the CPU quota allows: PostgreSQL and the kernel need the rest. `available_parallelism` heeds the cgroup's quota
/// (`tests/quota`).
fn worker_count(configured: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    configured.unwrap_or(if cores <= 2 { 1 } else { cores / 2 }).clamp(1, 256)
}
