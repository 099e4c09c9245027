//! Tokens (JWT), which callers of SQL over HTTP bear and clients show in place of a password: whether one holds, and whose it is. The keys come from a file or a URL, and
//! are read anew now and then.

use std::collections::HashMap;
use std::sync::Arc;
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

/// How old keys may be before others are fetched.
const FRESH: Duration = Duration::from_mins(5);
/// How old before whoever shows a token waits for the others; where those cannot be had, the old ones will do.
const OLD: Duration = Duration::from_mins(15);
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
#[derive(Debug)]
pub struct Keyring {
    keys: Mutex<Option<Keys>>,
    /// By the digest of their text.
    believed: Mutex<HashMap<[u8; 32], (Believed, Moment)>>,
    /// Whoever wants other keys comes by here, one after the other.
    failed: Arc<tokio::sync::Mutex<Failed>>,
    /// [`FRESH`] and [`OLD`].
    ages: (Duration, Duration),
}

/// From where keys could not be had, and when.
type Failed = Option<(KeySource, Moment)>;

#[derive(Debug)]
struct Keys {
    source: Tokens,
    set: JwkSet,
    since: Moment,
}

/// What is known of a key.
enum Known {
    /// The key, or that there is none of that name.
    Surely(Result<DecodingKey, String>),
    /// The key as it was a while ago: it will do, while others are fetched.
    Lately(DecodingKey),
    /// The key as it was once, if it was there: it will do where no others can be had.
    Once(Option<DecodingKey>),
}

impl Default for Keyring {
    fn default() -> Self {
        Self { keys: Mutex::default(), believed: Mutex::default(), failed: Arc::default(), ages: (FRESH, OLD) }
    }
}

impl Keyring {
    /// Whose token this is.
    ///
    /// # Errors
    /// Why it does not hold, in words for the log: nothing of the token is in them but the name of its key and of a claim.
    pub async fn believe(self: &Arc<Self>, token: &str, settings: &Tokens) -> Result<Believed, String> {
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
    async fn check(self: &Arc<Self>, token: &str, settings: &Tokens) -> Result<(Believed, Moment), String> {
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
    async fn key(self: &Arc<Self>, name: Option<&str>, settings: &Tokens) -> Result<DecodingKey, String> {
        match self.known(name, settings) {
            Known::Surely(known) => return known,
            Known::Lately(key) => {
                self.renew_meanwhile(settings);
                return Ok(key);
            }
            Known::Once(_) => {}
        }
        let mut failed = self.failed.lock().await;
        // Another may have had them meanwhile, or seen that they cannot be had.
        let had = match self.known(name, settings) {
            Known::Surely(known) => return known,
            Known::Lately(key) => Some(key),
            Known::Once(had) => had,
        };
        self.renew(&mut failed, settings).await;
        match self.known(name, settings) {
            Known::Surely(known) => known,
            Known::Lately(key) => Ok(key),
            // Those of before are better than none.
            Known::Once(_) => had.ok_or_else(|| "there are no keys to check it with".to_owned()),
        }
    }

    /// Has other keys fetched, unless somebody does.
    fn renew_meanwhile(self: &Arc<Self>, settings: &Tokens) {
        let Ok(mut failed) = Arc::clone(&self.failed).try_lock_owned() else { return };
        let (ring, settings) = (Arc::clone(self), settings.clone());
        tokio::spawn(async move { ring.renew(&mut failed, &settings).await });
    }

    /// Fetches other keys. From where they could not be had a moment ago nobody is asked.
    async fn renew(&self, failed: &mut Failed, settings: &Tokens) {
        if failed.as_ref().is_some_and(|(source, at)| *source == settings.keys && now().saturating_duration_since(*at) < PATIENCE) {
            return;
        }
        match fetched(&settings.keys).await {
            Ok(set) => {
                *failed = None;
                *self.keys.lock() = Some(Keys { source: settings.clone(), set, since: now() });
                // A key that is withdrawn takes its tokens with it.
                self.believed.lock().clear();
            }
            Err(why) => {
                tracing::warn!(why, "the keys of tokens cannot be had");
                *failed = Some((settings.keys.clone(), now()));
            }
        }
    }

    fn known(&self, name: Option<&str>, settings: &Tokens) -> Known {
        let keys = self.keys.lock();
        let Some(keys) = keys.as_ref().filter(|keys| keys.source == *settings) else { return Known::Once(None) };
        let age = now().saturating_duration_since(keys.since);
        let (fresh, old) = self.ages;
        match found(&keys.set, name) {
            Some(key) if age < fresh => Known::Surely(Ok(key)),
            Some(key) if age < old => Known::Lately(key),
            None if age < PATIENCE => Known::Surely(Err(unknown(name))),
            key => Known::Once(key),
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

/// The keys that are there now. Not for a worker: it may read a file, and it needs timers.
///
/// # Errors
/// Why they cannot be had, or read.
pub async fn keys_at(source: &KeySource) -> Result<JwkSet, String> {
    let bytes = match source {
        KeySource::File(file) => std::fs::read(file).map_err(|error| error.to_string())?,
        KeySource::Url(url) => {
            let request = Request::get(url).header(ACCEPT, "application/json").body(Full::default());
            fetch(request.map_err(|error| error.to_string())?, LIMIT, LONGEST).await?.good()?
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// One who signs tokens.
    struct Issuer {
        key: EncodingKey,
        set: String,
    }

    impl Issuer {
        fn new() -> Self {
            let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
            let key = EncodingKey::from_ec_der(pair.as_ref());
            let set = JwkSet { keys: vec![Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()] };
            Self { key, set: serde_json::to_string(&set).unwrap() }
        }

        fn token(&self, number: u32) -> String {
            let claims = json!({ "sub": "app", "exp": crate::net::since_1970().as_secs() + 3600, "jti": number });
            encode(&Header::new(Algorithm::ES256), &claims, &self.key).unwrap()
        }

        /// Answers one who asks for the keys.
        async fn publish(&self, listener: &TcpListener) {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", self.set.len(), self.set);
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Until the other end has read it and gone.
            while stream.read_u8().await.is_ok() {}
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_the_issuer_while_keys_of_a_while_ago_will_do() {
        let (first, second) = (Issuer::new(), Issuer::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let keys = KeySource::Url(format!("http://{}/", listener.local_addr().unwrap()));
        let settings = Tokens { keys, issuer: None, audience: None, user_claim: "sub".to_owned(), user: None, tenant_claim: None };
        // Whatever keys there are, they are a while old.
        let ring = Arc::new(Keyring { ages: (Duration::ZERO, OLD), ..Keyring::default() });
        let believe = async |token: String| ring.believe(&token, &settings).await.map(|believed| believed.user);

        let (believed, ()) = tokio::join!(believe(first.token(1)), first.publish(&listener));
        assert_eq!(believed, Ok("app".to_owned()), "without any keys it was waited for them");
        {
            let _somebody_else = ring.failed.lock().await;
            assert_eq!(believe(first.token(2)).await, Ok("app".to_owned()), "while somebody else fetches them");
        }
        assert_eq!(believe(first.token(3)).await, Ok("app".to_owned()), "nobody has answered who was asked for others");
        second.publish(&listener).await;
        drop(ring.failed.lock().await);
        assert!(believe(first.token(3)).await.is_err(), "a key that is withdrawn takes its tokens with it");
        assert_eq!(believe(second.token(4)).await, Ok("app".to_owned()));
    }
}
