//! The demo's two tenants: a role, a password and a SCRAM verifier each, made anew for every run.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use crate::auth::{SALT_LENGTH, Verifier, random};

/// The database that clients of either tenant name.
pub(super) const DATABASE: &str = "shop";

/// PBKDF2 rounds of the verifiers, far under the usual 4096. In life every Lambda pays its own rounds on its own CPU;
/// here one machine plays all of them, and at 4096 the thousand logins would measure the clients' hashing instead of
/// the server. Both roads use the same verifiers, and a server's work does not depend on the number.
const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::new(16).unwrap();

/// One tenant, who is one role of PostgreSQL and one user of the proxy.
#[derive(Clone)]
pub(super) struct Tenant {
    name: &'static str,
    password: String,
    verifier: Verifier,
}

impl Tenant {
    /// Both of them, each with a fresh password.
    pub(super) fn both() -> anyhow::Result<Vec<Self>> {
        ["acme", "globex"].into_iter().map(Self::with_fresh_password).collect()
    }

    fn with_fresh_password(name: &'static str) -> anyhow::Result<Self> {
        let password = random_hex::<12>()?;
        let verifier = Verifier::from_password(password.as_bytes(), &random::<SALT_LENGTH>()?, SCRAM_ITERATIONS)?;
        Ok(Self { name, password, verifier })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// What PostgreSQL and the proxy keep instead of the password.
    pub(super) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The connection string of a client at `address`.
    pub(super) fn url(&self, address: SocketAddr) -> String {
        format!("postgres://{}:{}@{address}/{DATABASE}", self.name, self.password)
    }

    /// The same for the driver.
    pub(super) fn client_config(&self, address: SocketAddr) -> tokio_postgres::Config {
        client_config(address, self.name, &self.password, DATABASE)
    }
}

/// How any client of the demo connects: TCP, by address, no TLS.
pub(super) fn client_config(address: SocketAddr, user: &str, password: &str, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(address.ip().to_string()).port(address.port()).user(user).password(password).dbname(database);
    config.ssl_mode(tokio_postgres::config::SslMode::Disable).application_name("pgweir demo");
    config
}

/// `N` random bytes in hexadecimal.
pub(super) fn random_hex<const N: usize>() -> anyhow::Result<String> {
    let digits = random::<N>()?.into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect())
}
