//! `pgweir check FILE`: every mistake of a configuration, with its place and a remedy.

use std::io::{self, Write};
use std::path::Path;

use crate::config::{Config, Loaded, Variables};

/// Checks a file as `serve` would read it, and prints what it finds. The answer is the exit code: 0 when the configuration can be used, 1 when not.
pub fn check(file: &Path, upstream_url: Option<&str>, variables: &Variables, out: &mut dyn Write) -> io::Result<u8> {
    let (mistakes, loaded) = match Config::load(Some(file), upstream_url, variables) {
        Ok(Loaded { config, warnings }) => (warnings, Some(config)),
        Err(mistakes) => (mistakes, None),
    };
    for mistake in &mistakes {
        writeln!(out, "{mistake}\n")?;
    }
    let errors = mistakes.iter().filter(|mistake| mistake.is_error()).count();
    let warnings = counted(mistakes.len() - errors, "warning");
    let Some(config) = loaded else {
        writeln!(out, "{}: {}, {warnings}", file.display(), counted(errors, "error"))?;
        return Ok(1);
    };
    let databases = config.databases.len() + usize::from(config.any_database.is_some());
    let summary = [
        counted(config.upstreams.len(), "upstream"),
        counted(databases, "database"),
        counted(config.users.len(), "user"),
        counted(config.tenants.len() - 1, "tenant"),
        warnings,
    ];
    writeln!(out, "{}: ok: {}", file.display(), summary.join(", "))?;
    Ok(0)
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// The process's environment, as [`Config::load`] takes it. A value that is no UTF-8 is left out: no setting could hold it.
pub fn process_variables() -> Variables {
    let pairs = std::env::vars_os();
    pairs.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> (u8, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgweir.toml");
        std::fs::write(&file, text).unwrap();
        let mut out = Vec::new();
        let code = check(&file, None, &Variables::new(), &mut out).unwrap();
        let told = String::from_utf8(out).unwrap();
        (code, told.replace(&format!("{}/", folder.path().display()), ""))
    }

    const GOOD: &str = "[upstreams.main]\nhost = \"db\"\n[databases.\"*\"]\nupstream = \"main\"\n[users.app]\npassword = \"x\"\n";

    #[test]
    fn a_good_file_is_summed_up() {
        let told = "pgweir.toml: ok: 1 upstream, 1 database, 1 user, 0 tenants, 0 warnings\n";
        assert_eq!(checked(GOOD), (0, told.to_owned()));
        let (code, told) = checked(&format!("{GOOD}[auth]\ntrust_networks = [\"0.0.0.0/0\"]\n"));
        assert_eq!(code, 0);
        assert!(told.contains("pgweir.toml:8:18: warning: ") && told.ends_with("0 tenants, 1 warning\n"), "{told}");
    }

    #[test]
    fn a_bad_file_is_told_line_by_line() {
        let text = GOOD.replace("host = \"db\"", "host = \"db\"\nmax_conections = 5\nserver_lifetime = \"1 hour\"");
        let told = "\
pgweir.toml:3:1: error: unknown key `max_conections`
  |
3 | max_conections = 5
  | ^^^^^^^^^^^^^^
  help: did you mean `max_connections`?

pgweir.toml:4:19: error: `hour` is no unit of time
  |
4 | server_lifetime = \"1 hour\"
  |                   ^^^^^^^^
  help: write a number with its unit, such as \"250ms\", \"5s\", \"1m30s\" or \"1h\" (units ms, s, m, h, d); \"0\" is off

pgweir.toml: 2 errors, 0 warnings
";
        assert_eq!(checked(&text), (1, told.to_owned()));
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let mut out = Vec::new();
        let code = check(Path::new("/nonexistent/pgweir.toml"), None, &Variables::new(), &mut out).unwrap();
        assert_eq!(code, 1);
        assert!(String::from_utf8(out).unwrap().starts_with("/nonexistent/pgweir.toml: error: cannot be read: "));
    }
}
