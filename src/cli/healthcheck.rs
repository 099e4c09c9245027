//! `pgweir healthcheck`: asks the running proxy whether it is alive, for container platforms whose images have no curl.
//!
//! Owns one HTTP/1.0 request over std's blocking socket; never starts a runtime, since it is run anew every few seconds.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::net::now;

use anyhow::{Context as _, bail};

/// An answer's head fits in here; what else comes is not read.
const ANSWER_LIMIT: u64 = 4096;

/// Where the operations endpoints are unless `PGWEIR_LISTEN__HTTP` or `--url` says otherwise.
const USUAL: &str = "127.0.0.1:9632";

/// Ask a running proxy whether it is alive; exit 0 if so.
#[derive(Debug, clap::Args)]
pub struct Healthcheck {
    /// What to ask, in place of `/healthz` where `PGWEIR_LISTEN__HTTP` listens. `/healthz` answers while the process works; `/readyz` refuses
    /// also while it drains or no upstream is up, so a platform that replaces unhealthy containers should not be given it.
    #[arg(long)]
    url: Option<String>,
    /// How long to wait for the whole answer, in milliseconds.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    timeout_ms: u64,
}

impl Healthcheck {
    /// Asks once.
    ///
    /// # Errors
    /// With whatever keeps the proxy from being healthy: no connection, no answer in time, or a status other than 2xx, whose body says why.
    pub fn run(&self) -> anyhow::Result<()> {
        let listen = std::env::var("PGWEIR_LISTEN__HTTP").ok();
        let url = self.url.clone().unwrap_or_else(|| usual(listen.as_deref()));
        ask(&url, Duration::from_millis(self.timeout_ms)).with_context(|| format!("{url} is not healthy"))
    }
}

/// `/healthz` at the address that the proxy was told to listen on; every address means the loopback one.
fn usual(listen: Option<&str>) -> String {
    let address = listen.and_then(|text| text.trim().parse::<SocketAddr>().ok());
    let address = address.map_or_else(
        || USUAL.to_owned(),
        |mut address| {
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            address.to_string()
        },
    );
    format!("http://{address}/healthz")
}

fn ask(url: &str, timeout: Duration) -> anyhow::Result<()> {
    judge(&fetch(url, timeout, ANSWER_LIMIT)?).map(|_| ())
}

/// The body of a page of the operations port, of so many bytes with its head at most.
///
/// # Errors
/// As for a check: no connection, no answer in time, or a status other than 2xx.
pub(super) fn page(url: &str, timeout: Duration, limit: u64) -> anyhow::Result<String> {
    judge(&fetch(url, timeout, limit)?).map(str::to_owned)
}

fn fetch(url: &str, timeout: Duration, limit: u64) -> anyhow::Result<String> {
    let deadline = now() + timeout;
    let left = || deadline.saturating_duration_since(now()).max(Duration::from_millis(1));
    let (host, path) = parts(url)?;
    let address = host.to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, left())?;
    stream.set_write_timeout(Some(left()))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;

    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    // A whole-answer deadline: a server that drips a byte a second passes every read timeout for ever.
    while (answer.len() as u64) < limit && left() > Duration::from_millis(1) {
        stream.set_read_timeout(Some(left()))?;
        match stream.read(&mut chunk)? {
            0 => break,
            read => answer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// `http://host:port/path` as `host:port` and `/path`.
fn parts(url: &str) -> anyhow::Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").context("not an http:// address")?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    if host.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        bail!("the address names no port");
    }
    Ok((host, path))
}

/// The body of an answer that is good.
fn judge(answer: &str) -> anyhow::Result<&str> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no whole answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if head.starts_with("HTTP/1.") && status.len() == 3 && status.starts_with('2') {
        return Ok(body);
    }
    bail!("{}: {}", head.lines().next().unwrap_or_default(), body.trim());
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that says `answer` to one caller and then holds the connection open until the caller leaves.
    fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/healthz", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            assert!(request.starts_with(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1:"));
            stream.write_all(answer.as_bytes()).unwrap();
            if answer.is_empty() {
                let _ = stream.read(&mut [0]);
            }
        });
        url
    }

    fn told(answer: &'static str, timeout_ms: u64) -> Result<(), String> {
        let check = Healthcheck { url: Some(server(answer)), timeout_ms };
        check.run().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_2xx_is_healthy() {
        assert_eq!(told("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 5000), Ok(()));
    }

    #[test]
    fn a_refusal_is_told_with_its_reason() {
        let error = told("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n", 5000).unwrap_err();
        assert!(error.contains("is not healthy: HTTP/1.1 503 Service Unavailable: draining"), "{error}");
    }

    #[test]
    fn half_an_answer_and_nonsense_are_not_healthy() {
        assert!(told("HTTP/1.1 200 OK\r\n", 5000).unwrap_err().contains("no whole answer"));
        assert!(told("SSH-2.0 200 hello\r\n\r\n", 5000).is_err());
    }

    #[test]
    fn silence_ends_with_the_timeout() {
        let began = now();
        assert!(told("", 100).is_err());
        assert!(now() - began < Duration::from_secs(5));
    }

    #[test]
    fn the_usual_address_follows_the_listener() {
        assert_eq!(usual(None), "http://127.0.0.1:9632/healthz");
        assert_eq!(usual(Some("0.0.0.0:8080")), "http://127.0.0.1:8080/healthz");
        assert_eq!(usual(Some("[::]:8080")), "http://[::1]:8080/healthz");
        assert_eq!(usual(Some("10.0.0.7:8080")), "http://10.0.0.7:8080/healthz");
    }

    #[test]
    fn a_closed_port_and_a_bad_address_are_errors() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask(&format!("http://{closed}/"), Duration::from_secs(5)).is_err());
        assert!(ask("https://127.0.0.1:1/", Duration::from_secs(5)).is_err());
        assert!(ask("http://127.0.0.1/healthz", Duration::from_secs(5)).is_err());
    }
}
