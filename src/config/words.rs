//! Words: which known one was probably meant, and how a path of keys is written.

/// The candidate that is nearest to a word, when it is near enough to be a slip of the hand.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    // Bounds the work on hostile keys; nobody mistypes that much.
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    let cell = |rows: &[Vec<usize>], i: usize, j: usize| rows.get(i).and_then(|row| row.get(j)).copied().unwrap_or(usize::MAX / 2);
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let left = row.last().copied().unwrap_or(0) + 1;
            let replaced = cell(&rows, i, j) + usize::from(x != y);
            let mut best = left.min(cell(&rows, i, j + 1) + 1).min(replaced);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(cell(&rows, i - 1, j - 1) + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    cell(&rows, a.len(), b.len())
}

/// The path as it would be written in TOML.
pub(super) fn dotted(path: &[String]) -> String {
    let bare = |key: &&String| !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    let keys = path.iter().map(|key| if bare(&key) { key.clone() } else { format!("{key:?}") });
    keys.collect::<Vec<_>>().join(".")
}

/// A path from its keys.
pub(super) fn path<const N: usize>(keys: [&str; N]) -> Vec<String> {
    keys.into_iter().map(str::to_owned).collect()
}

/// `"a", "b" or "c"`.
pub(super) fn either<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let keys = ["max_connections", "min_idle", "host", "port"];
        assert_eq!(nearest("max_conections", keys), Some("max_connections"));
        assert_eq!(nearest("hsot", keys), Some("host"));
        assert_eq!(nearest("Port", keys), Some("port"));
        assert_eq!(nearest("colour", keys), None);
    }

    #[test]
    fn paths_are_written_as_in_toml() {
        assert_eq!(dotted(&path(["databases", "*", "upstream"])), "databases.\"*\".upstream");
    }
}
