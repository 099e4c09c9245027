//! Runs the checks of one client and prints a line for each; the last line counts them.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

const DEADLINE: Duration = Duration::from_secs(90);

/// The checks so far.
#[derive(Default)]
pub struct Report {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Report {
    /// Runs one check.
    pub async fn check(&mut self, name: &str, work: impl Future<Output = Result<()>>) {
        // What has one client wait, in a session that it keeps, for what another does.
        if matches!(name, "cancel" | "listens") && std::env::var_os("ONE_CONNECTION").is_some() {
            return self.skip(name, "it needs two server connections");
        }
        let outcome = tokio::time::timeout(DEADLINE, work).await;
        match outcome.unwrap_or_else(|_| Err(anyhow!("not within {DEADLINE:?}"))) {
            Ok(()) => {
                self.passed += 1;
                println!("ok   {name}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {name}: {}", format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }

    /// Says that the client has no such thing.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        println!("skip {name}: {reason}");
    }

    /// Prints the last line and ends the process.
    pub fn end(self) -> ! {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        std::process::exit(i32::from(self.failed > 0))
    }
}

/// The database's URL.
pub fn url() -> Result<String> {
    Ok(std::env::var("DATABASE_URL")?)
}

/// The file with the authority's certificate; none means no TLS.
pub fn authority() -> Option<String> {
    std::env::var("PGSSLROOTCERT").ok()
}

/// How many clients at once.
pub fn concurrency() -> Result<i32> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--concurrent").skip(1);
    Ok(arguments.next().map_or(Ok(200), |count| count.parse())?)
}

/// Fails, with both values cut short, unless they are equal.
pub fn equal<T: PartialEq + Debug>(found: T, expected: T) -> Result<()> {
    ensure!(found == expected, "expected {:.200}, found {:.200}", format!("{expected:?}"), format!("{found:?}"));
    Ok(())
}
