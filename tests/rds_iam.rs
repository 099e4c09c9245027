//! Logging in to the server with tokens of IAM, as Amazon RDS takes them: PostgreSQL asks PAM, as RDS does, and PAM asks a script that knows what a token is.
//!
//! PAM's own configuration is left alone: `pam_wrapper` (Debian: libpam-wrapper) has another folder read. The agents that hand out keys are played here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness::{Ca, Issuer, PATIENCE, Pem, Postgres, Proxy, ProxyOptions, Stop, Wire, eventually, in_an_hour};
use parking_lot::Mutex;
use pgweir::auth::sigv4::time_of;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const VERIFY: &str = include_str!("rds_iam/verify.py");

/// A server that takes tokens from `app`, and what it knows.
struct Rds {
    pg: Postgres,
    folder: TempDir,
}

impl Rds {
    /// One that knows these keys: each an id, a secret, and a session token or `-`.
    async fn start(keys: &[&str]) -> Self {
        let wrapper = format!("/usr/lib/{}-linux-gnu/libpam_wrapper.so", std::env::consts::ARCH);
        assert!(Path::new(&wrapper).exists(), "no {wrapper}: tests/setup test installs it");
        let folder = tempfile::Builder::new().prefix("pgweir-test-pam-").tempdir().unwrap();
        let (script, services) = (folder.path().join("verify.py"), folder.path().join("services"));
        fs::create_dir(&services).unwrap();
        fs::write(&script, VERIFY).unwrap();
        // PostgreSQL's user runs the script, which writes beside itself.
        for (path, mode) in [(script.as_path(), 0o755), (folder.path(), 0o777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let module = format!("auth required pam_exec.so quiet expose_authtok {}", script.display());
        fs::write(services.join("rds"), format!("{module}\naccount required pam_permit.so\n")).unwrap();

        let options = Postgres::options().ssl().hba("hostssl all app 127.0.0.1/32 pam pamservice=rds");
        let options = options.env("PAM_WRAPPER_SERVICE_DIR", services.to_str().unwrap());
        let pg = options.env("LD_PRELOAD", &wrapper).env("PAM_WRAPPER", "1").start().await;
        let rds = Self { pg, folder };
        rds.know(keys);
        rds
    }

    /// From now on these keys hold, and no others.
    fn know(&self, keys: &[&str]) {
        let known = format!("127.0.0.1:{}\n{}\n", self.pg.port(), keys.join("\n"));
        fs::write(self.folder.path().join("known"), known).unwrap();
    }

    /// What came of the tokens so far.
    fn judged(&self) -> Vec<String> {
        fs::read_to_string(self.folder.path().join("judged")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// A proxy that logs in with tokens, and has keys from nowhere yet.
    fn proxy(&self) -> ProxyOptions {
        let options = Proxy::new(&self.pg).set("users.app.server_auth", "rds-iam").set("upstreams.main.aws_region", "eu-central-1");
        let ca = options.file("ca.pem", self.pg.ca().pem());
        let options = options.set("tls.server.mode", "verify-full").set("tls.server.ca", ca.to_str().unwrap());
        let none = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_SESSION_NAME", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"];
        let more = ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];
        none.into_iter().chain(more).fold(options.env("AWS_EC2_METADATA_DISABLED", ""), |options, name| options.env(name, ""))
    }

    /// The same as a pod with a role for its service account, whose system trusts this authority alone; and the file with its token.
    fn pod(&self, service: &Agent, trusted: &Ca) -> (ProxyOptions, PathBuf) {
        let options = self.proxy();
        let (token, trusted) = (options.file("token", "ey.the_first"), options.file("trusted.pem", trusted.pem()));
        let options = options.env("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()).env("AWS_ROLE_ARN", "arn:aws:iam::1:role/proxy");
        let options = options.env("AWS_ENDPOINT_URL_STS", &format!("https://localhost:{}", service.address.port()));
        (options.env("SSL_CERT_FILE", trusted.to_str().unwrap()), token)
    }
}

impl Drop for Rds {
    /// Each process that has asked PAM keeps something in `/tmp`, and takes it away where it ends by itself.
    fn drop(&mut self) {
        self.pg.stop(Stop::Fast);
    }
}

/// The proxy's user logs in by its own password, and works as the role that the token was for.
async fn works(proxy: &Proxy) {
    let mut client = Wire::login(proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(client.value("SELECT current_user").await, "app");
}

/// The SQLSTATE with which the same client is refused.
async fn refused(proxy: &Proxy) -> String {
    let outcome = Wire::login(proxy, "app", "secret", "app").await;
    outcome.err().map_or_else(|| "it came in".to_owned(), |error| error.code().to_owned())
}

/// What an agent says to a request, of which it sees the head and the body: a status and a body.
type Says = Box<dyn Fn(&str) -> (u16, String) + Send + Sync>;

/// One who hands out keys over HTTP.
struct Agent {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    async fn start(says: Says) -> Self {
        Self::listen(None, says).await
    }

    /// One that speaks TLS where it has a certificate.
    async fn listen(certificate: Option<&Pem>, says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = certificate.map(|pem| TlsAcceptor::from(pem.server_config()));
        let (address, requests) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let heard = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                match &tls {
                    None => answer(stream, &says, &heard).await,
                    // Whoever does not trust it says no more.
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            Box::pin(answer(stream, &says, &heard)).await;
                        }
                    }
                }
            }
        });
        Self { address, requests }
    }

    fn asked(&self) -> usize {
        self.requests.lock().len()
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: &Says, heard: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(request.clone()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let request = head + std::str::from_utf8(&body).unwrap();
    let (status, body) = says(&request);
    heard.lock().push(request);
    let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// Keys as agents write them, which end at such a time.
fn keys(id: &str, secret: &str, token: &str, end: &str) -> String {
    format!(r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"{secret}","Token":"{token}","Expiration":"{end}"}}"#)
}

const FAR: &str = "2099-01-01T00:00:00Z";

#[tokio::test]
async fn keys_of_the_environment_sign_tokens_that_the_server_takes() {
    let rds = Rds::start(&["AKIDGIVEN given/secret+key -"]).await;
    let proxy = rds.proxy().env("AWS_ACCESS_KEY_ID", "AKIDGIVEN").env("AWS_SECRET_ACCESS_KEY", "given/secret+key").start().await;
    works(&proxy).await;
    assert_eq!(rds.judged(), ["good"]);
    let wrong = rds.proxy().env("AWS_ACCESS_KEY_ID", "AKIDGIVEN").env("AWS_SECRET_ACCESS_KEY", "another").start().await;
    assert_eq!(refused(&wrong).await, "28000", "the server's own answer");
    assert_eq!(rds.judged()[1..], ["its signature does not fit"]);
    let (all, log) = (wrong.log_lines().join("\n"), proxy.log_lines().join("\n"));
    assert!(!all.contains("X-Amz-Signature") && !log.contains("X-Amz-Signature"), "tokens are in no log");
}

#[tokio::test]
async fn no_password_is_left_anywhere() {
    let (rds, ca, issuer) = (Rds::start(&["AKIDGIVEN secret -"]).await, Ca::new(), Issuer::new("one"));
    let options = rds.proxy().env("AWS_ACCESS_KEY_ID", "AKIDGIVEN").env("AWS_SECRET_ACCESS_KEY", "secret").unset("users.app.password");
    let keys = options.file("jwks.json", &issuer.set.to_string());
    let trust = format!(
        "[users.app]\ntoken_subjects = [\"arn:aws:iam::111122223333:role/orders\"]\n\
         [auth.tokens]\njwks_file = {keys:?}\nissuer = \"https://issuer.example\"\naudience = \"pgweir\"\n"
    );
    let proxy = options.raw_toml(&trust).tls("require", &ca.server()).start().await;
    let claims = serde_json::json!({
        "iss": "https://issuer.example", "aud": "pgweir", "sub": "arn:aws:iam::111122223333:role/orders", "exp": in_an_hour(),
    });
    let mut client = Wire::login_tls(&proxy, ca.client_config(None), "app", &issuer.token("one", &claims)).await.unwrap();
    assert_eq!(client.value("SELECT current_user").await, "app");
    assert_eq!(rds.judged(), ["good"], "what the server saw is the proxy's own token");
}

#[tokio::test]
async fn a_containers_agent_is_asked_again_when_keys_end_or_are_refused() {
    let rds = Rds::start(&["ASIAONE one t1"]).await;
    let said = Arc::new(Mutex::new(keys("ASIAONE", "one", "t1", FAR)));
    let now = Arc::clone(&said);
    let agent = Agent::start(Box::new(move |head: &str| {
        let is_right = head.starts_with("GET /v1/credentials HTTP/1.1\r\n") && head.contains("\r\nauthorization: shown to the agent\r\n");
        if is_right { (200, now.lock().clone()) } else { (401, String::new()) }
    }))
    .await;
    let options = rds.proxy();
    let file = options.file("token", "shown to the agent\n");
    let url = format!("http://{}/v1/credentials", agent.address);
    let options = options.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.to_str().unwrap());
    let proxy = options.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url).max_connections(2).start().await;
    let (mut one, mut two) =
        (Wire::login(&proxy, "app", "secret", "app").await.unwrap(), Wire::login(&proxy, "app", "secret", "app").await.unwrap());
    one.query("BEGIN").await;
    two.query("BEGIN").await;
    assert_eq!((rds.judged(), agent.asked()), (vec!["good".to_owned(); 2], 1), "keys that last are asked for once");
    one.query("COMMIT").await;
    two.query("COMMIT").await;

    // They are taken back before their time: the login that finds out is tried again with others.
    rds.know(&["ASIATWO two t2"]);
    let now = i64::try_from(pgweir::net::since_1970().as_secs()).unwrap();
    *said.lock() = keys("ASIATWO", "two", "t2", &time_of(now + 60));
    rds.pg.end_backends("app").await;
    let broke = "pgweir_server_connections{upstream=\"main\",state=\"idle\"}";
    eventually("the connections are gone", PATIENCE, async || proxy.metric(broke).await < 1.0).await;
    assert_eq!(one.value("SELECT 1").await, "1");
    assert_eq!(rds.judged()[2..], ["nobody has the key ASIAONE", "good"]);
    assert_eq!(agent.asked(), 3, "for others, and since those end soon for yet others");

    // Each new connection asks, from now on, and where new ones cannot be had those of before serve on.
    one.query("BEGIN").await;
    assert_eq!(two.value("SELECT 1").await, "1");
    assert_eq!((rds.judged()[4..].to_vec(), agent.asked()), (vec!["good".to_owned()], 4));
    said.lock().clear();
    rds.pg.end_backends("app").await;
    eventually("the connections are gone", PATIENCE, async || proxy.metric(broke).await < 1.0).await;
    assert_eq!(two.value("SELECT 1").await, "1");
    assert_eq!((rds.judged()[5..].to_vec(), agent.asked()), (vec!["good".to_owned()], 5));
    proxy.logged("AWS keys cannot be had").await;
}

