//! Tenants: their order, their rules, and whether what they were promised is there.

use std::collections::{BTreeMap, BTreeSet};

use super::Compiling;
use crate::config::glob::Glob;
use crate::config::model::{Rule, Tenant};
use crate::config::settings::{MatchSettings, TenantSettings};
use crate::config::words::{nearest, path};

impl Compiling<'_, '_> {
    /// `default` first, then the others in the order of their rules.
    pub(super) fn tenants(&mut self) -> Vec<Tenant> {
        let settings = self.settings;
        let mut tenants = vec![Tenant {
            name: "default".to_owned(),
            rule: None,
            upstream: None,
            limits: TenantSettings::default().limits(&settings.defaults),
        }];
        let order: Vec<String> =
            self.findings.tree.table("tenants").map(|table| table.keys().map(str::to_owned).collect()).unwrap_or_default();
        for name in &order {
            let Some(written) = settings.tenants.get(name) else { continue };
            let at = path(["tenants", name]);
            if matches!(name.as_str(), "default" | "_other") {
                let remedy = "choose another name; the limits of `default` are written below [defaults]";
                self.findings.error(&at, format!("`{name}` is a name that pgweir uses itself"), remedy);
            }
            if let Some(upstream) = &written.upstream {
                self.known_upstream(&path(["tenants", name, "upstream"]), upstream);
            }
            let rule = self.rule(&at, &written.matching);
            if let Some(earlier) = tenants.iter().find(|tenant| rule.is_some() && tenant.rule == rule) {
                let what = format!("the tenant `{}` above has the same rule, so nobody ever belongs to `{name}`", earlier.name);
                self.findings.error(&path(["tenants", name, "match"]), what, "make the rules differ");
            }
            tenants.push(Tenant {
                name: name.clone(),
                rule,
                upstream: written.upstream.clone(),
                limits: written.limits(&settings.defaults),
            });
        }
        self.snapshot.tenant_order(&order);
        self.check_guarantees(&tenants);
        tenants
    }

    fn rule(&mut self, at: &[String], matching: &MatchSettings) -> Option<Rule> {
        let MatchSettings { user, database, application_name, tls_name } = matching.clone();
        let here = |key: &str| [at, &["match".to_owned(), key.to_owned()]].concat();
        let named = user.is_some() || database.is_some() || application_name.is_some() || tls_name.is_some();
        if !named {
            let self_named = self.settings.users.values().any(|user| user.may_name_tenant);
            let in_tokens = self.settings.api.tokens.tenant_claim.is_some();
            if !self_named && !in_tokens {
                let what = format!("nobody ever belongs to the tenant `{}`: it has no `match`", at.last().map_or("", String::as_str));
                let remedy = "add match = { user = \"..\" }, or let a user name its tenant with may_name_tenant = true";
                self.findings.missing(at, what, remedy);
            }
            return None;
        }
        let asks_servers = self.settings.upstreams.values().any(|upstream| upstream.auth_user.is_some());
        let users = &self.settings.users;
        if let Some(pattern) = user.as_ref().filter(|_| !asks_servers)
            && !fits_any(pattern, users)
        {
            let literal = pattern.literal().unwrap_or_default();
            let near = nearest(&literal, users.keys().map(String::as_str));
            let remedy = near.map_or_else(|| format!("add [users.{pattern}]"), |near| format!("did you mean \"{near}\"?"));
            let remedy = if pattern.literal().is_some() { remedy } else { "see the names below [users]".to_owned() };
            self.findings.error(&here("user"), format!("no user fits `{pattern}`"), remedy);
        }
        let databases = &self.settings.databases;
        if let Some(pattern) = &database
            && !databases.contains_key("*")
            && !fits_any(pattern, databases)
        {
            self.findings.error(&here("database"), format!("no database fits `{pattern}`"), "see the names below [databases]");
        }
        Some(Rule { user, database, application_name, tls_name })
    }

    /// What tenants were promised must be there, on each upstream that they can be on.
    fn check_guarantees(&mut self, tenants: &[Tenant]) {
        let settings = self.settings;
        let of_databases: BTreeSet<&str> = settings.databases.values().filter_map(|database| database.upstream.as_deref()).collect();
        // Per upstream: what is promised so far, and by whom.
        let mut promised: BTreeMap<&str, u64> = BTreeMap::new();
        for tenant in tenants {
            let is_default = tenant.name == "default";
            let own = tenant.upstream.as_deref();
            let homes = own.map_or_else(|| of_databases.clone(), |own| BTreeSet::from([own]));
            let table = if is_default { path(["defaults"]) } else { path(["tenants", &tenant.name]) };
            let here = |key: &str| [&table[..], &[key.to_owned()]].concat();
            let (reserved, cap) = (tenant.limits.reserved_server_connections, tenant.limits.max_server_connections);
            if cap > 0 && reserved > cap {
                let what = format!("`reserved_server_connections` ({reserved}) is more than `max_server_connections` ({cap})");
                self.findings.error(&here("reserved_server_connections"), what, format!("write at most {cap}"));
            }
            for home in homes {
                let Some(upstream) = settings.upstreams.get(home) else { continue };
                if self.findings.is_doubtful(&path(["upstreams", home])) {
                    continue;
                }
                let budget = upstream.max_connections;
                if cap > budget {
                    let what = format!("`max_server_connections` ({cap}) is more than the whole budget of `{home}` ({budget})");
                    self.findings.warning(&here("max_server_connections"), what, "write a smaller number, or 0 for the whole budget");
                }
                let before = promised.entry(home).or_default();
                let fitted = *before <= u64::from(budget);
                *before += u64::from(reserved);
                let total = *before;
                if reserved > 0 && fitted && total > u64::from(budget) {
                    let what = format!("{total} connections of `{home}` are guaranteed to tenants, but its budget is {budget}");
                    let remedy = format!("lower `reserved_server_connections` here or above, or raise upstreams.{home}.max_connections");
                    self.findings.error(&here("reserved_server_connections"), what, remedy);
                }
            }
        }
    }
}

/// Whether any name fits; a pattern without wildcards is looked up, for thousands of tenants are thousands of patterns.
fn fits_any<T>(pattern: &Glob, names: &BTreeMap<String, T>) -> bool {
    match pattern.literal() {
        Some(name) => names.contains_key(&name),
        None => names.keys().any(|name| pattern.matches(name)),
    }
}
