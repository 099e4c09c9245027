//! Tests of the whole room. Verifiers of a real PostgreSQL, the client of `postgres-protocol` and the vectors of the RFCs say what is right.

mod certificates;
mod exchange;
mod hostile;
mod secrets;

use std::num::NonZeroU32;

use super::scram::client::{self, Binding};
use super::scram::server::{Accepted, WaitFinal, WaitMechanism};
use super::{Denied, Keys, Verifier};

const SALT: [u8; 16] = *b"a salt of ours..";
const SERVER_NONCE: [u8; 18] = [7; 18];
const CLIENT_NONCE: [u8; 18] = [9; 18];
const PROCESS_KEY: [u8; 32] = [3; 32];

/// Few iterations, where a test is not about their number: PBKDF2 is slow without optimisation.
fn few() -> NonZeroU32 {
    NonZeroU32::new(2).unwrap()
}

fn verifier(password: &str) -> Verifier {
    Verifier::from_password(password.as_bytes(), &SALT, few()).unwrap()
}

/// The server's half up to its challenge, without TLS.
fn challenged(verifier: &Verifier, client_first: &[u8]) -> Result<(WaitFinal, Vec<u8>), Denied> {
    WaitMechanism::new(None).select(b"SCRAM-SHA-256")?.challenge(client_first, verifier, SERVER_NONCE)
}

/// Our client against our server.
fn log_in(verifier: &Verifier, password: &str, server_sees: Option<&[u8]>, client_sees: Binding<'_>) -> Result<Accepted, Denied> {
    let wait = WaitMechanism::new(server_sees);
    let start = client::start(wait.offer().iter().map(|name| name.name().as_bytes()), client_sees, CLIENT_NONCE)?;
    let (wait, server_first) = wait.select(start.mechanism.name().as_bytes())?.challenge(&start.message, verifier, SERVER_NONCE)?;
    let challenged = start.next.challenge(&server_first)?;
    let keys = Keys::derive(password.as_bytes(), challenged.salt(), challenged.iterations())?;
    let (client, client_final) = challenged.answer(&keys);
    let accepted = wait.finish(&client_final)?;
    client.verify(&accepted.server_final)?;
    Ok(accepted)
}
