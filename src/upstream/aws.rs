//! Logging in to Amazon RDS as a role of IAM: the keys that tokens are signed with, and where they come from.
//!
//! | looked at in this order | |
//! |---|---|
//! | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | as they are |
//! | `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`, `.._FULL_URI` with `AWS_CONTAINER_AUTHORIZATION_TOKEN`, `.._TOKEN_FILE` | a task of ECS, a pod of EKS with Pod Identity |
//! | the instance's own (`IMDSv2`) | unless `AWS_EC2_METADATA_DISABLED` is `true` |
//!
//! Keys are kept until shortly before they end. Profiles and web identities (IRSA) are not looked at.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::broken::Broken;
use super::target::{Login, Place, ServerSecret};
use crate::auth::{AwsKeys, RdsLogin, end_of_keys, region_of};
use crate::net::fetch::exchange;
use crate::net::{ConnectOptions, connect, since_1970};

/// Keys are fetched anew when they have less than this left: the platform has new ones by then.
const SPARE: i64 = 300;
/// How long fetching keys may take.
const LIMIT: Duration = Duration::from_secs(2);
/// For so many seconds nobody is asked again for keys that could not be had: whoever opens a connection meanwhile hears the same at once.
const RETRY: i64 = 2;
/// The longest answer, in bytes.
const LONGEST: usize = 64 << 10;

/// Where a task of ECS finds its keys.
const ECS: &str = "http://169.254.170.2";
/// Where an instance of EC2 does.
const EC2: &str = "http://169.254.169.254";
/// Who may be asked without TLS, besides this machine itself: the agents of ECS, EKS and EC2.
const AGENTS: [&str; 5] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]", "169.254.169.254", "[fd00:ec2::254]"];

/// Where keys come from.
#[derive(Debug)]
enum Source {
    /// From the environment.
    Given(AwsKeys),
    /// From the agent of the container's platform.
    Container { url: String, authorization: Authorization },
    /// From the instance's metadata.
    Instance { endpoint: String },
    /// From nowhere, and why.
    Nowhere(String),
}

/// What the agent wants to be shown.
enum Authorization {
    None,
    Token(Zeroizing<String>),
    /// What is in this file now.
    File(String),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::File(file) => write!(f, "File({file})"),
        }
    }
}

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
    /// When they could not be had, and why.
    failed: Option<(i64, String)>,
}

impl Aws {
    /// As the environment says; `region` is the one that was set, if any.
    pub fn new(region: Option<String>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        Self {
            region: variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")),
            set_region: region,
            source: Source::new(variable),
            known: Mutex::default(),
        }
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
        known.kept.as_ref().is_some_and(differs) || known.fetch(&self.source).await.is_ok_and(differs)
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
        let fetched = tokio::time::timeout(LIMIT, Box::pin(source.fetch())).await;
        match fetched.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(fetched) => {
                self.failed = None;
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

impl Source {
    fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        if let (Some(access_key_id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            let session_token = variable("AWS_SESSION_TOKEN").map(Zeroizing::new);
            return Self::Given(AwsKeys { access_key_id, secret_access_key: Zeroizing::new(secret), session_token });
        }
        if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
            // The instance's own role, which comes last, is not the one that was meant.
            return Self::Nowhere(
                "AWS_WEB_IDENTITY_TOKEN_FILE is set, and web identities (IRSA) are not supported: use EKS Pod Identity".to_owned(),
            );
        }
        if let Some(path) = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            return Self::Container { url: format!("{ECS}{path}"), authorization: Authorization::None };
        }
        if let Some(url) = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
            let file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(Authorization::File);
            let token = || variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(|token| Authorization::Token(Zeroizing::new(token)));
            let authorization = file.or_else(token).unwrap_or(Authorization::None);
            return Self::Container { url, authorization };
        }
        if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Self::Nowhere("the environment gives none, and AWS_EC2_METADATA_DISABLED is true".to_owned());
        }
        let endpoint = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| EC2.to_owned());
        Self::Instance { endpoint: endpoint.trim_end_matches('/').to_owned() }
    }

    async fn fetch(&self) -> Result<Kept, String> {
        match self {
            Self::Given(keys) => Ok(Kept { keys: keys.clone(), until: None }),
            Self::Container { url, authorization } => {
                let token = authorization.read().await?;
                let header = token.as_ref().map(|token| (AUTHORIZATION.as_str(), token.as_str()));
                read_keys(&ask(Method::GET, url, header).await?)
            }
            Self::Instance { endpoint } => {
                let at = |path: &str| format!("{endpoint}/latest/{path}");
                let session = ask(Method::PUT, &at("api/token"), Some(("x-aws-ec2-metadata-token-ttl-seconds", "60"))).await?;
                let session = Zeroizing::new(String::from_utf8_lossy(&session).trim().to_owned());
                let header = Some(("x-aws-ec2-metadata-token", session.as_str()));
                let roles = ask(Method::GET, &at("meta-data/iam/security-credentials/"), header).await?;
                let roles = String::from_utf8_lossy(&roles).into_owned();
                let role = roles.lines().next().filter(|role| !role.is_empty()).ok_or("the instance has no role")?;
                read_keys(&ask(Method::GET, &at(&format!("meta-data/iam/security-credentials/{role}")), header).await?)
            }
            Self::Nowhere(why) => Err(why.clone()),
        }
    }
}

