//! TLS on both legs: what clients see, what servers are asked for, and a stream that holds no buffers while it idles.
//!
//! The cryptography and the handshake are rustls's; ours are the bytes around them. tokio-rustls is not used because its stream
//! keeps buffers for as long as it lives and cannot be taken apart to move to another runtime.

mod clients;
mod handshake;
mod leftover;
mod negotiate;
mod pem;
mod scratch;
mod servers;
mod session;
mod stream;
mod verify;

pub use clients::{ClientCertificates, ClientTls, ClientTlsSource};
pub use handshake::{Opening, accept_tls};
pub use negotiate::negotiate_server_tls;
pub use servers::{Attempt, CaSource, ServerTls, ServerTlsSource, SslMode, SslNegotiation, https};
pub use stream::{TlsInfo, TlsIo};
