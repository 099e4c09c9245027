//! The plan as a person reads it: a table, what it means, and the lines for the configuration.

use std::fmt::{self, Display, Formatter, Write as _};

use super::advice::{Plan, Server, Waits};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.table(f)?;
        let Self { server_connections, waits, .. } = self;
        writeln!(f, "\n{server_connections} server connections: {}.", Words(waits, self.within))?;
        writeln!(f, "Asked for: {} wait no longer than {}.", percent(self.within), milliseconds(self.wait_ms))?;
        if self.tenants.len() > 1 {
            writeln!(f, "A pool for each tenant would take {}.", self.in_separate_pools)?;
        }
        if let Some(environments) = self.without_a_proxy {
            writeln!(f, "Without a proxy every environment would hold one: {environments} on average.")?;
        }
        match &self.server {
            None => writeln!(f, "The server's max_connections is not known: pgweir needs {server_connections} of them.")?,
            Some(server) => self.on(f, server)?,
        }
        if self.fits() {
            writeln!(f, "\n{}", self.configuration()?)?;
        }
        Ok(())
    }
}

impl Plan {
    fn table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = self.tenants.iter().map(|tenant| tenant.name.chars().count()).max().unwrap_or(0).max("tenant".len());
        writeln!(
            f,
            "{:<width$} {:>10} {:>9} {:>8} {:>6} {:>9} {:>7} {:>13}",
            "tenant", "per second", "ms each", "busy", "alone", "reserved", "weight", "environments"
        )?;
        for tenant in &self.tenants {
            let environments = tenant.environments.map_or_else(|| "-".to_owned(), |environments| environments.to_string());
            writeln!(
                f,
                "{:<width$} {:>10.1} {:>9.2} {:>8.2} {:>6} {:>9} {:>7} {environments:>13}",
                tenant.name,
                tenant.transactions_per_second,
                tenant.transaction_ms,
                tenant.busy,
                tenant.alone,
                tenant.reserved_server_connections,
                tenant.weight,
            )?;
        }
        Ok(())
    }

    /// Whether the server can hold it.
    fn on(&self, f: &mut Formatter<'_>, server: &Server) -> fmt::Result {
        let Server { max_connections, kept_for_others, available, with_what_there_is } = server;
        let of = format!("max_connections = {max_connections} leaves pgweir {available} ({kept_for_others} are kept for others)");
        match with_what_there_is {
            None => writeln!(f, "{of}: it fits."),
            Some(waits) if waits.mean_ms.is_some() => {
                let needed = self.server_connections.saturating_sub(*available);
                writeln!(f, "WARNING: {of}, {needed} too few. With {available}: {}.", Words(waits, self.within))
            }
            Some(waits) => writeln!(
                f,
                "WARNING: {of}, and {:.1} would be busy all the time: the queue grows without end. Raise max_connections if the server has \
                 the CPUs for it, make the transactions shorter, or limit the callers.",
                waits.busy
            ),
        }
    }

    /// The lines for pgweir's configuration.
    fn configuration(&self) -> Result<String, fmt::Error> {
        let mut text = format!("[upstreams.main]\nmax_connections = {}\n", self.server_connections);
        for tenant in &self.tenants {
            write!(
                text,
                "\n[tenants.{}]\nmatch = {{ user = {} }}\nreserved_server_connections = {}\nweight = {}\n",
                toml_key(&tenant.name),
                toml::Value::from(tenant.name.as_str()),
                tenant.reserved_server_connections,
                tenant.weight
            )?;
        }
        Ok(text)
    }
}

/// A key of TOML, in quotes where it needs them.
fn toml_key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_bare { name.to_owned() } else { toml::Value::from(name).to_string() }
}

/// What a transaction has to expect, in words.
struct Words<'a>(&'a Waits, f64);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(waits, within) = self;
        write!(f, "{} busy", percent(waits.utilisation))?;
        if let (Some(mean), Some(share)) = (waits.mean_ms, waits.share_ms) {
            let (mean, share) = (milliseconds(mean), milliseconds(share));
            write!(
                f,
                ", {} of the transactions wait, {mean} on average over all; {} wait no longer than {share}",
                percent(waits.probability),
                percent(*within)
            )?;
        }
        Ok(())
    }
}

fn milliseconds(number: f64) -> String {
    let decimals = if number >= 10.0 || number == 0.0 { 0 } else { 2 };
    format!("{number:.decimals$} ms")
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let text = if percent < 1.0 { format!("{percent:.2}") } else { format!("{percent:.1}") };
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{} %", if text.is_empty() { "0" } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::plan::load::Load;
    use crate::config::parse_str;

    fn plan(toml: &str) -> Plan {
        Plan::of(&toml::from_str::<Load>(toml).unwrap())
    }

    const TWO: &str = "[tenants.checkout]\ninvocations_per_second = 800\ntransaction_ms = 3.5\ninvocation_ms = 120\n\
                       [tenants.'big reports']\ninvocations_per_second = 2\ntransactions_per_invocation = 2\ntransaction_ms = 500\n";

    #[test]
    fn the_lines_for_the_configuration_are_a_configuration() {
        let lines = plan(TWO).configuration().unwrap();
        let rest =
            "[databases.'*']\nupstream = \"main\"\n[users.checkout]\npassword = \"secret\"\n[users.'big reports']\npassword = \"secret\"\n";
        let text = lines.replace("[upstreams.main]\n", &format!("{rest}[upstreams.main]\nhost = \"db.example.com\"\n"));
        let config = parse_str(&text).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes:?}")).config;
        // Beside the one of those that fit nobody.
        assert_eq!(config.tenants.len(), 3, "{text}");
    }

    #[test]
    fn a_plan_reads_as_one() {
        let text = plan(&format!("max_connections = 60\n{TWO}")).to_string();
        for part in [
            "tenant      per second   ms each     busy  alone  reserved  weight  environments\n",
            "checkout         800.0      3.50     2.80 ",
            "big reports        4.0    500.00     2.00 ",
            "Asked for: 99 % wait no longer than 10 ms.\n",
            "max_connections = 60 leaves pgweir 50 (10 are kept for others): it fits.\n",
            "[tenants.\"big reports\"]\nmatch = { user = \"big reports\" }\nreserved_server_connections = 2\nweight = 42\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_a_warning_and_no_configuration() {
        let short = plan(&format!("max_connections = 16\n{TWO}")).to_string();
        assert!(
            short.contains("WARNING: max_connections = 16 leaves pgweir 6 (10 are kept for others), ")
                && short.contains(" too few. With 6: "),
            "{short}"
        );
        let hopeless = plan(&format!("max_connections = 13\n{TWO}")).to_string();
        assert!(hopeless.contains("and 4.8 would be busy all the time: the queue grows without end"), "{hopeless}");
        assert!(!short.contains("[upstreams.main]") && !hopeless.contains("[upstreams.main]"));
    }

    #[test]
    fn shares_are_written_without_idle_digits() {
        assert_eq!([0.0, 0.00004, 0.5, 0.999, 1.2].map(percent), ["0 %", "0 %", "50 %", "99.9 %", "120 %"]);
    }
}