impl Authorization {
    async fn read(&self) -> Result<Option<Zeroizing<String>>, String> {
        match self {
            Self::None => Ok(None),
            Self::Token(token) => Ok(Some(token.clone())),
            Self::File(file) => {
                let path = file.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
                let read = read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string()));
                let text = read.map_err(|why| format!("{file}: {why}"))?;
                Ok(Some(Zeroizing::new(text.trim_end().to_owned())))
            }
        }
    }
}

/// Asks the platform's agent, which speaks HTTP without TLS and is on this machine or its host.
async fn ask(method: Method, url: &str, header: Option<(&str, &str)>) -> Result<Vec<u8>, String> {
    let told = |why: &dyn fmt::Display| format!("{url}: {why}");
    let uri: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| told(&error))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(told(&"it must begin with http://")) };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_here && !AGENTS.contains(&host) {
        return Err(told(&"keys are fetched without TLS from this machine and from the agents of ECS, EKS and EC2 only"));
    }
    let options = ConnectOptions { timeout: LIMIT, keepalive: None, user_timeout: None };
    let found = connect(bare, uri.port_u16().unwrap_or(80), &options).await.map_err(|error| told(&error))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::builder().method(method).uri(path).header(HOST, authority).header(ACCEPT, "*/*");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request.body(Empty::new()).map_err(|error| told(&error))?;
    exchange(TokioIo::new(found.io), request, LONGEST).await.map_err(|why| told(&why))
}

/// Keys as all agents write them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    access_key_id: String,
    secret_access_key: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
    expiration: Option<String>,
}

fn read_keys(answer: &[u8]) -> Result<Kept, String> {
    // What was read is not shown: it may have secrets in it.
    let written: Written = serde_json::from_slice(answer).map_err(|_| "the answer has no keys in it".to_owned())?;
    let until = match &written.expiration {
        Some(text) => Some(end_of_keys(text).ok_or_else(|| format!("`{text}` is no time"))?),
        None => None,
    };
    let Written { access_key_id, secret_access_key, token, .. } = written;
    Ok(Kept { keys: AwsKeys { access_key_id, secret_access_key, session_token: token }, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(variables: &[(&str, &str)]) -> Source {
        let variables: Vec<(String, String)> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Source::new(|name| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn the_order_is_that_of_the_sdks() {
        let keys = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        let relative = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x");
        let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials");
        assert!(matches!(source(&[keys[0], keys[1], relative]), Source::Given(keys) if keys.session_token.is_none()));
        let ecs = source(&[keys[0], relative, full]);
        assert!(matches!(ecs, Source::Container { url, authorization: Authorization::None } if url == "http://169.254.170.2/v2/x"));
        let token = source(&[full, ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hidden")]);
        assert!(!format!("{token:?}").contains("hidden"), "{token:?}");
        let file = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/var/run/token");
        assert!(matches!(source(&[full, file]), Source::Container { authorization: Authorization::File(_), .. }));
        assert!(matches!(source(&[]), Source::Instance { endpoint } if endpoint == EC2));
        assert!(matches!(source(&[("AWS_EC2_METADATA_DISABLED", "True")]), Source::Nowhere(_)));
        let irsa = source(&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/x"), full]);
        assert!(matches!(irsa, Source::Nowhere(why) if why.contains("Pod Identity")), "never another role than was meant");
    }

    #[test]
    fn keys_are_read_as_the_agents_write_them() {
        let answer = br#"{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"ASIA","SecretAccessKey":"s","Token":"t","Expiration":"2026-11-29T09:30:15Z"}"#;
        let kept = read_keys(answer).unwrap();
        assert_eq!((kept.keys.access_key_id.as_str(), kept.until), ("ASIA", Some(1_795_944_615)));
        assert_eq!(read_keys(br#"{"AccessKeyId":"A","SecretAccessKey":"s"}"#).unwrap().until, None);
        assert!(read_keys(br#"{"Code":"Failed","Message":"secret-ish"}"#).is_err_and(|why| !why.contains("secret-ish")));
        assert!(read_keys(br#"{"AccessKeyId":"A","SecretAccessKey":"s","Expiration":"soon"}"#).is_err());
    }
}
