//! What is known about a caller that came out badly, and about how long the others took.

use std::time::Duration;

use tokio_postgres::error::SqlState;

/// What pgweir may tell a client that it cannot serve now.
pub(super) const DOCUMENTED_REFUSALS: [SqlState; 6] = [
    SqlState::TOO_MANY_CONNECTIONS,
    SqlState::QUERY_CANCELED,
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CONNECTION_FAILURE,
    SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
];

/// An error with its causes, outermost first.
pub(super) fn words_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What `per_mille` of them stayed within (nearest rank), of latencies in ascending order; `None` of none.
pub(super) fn nearest_rank(ascending: &[Duration], per_mille: usize) -> Option<Duration> {
    let rank = (ascending.len() * per_mille).div_ceil(1000);
    ascending.get(rank.checked_sub(1)?).copied()
}

/// 1000 as `1,000`.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let to = |last: u64| (1..=last).map(Duration::from_millis).collect::<Vec<_>>();
        let milliseconds = |per_mille| nearest_rank(&to(200), per_mille).map(|latency| latency.as_millis());
        assert_eq!([500, 950, 990, 999].map(milliseconds), [Some(100), Some(190), Some(198), Some(200)]);
        assert_eq!(nearest_rank(&to(1), 500), Some(Duration::from_millis(1)));
        assert_eq!(nearest_rank(&[], 990), None);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 20_000, 1_234_567].map(grouped), ["0", "999", "1,000", "20,000", "1,234,567"]);
    }
}
