//! Tells CloudWatch, by way of standard output, what has happened in each interval.

use std::io::Write;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::Cloudwatch;
use crate::http::Operations;
use crate::metrics::Embedded;

/// Writes the lines of each interval at its end. Where nobody reads them any more they are dropped.
pub async fn tell(operations: Rc<dyn Operations>, Cloudwatch { interval, namespace, proxy_name }: Cloudwatch) {
    let mut embedded = Embedded::new(&namespace, &proxy_name, operations.snapshot());
    let mut ticks = tokio::time::interval(interval);
    // The first is at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut text = embedded.lines(operations.snapshot(), u64::try_from(at).unwrap_or(0)).join("\n");
        text.push('\n');
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
}
