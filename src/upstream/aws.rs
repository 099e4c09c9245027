//! Logging in to Amazon RDS as a role of IAM: the keys that tokens are signed with, and where they come from.
//!
//! | looked at in this order | |
//! |---|---|
//! | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | as they are |
//! | `AWS_WEB_IDENTITY_TOKEN_FILE` with `AWS_ROLE_ARN`, `AWS_ROLE_SESSION_NAME`, `AWS_ENDPOINT_URL_STS` | a pod of EKS with a role for its service account (IRSA) |
//! | `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`, `.._FULL_URI` with `AWS_CONTAINER_AUTHORIZATION_TOKEN`, `.._TOKEN_FILE` | a task of ECS, a pod of EKS with Pod Identity |
//! | the instance's own (`IMDSv2`) | unless `AWS_EC2_METADATA_DISABLED` is `true` |
//!
//! Keys are kept until shortly before they end. Profiles are not looked at.

use std::sync::Arc;

use tokio::sync::Mutex;
use zeroize::Zeroizing;

mod source;

use source::Source;

use super::broken::Broken;
use super::target::{Login, Place, ServerSecret};
use crate::auth::{AwsKeys, RdsLogin, region_of};
use crate::net::since_1970;

/// Keys are fetched anew when they have less than this left: the platform has new ones by then.
const SPARE: i64 = 300;
/// For so many seconds nobody is asked again for keys that could not be had: whoever opens a connection meanwhile hears the same at once.
const RETRY: i64 = 2;
/// For so many seconds keys that were made for the proxy alone are not made anew because a server refuses them.
const NEW: i64 = 60;
/// Keys, and when they end, in seconds since 1970.
#[derive(Debug, Clone)]
struct Kept {
    keys: AwsKeys,
    until: Option<i64>,
}

/// A login with a token, and the name of the key that made it.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) login: Login,
    key: String,
}

/// One upstream's way to its tokens.
#[derive(Debug)]
pub struct Aws {
    /// The region, where the host does not say it.
    region: Option<String>,
    /// The region that was set, which counts before what the host says.
    set_region: Option<String>,
    source: Source,
    known: Mutex<Known>,
}

/// What is known of the keys.
#[derive(Debug, Default)]
struct Known {
    kept: Option<Kept>,
    /// When those were fetched.
    since: i64,
    /// When they could not be had, and why.
    failed: Option<(i64, String)>,
}

impl Aws {
    /// As the environment says; `region` is the one that was set, if any.
    pub fn new(region: Option<String>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let set_region = region;
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        let source = Source::new(region.as_deref().or(set_region.as_deref()), variable);
        Self { region, set_region, source, known: Mutex::default() }
    }

    /// The same login with a token, where it is one by IAM.
    ///
    /// # Errors
    /// Why there is no token.
    ///
    /// Cancel safe.
    pub(super) async fn sign(&self, login: &Login, place: &Place) -> Result<Option<Signed>, Broken> {
        if !matches!(login.secret, ServerSecret::RdsIam) {
            return Ok(None);
        }
        let (key, token) = self.token(&login.user, place).await.map_err(|why| Broken::Aws(why.into()))?;
        let login = Login { secret: ServerSecret::Token(Arc::new(token)), ..login.clone() };
        Ok(Some(Signed { login, key }))
    }

    async fn token(&self, user: &[u8], place: &Place) -> Result<(String, Zeroizing<String>), String> {
        let region = self.set_region.as_deref().or_else(|| region_of(&place.host)).or(self.region.as_deref());
        let region = region.ok_or_else(|| format!("{} names no region: set `aws_region` or AWS_REGION", place.host))?;
        let user = std::str::from_utf8(user).map_err(|_| "the role's name is not UTF-8".to_owned())?;
        let keys = self.keys().await?;
        let token = RdsLogin { host: &place.host, port: place.port, user, region }.token(&keys, seconds());
        Ok((keys.access_key_id, token))
    }

    /// A server has refused this login. Whether there are other keys by now, so that it may be tried with those.
    ///
    /// Cancel safe.
    pub(super) async fn has_others(&self, refused: &Signed) -> bool {
        if matches!(self.source, Source::Given(_)) {
            return false;
        }
        let mut known = self.known.lock().await;
        let differs = |kept: &Kept| kept.keys.access_key_id != refused.key;
        if known.kept.as_ref().is_some_and(differs) {
            return true;
        }
        // What was made a moment ago is refused for another reason than its age.
        let is_new = self.source.makes_keys() && seconds().saturating_sub(known.since) < NEW;
        !is_new && known.fetch(&self.source).await.is_ok_and(differs)
    }

    async fn keys(&self) -> Result<AwsKeys, String> {
        if let Source::Given(keys) = &self.source {
            return Ok(keys.clone());
        }
        // Those who come meanwhile wait for the same answer.
        let mut known = self.known.lock().await;
        let last = |known: &Known, beyond| known.kept.as_ref().filter(|kept| kept.left() > beyond).map(|kept| kept.keys.clone());
        if let Some(keys) = last(&known, SPARE) {
            return Ok(keys);
        }
        match known.fetch(&self.source).await {
            Ok(fetched) => Ok(fetched.keys.clone()),
            Err(why) => last(&known, 0).ok_or_else(|| format!("no AWS keys: {why}")),
        }
    }
}

impl Kept {
    /// So many seconds they have left.
    fn left(&self) -> i64 {
        self.until.map_or(i64::MAX, |until| until.saturating_sub(seconds()))
    }
}

impl Known {
    /// Fetches keys, in the place of those of before. Where they could not be had a moment ago nobody is asked.
    async fn fetch(&mut self, source: &Source) -> Result<&Kept, String> {
        if let Some((_, why)) = self.failed.as_ref().filter(|(at, _)| seconds().saturating_sub(*at) < RETRY) {
            return Err(why.clone());
        }
        let fetched = tokio::time::timeout(source.limit(), Box::pin(source.fetch())).await;
        match fetched.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(fetched) => {
                self.failed = None;
                self.since = seconds();
                Ok(self.kept.insert(fetched))
            }
            Err(why) => {
                tracing::warn!(why, "AWS keys cannot be had");
                self.failed = Some((seconds(), why.clone()));
                Err(why)
            }
        }
    }
}

/// The seconds since 1970.
fn seconds() -> i64 {
    i64::try_from(since_1970().as_secs()).unwrap_or_default()
}