#[tokio::test]
async fn an_instance_is_asked_for_its_roles_keys() {
    let rds = Rds::start(&["ASIAROLE role t"]).await;
    let agent = Agent::start(Box::new(|head: &str| {
        let has_session = head.contains("\r\nx-aws-ec2-metadata-token: session\r\n");
        match head.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["PUT", "/latest/api/token"] if head.contains("\r\nx-aws-ec2-metadata-token-ttl-seconds: ") => (200, "session".to_owned()),
            ["GET", "/latest/meta-data/iam/security-credentials/"] if has_session => (200, "proxy-role\n".to_owned()),
            ["GET", "/latest/meta-data/iam/security-credentials/proxy-role"] if has_session => (200, keys("ASIAROLE", "role", "t", FAR)),
            _ => (404, String::new()),
        }
    }))
    .await;
    let endpoint = format!("http://{}/", agent.address);
    let proxy = rds.proxy().env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint).start().await;
    works(&proxy).await;
    assert_eq!((rds.judged(), agent.asked()), (vec!["good".to_owned()], 3));
}

/// The token service's answer: these keys, which end far from now.
fn assumed(id: &str, secret: &str, token: &str) -> String {
    let credentials = format!(
        "<AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken><Expiration>{FAR}</Expiration>"
    );
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
         <Credentials>{credentials}</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
}

