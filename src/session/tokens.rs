//! Tokens (JWT), which callers of SQL over HTTP bear and clients show in place of a password: whether one holds, and whose it is. The keys come from a file or a URL, and
//! are read anew now and then.

use std::collections::HashMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http_body_util::Full;
use hyper::Request;
use hyper::header::ACCEPT;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::config::{KeySource, Tokens};
use crate::net::fetch::fetch;
use crate::net::{Moment, now};

/// How old keys may be.
const FRESH: Duration = Duration::from_mins(5);
/// How soon they are asked for again because a token names another.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long fetching them may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest set of keys, in bytes.
const LONGEST: usize = 1 << 20;
/// For so long a token that held is not checked again.
const BELIEVED: Duration = Duration::from_mins(1);
/// How many such are kept.
const MOST: usize = 10_000;

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    /// The user, or who else shows it.
    pub user: String,
    /// Its tenant, where a claim names it.
    pub tenant: Option<String>,
}

/// The keys, and the tokens that held a moment ago.
#[derive(Debug, Default)]
pub struct Keyring {
    keys: Mutex<Option<Keys>>,
    /// By the digest of their text.
    believed: Mutex<HashMap<[u8; 32], (Believed, Moment)>>,
    /// Whoever wants other keys comes by here, one after the other; and from where they could not be had, and when.
    failed: tokio::sync::Mutex<Option<(KeySource, Moment)>>,
}

#[derive(Debug)]
struct Keys {
    source: Tokens,
    set: JwkSet,
    since: Moment,
}

impl Keyring {
    /// Whose token this is.
    ///
    /// # Errors
    /// Why it does not hold, in words for the log: nothing of the token is in them but the name of its key and of a claim.
    pub async fn believe(&self, token: &str, settings: &Tokens) -> Result<Believed, String> {
        let seal = digest(&SHA256, token.as_bytes()).as_ref().try_into().unwrap_or_default();
        let is_same = self.keys.lock().as_ref().is_some_and(|keys| keys.source == *settings);
        if is_same
            && let Some((believed, until)) = self.believed.lock().get(&seal)
            && now() < *until
        {
            return Ok(believed.clone());
        }
        let (believed, until) = self.check(token, settings).await?;
        let mut known = self.believed.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(seal, (believed.clone(), until));
        Ok(believed)
    }

    /// Whose token this is, and until when that may be remembered.
    async fn check(&self, token: &str, settings: &Tokens) -> Result<(Believed, Moment), String> {
        let header = decode_header(token).map_err(|error| error.to_string())?;
        let key = self.key(header.kid.as_deref(), settings).await?;
        let mut validation = Validation::new_for_family(key.family());
        validation.leeway = 5;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &settings.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        let claims = decode::<Map<String, Value>>(token, &key, &validation).map_err(|error| error.to_string())?.claims;
        let named = |claim: &str| claims.get(claim).and_then(Value::as_str).map(str::to_owned);
        let user = settings.user.clone().or_else(|| named(&settings.user_claim));
        let user = user.ok_or_else(|| format!("it has no claim `{}`", settings.user_claim))?;
        let tenant = match &settings.tenant_claim {
            Some(claim) => Some(named(claim).ok_or_else(|| format!("it has no claim `{claim}`"))?),
            None => None,
        };
        let left = claims.get("exp").and_then(Value::as_f64).unwrap_or_default() - crate::net::since_1970().as_secs_f64();
        let until = now() + BELIEVED.min(Duration::try_from_secs_f64(left.max(0.0)).unwrap_or_default());
        Ok((Believed { user, tenant }, until))
    }

    /// The key of this name; of several, a token must name one.
    async fn key(&self, name: Option<&str>, settings: &Tokens) -> Result<DecodingKey, String> {
        if let Ok(known) = self.known(name, settings) {
            return known;
        }
        let mut failed = self.failed.lock().await;
        // Another may have had them meanwhile, or seen that they cannot be had.
        let had = match self.known(name, settings) {
            Ok(known) => return known,
            Err(had) => had,
        };
        let none = || "there are no keys to check it with".to_owned();
        if failed.as_ref().is_some_and(|(source, at)| *source == settings.keys && now().saturating_duration_since(*at) < PATIENCE) {
            return had.ok_or_else(none);
        }
        match fetched(&settings.keys).await {
            Ok(set) => {
                *failed = None;
                let key = found(&set, name);
                *self.keys.lock() = Some(Keys { source: settings.clone(), set, since: now() });
                // A key that is withdrawn takes its tokens with it.
                self.believed.lock().clear();
                key.ok_or_else(|| unknown(name))
            }
            Err(why) => {
                tracing::warn!(why, "the keys of tokens cannot be had");
                *failed = Some((settings.keys.clone(), now()));
                // Those of before are better than none.
                had.ok_or_else(none)
            }
        }
    }

    /// The key of this name, or that there is none, as far as the keys are fresh enough to say so; else what there is.
    fn known(&self, name: Option<&str>, settings: &Tokens) -> Result<Result<DecodingKey, String>, Option<DecodingKey>> {
        let keys = self.keys.lock();
        let Some(keys) = keys.as_ref().filter(|keys| keys.source == *settings) else { return Err(None) };
        let age = now().saturating_duration_since(keys.since);
        match found(&keys.set, name) {
            Some(key) if age < FRESH => Ok(Ok(key)),
            None if age < PATIENCE => Ok(Err(unknown(name))),
            key => Err(key),
        }
    }
}

fn unknown(name: Option<&str>) -> String {
    name.map_or_else(|| "it names no key, and there is not just one".to_owned(), |name| format!("there is no key `{name}`"))
}

fn found(set: &JwkSet, name: Option<&str>) -> Option<DecodingKey> {
    let key = match (name, &set.keys[..]) {
        (Some(name), _) => set.find(name)?,
        (None, [key]) => key,
        (None, _) => return None,
    };
    DecodingKey::from_jwk(key).ok()
}

/// The same as [`keys_at`], on a thread of its own: a worker keeps no timers of tokio's, and what a handshake and a name cost is not for its clients to wait for.
async fn fetched(source: &KeySource) -> Result<JwkSet, String> {
    let source = source.clone();
    let fetching = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        runtime.block_on(Box::pin(keys_at(&source)))
    });
    fetching.await.map_err(|error| error.to_string())?
}

/// The keys that are there now.
///
/// # Errors
/// Why they cannot be had, or read.
pub async fn keys_at(source: &KeySource) -> Result<JwkSet, String> {
    let bytes = match source {
        KeySource::File(file) => {
            let file = file.clone();
            let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
            read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?
        }
        KeySource::Url(url) => {
            let request = Request::get(url).header(ACCEPT, "application/json").body(Full::default());
            fetch(request.map_err(|error| error.to_string())?, LIMIT, LONGEST).await?.good()?
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}
