//! The texts that settings are written as: durations, sizes, addresses, networks. Each type reads and writes its own form,
//! and says in words what is wrong with a text that does not fit.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

use super::glob::Glob;

/// Why a text is not a value of its setting, and what would be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}; {remedy}")]
pub struct Unfit {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl Unfit {
    /// Both halves in words.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// A duration as written: `"250ms"`, `"5s"`, `"1m30s"`, `"1h"`; `"0"` is off or no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// The longest that is accepted, so that adding one to a clock never overflows.
    pub const LONGEST: Duration = Duration::from_hours(3_650 * 24);

    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// So many seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// `None` where `"0"` was written.
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

const PERIOD_REMEDY: &str =
    "write a number with its unit, such as \"250ms\", \"5s\", \"1m30s\" or \"1h\" (units ms, s, m, h, d); \"0\" is off";

impl FromStr for Period {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let unfit = |what: String| Unfit::new(what, PERIOD_REMEDY);
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if text.is_empty() {
            return Err(unfit("a duration cannot be empty".to_owned()));
        }
        let mut total: u64 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, unit, after) = number_and_unit(rest);
            let number: u64 = number.parse().map_err(|_| unfit(format!("`{text}` is not a duration")))?;
            let millis = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                "" => return Err(unfit(format!("the duration `{text}` has no unit"))),
                other => return Err(unfit(format!("`{}` is no unit of time", other.trim()))),
            };
            total = number
                .checked_mul(millis)
                .and_then(|part| total.checked_add(part))
                .filter(|total| Duration::from_millis(*total) <= Self::LONGEST)
                .ok_or_else(|| Unfit::new(format!("`{text}` is too long"), "write at most \"3650d\", or \"0\" for no limit"))?;
            rest = after;
        }
        Ok(Self::millis(total))
    }
}

/// Splits `12ms34s` into `12`, `ms` and `34s`.
fn number_and_unit(text: &str) -> (&str, &str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(letters);
    (number, unit, after)
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0");
        }
        for (unit, millis) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

/// A size as written: `"64KiB"`, `"32MiB"`, `"512B"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let remedy = "write a number with its unit, such as \"64KiB\" or \"32MiB\" (units B, KiB, MiB, GiB)";
        let (number, unit, after) = number_and_unit(text);
        let scale: u64 = match (unit, after) {
            ("B", "") => 1,
            ("KiB", "") => 1 << 10,
            ("MiB", "") => 1 << 20,
            ("GiB", "") => 1 << 30,
            ("", "") if !number.is_empty() => {
                return Err(Unfit::new(format!("the size `{text}` has no unit"), remedy));
            }
            _ => return Err(Unfit::new(format!("`{text}` is not a size"), remedy)),
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(scale))
            .map(Self)
            .ok_or_else(|| Unfit::new(format!("`{text}` is not a size"), remedy))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|(bits, _)| self.0 != 0 && self.0.trailing_zeros() >= *bits)
            .map_or((self.0, "B"), |(bits, unit)| (self.0 >> bits, unit));
        write!(f, "{number}{unit}")
    }
}

/// Where clients are listened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The folder of the socket `.s.PGSQL.<port>`, as libpq's `host` names it.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match text.strip_prefix("unix:") {
            Some(folder) if folder.starts_with('/') => Ok(Self::Unix(PathBuf::from(folder))),
            Some(_) => Err(Unfit::new(format!("`{text}` does not name a folder from the root"), "write \"unix:/run/pgweir\"")),
            None => socket_address(text).map(Self::Tcp),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(folder) => write!(f, "unix:{}", folder.display()),
        }
    }
}

/// An IP address and a port for HTTP, or `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpAddress(pub Option<SocketAddr>);

impl FromStr for HttpAddress {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match text {
            "off" => Ok(Self(None)),
            address => socket_address(address).map(|address| Self(Some(address))),
        }
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("off"),
        }
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, Unfit> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = text.rsplit_once(':').and_then(|(host, port)| (host == "localhost").then(|| port.parse().ok()).flatten());
    if let Some(port) = port {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let what =
        if text.parse::<IpAddr>().is_ok() { format!("`{text}` has no port") } else { format!("`{text}` is not an address to listen on") };
    let remedy = "write an IP address and a port, such as \"0.0.0.0:6432\", \"127.0.0.1:6432\" or \"[::]:6432\"";
    Err(Unfit::new(what, remedy))
}

/// A network in CIDR form; a bare address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(address)));
        }
        let net: IpNet =
            text.parse().map_err(|_| Unfit::new(format!("`{text}` is not a network"), "write it as \"10.0.0.0/8\" or \"::1/128\""))?;
        if net.trunc() == net {
            return Ok(Self(net));
        }
        // `10.1.2.3/8` trusts far more than it seems to say.
        Err(Unfit::new(
            format!("`{text}` has bits set to the right of its mask"),
            format!("write \"{}\", or \"{}\" for the one address", net.trunc(), net.addr()),
        ))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where the certificates that a peer is checked against come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateAuthority {
    /// The system's own store.
    System,
    /// A PEM file.
    File(PathBuf),
}

impl FromStr for CertificateAuthority {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match text {
            "" => Err(Unfit::new("the path is empty", "name a PEM file, or \"system\"")),
            "system" => Ok(Self::System),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Whether a text can name a variable. What cannot is not repeated: it may be the secret itself, written in the wrong place.
fn variable_fits(text: &str) -> Result<(), Unfit> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !text.is_empty() && text.chars().all(is_name) && !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(());
    }
    let remedy = "write the name of a variable of the environment, such as \"APP_PASSWORD\", without `$`";
    Err(Unfit::new("this is not the name of a variable", remedy))
}

/// Gives a type that is written as one text its serde and schema, the latter with the `format` that the checker knows it by.
macro_rules! written_as_text {
    ($($type:ty, $format:literal;)*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "format": $format })
            }
        }
    )*

        /// Whether a text fits the format of its setting; a format that has no rules fits any.
        pub fn fits_format(format: &str, text: &str) -> Result<(), Unfit> {
            match format {
                $($format => text.parse::<$type>().map(drop),)*
                "variable" => variable_fits(text),
                _ => Ok(()),
            }
        }
    };
}

written_as_text! {
    Period, "period";
    ByteSize, "size";
    ListenAddress, "listen-address";
    HttpAddress, "address";
    Network, "network";
    CertificateAuthority, "ca";
    Glob, "glob";
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
