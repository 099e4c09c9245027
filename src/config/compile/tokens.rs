//! Tokens (JWT): who signs them, and for whom.

use std::path::PathBuf;

use super::Compiling;
use crate::config::model::{KeySource, Tokens};
use crate::config::words::path;

impl Compiling<'_, '_> {
    /// Those that callers of SQL over HTTP show.
    pub(super) fn bearer_tokens(&mut self) -> Option<Tokens> {
        let tokens = &self.settings.api.tokens;
        let at = path(["api", "tokens"]);
        let here = |key: &str| [&at[..], &[key.to_owned()]].concat();
        let is_meant = tokens.issuer.is_some() || tokens.audience.is_some() || tokens.user.is_some() || tokens.tenant_claim.is_some();
        let keys = self.key_source(&at, (tokens.jwks_file.as_ref(), tokens.jwks_url.as_ref()), is_meant)?;
        if tokens.audience.is_none() {
            let what = "tokens that were issued for other services are taken too";
            let at = if tokens.jwks_file.is_some() { here("jwks_file") } else { here("jwks_url") };
            self.findings.warning(&at, what, "set `audience`");
        }
        if let Some(user) = &tokens.user {
            self.known_user(&here("user"), user);
        }
        Some(Tokens {
            keys,
            issuer: tokens.issuer.clone(),
            audience: tokens.audience.clone(),
            user_claim: tokens.user_claim.clone(),
            user: tokens.user.clone(),
            tenant_claim: tokens.tenant_claim.clone(),
        })
    }

    /// Those that clients show in place of a password.
    pub(super) fn login_tokens(&mut self) -> Option<Tokens> {
        let settings = self.settings;
        let tokens = &settings.auth.tokens;
        let at = path(["auth", "tokens"]);
        let keys = (tokens.jwks_file.as_ref(), tokens.jwks_url.as_ref());
        let is_meant = tokens.issuer.is_some() || tokens.audience.is_some();
        let user = settings.users.iter().find(|(_, user)| !user.token_subjects.is_empty());
        if let (Some((name, _)), (None, None), false) = (user, keys, is_meant) {
            let what = "there are no keys to check tokens with";
            self.findings.error(
                &path(["users", name, "token_subjects"]),
                what,
                "add `jwks_url`, `issuer` and `audience` below [auth.tokens]",
            );
            return None;
        }
        let keys = self.key_source(&at, keys, is_meant)?;
        if tokens.issuer.is_none() || tokens.audience.is_none() {
            let what = "whose tokens are taken, and for whom they must be, is not said";
            self.findings.missing(&at, what, "add `issuer` and `audience`");
        }
        Some(Tokens {
            keys,
            issuer: tokens.issuer.clone(),
            audience: tokens.audience.clone(),
            user_claim: tokens.subject_claim.clone(),
            user: None,
            tenant_claim: None,
        })
    }

    /// Where the keys are that the table at `at` names; none is a mistake where tokens are meant.
    fn key_source(&mut self, at: &[String], (file, url): (Option<&PathBuf>, Option<&String>), is_meant: bool) -> Option<KeySource> {
        let here = |key: &str| [at, &[key.to_owned()]].concat();
        match (file, url) {
            (None, None) => {
                if is_meant {
                    self.findings.missing(at, "there are no keys to check tokens with", "add `jwks_file` or `jwks_url`");
                }
                None
            }
            (Some(_), Some(_)) => {
                self.findings.error(&here("jwks_url"), "`jwks_file` and `jwks_url` are both set", "keep one of them");
                None
            }
            (Some(file), None) => Some(KeySource::File(self.file(&here("jwks_file"), file))),
            (None, Some(url)) => {
                if !is_safe_url(url) {
                    let what = "keys cannot be fetched from there: whoever is between could put in keys of their own";
                    self.findings.error(&here("jwks_url"), what, "write an https:// URL");
                }
                Some(KeySource::Url(url.clone()))
            }
        }
    }
}

/// Whether nobody can have changed on its way what comes from there.
fn is_safe_url(url: &str) -> bool {
    let host = url.strip_prefix("http://").map(|rest| rest.split(['/', ':']).next().unwrap_or_default());
    url.starts_with("https://") || matches!(host, Some("localhost" | "127.0.0.1"))
}
