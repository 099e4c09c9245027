//! Secrets: `x`, or the variable `x_env`, or the file `x_file`; never two of them.

use std::path::Path;

use super::Compiling;
use crate::config::environment::variable_name;
use crate::config::secret::SecretText;

/// The three ways that a secret is written.
pub(super) struct Written<'a> {
    pub(super) text: Option<&'a SecretText>,
    pub(super) variable: Option<&'a str>,
    pub(super) file: Option<&'a Path>,
}

impl Compiling<'_, '_> {
    /// The secret that the table at `table` holds under `key`.
    pub(super) fn secret(&mut self, table: &[String], key: &str, written: &Written<'_>) -> Option<SecretText> {
        let at = |suffix: &str| [table, &[format!("{key}{suffix}")]].concat();
        let ways = [(written.text.is_some(), ""), (written.variable.is_some(), "_env"), (written.file.is_some(), "_file")];
        let mut given = ways.iter().filter(|(is_given, _)| *is_given).map(|(_, suffix)| suffix);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            let what = format!("`{key}{first}` and `{key}{second}` are both set");
            self.findings.error(&at(second), what, "keep one of them");
            // Which one was meant is not known; what follows goes on with any.
        }
        let secret = if let Some(text) = written.text {
            Some(text.clone())
        } else if let Some(variable) = written.variable {
            self.secret_of_variable(&at("_env"), variable)
        } else {
            self.secret_of_file(&at("_file"), written.file?)
        };
        let (at, suffix) = match (written.text, written.variable) {
            (Some(_), _) => (at(""), ""),
            (None, Some(_)) => (at("_env"), "_env"),
            (None, None) => (at("_file"), "_file"),
        };
        if let Some(secret) = secret.as_ref().filter(|secret| secret.reveal().is_empty()) {
            let what = format!("the secret that `{key}{suffix}` gives is empty");
            self.findings.error(&at, what, "nobody can log in with an empty password: give one, or leave the setting out");
            return Some(secret.clone());
        }
        if let Some(secret) = &secret {
            self.snapshot.resolve_secret(&[table, &[key.to_owned()]].concat(), secret);
        }
        secret
    }

    fn secret_of_variable(&mut self, at: &[String], variable: &str) -> Option<SecretText> {
        let found = self.variables.get(variable).map(|text| SecretText::new(text.clone()));
        if found.is_none() {
            let what = format!("the variable {variable} is not set");
            let remedy = format!("set it where pgweir starts, for example `export {variable}=..`");
            self.findings.error(at, what, remedy);
        }
        found
    }

    fn secret_of_file(&mut self, at: &[String], file: &Path) -> Option<SecretText> {
        let mut text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                let what = format!("the file {} cannot be read: {error}", file.display());
                self.findings.error(at, what, "name a file that pgweir's user may read");
                return None;
            }
        };
        // Editors and `echo` end the line; the newline is nobody's password.
        let end = text.trim_end_matches(['\r', '\n']).len();
        text.truncate(end);
        Some(SecretText::new(text))
    }

    /// For messages: both ways to give a secret that is missing.
    pub(super) fn ways_to_give(table: &[String], key: &str) -> String {
        let variable = variable_name(&[table, &[key.to_owned()]].concat());
        format!("`{key}`, `{key}_env`, `{key}_file` or the variable {variable}")
    }
}
