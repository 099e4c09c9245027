//! Where the keys of a role come from: the environment, the platform's agent, or AWS's security token service.

use std::fmt;
use std::time::Duration;

use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Kept;
use crate::auth::{AwsKeys, end_of_keys};
use crate::net::fetch::{Fetched, bare, fetch};

/// How long the platform's agent may take, for all its answers: it is near.
const AGENTS_LIMIT: Duration = Duration::from_secs(2);
/// How long the token service may: it is a name to look up and a handshake away.
const SERVICES_LIMIT: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const LONGEST: usize = 64 << 10;

/// Where a task of ECS finds its keys.
const ECS: &str = "http://169.254.170.2";
/// Where an instance of EC2 does.
const EC2: &str = "http://169.254.169.254";
/// Who may be asked without TLS, besides this machine itself: the agents of ECS, EKS and EC2.
const AGENTS: [&str; 5] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]", "169.254.169.254", "[fd00:ec2::254]"];
/// What a role's session is called where the environment does not say it.
const SESSION: &str = "pgweir";

/// Where keys come from.
#[derive(Debug)]
pub(super) enum Source {
    /// From the environment.
    Given(AwsKeys),
    /// From the agent of the container's platform.
    Container { url: String, authorization: Authorization },
    /// From the token service, for the token that is in this file now (IRSA).
    WebIdentity { endpoint: String, role: String, session: String, file: String },
    /// From the instance's metadata.
    Instance { endpoint: String },
    /// From nowhere, and why.
    Nowhere(String),
}

/// What the agent wants to be shown.
pub(super) enum Authorization {
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

impl Source {
    /// As the environment says; `region` is where the token service is asked if it says none.
    pub(super) fn new(region: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Self {
        if let (Some(access_key_id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            let session_token = variable("AWS_SESSION_TOKEN").map(Zeroizing::new);
            return Self::Given(AwsKeys { access_key_id, secret_access_key: Zeroizing::new(secret), session_token });
        }
        if let Some(file) = variable("AWS_WEB_IDENTITY_TOKEN_FILE") {
            let Some(role) = variable("AWS_ROLE_ARN") else {
                // The instance's own role, which comes last, is not the one that was meant.
                return Self::Nowhere("AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not".to_owned());
            };
            let endpoint = variable("AWS_ENDPOINT_URL_STS").unwrap_or_else(|| token_service(region));
            let session = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION.to_owned());
            return Self::WebIdentity { endpoint, role, session, file };
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

    /// How long fetching keys may take.
    pub(super) fn limit(&self) -> Duration {
        if self.makes_keys() { SERVICES_LIMIT } else { AGENTS_LIMIT }
    }

    /// Whether each answer has keys of its own, rather than those that hold for the time being.
    pub(super) fn makes_keys(&self) -> bool {
        matches!(self, Self::WebIdentity { .. })
    }

    /// The keys that there are now.
    ///
    /// # Errors
    /// Why there are none, in words for the log.
    ///
    /// Cancel safe.
    pub(super) async fn fetch(&self) -> Result<Kept, String> {
        match self {
            Self::Given(keys) => Ok(Kept { keys: keys.clone(), until: None }),
            Self::Container { url, authorization } => {
                let token = authorization.read().await?;
                let header = token.as_ref().map(|token| (AUTHORIZATION.as_str(), token.as_str()));
                read_keys(&ask(Method::GET, url, header).await?)
            }
            Self::WebIdentity { endpoint, role, session, file } => {
                let token = read_file(file).await?;
                let asked = [("RoleArn", role.as_str()), ("RoleSessionName", session), ("WebIdentityToken", &token)];
                assumed(&call(endpoint, "AssumeRoleWithWebIdentity", &asked).await?)
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
            Self::File(file) => read_file(file).await.map(Some),
        }
    }
}

/// What is in a file now, without the end of its last line.
async fn read_file(file: &str) -> Result<Zeroizing<String>, String> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
    let read = read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string()));
    let text = Zeroizing::new(read.map_err(|why| format!("{file}: {why}"))?);
    Ok(Zeroizing::new(text.trim_end().to_owned()))
}

/// Where AWS's security token service is.
fn token_service(region: Option<&str>) -> String {
    match region {
        Some(region) if region.starts_with("cn-") => format!("https://sts.{region}.amazonaws.com.cn"),
        Some(region) => format!("https://sts.{region}.amazonaws.com"),
        None => "https://sts.amazonaws.com".to_owned(),
    }
}

/// Whether a URL leads to this machine itself.
fn is_here(host: &str) -> bool {
    host == "localhost" || bare(host).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Asks the platform's agent, which speaks HTTP without TLS and is on this machine or its host.
async fn ask(method: Method, url: &str, header: Option<(&str, &str)>) -> Result<Vec<u8>, String> {
    let told = |why: &dyn fmt::Display| format!("{url}: {why}");
    let uri: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| told(&error))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(told(&"it must begin with http://")) };
    if !is_here(host) && !AGENTS.contains(&host) {
        return Err(told(&"keys are fetched without TLS from this machine and from the agents of ECS, EKS and EC2 only"));
    }
    let mut request = Request::builder().method(method).uri(uri).header(ACCEPT, "*/*");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request.body(Full::default()).map_err(|error| told(&error))?;
    fetch(request, AGENTS_LIMIT, LONGEST).await.and_then(Fetched::good).map_err(|why| told(&why))
}

/// Calls an action of the token service that wants no signature.
async fn call(endpoint: &str, action: &str, parameters: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let told = |why: &dyn fmt::Display| format!("{endpoint}: {why}");
    let uri: Uri = endpoint.parse().map_err(|error: hyper::http::uri::InvalidUri| told(&error))?;
    if uri.scheme_str() != Some("https") && !uri.host().is_some_and(is_here) {
        return Err(told(&"the token of a web identity is sent to https:// only"));
    }
    let mut form = Zeroizing::new(format!("Action={action}&Version=2011-06-15"));
    for (name, value) in parameters {
        form.extend(["&", name, "="].into_iter().chain(utf8_percent_encode(value, NON_ALPHANUMERIC)));
    }
    let body = Full::from(form.as_bytes().to_vec());
    let request = Request::post(uri).header(CONTENT_TYPE, "application/x-www-form-urlencoded").header(ACCEPT, "*/*").body(body);
    let answer = fetch(request.map_err(|error| told(&error))?, SERVICES_LIMIT, LONGEST).await.map_err(|why| told(&why))?;
    match refusal(&answer) {
        Some(why) => Err(told(&why)),
        None => answer.good().map_err(|why| told(&why)),
    }
}

/// What the token service says against it.
fn refusal(answer: &Fetched) -> Option<String> {
    /// Its errors, in XML.
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Refusal {
        error: Error,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Error {
        code: String,
        message: String,
    }
    if answer.status.is_success() {
        return None;
    }
    let Refusal { error } = quick_xml::de::from_reader(&*answer.body).ok()?;
    Some(format!("{}: {}", error.code, error.message))
}

/// The keys of a role that was assumed.
fn assumed(answer: &[u8]) -> Result<Kept, String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "AssumeRoleWithWebIdentityResult")]
        result: Assumed,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Assumed {
        credentials: Written,
    }
    let answer: Answer = quick_xml::de::from_reader(answer).map_err(|_| NO_KEYS.to_owned())?;
    answer.result.credentials.kept()
}

