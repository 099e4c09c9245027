//! Budgets that are shared with other proxies.

use super::Compiling;
use crate::config::model::Share;
use crate::config::settings::{LimitSetting, ServerAuth, UpstreamSettings, UserSettings};
use crate::config::words::{either, nearest};

impl Compiling<'_, '_> {
    /// How an upstream's budget is shared, if it is.
    pub(super) fn share(&mut self, at: &[String], written: &UpstreamSettings) -> Option<Share> {
        let here = |key: &str| [at, &[key.to_owned()]].concat();
        if !written.share_budget {
            if written.share_user.is_some() {
                let what = "`share_user` says who shares the budget, and it is not shared";
                self.findings.error(&here("share_user"), what, "add share_budget = true, or leave this out");
            }
            return None;
        }
        if written.limit == LimitSetting::Adaptive {
            let what = "a budget that is shared cannot have an adaptive limit: each proxy would try it on the others";
            self.findings.error(&here("limit"), what, "write \"fixed\" or \"observe\", or share_budget = false");
        }
        let least = 2 + u32::from(written.auth_user.is_some());
        if written.control_connections < least {
            let what = format!("`control_connections` ({}) leaves none for the slots of a shared budget", written.control_connections);
            self.findings.error(&here("control_connections"), what, format!("write at least {least}"));
        }
        let user = self.share_user(&here, written)?;
        Some(Share { user, dbname: written.share_dbname.clone() })
    }

    fn share_user(&mut self, here: &dyn Fn(&str) -> Vec<String>, written: &UpstreamSettings) -> Option<String> {
        let users = &self.settings.users;
        let able: Vec<&str> = users.iter().filter(|(_, user)| can_log_in(user)).map(|(name, _)| name.as_str()).collect();
        let Some(name) = &written.share_user else {
            if let [only] = able[..] {
                return Some(only.to_owned());
            }
            let what = "it is not said as whom the slots of a shared budget are held";
            let remedy = match able[..] {
                [] => "add share_user, and a user of that name with a password".to_owned(),
                _ => format!("add share_user = {}", either(able)),
            };
            self.findings.error(&here("share_budget"), what, remedy);
            return None;
        };
        match users.get(name) {
            Some(user) if can_log_in(user) => return Some(name.clone()),
            Some(_) => {
                let what = format!("the proxy has nothing to log in with as `{name}` before that user does");
                self.findings.error(
                    &here("share_user"),
                    what,
                    "name a user with a password, a server_password or server_auth = \"rds-iam\"",
                );
            }
            None => {
                let remedy = match nearest(name, users.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("add [users.{name}]"),
                };
                self.findings.error(&here("share_user"), format!("there is no user `{name}`"), remedy);
            }
        }
        None
    }
}

/// Whether the proxy can log in to a server for this user at any time.
fn can_log_in(user: &UserSettings) -> bool {
    let has = [
        user.password.is_some(),
        user.password_env.is_some(),
        user.password_file.is_some(),
        user.server_password.is_some(),
        user.server_password_env.is_some(),
        user.server_password_file.is_some(),
    ];
    has.contains(&true) || user.server_auth == ServerAuth::RdsIam
}
