//! The doors by which clients come in: the PostgreSQL port, and a side door for callers of SQL over HTTP, who come through a pipe within the proxy and are
//! clients like any other from there on: the same tenants, quotas, deadlines, queues and numbers.

use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use zeroize::Zeroizing;

use super::greeting::Hello;
use super::worker::Worker;
use crate::net::{Io, Peer, now};
use crate::wire::startup::Startup;

/// What fits into a pipe before its writer waits, in bytes, either way.
const PIPE: usize = 64 << 10;

/// By which door a client came.
#[derive(Debug, Default)]
pub enum Door {
    /// The PostgreSQL port.
    #[default]
    Front,
    /// SQL over HTTP.
    Side(Side),
}

/// What is known of a client that comes by the side door.
#[derive(Debug)]
pub struct Side {
    /// How far it has shown who it is.
    pub proof: Proof,
    /// The server name that it asked for in TLS.
    pub tls_name: Option<String>,
    /// How long it may leave a transaction open with nothing running, where the tenant's `idle_transaction_timeout` is not meant.
    pub patience: Option<Duration>,
}

/// How far a client has shown who it is.
#[derive(Debug)]
pub enum Proof {
    /// It has been believed, by a token or a signature.
    Vouched {
        /// Whether the tenant that it names was vouched for too.
        with_tenant: bool,
    },
    /// It has brought its password.
    Password(Zeroizing<Vec<u8>>),
    /// It has not yet: it is asked for its password in the clear, whatever the method, because its client sends that unasked.
    Asked,
}

impl Door {
    /// Whether coming in counts as a login. A request is none: it costs a tenant a transaction, and those have a limit of their own.
    pub(super) fn is_login(&self) -> bool {
        matches!(self, Self::Front | Self::Side(Side { proof: Proof::Asked, .. }))
    }

    /// Whether the tenant that the client names was vouched for.
    pub(super) fn vouches_for_tenant(&self) -> bool {
        matches!(self, Self::Side(Side { proof: Proof::Vouched { with_tenant: true }, .. }))
    }
}

/// Lets a client in whose startup packet is known, with what it says first: the other end of its pipe. It leaves when that is dropped, and what it runs then
/// is cancelled.
pub fn let_in(side: Side, startup: Startup, first: Vec<u8>, peer: Peer, worker: &Rc<Worker>) -> Io {
    let (inner, outer) = tokio::io::duplex(PIPE);
    let hello = Hello {
        io: Io::from(inner),
        startup,
        rest: first,
        certificate: None,
        door: Door::Side(side),
        tenant: None,
        unsaid: BytesMut::new(),
    };
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let began = now();
        let limit = super::login_limit(&worker);
        let mut client = Box::pin(super::settle(Box::new(hello), peer, &worker, (began, limit))).await;
        if let Some(client) = &mut client {
            client.live().await;
        }
    });
    Io::from(outer)
}

/// Lets a client in that speaks the protocol from its startup packet on, or sends a cancel: the other end of its pipe.
pub fn tunnel(tls_name: Option<String>, peer: Peer, worker: &Rc<Worker>) -> Io {
    let (inner, outer) = tokio::io::duplex(PIPE);
    let door = Door::Side(Side { proof: Proof::Asked, tls_name, patience: None });
    tokio::task::spawn_local(super::serve_by(door, Io::from(inner), peer, Rc::clone(worker)));
    Io::from(outer)
}
