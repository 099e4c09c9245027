//! The `pgweir` program.

use clap::Parser;

#[derive(Parser)]
#[command(version)]
enum Command {
    /// Show on this machine what pgweir is for.
    Demo(pgweir::cli::demo::DemoArgs),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let Command::Demo(args) = Command::parse();
    pgweir::cli::demo::run(&args)
}
