//! SIGHUP: the configuration and the certificates are read again. All of it is checked before any of it applies; what is wrong changes nothing.

use std::sync::Arc;

use super::Reread;
use super::build::{self, Threads};
use crate::config::{self, Applies, Config, Loaded};
use crate::net::now;
use crate::session::{Certificate, House, Mail, keep};
use crate::upstream::Target;

/// Reads the configuration again and applies what can change without a restart.
pub async fn reload(house: &Arc<House>, threads: &Threads, reread: &Reread, log: &dyn Fn(&str)) {
    let loaded = match reread() {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            for mistake in mistakes {
                tracing::error!(%mistake, "the configuration cannot be used");
            }
            tracing::error!("reload: nothing has changed");
            return;
        }
    };
    let Loaded { config, warnings } = loaded;
    for warning in warnings {
        tracing::warn!(%warning, "configuration");
    }
    let prepared = match prepare(&config) {
        Ok(prepared) => prepared,
        Err(why) => {
            tracing::error!(%why, "reload: nothing has changed");
            return;
        }
    };
    report(&house.config.load(), &config);
    log(&config.log.level);
    apply(house, threads, config, prepared);
    let preparing = Arc::clone(house);
    // A panic there is logged by itself; verifiers are then made at the logins that need them.
    let _ = tokio::task::spawn_blocking(move || preparing.secrets.prepare(&preparing.config.load())).await;
    house.tell_all(|| Mail::Reloaded);
    tracing::info!("reload: done");
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

fn report(old: &Config, new: &Config) {
    for change in config::diff(old, new) {
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
    for (name, target) in prepared.targets {
        let Some(configured) = config.upstreams.get(&name) else { continue };
        match house.upstream(&name) {
            Some(upstream) => {
                upstream.set_target(target);
                upstream.ledger.lock().set_failover_window(configured.failover_window);
                upstream.times.store(Arc::new(build::times(configured)));
                let mut steps = upstream.set_limits(now(), configured.max_connections, &limits, keep(configured));
                upstream.ledger.lock().set_limit_mode(build::limit_mode(configured), now(), &mut steps);
                upstream.post(&mut steps, None);
            }
            None => house.add_upstream(|index| build::make_upstream(index, configured, target, &limits, &house.metrics, threads)),
        }
    }
    house.certificate.store(prepared.certificate.map(Arc::new));
    house.config.store(Arc::new(config));
    house.renew_logins();
}
