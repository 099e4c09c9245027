//! What is known of users' passwords, and the verifiers that their logins are checked with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::auth::{Denied, Secret, Verifier, random};
use crate::config::{Config, ServerAuth, User};
use crate::net::{Moment, now};
use crate::upstream::ServerSecret;

/// How many made verifiers are kept; beyond that they are made anew for each login.
const MOST: usize = 65_536;

/// For so long a password that was right is right without another PBKDF2, as long as what it was checked against stays the same.
const BELIEVED: Duration = Duration::from_mins(1);

/// How many such are kept; beyond that all are checked anew.
const MOST_BELIEVED: usize = 65_536;

/// Verifiers by user. Making one from a password takes a millisecond, so each is made once, and never on a worker.
#[derive(Debug)]
pub struct Secrets {
    process_key: [u8; 32],
    verifiers: Mutex<HashMap<String, Made>>,
    /// Passwords that came in the clear and were right, by a digest that only this process can make, and when.
    believed: Mutex<HashMap<[u8; 32], Moment>>,
}

/// A verifier, and what it was made from: another upstream's user of the same name, or the same user later, may have another password.
struct Made {
    password: Zeroizing<String>,
    verifier: Arc<Verifier>,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Made(..)")
    }
}

impl Secrets {
    /// No verifiers yet.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> Result<Self, Denied> {
        Ok(Self { process_key: random()?, verifiers: Mutex::default(), believed: Mutex::default() })
    }

    /// The verifier for a user of this secret.
    ///
    /// # Errors
    /// When it has more iterations than are ever computed.
    pub async fn verifier(&self, user: &str, secret: &Arc<Secret>) -> Result<Arc<Verifier>, Denied> {
        let password = match &**secret {
            Secret::Scram(verifier) => return Ok(Arc::new(verifier.clone())),
            Secret::Md5(_) => return Ok(Arc::new(self.mock(user.as_bytes()))),
            Secret::Password(password) => password,
        };
        if let Some(made) = self.verifiers.lock().get(user)
            && made.password == *password
        {
            return Ok(Arc::clone(&made.verifier));
        }
        let (secret, key, name) = (Arc::clone(secret), self.process_key, user.to_owned());
        let made = tokio::task::spawn_blocking(move || secret.scram_verifier(&key, name.as_bytes())).await;
        let made = Arc::new(made.map_err(|_| Denied::WrongPassword)??);
        let mut verifiers = self.verifiers.lock();
        if verifiers.len() < MOST || verifiers.contains_key(user) {
            verifiers.insert(user.to_owned(), Made { password: password.clone(), verifier: Arc::clone(&made) });
        }
        Ok(made)
    }

    /// Checks a password that came in the clear. Where that takes a PBKDF2 it is made beside the workers, and for an unknown user too, so that it takes as long
    /// (A11); a password that was right a moment ago is right still.
    ///
    /// # Errors
    /// When it is wrong, or there is no such user.
    pub async fn check(&self, user: &str, known: Option<&Arc<Secret>>, password: &[u8]) -> Result<(), Denied> {
        let secret = known.map_or_else(|| Arc::new(Secret::Scram(self.mock(user.as_bytes()))), Arc::clone);
        let Secret::Scram(verifier) = &*secret else {
            return secret.check_password(user.as_bytes(), password);
        };
        let digest = self.digest(user, verifier, password);
        if self.believed.lock().get(&digest).is_some_and(|since| now().saturating_duration_since(*since) < BELIEVED) {
            return Ok(());
        }
        let (name, given) = (user.to_owned(), Zeroizing::new(password.to_vec()));
        let checking = Arc::clone(&secret);
        let checked = tokio::task::spawn_blocking(move || checking.check_password(name.as_bytes(), &given)).await;
        checked.unwrap_or(Err(Denied::WrongPassword))?;
        let mut believed = self.believed.lock();
        if believed.len() >= MOST_BELIEVED {
            believed.clear();
        }
        believed.insert(digest, now());
        Ok(())
    }

    /// What a password is remembered by, together with whom it was for and what it was checked against.
    fn digest(&self, user: &str, verifier: &Verifier, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.process_key));
        let stored = Zeroizing::new(verifier.to_string());
        for part in [user.as_bytes(), stored.as_bytes(), password] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().unwrap_or_default()
    }

    /// The verifier that nobody's password fits, for a user that there is not (A11).
    pub fn mock(&self, user: &[u8]) -> Verifier {
        Verifier::mock(&self.process_key, user)
    }

    /// Forgets all verifiers and makes those of the configured users anew, so that nobody's first login is slower than an unknown user's. Takes a
    /// millisecond for each password: not on a worker.
    pub fn prepare(&self, config: &Config) {
        self.verifiers.lock().clear();
        self.believed.lock().clear();
        for user in config.users.values() {
            if let Some(secret) = secret_of(user)
                && let Ok(verifier) = secret.scram_verifier(&self.process_key, user.name.as_bytes())
                && let Secret::Password(password) = secret
            {
                self.verifiers.lock().insert(user.name.clone(), Made { password, verifier: Arc::new(verifier) });
            }
        }
    }
}

/// What a configured user must know.
pub fn secret_of(user: &User) -> Option<Secret> {
    if let Some(verifier) = &user.verifier {
        return Secret::parse(verifier.reveal()).ok();
    }
    user.password.as_ref().map(|password| Secret::Password(Zeroizing::new(password.reveal().to_owned())))
}

/// What the proxy logs in to the server with for a configured user, as far as that is known before the user's own login.
pub fn server_secret_of(user: &User) -> ServerSecret {
    if user.server_auth == ServerAuth::RdsIam {
        return ServerSecret::RdsIam;
    }
    if let Some(password) = &user.server_password {
        return ServerSecret::Password(Arc::new(Zeroizing::new(password.reveal().to_owned())));
    }
    match secret_of(user) {
        Some(Secret::Md5(hash)) if user.server_user == user.name => ServerSecret::Md5(hash),
        _ => ServerSecret::None,
    }
}
