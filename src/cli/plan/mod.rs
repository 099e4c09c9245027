//! `pgweir plan`: from the load that is expected, how many server connections it needs, and what to write into the configuration.

mod advice;
mod load;
mod queue;
mod text;

use std::io::Write;

use self::advice::Plan;
pub use self::load::PlanArgs;

/// Prints the plan. The answer is the exit code: 1 where the server cannot hold the load, else 0.
///
/// # Errors
/// A load that cannot be read or meant, or a plan that cannot be written.
pub fn plan(arguments: &PlanArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let load = arguments.load()?;
    let plan = Plan::of(&load);
    if arguments.json {
        serde_json::to_writer_pretty(&mut *out, &plan)?;
        writeln!(out)?;
    } else {
        write!(out, "{plan}")?;
    }
    Ok(u8::from(!plan.fits()))
}
