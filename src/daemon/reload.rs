//! SIGHUP: the configuration and the certificates are read again. All of it is checked before any of it applies; what is wrong changes nothing.

use std::sync::Arc;

use super::Reread;
use super::build::{self, Threads};
use crate::config::{self, Applies, Change, Config, Loaded, Mistake, Variables};
use crate::net::now;
use crate::session::{Certificate, House, Mail, keep};
use crate::upstream::Target;

/// Reads the configuration again and applies what can change without a restart.
pub struct Reloader {
    house: Arc<House>,
    threads: Threads,
    reread: Reread,
    log: Box<dyn Fn(&str)>,
    /// What operators have set since the start, as variables.
    set: Variables,
}

impl Reloader {
    /// Nothing has been set yet.
    pub fn new(house: Arc<House>, threads: Threads, reread: Reread, log: Box<dyn Fn(&str)>) -> Self {
        Self { house, threads, reread, log, set: Variables::new() }
    }

    /// Reads and applies.
    ///
    /// # Errors
    /// What is wrong with the configuration; then nothing has changed, and the log says so.
    pub async fn reload(&mut self) -> Result<(), String> {
        let set = self.set.clone();
        self.reload_with(set, None).await
    }

    /// The same with a setting that has this value from now on, until the process ends.
    ///
    /// # Errors
    /// As for [`reload`](Self::reload), or the setting changes with a restart only.
    pub async fn set(&mut self, path: &str, value: String) -> Result<(), String> {
        let mut set = self.set.clone();
        set.insert(config::variable_of(path), value);
        self.reload_with(set, Some(path)).await
    }

    async fn reload_with(&mut self, set: Variables, path: Option<&str>) -> Result<(), String> {
        let Loaded { config, warnings } = (self.reread)(&set).map_err(|mistakes| refuse(&mistakes))?;
        for warning in warnings {
            tracing::warn!(%warning, "configuration");
        }
        let prepared = prepare(&config).inspect_err(|why| tracing::error!(%why, "reload: nothing has changed"))?;
        let changes = config::diff(&self.house.config.load(), &config);
        if let Some(change) = changes.iter().find(|change| Some(change.path.as_str()) == path && change.applies == Applies::Restart) {
            return Err(format!("{} cannot be changed without a restart", change.path));
        }
        report(&changes);
        (self.log)(&config.log.level);
        apply(&self.house, &self.threads, config, prepared);
        self.set = set;
        let preparing = Arc::clone(&self.house);
        // A panic there is logged by itself; verifiers are then made at the logins that need them.
        let _ = tokio::task::spawn_blocking(move || preparing.secrets.prepare(&preparing.config.load())).await;
        self.house.tell_all(|| Mail::Reloaded);
        tracing::info!("reload: done");
        Ok(())
    }
}

/// Logs all mistakes; the errors among them in short.
fn refuse(mistakes: &[Mistake]) -> String {
    for mistake in mistakes {
        tracing::error!(%mistake, "the configuration cannot be used");
    }
    tracing::error!("reload: nothing has changed");
    let errors: Vec<String> = mistakes.iter().filter(|mistake| mistake.is_error()).map(Mistake::in_short).collect();
    errors.join("; ")
}

/// What is read from files that the configuration names.
struct Prepared {
    certificate: Option<Certificate>,
    targets: Vec<(String, Target)>,
}

fn prepare(config: &Config) -> Result<Prepared, String> {
    let certificate = build::certificate(config).map_err(|why| why.to_string())?;
    let mut targets = Vec::new();
    for upstream in config.upstreams.values() {
        let target = Target::new(upstream, &config.server_tcp).map_err(|why| format!("upstream {}: {why}", upstream.name))?;
        targets.push((upstream.name.clone(), target));
    }
    Ok(Prepared { certificate, targets })
}

fn report(changes: &[Change]) {
    for change in changes {
        let (from, to) = (change.old.as_deref().unwrap_or("(unset)"), change.new.as_deref().unwrap_or("(unset)"));
        let applies = match change.applies {
            Applies::AtOnce => "at once",
            Applies::NextConnection => "next connection",
            Applies::Restart => "restart",
        };
        tracing::info!(setting = change.path, from, to, applies, "reload: a setting has changed");
    }
}

fn apply(house: &Arc<House>, threads: &Threads, config: Config, prepared: Prepared) {
    let names: Vec<String> = config.tenants.iter().map(|tenant| tenant.name.clone()).collect();
    house.metrics.set_tenants(&names);
    let limits = house.limits(&config);
    let mut shared = Vec::new();
    for (name, target) in prepared.targets {
        let Some(configured) = config.upstreams.get(&name) else { continue };
        if let Some(upstream) = house.upstream(&name) {
            upstream.set_target(target);
            upstream.ledger.lock().set_failover_window(configured.failover_window);
            upstream.times.store(Arc::new(build::times(configured)));
            let mut steps = upstream.set_limits(now(), configured.max_connections, &limits, keep(configured));
            upstream.ledger.lock().set_limit_mode(build::limit_mode(configured), now(), &mut steps);
            upstream.post(&mut steps, None);
            // Whether it is shared changes with a restart; with which password it is, at once.
            shared.extend(upstream.sharing.get().is_some().then_some(name));
        } else {
            house.add_upstream(|index| build::make_upstream(index, configured, target, &limits, &house.metrics, threads));
            shared.push(name);
        }
    }
    house.certificate.store(prepared.certificate.map(Arc::new));
    house.config.store(Arc::new(config));
    house.renew_logins();
    for name in &shared {
        build::share_budget(house, name);
    }
}
