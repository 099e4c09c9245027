//! Log lines that would come by the thousand: one of a kind is logged at once, those that follow within a second are counted and told together.

use crate::net::Moment;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// For so long lines of a kind are folded into the one before.
const WINDOW: Duration = Duration::from_secs(1);
/// So many kinds are told apart at a time; lines of further ones are logged each.
const KINDS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Fold {
    since: Moment,
    folded: u32,
}

/// One worker's lines, by their kind.
#[derive(Debug, Default)]
pub struct Folding<K>(RefCell<HashMap<K, Fold, foldhash::fast::RandomState>>);

impl<K: Copy + Eq + Hash> Folding<K> {
    /// Whether a line of this kind is to be logged now; else it is counted.
    pub fn is_first(&self, kind: K, now: Moment) -> bool {
        let mut folds = self.0.borrow_mut();
        if let Some(fold) = folds.get_mut(&kind) {
            fold.folded = fold.folded.saturating_add(1);
            return false;
        }
        if folds.len() < KINDS {
            folds.insert(kind, Fold { since: now, folded: 0 });
        }
        true
    }

    /// The kinds whose time is over, each with how many lines of it were counted and not logged.
    pub fn due(&self, now: Moment) -> Vec<(K, u32)> {
        let mut due = Vec::new();
        self.0.borrow_mut().retain(|kind, fold| {
            if now.saturating_duration_since(fold.since) < WINDOW {
                return true;
            }
            let folded = std::mem::replace(fold, Fold { since: now, folded: 0 }).folded;
            if folded > 0 {
                due.push((*kind, folded));
            }
            folded > 0
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_by_the_thousand_is_told_once_a_second() {
        let (folding, start) = (Folding::<usize>::default(), Moment::START);
        assert!(folding.is_first(3, start) && folding.is_first(0, start));
        assert!((0..1000).all(|_| !folding.is_first(3, start)));
        assert_eq!(folding.due(start + WINDOW / 2), []);
        assert_eq!(folding.due(start + WINDOW), [(3, 1000)], "nothing more of the other kind has come");
        assert!(!folding.is_first(3, start + WINDOW), "a storm that goes on is still one");
        assert_eq!(folding.due(start + 2 * WINDOW), [(3, 1)]);
        assert_eq!(folding.due(start + 3 * WINDOW), []);
        assert!(folding.is_first(3, start + 3 * WINDOW), "and the next is logged at once");
    }
}
