//! Whom PostgreSQL runs as: it refuses root, so a demo started by root borrows an unprivileged account.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

/// An account of this machine, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// The account that PostgreSQL is to run as, or `None` when the caller's own will do.
    pub(super) fn for_postgres() -> anyhow::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::named(name, &passwd))
            .map(Some)
            .context("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")
    }

    /// Looks `name` up in the text of a passwd(5) file. Root under another name is not an answer.
    fn named(name: &str, passwd: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next()? != name {
                return None;
            }
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (uid != 0).then_some(Self { uid, gid })
        })
    }

    /// Lets `command` run as this account, without the caller's supplementary groups.
    pub(super) fn lend_to(self, command: &mut Command) {
        // std drops the supplementary groups itself when root sets a uid.
        command.uid(self.uid).gid(self.gid);
    }
}

#[cfg(test)]
mod tests {
    use super::Account;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nbroken:x\n\
        nobody:x:65534:65533:nobody:/nonexistent:/bin/false\n";

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        assert_eq!(Account::named("nobody", PASSWD), Some(Account { uid: 65534, gid: 65533 }));
        assert_eq!(Account::named("nobod", PASSWD), None);
        assert_eq!(Account::named("broken", PASSWD), None);
    }

    #[test]
    fn root_by_another_name_is_refused() {
        assert_eq!(Account::named("toor", PASSWD), None);
    }
}