/// A pod of EKS with a role for its service account, whose token Kubernetes writes into a file and changes now and then.
#[tokio::test]
async fn a_web_identity_has_its_role_from_the_token_service() {
    let rds = Rds::start(&["ASIAWEB web t"]).await;
    let ca = Ca::new();
    let service = Agent::listen(
        Some(&ca.server()),
        Box::new(|request: &str| {
            let role = "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fproxy&RoleSessionName=pgweir";
            let form = format!("Action=AssumeRoleWithWebIdentity&Version=2011-06-15&{role}&WebIdentityToken=ey%2Ethe%5Fsecond");
            let is_right = request.starts_with("POST / HTTP/1.1\r\n") && request.ends_with(&format!("\r\n\r\n{form}"));
            if is_right && request.contains("\r\ncontent-type: application/x-www-form-urlencoded\r\n") {
                return (200, assumed("ASIAWEB", "web", "t"));
            }
            let why = "<Code>InvalidIdentityToken</Code><Message>No OpenIDConnect provider found</Message>";
            (400, format!("<ErrorResponse><Error><Type>Sender</Type>{why}</Error><RequestId>1</RequestId></ErrorResponse>"))
        }),
    )
    .await;
    let (options, token) = rds.pod(&service, &ca);
    let proxy = options.start_unready().await;
    assert_eq!(refused(&proxy).await, "57P03");
    proxy.logged("InvalidIdentityToken: No OpenIDConnect provider found").await;
    assert!(rds.judged().is_empty());
    assert!(!proxy.log_lines().join("\n").contains("ey.the_first"), "tokens are in no log");

    fs::write(&token, "ey.the_second\n").unwrap();
    eventually("the role is assumed", PATIENCE, async || Wire::login(&proxy, "app", "secret", "app").await.is_ok()).await;
    works(&proxy).await;
    assert_eq!(rds.judged(), ["good"]);
}

