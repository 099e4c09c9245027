//! The command line.

mod callers;
pub mod check;
pub mod compat;
pub mod demo;
pub mod doctor;
pub mod healthcheck;
pub mod import;
mod interrupt;
mod log;
mod open_files;
pub mod plan;
mod random;
pub mod reference;
pub mod storm;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::config::{Config, Loaded, Mistake, PREFIX, Variables};
use crate::daemon;

/// A PostgreSQL proxy that lets a surge of short-lived clients share few server connections.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Serve(Serve),
    /// Check a configuration file: every mistake with its line, column and remedy
    Check {
        /// The file
        file: PathBuf,
    },
    /// Tell which statements would keep a server connection beyond their transaction, and why
    CheckCompat {
        /// SQL, or a log of PostgreSQL's with statements in it; standard input if it is `-` or absent
        file: Option<PathBuf>,
    },
    /// Print what can be configured
    Config {
        #[command(subcommand)]
        page: reference::Page,
    },
    /// Make a configuration of another pooler's
    Import {
        #[command(subcommand)]
        from: import::From,
    },
    /// Tell what is wrong or risky in a set-up, and the remedy: of the configuration, its servers, this machine, and the proxy if it runs
    Doctor(doctor::Doctor),
    /// Show on this machine what pgweir is for
    Demo(demo::DemoArgs),
    /// Tell how many server connections an expected load needs, and how long it would wait for them
    Plan(plan::PlanArgs),
    /// Put a load shaped like that of Lambda on a database, straight or through a proxy, and measure what comes of it
    Storm(Box<storm::StormArgs>),
    /// Ask a running proxy whether it is alive
    Healthcheck(healthcheck::Healthcheck),
}

/// Run the proxy
#[derive(Debug, clap::Args)]
struct Serve {
    /// The configuration file
    #[arg(long, short, env = "PGWEIR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One server, its user and password, in place of or beside a file
    #[arg(long, env = "PGWEIR_UPSTREAM", value_name = "URL", hide_env_values = true)]
    upstream: Option<String>,
}

impl Arguments {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What kept it from being done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Check { file } => {
                let code = check::check(&file, None, &check::process_variables(), &mut std::io::stdout())?;
                Ok(ExitCode::from(code))
            }
            Command::CheckCompat { file } => {
                let mut input = Vec::new();
                if let Some(file) = file.filter(|file| file.as_os_str() != "-") {
                    input = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                } else {
                    std::io::stdin().read_to_end(&mut input)?;
                }
                Ok(ExitCode::from(compat::check(&input, &mut std::io::stdout())?))
            }
            Command::Config { page } => {
                reference::print(page, &mut std::io::stdout())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Doctor(doctor) => Ok(ExitCode::from(doctor.run(&mut std::io::stdout())?)),
            Command::Import { from } => {
                import::run(&from, &mut std::io::stdout(), &mut std::io::stderr())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Plan(arguments) => Ok(ExitCode::from(plan::plan(&arguments, &mut std::io::stdout())?)),
            Command::Storm(arguments) => storm::run(&arguments),
            Command::Healthcheck(healthcheck) => {
                healthcheck.run()?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl Serve {
    /// With variables that take the place of those of the environment.
    fn load(&self, set: &Variables) -> Result<Loaded, Vec<Mistake>> {
        let mut variables = check::process_variables();
        variables.extend(set.clone());
        Config::load(self.config.as_deref(), self.upstream.as_deref(), &variables)
    }

    fn run(self) -> anyhow::Result<ExitCode> {
        // A setting's variable has a path in it; what has none may be anybody's.
        let is_in_the_environment = check::process_variables().keys().any(|name| name.starts_with(PREFIX) && name.contains("__"));
        if self.config.is_none() && self.upstream.is_none() && !is_in_the_environment {
            bail!(
                "nothing to serve: name a configuration with --config FILE (or PGWEIR_CONFIG), or one server with \
                 PGWEIR_UPSTREAM=postgres://user:secret@host:5432/db"
            );
        }
        let Loaded { config, warnings } = match self.load(&Variables::new()) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                let mut err = std::io::stderr();
                for mistake in mistakes {
                    writeln!(err, "{mistake}\n")?;
                }
                return Ok(ExitCode::FAILURE);
            }
        };
        let set_level = log::start(&config.log)?;
        for warning in warnings {
            tracing::warn!(%warning, "configuration");
        }
        let file = self.config.clone();
        daemon::run(config, daemon::Source { read: Box::new(move |set| self.load(set)), file }, set_level)
    }
}
