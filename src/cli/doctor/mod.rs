//! `pgweir doctor`: what is wrong or risky in a set-up, in words, with the remedy.
//!
//! `server` asks each upstream directly, `machine` looks at this machine, `tokens` for the keys of tokens, `proxy` at the proxy that runs with this configuration, if one
//! does. Nothing is changed anywhere.

mod finding;
mod machine;
mod proxy;
mod server;
mod tokens;

use std::io::Write;
use std::path::PathBuf;

use finding::{Findings, Grade};

use super::check::process_variables;
use crate::config::{Config, Loaded};

/// Tell what is wrong or risky.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// The configuration file
    #[arg(long, short, env = "PGWEIR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One server, its user and password, in place of or beside a file
    #[arg(long, env = "PGWEIR_UPSTREAM", value_name = "URL", hide_env_values = true)]
    upstream: Option<String>,
    /// How many such proxies share the servers
    #[arg(long, default_value_t = 1, value_name = "N")]
    replicas: u32,
}

impl Doctor {
    /// Looks at everything and tells; 1 where something is wrong.
    ///
    /// # Errors
    /// When the outcome cannot be written.
    pub fn run(&self, out: &mut dyn Write) -> anyhow::Result<u8> {
        let mut findings = Findings::default();
        match Config::load(self.config.as_deref(), self.upstream.as_deref(), &process_variables()) {
            Ok(Loaded { config, warnings }) => {
                for warning in warnings {
                    findings.add(Grade::Risk, "configuration", warning.what.clone(), warning.remedy.clone().unwrap_or_default());
                }
                self.examine(&config, &mut findings)?;
            }
            Err(mistakes) => {
                for mistake in mistakes.iter().filter(|mistake| mistake.is_error()) {
                    findings.add(Grade::Wrong, "configuration", mistake.what.clone(), mistake.remedy.clone().unwrap_or_default());
                }
            }
        }
        findings.write(out)?;
        Ok(u8::from(findings.are_wrong()))
    }

    fn examine(&self, config: &Config, findings: &mut Findings) -> anyhow::Result<()> {
        machine::examine(config, findings);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default())?;
        runtime.block_on(async {
            for upstream in config.upstreams.values() {
                server::examine(config, upstream, self.replicas, findings).await;
            }
            tokens::examine(config, findings).await;
            proxy::examine(config, findings).await;
        });
        Ok(())
    }
}