/// A server that refuses a role is no reason to have the token service make other keys for each connection.
#[tokio::test]
async fn keys_that_were_made_a_moment_ago_are_not_made_anew_for_being_refused() {
    let rds = Rds::start(&["ASIAWEB another t"]).await;
    let ca = Ca::new();
    let service = Agent::listen(Some(&ca.server()), Box::new(|_: &str| (200, assumed("ASIAWEB", "web", "t")))).await;
    let proxy = rds.pod(&service, &ca).0.start_unready().await;
    assert_eq!(refused(&proxy).await, "28000");
    eventually("another connection is tried", PATIENCE, async || {
        refused(&proxy).await;
        rds.judged().len() > 2
    })
    .await;
    assert_eq!(service.asked(), 1);
}

/// Its token is worth a role: it goes to nobody whom the system's authorities do not vouch for.
#[tokio::test]
async fn a_web_identitys_token_goes_to_the_token_service_alone() {
    let rds = Rds::start(&["ASIAWEB web t"]).await;
    let (ca, another) = (Ca::new(), Ca::new());
    let service = Agent::listen(Some(&ca.server()), Box::new(|_: &str| (200, assumed("ASIAWEB", "web", "t")))).await;
    let proxy = rds.pod(&service, &another).0.start_unready().await;
    assert_eq!(refused(&proxy).await, "57P03");
    proxy.logged("no AWS keys: https://localhost:").await;
    proxy.logged("certificate").await;
    assert_eq!((service.asked(), rds.judged().len()), (0, 0));
}

#[tokio::test]
async fn without_keys_and_without_the_grant_the_log_says_what_is_missing() {
    let rds = Rds::start(&[]).await;
    let proxy = rds.proxy().env("AWS_EC2_METADATA_DISABLED", "true").start_unready().await;
    assert_eq!(refused(&proxy).await, "57P03");
    proxy.logged("no AWS keys: the environment gives none").await;

    let given = |options: ProxyOptions| options.env("AWS_ACCESS_KEY_ID", "A").env("AWS_SECRET_ACCESS_KEY", "s");
    // The role `other` logs in by SCRAM: for RDS, one that was not granted rds_iam.
    rds.pg.sql("CREATE ROLE other LOGIN PASSWORD 'secret'").await;
    let proxy = given(rds.proxy()).set("users.app.server_user", "other").start_unready().await;
    assert_eq!(refused(&proxy).await, "57P03");
    proxy.logged("is the role granted rds_iam?").await;

    let plain = Postgres::options().auth("password").start().await;
    let options = Proxy::new(&plain).set("users.app.server_auth", "rds-iam").set("upstreams.main.aws_region", "eu-central-1");
    let proxy = given(options).start_unready().await;
    assert_eq!(refused(&proxy).await, "57P03");
    proxy.logged("in the clear, and the connection has no TLS").await;
    assert!(rds.judged().is_empty(), "no token was sent to anybody");
}
