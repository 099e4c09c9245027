//! Which of several servers will do: libpq's `target_session_attrs`, and what a server tells of itself (manual: "Connection Control Functions").

use super::broken::Broken;
use super::conversation::Conversation;
use super::login::Reported;
use crate::config::TargetSessionAttrs;
use crate::net::Io;
use crate::wire::{message, say};

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// It is in recovery: a standby. `None`: it does not say, as before PostgreSQL 14.
    pub standby: Option<bool>,
    /// Its sessions begin read-only.
    pub read_only: bool,
}

impl Role {
    /// What a server's reports tell.
    pub fn reported(reported: &Reported) -> Self {
        let value = |name: &[u8]| reported.iter().find(|(known, _)| **known == *name).map(|(_, value)| **value == *b"on");
        let standby = value(b"in_hot_standby");
        Self { standby, read_only: standby == Some(true) || value(b"default_transaction_read_only") == Some(true) }
    }

    /// Whether this server will do, where one is wanted that is `wanted`.
    pub fn is(self, wanted: TargetSessionAttrs) -> bool {
        let standby = self.standby == Some(true);
        match wanted {
            TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => true,
            TargetSessionAttrs::ReadWrite => !self.read_only,
            TargetSessionAttrs::ReadOnly => self.read_only,
            TargetSessionAttrs::Primary => !standby,
            TargetSessionAttrs::Standby => standby,
        }
    }
}

/// Asks a server that does not report it.
pub(super) async fn ask(io: &mut Io, conversation: &mut Conversation) -> Result<Role, Broken> {
    let mut out = bytes::BytesMut::new();
    say::query_bytes(&mut out, b"SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('default_transaction_read_only')");
    io.write_all(&out).await?;
    let mut role = Role { standby: Some(false), read_only: false };
    loop {
        let message = conversation.next(io).await?;
        match message.kind {
            b'D' => {
                let row = message::row(&message.body)?;
                let is = |at: usize, yes: &[u8]| row.get(at).copied().flatten() == Some(yes);
                role = Role { standby: Some(is(0, b"t")), read_only: is(0, b"t") || is(1, b"on") };
            }
            b'E' => return Err(Broken::Refused(super::ServerError::new(&message.body))),
            b'Z' => return Ok(role),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libpqs_words_mean_what_they_mean_there() {
        use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
        let report = |standby: &str, read_only: &str| {
            let pair = |name: &str, value: &str| (name.as_bytes().into(), value.as_bytes().into());
            Role::reported(&vec![pair("in_hot_standby", standby), pair("default_transaction_read_only", read_only)])
        };
        for (role, fit) in [
            (report("off", "off"), &[Any, PreferStandby, Primary, ReadWrite][..]),
            (report("off", "on"), &[Any, PreferStandby, Primary, ReadOnly]),
            (report("on", "off"), &[Any, PreferStandby, Standby, ReadOnly]),
        ] {
            for wanted in [Any, ReadWrite, ReadOnly, Primary, Standby, PreferStandby] {
                assert_eq!(role.is(wanted), fit.contains(&wanted), "{role:?} {wanted:?}");
            }
        }
        assert_eq!(Role::reported(&Vec::new()).standby, None, "it does not say");
    }
}
