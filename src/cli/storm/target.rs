//! Where a storm goes: a PostgreSQL URL with libpq's words for TLS.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::{Context as _, bail};
use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, config};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::net::tls::{CaSource, ServerTls, ServerTlsSource, SslMode, SslNegotiation};

/// A database, and how it is reached.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: Tls,
}

/// Makes TLS of a connection, as `sslmode` and `sslrootcert` ask for it.
#[derive(Clone)]
pub(super) struct Tls(Option<Arc<ServerTls>>);

/// One connection's TLS to come.
pub(super) struct OneTls {
    connector: Option<TlsConnector>,
    name: ServerName<'static>,
}

/// A connection inside TLS. No channel binding: a load generator proves nothing by it.
pub(super) struct Inside(TlsStream<Socket>);

impl Target {
    /// Reads a URL such as `postgres://user:password@host:6432/database?sslmode=require&sslrootcert=ca.pem`. The URL is never repeated in an error: it holds a password.
    ///
    /// # Errors
    /// What is wrong with the URL, or with the authorities that it names.
    pub(super) fn of(url: &str) -> anyhow::Result<Self> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let mut mode = SslMode::Prefer;
        let mut ca = None;
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8().context("the URL holds a %XX that is no UTF-8")?;
            match key {
                "sslmode" => mode = ssl_mode(&value)?,
                "sslrootcert" if value == "system" => ca = Some(CaSource::System),
                "sslrootcert" => ca = Some(CaSource::File(PathBuf::from(&*value))),
                _ => rest.push(pair),
            }
        }
        let mut config: Config = format!("{place}?{}", rest.join("&")).parse().context("the URL is not one of PostgreSQL's")?;
        if config.get_hosts().is_empty() {
            bail!("the URL names no host");
        }
        config.ssl_mode(match mode {
            SslMode::Disable | SslMode::Allow => config::SslMode::Disable,
            SslMode::Prefer => config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => config::SslMode::Require,
        });
        let source = ServerTlsSource { mode, negotiation: SslNegotiation::Postgres, ca, pair: None };
        let tls = ServerTls::load(&source)?;
        Ok(Self { config, tls: Tls(tls.config().is_some().then(|| Arc::new(tls))) })
    }
}

fn ssl_mode(word: &str) -> anyhow::Result<SslMode> {
    let modes = [SslMode::Disable, SslMode::Allow, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull];
    match modes.into_iter().find(|mode| mode.word() == word) {
        Some(mode) => Ok(mode),
        None => bail!("sslmode is `{word}`; it is one of {}", modes.map(SslMode::word).join(", ")),
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Inside;
    type TlsConnect = OneTls;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<OneTls> {
        let name = match &self.0 {
            Some(tls) => tls.name_of(host).map_err(io::Error::other)?,
            None => ServerName::from(std::net::Ipv4Addr::UNSPECIFIED),
        };
        let config = self.0.as_deref().and_then(ServerTls::config);
        Ok(OneTls { connector: config.map(|config| TlsConnector::from(Arc::clone(config))), name })
    }
}

impl TlsConnect<Socket> for OneTls {
    type Stream = Inside;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Inside>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let connector = self.connector.ok_or_else(|| io::Error::other("TLS is disabled"))?;
            Ok(Inside(connector.connect(self.name, stream).await?))
        })
    }
}

impl tokio_postgres::tls::TlsStream for Inside {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Inside {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Inside {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        Target::of(url).err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn tls_is_asked_for_in_libpqs_words() {
        let of = |query: &str| Target::of(&format!("postgres://a:b@h:1/d{query}")).unwrap();
        assert_eq!(of("").config.get_ssl_mode(), config::SslMode::Prefer);
        assert!(of("?sslmode=disable").tls.0.is_none());
        assert_eq!(of("?sslmode=require&application_name=f").config.get_application_name(), Some("f"));
        assert_eq!(
            error("postgres://a:b@h/d?sslmode=on"),
            "sslmode is `on`; it is one of disable, allow, prefer, require, verify-ca, verify-full"
        );
        assert!(error("postgres://a:b@h/d?sslmode=verify-full").contains("verify-full"), "needs a CA");
    }

    #[test]
    fn an_error_does_not_repeat_the_password() {
        for url in ["postgres://a:secret@h:port/d", "mysql://a:secret@h/d", "postgres://a:secret@h/d?nonsense=1", "postgres://"] {
            let error = error(url);
            assert!(!error.is_empty() && !error.contains("secret"), "{url}: {error}");
        }
    }
}
