//! The startup parameter `options`, by PostgreSQL's own rules (`pg_split_opts` and `ParseLongOption`). Checklist A9.

use super::startup::Setting;

/// Why an `options` string is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOptions {
    /// A word that is neither `-c name=value` nor `--name=value`.
    #[error("invalid command-line argument for server process: {0}")]
    Argument(String),
    /// A setting without `=value`.
    #[error("{0} requires a value")]
    Value(String),
}

/// The settings that `options` names, in order.
///
/// Words are parted by white space; a backslash takes the next byte as it is. A word is `-c name=value`, `-cname=value` or `--name=value`,
/// and a dash in a name stands for an underscore.
pub fn split(options: &[u8]) -> Result<Vec<Setting>, BadOptions> {
    let mut settings = Vec::new();
    let mut words = words(options).into_iter();
    while let Some(word) = words.next() {
        let (shown, assignment) = match word.as_slice() {
            [b'-', b'-', assignment @ ..] if !assignment.is_empty() => ("--", assignment.to_vec()),
            b"-c" => ("-c ", words.next().ok_or_else(|| BadOptions::Value("-c".to_owned()))?),
            [b'-', b'c', assignment @ ..] => ("-c ", assignment.to_vec()),
            _ => return Err(BadOptions::Argument(String::from_utf8_lossy(&word).into_owned())),
        };
        settings.push(setting(shown, &assignment)?);
    }
    Ok(settings)
}

fn setting(shown: &str, assignment: &[u8]) -> Result<Setting, BadOptions> {
    let missing = || BadOptions::Value(format!("{shown}{}", String::from_utf8_lossy(assignment)));
    let equals = memchr::memchr(b'=', assignment).ok_or_else(missing)?;
    let (name, value) = assignment.split_at_checked(equals).ok_or_else(missing)?;
    if name.is_empty() {
        return Err(missing());
    }
    let name = name.iter().map(|byte| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() }).collect();
    Ok(Setting { name, value: value.get(1..).unwrap_or_default().into() })
}

fn words(options: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = options.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => words.extend(word.take()),
            b'\\' => {
                let word = word.get_or_insert_default();
                word.extend(bytes.next());
            }
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(options: &str) -> Result<Vec<(String, String)>, BadOptions> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(split(options.as_bytes())?.iter().map(|setting| (text(&setting.name), text(&setting.value))).collect())
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_three_spellings() {
        let expected = owned(&[("search_path", "a"), ("statement_timeout", "5s"), ("work_mem", "1MB")]);
        assert_eq!(pairs("-c search_path=a -cstatement_timeout=5s  --work-mem=1MB"), Ok(expected));
    }

    #[test]
    fn a_backslash_takes_the_next_byte() {
        assert_eq!(pairs(r"-c a.b=x\ y\\z"), Ok(owned(&[("a.b", r"x y\z")])));
        assert_eq!(pairs(r"-c a.b=\"), Ok(owned(&[("a.b", "")])));
    }

    #[test]
    fn empty_values_and_values_with_equals_are_legal() {
        assert_eq!(pairs("-c a.b= -c c.d=x=y"), Ok(owned(&[("a.b", ""), ("c.d", "x=y")])));
    }

    #[test]
    fn what_postgresql_refuses_is_refused() {
        assert_eq!(pairs("-c"), Err(BadOptions::Value("-c".into())));
        assert_eq!(pairs("-c work_mem"), Err(BadOptions::Value("-c work_mem".into())));
        assert_eq!(pairs("--work-mem"), Err(BadOptions::Value("--work-mem".into())));
        assert_eq!(pairs("plain"), Err(BadOptions::Argument("plain".into())));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = split(&bytes);
        }

        #[test]
        fn any_value_survives_escaping(value in "[ -~]{0,20}") {
            let escaped: String = value.chars().flat_map(|c| if c == ' ' || c == '\\' { vec!['\\', c] } else { vec![c] }).collect();
            prop_assert_eq!(pairs(&format!("-c a.b={escaped}")), Ok(vec![("a.b".to_owned(), value)]));
        }
    }
}
