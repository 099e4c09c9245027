//! The keys that tokens are checked with.

use super::finding::{Findings, Grade};
use crate::config::{Config, KeySource};
use crate::session::keys_at;

pub(super) async fn examine(config: &Config, findings: &mut Findings) {
    for (whose, tokens) in [("auth.tokens", &config.auth.tokens), ("api.tokens", &config.api.tokens)] {
        let Some(tokens) = tokens else { continue };
        let place = match &tokens.keys {
            KeySource::File(file) => file.display().to_string(),
            KeySource::Url(url) => url.clone(),
        };
        let (what, remedy) = match keys_at(&tokens.keys).await {
            Ok(set) if !set.keys.is_empty() => {
                findings.well(whose, format!("{place} has {} to check tokens with", keys(set.keys.len())));
                continue;
            }
            Ok(_) => (format!("there is no key in {place}"), "nobody with a token gets in: ask its issuer"),
            Err(why) => (
                format!("the keys of tokens cannot be had from {place}: {why}"),
                "nobody with a token gets in, but with keys that were fetched before; a proxy without a way out reads them from a file",
            ),
        };
        findings.add(Grade::Wrong, whose, what, remedy);
    }
}

fn keys(count: usize) -> String {
    if count == 1 { "a key".to_owned() } else { format!("{count} keys") }
}
