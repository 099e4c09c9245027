//! What a client says before it is anyone: the requests for TLS, GSS and cancelling, and the startup packet. Checklist A1-A9, A13.
//!
//! Nothing here sizes a buffer from a length it has not checked.

use std::collections::HashSet;

use super::options::{self, BadOptions};
use super::read::Reader;

/// The longest packet that may come before login, in bytes, its length word included (PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`).
pub const LONGEST_PACKET: u32 = 10_000;
/// The newest minor version of protocol 3 that the proxy speaks to clients.
pub const NEWEST_MINOR: u16 = 2;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// How many bytes the first packet takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// More bytes are needed before that can be said.
    Unknown,
    /// The stream begins with a TLS record: the client negotiates TLS directly, without a request (A2).
    DirectTls,
    /// The packet is this many bytes long.
    Packet(usize),
}

/// What is wrong with a packet that came before login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPacket {
    /// The length word is below 8 or above `LONGEST_PACKET`.
    #[error("invalid length of startup packet")]
    Length,
    /// Strings without their end, or bytes after the packet's end.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// The major version is not 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    Version {
        /// The major version asked for.
        major: u16,
        /// The minor version asked for.
        minor: u16,
    },
    /// No user is named.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// The `options` parameter does not follow PostgreSQL's rules.
    #[error(transparent)]
    Options(#[from] BadOptions),
    /// `replication` has a value that is no boolean and not `database`.
    #[error("invalid value for parameter \"replication\"")]
    Replication,
}

/// A packet that may come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The client asks for TLS.
    Ssl,
    /// The client asks for GSS encryption.
    GssEnc,
    /// The client asks to cancel what another connection runs.
    Cancel {
        /// The first word of the key.
        pid: u32,
        /// The secret part of the key, 4 to 256 bytes (A8).
        secret: &'a [u8],
    },
    /// The client wants a session.
    Startup(Startup),
}

/// The kinds of replication session (A13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replication {
    /// `replication=true`: physical, with no database.
    Physical,
    /// `replication=database`: logical.
    Logical,
}

impl Replication {
    /// The value that asks a server for this kind.
    pub fn value(self) -> &'static str {
        match self {
            Self::Physical => "true",
            Self::Logical => "database",
        }
    }
}

/// One run-time setting that a client asked for at startup: a lower-case name, and a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Setting {
    /// The setting's name, in lower case.
    pub name: Box<[u8]>,
    /// Its value as the client wrote it.
    pub value: Box<[u8]>,
}

/// The startup packet, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    /// The minor version asked for.
    pub minor: u16,
    /// `_pq_.` options that the proxy does not know, as they were named.
    pub unrecognised: Vec<Vec<u8>>,
    /// The user.
    pub user: Vec<u8>,
    /// The database; the user's name where the client names none.
    pub database: Vec<u8>,
    /// Whether this is a replication session, and of which kind.
    pub replication: Option<Replication>,
    /// The settings in the order in which PostgreSQL applies them (those of `options` first), each name once.
    pub settings: Vec<Setting>,
}

impl Startup {
    /// The minor version to speak, and whether the client must be told what it asked for is not all there (A6).
    pub fn negotiated(&self) -> (u16, bool) {
        (self.minor.min(NEWEST_MINOR), self.minor > NEWEST_MINOR || !self.unrecognised.is_empty())
    }

    /// The value of a setting, by its lower-case name.
    pub fn setting(&self, name: &str) -> Option<&[u8]> {
        self.settings.iter().find(|setting| *setting.name == *name.as_bytes()).map(|setting| &*setting.value)
    }
}

/// How long the packet is that `bytes` begin with; to be asked before anything is allocated for it.
pub fn extent(bytes: &[u8]) -> Result<Extent, BadPacket> {
    if bytes.first() == Some(&0x16) {
        return Ok(Extent::DirectTls);
    }
    let Some(&word) = bytes.first_chunk::<4>() else { return Ok(Extent::Unknown) };
    let length = u32::from_be_bytes(word);
    if !(8..=LONGEST_PACKET).contains(&length) {
        return Err(BadPacket::Length);
    }
    usize::try_from(length).map(Extent::Packet).map_err(|_| BadPacket::Length)
}

/// Reads one whole packet, its length word included.
pub fn read(packet: &[u8]) -> Result<Packet<'_>, BadPacket> {
    let mut body = Reader::new(packet.get(4..).ok_or(BadPacket::Length)?);
    let code = body.u32().map_err(|_| BadPacket::Length)?;
    match code {
        SSL_REQUEST if body.rest().is_empty() => Ok(Packet::Ssl),
        GSSENC_REQUEST if body.rest().is_empty() => Ok(Packet::GssEnc),
        CANCEL_REQUEST => {
            let pid = body.u32().map_err(|_| BadPacket::Length)?;
            let secret = body.rest();
            if (4..=256).contains(&secret.len()) { Ok(Packet::Cancel { pid, secret }) } else { Err(BadPacket::Length) }
        }
        _ => {
            let [a, b, c, d] = code.to_be_bytes();
            let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            if major != 3 {
                return Err(BadPacket::Version { major, minor });
            }
            read_startup(minor, body).map(Packet::Startup)
        }
    }
}