/// Keys as all agents write them, and the token service.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    access_key_id: String,
    secret_access_key: Zeroizing<String>,
    #[serde(alias = "SessionToken")]
    token: Option<Zeroizing<String>>,
    expiration: Option<String>,
}

/// What was read is not shown: it may have secrets in it.
const NO_KEYS: &str = "the answer has no keys in it";

impl Written {
    fn kept(self) -> Result<Kept, String> {
        let Self { access_key_id, secret_access_key, token: session_token, expiration } = self;
        let end = |text: String| end_of_keys(&text).ok_or_else(|| format!("`{text}` is no time"));
        let until = expiration.map(end).transpose()?;
        Ok(Kept { keys: AwsKeys { access_key_id, secret_access_key, session_token }, until })
    }
}

fn read_keys(answer: &[u8]) -> Result<Kept, String> {
    serde_json::from_slice(answer).map_err(|_| NO_KEYS.to_owned()).and_then(Written::kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(variables: &[(&str, &str)]) -> Source {
        let variables: Vec<(String, String)> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Source::new(Some("eu-central-1"), |name| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
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
        let (file, role) = (("AWS_WEB_IDENTITY_TOKEN_FILE", "/x"), ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x"));
        assert!(matches!(source(&[file, full]), Source::Nowhere(why) if why.contains("AWS_ROLE_ARN")), "never another role than was meant");
        let Source::WebIdentity { endpoint, role, session, file } = source(&[file, role, full]) else { panic!("a web identity") };
        assert_eq!((file.as_str(), role.as_str(), session.as_str()), ("/x", "arn:aws:iam::1:role/x", "pgweir"));
        assert_eq!(endpoint, "https://sts.eu-central-1.amazonaws.com");
        assert_eq!(token_service(Some("cn-north-1")), "https://sts.cn-north-1.amazonaws.com.cn");
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

    /// The answers are the examples of AWS's API reference, with shorter keys.
    #[test]
    fn the_token_service_is_understood() {
        let answer = br#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <SubjectFromWebIdentityToken>amzn1.account.AF6RHO7KZU5XRVQJGXK6HB56KR2A</SubjectFromWebIdentityToken>
    <Audience>client.5498841531868486423.1548@apps.example.com</Audience>
    <AssumedRoleUser>
      <Arn>arn:aws:sts::123456789012:assumed-role/FederatedWebIdentityRole/app1</Arn>
      <AssumedRoleId>AROACLKWSDQRAOEXAMPLE:app1</AssumedRoleId>
    </AssumedRoleUser>
    <Credentials>
      <SessionToken>AQoDYXdzEE0a8ANXX&amp;EXAMPLE==</SessionToken>
      <SecretAccessKey>wJalrXUtnFEMI/K7MDENG</SecretAccessKey>
      <Expiration>2026-11-29T09:30:15Z</Expiration>
      <AccessKeyId>ASgeIAIOSFODNN7EXAMPLE</AccessKeyId>
    </Credentials>
    <Provider>www.amazon.com</Provider>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata><RequestId>ad4156e9-bce1-11e2-82e6-6b6efEXAMPLE</RequestId></ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>"#;
        let kept = assumed(answer).unwrap();
        assert_eq!((kept.keys.access_key_id.as_str(), kept.until), ("ASgeIAIOSFODNN7EXAMPLE", Some(1_795_944_615)));
        assert_eq!(kept.keys.session_token.as_ref().map(|token| token.as_str()), Some("AQoDYXdzEE0a8ANXX&EXAMPLE=="));
        assert!(assumed(b"{}").is_err());

        let body = br#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <Error><Type>Sender</Type><Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error>
  <RequestId>2f9fe2e7-EXAMPLE</RequestId>
</ErrorResponse>"#;
        let answer = Fetched { status: hyper::StatusCode::FORBIDDEN, body: body.to_vec() };
        assert_eq!(refusal(&answer).as_deref(), Some("AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity"));
    }
}
