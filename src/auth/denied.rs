//! The one error of the exchanges. It says what happened, not what a client may be told: that is the fault table's to decide.

/// Why a log-in did not succeed, on either side.
///
/// `Display` is for the operator's log. A client must hear no more than "password authentication failed" for
/// [`WrongPassword`](Denied::WrongPassword), whether its name exists or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The secret was wrong, or there is none for this name.
    #[error("the password does not match")]
    WrongPassword,
    /// The peer broke the rules of the exchange.
    #[error("malformed authentication message: {0}")]
    Protocol(&'static str),
    /// The peer asked for something that is not spoken here.
    #[error("unsupported in authentication: {0}")]
    Unsupported(&'static str),
    /// The two ends do not see the same TLS certificate, or someone between them removed the offer of channel binding.
    #[error("channel binding failed: {0}")]
    ChannelBinding(&'static str),
    /// Deriving the keys would cost more CPU than [`MAX_DERIVED_ITERATIONS`](super::MAX_DERIVED_ITERATIONS) allows.
    #[error("the password has {asked} iterations, more than the limit of {limit}")]
    IterationsOverLimit {
        /// What the server or the stored verifier says.
        asked: u32,
        /// What is allowed.
        limit: u32,
    },
    /// The server's last message does not prove that it knows our secret: it may be an impostor.
    #[error("the server did not prove that it knows the password")]
    ServerNotProven,
    /// The server ended the SCRAM exchange with an error attribute.
    #[error("the server ended the SCRAM exchange with an error")]
    RefusedByServer,
    /// The system's source of randomness failed.
    #[error("no randomness from the system")]
    NoRandomness,
}
