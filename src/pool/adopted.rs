//! Connections of the proxy's own, for `auth_query` and for the slots of a shared budget: opened and logged in to exactly as those for clients are (the same TLS rules,
//! channel binding, limits on SCRAM's iterations, no password in the clear), then handed to tokio-postgres, which insists on logging in itself: it is played the end of a login.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, Notification};

use super::shared::Upstream;
use crate::net::Io;
use crate::upstream::{Broken, Login};

/// `AuthenticationOk` and `ReadyForQuery`: all that tokio-postgres must hear before it asks anything.
const LOGIN_IS_DONE: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// A connection to an upstream that is logged in to like this and has these `settings`, with the task that serves it; that tells `heard` of notifications.
///
/// Cancel safe: a dropped future closes what it opened.
///
/// # Errors
/// Why there is none; [`cause`] tells more.
pub(super) async fn adopt(
    upstream: &Arc<Upstream>,
    login: &Login,
    settings: &str,
    heard: impl Fn(Notification) + Send + 'static,
) -> Result<(Client, JoinHandle<()>), Error> {
    let stream = match Box::pin(upstream.connect(login)).await {
        Ok(fresh) => Adopted::Greeting(fresh.io, LOGIN_IS_DONE),
        Err(why) => Adopted::Broken(why),
    };
    // The user is a formality: the login is over.
    let mut formal = Config::new();
    formal.user("adopted").ssl_mode(SslMode::Disable);
    let (client, mut connection) = formal.connect_raw(stream, NoTls).await?;
    let task = tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => heard(notification),
                Ok(notice) => tracing::debug!(?notice, "a connection of the proxy's own hears"),
                // Whoever uses the client hears of it, too.
                Err(error) => return tracing::debug!(%error, "a connection of the proxy's own ended"),
            }
        }
    });
    if let Err(error) = client.batch_execute(settings).await {
        task.abort();
        return Err(error);
    }
    Ok((client, task))
}

/// What went wrong. What the server said is about a role and a query that are no business of clients, and so is for the log alone: `told` makes that of it.
pub(super) fn broken(error: &Error, told: fn(Arc<str>) -> Broken) -> Broken {
    match cause(error) {
        Some(Broken::Refused(error)) => told(error.fields().message().into()),
        Some(why) => why,
        None => match error.as_db_error() {
            Some(said) => told(format!("{} ({})", said.message(), said.code().code()).into()),
            None if error.is_closed() => Broken::Closed,
            None => told(error.to_string().into()),
        },
    }
}

/// What really went wrong, where tokio-postgres only says that its stream failed.
fn cause(error: &Error) -> Option<Broken> {
    let io = error.source()?.downcast_ref::<io::Error>()?;
    let inner = io.get_ref().and_then(|inner| inner.downcast_ref::<Broken>());
    Some(inner.cloned().unwrap_or_else(|| Broken::from(io::Error::new(io.kind(), io.to_string()))))
}

/// A connection that is logged in to already, as a stream.
#[derive(Debug)]
enum Adopted {
    /// It did not come about: tokio-postgres's errors can only be made by letting it fail.
    Broken(Broken),
    /// What is still to be played. Until it is heard, what is written is the startup packet, which is for nobody.
    Greeting(Io, &'static [u8]),
    /// From here on the server speaks.
    Open(Io),
}

impl AsyncRead for Adopted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match &mut *self {
            Self::Broken(why) => Poll::Ready(Err(io::Error::other(why.clone()))),
            Self::Greeting(_, left) => {
                let (now, later) = left.split_at(left.len().min(buf.remaining()));
                buf.put_slice(now);
                *left = later;
                if later.is_empty() {
                    self.open();
                }
                Poll::Ready(Ok(()))
            }
            Self::Open(io) => {
                let count = ready!(io.poll_read(cx, buf.initialize_unfilled()))?;
                buf.advance(count);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Adopted {
    fn open(&mut self) {
        *self = match std::mem::replace(self, Self::Broken(Broken::Closed)) {
            Self::Greeting(io, _) => Self::Open(io),
            other => other,
        };
    }
}

impl AsyncWrite for Adopted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Broken(why) => Poll::Ready(Err(io::Error::other(why.clone()))),
            Self::Greeting(..) => Poll::Ready(Ok(bytes.len())),
            Self::Open(io) => io.poll_send(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Open(io) => io.poll_flush(cx),
            Self::Broken(_) | Self::Greeting(..) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Open(io) | Self::Greeting(io, _) = &mut *self {
            io.shutdown();
        }
        Poll::Ready(Ok(()))
    }
}
