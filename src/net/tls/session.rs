//! rustls's state machine for either role, one step at a time. No I/O.
//!
//! The unbuffered API wants three things of its caller: that bytes which it did not say to discard are shown to it again, in
//! front of what arrives later; that it is asked again until it says that it waits; and that what it encodes is sent in order.

use std::fmt;

use rustls::CommonState;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus};

/// Our end of a TLS connection.
pub(super) enum Session {
    /// Toward a client.
    Server(UnbufferedServerConnection),
    /// Toward a PostgreSQL server.
    Client(UnbufferedClientConnection),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server",
            Self::Client(_) => "Client",
        })
    }
}

/// What one look at the incoming bytes came to.
pub(super) struct Step {
    /// How many bytes in front are done with. They must be gone before the next step.
    pub(super) discard: usize,
    pub(super) next: Result<Next, rustls::Error>,
}

/// What to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Step again: there may be more in the same bytes.
    Again,
    /// Nothing more comes out of these bytes: send what was encoded, then read on.
    Wait,
    /// The peer has said `close_notify`.
    Ended,
}

/// What to encrypt.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outgoing<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

impl Session {
    /// Looks at `incoming` once. Decrypted bytes go to `plain`, records that must be sent are appended to `control`.
    pub(super) fn step(&mut self, incoming: &mut [u8], plain: &mut dyn FnMut(&[u8]), control: &mut Vec<u8>) -> Step {
        match self {
            Self::Server(connection) => take(connection.process_tls_records(incoming), plain, control),
            Self::Client(connection) => take(connection.process_tls_records(incoming), plain, control),
        }
    }

    /// After an error: the alerts that tell the peer of it, appended to `control`. `incoming` is what the failed step left.
    pub(super) fn alerts(&mut self, incoming: &mut [u8], control: &mut Vec<u8>) {
        // Only as long as there is something to encode: the bytes that failed must not be looked at again.
        while self.common().wants_write() {
            let step = self.step(incoming, &mut |_| {}, control);
            if !matches!(step.next, Ok(Next::Again)) {
                return;
            }
        }
    }

    /// Encrypts into `out`: the bytes written. Records that must go before them are appended to `control`.
    ///
    /// `held` are the bytes that the last step left; rustls wants to see them although nothing will come of them.
    pub(super) fn encrypt(
        &mut self,
        what: Outgoing<'_>,
        held: &mut [u8],
        out: &mut [u8],
        control: &mut Vec<u8>,
    ) -> Result<usize, rustls::Error> {
        loop {
            let sealed = match self {
                Self::Server(connection) => seal(connection.process_tls_records(held), what, out, control),
                Self::Client(connection) => seal(connection.process_tls_records(held), what, out, control),
            }?;
            if let Some(written) = sealed {
                return Ok(written);
            }
        }
    }

    /// What both roles know.
    pub(super) fn common(&self) -> &CommonState {
        match self {
            Self::Server(connection) => connection,
            Self::Client(connection) => connection,
        }
    }
}

fn take<Data>(status: UnbufferedStatus<'_, '_, Data>, plain: &mut dyn FnMut(&[u8]), control: &mut Vec<u8>) -> Step {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard = discard.saturating_add(record.discard);
                    plain(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Next::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, control).map(|()| Next::Again),
        // What was encoded lies in `control`, whose sending is our caller's affair.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Next::Wait),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Next::Ended),
        // No config of ours allows early data: it can be replayed.
        Ok(_) => Err(rustls::Error::General("unexpected TLS state".to_owned())),
    };
    Step { discard, next }
}

/// `None` when the connection has to be asked again.
fn seal<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    what: Outgoing<'_>,
    out: &mut [u8],
    control: &mut Vec<u8>,
) -> Result<Option<usize>, rustls::Error> {
    match status.state? {
        ConnectionState::WriteTraffic(mut traffic) => match what {
            Outgoing::Data(bytes) => traffic.encrypt(bytes, out),
            Outgoing::CloseNotify => traffic.queue_close_notify(out),
        }
        .map(Some)
        .map_err(|error| match error {
            EncryptError::EncryptExhausted => rustls::Error::EncryptError,
            EncryptError::InsufficientSize(_) => rustls::Error::General("a record outgrew its buffer".to_owned()),
        }),
        ConnectionState::EncodeTlsData(data) => encode(data, control).map(|()| None),
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(None)
        }
        // Said once; the peer may still listen.
        ConnectionState::PeerClosed => Ok(None),
        // Everything decrypted was taken when it was read, so nothing is lost here.
        _ => Err(rustls::Error::General("TLS is closed".to_owned())),
    }
}

/// Appends one encoded record to `control`.
fn encode<Data>(mut data: EncodeTlsData<'_, Data>, control: &mut Vec<u8>) -> Result<(), rustls::Error> {
    let start = control.len();
    let mut size = 0;
    loop {
        control.resize(start.saturating_add(size), 0);
        match data.encode(control.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                control.truncate(start.saturating_add(written));
                return Ok(());
            }
            // It names the size that it wants, so this happens once.
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) if required_size > size => {
                size = required_size;
            }
            Err(_) => {
                return Err(rustls::Error::General("a record was not encoded".to_owned()));
            }
        }
    }
}