fn read_startup(minor: u16, mut body: Reader<'_>) -> Result<Startup, BadPacket> {
    let mut startup = Startup { minor, ..Startup::default() };
    let mut database = None;
    let mut direct = Vec::new();
    loop {
        let name = body.string().map_err(|_| BadPacket::Layout)?;
        if name.is_empty() {
            break;
        }
        let value = body.string().map_err(|_| BadPacket::Layout)?;
        match name {
            b"user" => startup.user = value.to_vec(),
            b"database" => database = Some(value.to_vec()),
            b"options" => startup.settings.extend(options::split(value)?),
            b"replication" => startup.replication = replication(value)?,
            _ if name.starts_with(b"_pq_.") => startup.unrecognised.push(name.to_vec()),
            _ => direct.push(Setting { name: name.to_ascii_lowercase().into(), value: value.into() }),
        }
    }
    body.finish().map_err(|_| BadPacket::Layout)?;
    startup.settings.extend(direct);
    startup.settings = last_of_each(startup.settings);
    if startup.user.is_empty() {
        return Err(BadPacket::NoUser);
    }
    startup.database = database.filter(|name| !name.is_empty()).unwrap_or_else(|| startup.user.clone());
    Ok(startup)
}

/// Each name once, with its last value, in the order of those. A packet may hold thousands of names.
fn last_of_each(settings: Vec<Setting>) -> Vec<Setting> {
    let mut seen = HashSet::with_capacity(settings.len());
    let mut kept: Vec<Setting> = settings.into_iter().rev().filter(|setting| seen.insert(setting.name.clone())).collect();
    kept.reverse();
    kept
}

/// PostgreSQL takes `database`, or anything that its `parse_bool` takes.
fn replication(value: &[u8]) -> Result<Option<Replication>, BadPacket> {
    match value.to_ascii_lowercase().as_slice() {
        b"database" => Ok(Some(Replication::Logical)),
        b"true" | b"t" | b"tr" | b"tru" | b"on" | b"1" | b"yes" | b"y" | b"ye" => Ok(Some(Replication::Physical)),
        b"false" | b"f" | b"fa" | b"fal" | b"fals" | b"off" | b"of" | b"0" | b"no" | b"n" => Ok(None),
        _ => Err(BadPacket::Replication),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 8).unwrap();
        [&length.to_be_bytes(), &code.to_be_bytes(), body].concat()
    }

    fn startup(body: &[u8]) -> Result<Startup, BadPacket> {
        match read(&packet(0x0003_0000, body))? {
            Packet::Startup(startup) => Ok(startup),
            other => panic!("not a startup packet: {other:?}"),
        }
    }

    #[test]
    fn a1_lengths_out_of_bounds_are_refused_from_the_first_four_bytes() {
        assert_eq!(extent(&7u32.to_be_bytes()), Err(BadPacket::Length));
        assert_eq!(extent(&10_001u32.to_be_bytes()), Err(BadPacket::Length));
        assert_eq!(extent(&[0, 0, 0]), Ok(Extent::Unknown));
        assert_eq!(extent(&10_000u32.to_be_bytes()), Ok(Extent::Packet(10_000)));
        assert_eq!(extent(&[0x16]), Ok(Extent::DirectTls));
    }

    #[test]
    fn a6_other_major_versions_are_named_in_the_refusal() {
        assert_eq!(read(&packet(0x0002_0000, b"")), Err(BadPacket::Version { major: 2, minor: 0 }));
        assert_eq!(read(&packet(0x0004_0000, b"user\0a\0\0")), Err(BadPacket::Version { major: 4, minor: 0 }));
    }

    #[test]
    fn a6_newer_minors_and_unknown_options_are_negotiated() {
        let plain = startup(b"user\0a\0\0").unwrap();
        assert_eq!(plain.negotiated(), (0, false));
        let Packet::Startup(newer) = read(&packet(0x0003_270f, b"user\0a\0_pq_.test_protocol_negotiation\0\0\0")).unwrap().clone() else {
            panic!("not a startup packet")
        };
        assert_eq!(newer.negotiated(), (2, true));
        assert_eq!(newer.unrecognised, [b"_pq_.test_protocol_negotiation".to_vec()]);
    }

    #[test]
    fn a9_parameters() {
        let seen = startup(b"user\0first\0user\0ann\0Application_Name\0\0options\0-c search_path=a,b --statement-timeout=5 -cDateStyle=ISO\0datestyle\0German\0\0").unwrap();
        assert_eq!(seen.user, b"ann");
        assert_eq!(seen.database, b"ann", "no database: the user's name");
        assert_eq!(seen.setting("application_name"), Some(&b""[..]));
        assert_eq!(seen.setting("search_path"), Some(&b"a,b"[..]));
        assert_eq!(seen.setting("statement_timeout"), Some(&b"5"[..]));
        assert_eq!(seen.setting("datestyle"), Some(&b"German"[..]), "a parameter of its own comes after `options`");
        assert_eq!(startup(b"database\0d\0\0"), Err(BadPacket::NoUser));
        assert_eq!(startup(b"user\0d\0"), Err(BadPacket::Layout));
        assert_eq!(startup(b"user\0d\0\0more"), Err(BadPacket::Layout));
    }

    #[test]
    fn a13_replication_values() {
        assert_eq!(startup(b"user\0a\0replication\0database\0\0").unwrap().replication, Some(Replication::Logical));
        assert_eq!(startup(b"user\0a\0replication\0on\0\0").unwrap().replication, Some(Replication::Physical));
        assert_eq!(startup(b"user\0a\0replication\0false\0\0").unwrap().replication, None);
        assert_eq!(startup(b"user\0a\0replication\0maybe\0\0"), Err(BadPacket::Replication));
    }

    #[test]
    fn a8_cancel_secrets_have_bounds() {
        for (length, good) in [(3usize, false), (4, true), (256, true), (257, false)] {
            let body = [&7u32.to_be_bytes()[..], &vec![9; length]].concat();
            assert_eq!(read(&packet(CANCEL_REQUEST, &body)).is_ok(), good, "a secret of {length} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = extent(&bytes);
            let _ = read(&bytes);
            let _ = startup(&bytes);
        }
    }
}
