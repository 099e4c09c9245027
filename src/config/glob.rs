//! Globs of tenant rules: `*` is any run of characters, `?` any one, everything else itself.
//! Matching takes at most pattern x text steps, whatever the pattern, and allocates nothing.

use std::fmt;
use std::str::FromStr;

use super::value::Unfit;

/// A pattern such as `acme_*`. Case counts; `\` takes the next character as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Exactly(char),
    AnyOne,
    AnyRun,
}

impl Glob {
    /// Whether the whole text fits the pattern.
    pub fn matches(&self, text: &str) -> bool {
        let mut rest = text.chars();
        let mut at = 0;
        // Where to go on from when what follows the last `*` does not fit: one character further.
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let before = rest.clone();
            let (part, next) = (self.parts.get(at).copied(), rest.next());
            let fits = match (part, next) {
                (None, None) => return true,
                (Some(Part::AnyRun), _) => {
                    at += 1;
                    rest = before.clone();
                    retry = Some((at, before));
                    continue;
                }
                (Some(Part::AnyOne), Some(_)) => true,
                (Some(Part::Exactly(wanted)), Some(found)) => wanted == found,
                (None, Some(_)) | (Some(_), None) => false,
            };
            if fits {
                at += 1;
                continue;
            }
            let Some((after_star, mut from)) = retry.take() else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            at = after_star;
            rest = from.clone();
            retry = Some((after_star, from));
        }
    }

    /// The one text that fits, when the pattern has no wildcard.
    pub fn literal(&self) -> Option<String> {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Exactly(c) => Some(*c),
                Part::AnyOne | Part::AnyRun => None,
            })
            .collect()
    }
}

impl FromStr for Glob {
    type Err = Unfit;

    fn from_str(source: &str) -> Result<Self, Unfit> {
        if source.is_empty() {
            return Err(Unfit::new("an empty pattern matches nothing", "write a name, or `*` for any"));
        }
        let mut parts = Vec::with_capacity(source.len());
        let mut characters = source.chars();
        while let Some(c) = characters.next() {
            let part = match c {
                '*' if parts.last() == Some(&Part::AnyRun) => continue,
                '*' => Part::AnyRun,
                '?' => Part::AnyOne,
                '\\' => Part::Exactly(
                    characters.next().ok_or_else(|| Unfit::new("the pattern ends in a lone `\\`", "write `\\\\` for a backslash"))?,
                ),
                other => Part::Exactly(other),
            };
            parts.push(part);
        }
        Ok(Self { source: source.to_owned(), parts })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, text: &str) -> bool {
        pattern.parse::<Glob>().unwrap().matches(text)
    }

    #[test]
    fn wildcards_match_what_they_say() {
        assert!(fits("acme_*", "acme_"));
        assert!(fits("acme_*", "acme_app"));
        assert!(!fits("acme_*", "acme"));
        assert!(fits("*", ""));
        assert!(fits("*a*b", "xxaxxbab"));
        assert!(!fits("*a*b", "xxaxxba"));
        assert!(fits("h?t", "hat"));
        assert!(fits("h?t", "hüt"));
        assert!(!fits("h?t", "ht"));
        assert!(fits(r"a\*", "a*"));
        assert!(!fits(r"a\*", "ab"));
        assert!(!fits("Acme", "acme"));
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let text = "a".repeat(2_000);
        assert!(!fits(&format!("{}b", "*a".repeat(40)), &text));
    }

    #[test]
    fn what_has_no_wildcard_is_literal() {
        assert_eq!("app".parse::<Glob>().unwrap().literal().as_deref(), Some("app"));
        assert_eq!("a*".parse::<Glob>().unwrap().literal(), None);
        assert!("".parse::<Glob>().is_err());
        assert!("a\\".parse::<Glob>().is_err());
    }
}
