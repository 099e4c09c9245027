//! How proxies that share one budget part it among them: who takes a slot that is free, and who gives one up. Pure: what each holds and wants.
//!
//! Each decides for itself, from what it sees of all. What it sees may be a moment old: slots are taken by locks, of which there are no more than the budget has, so that nothing
//! that is decided here can exceed it. What is decided here is that nobody wants while another has more than it needs, and that nobody who wants has less than its equal part.

/// Another proxy, as it shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// How many slots it holds.
    pub held: u32,
    /// How many more it wants.
    pub wants: u32,
}

/// What this proxy has and needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// How many slots it holds.
    pub held: u32,
    /// How many it has a use for: those whose connections are open, and one for each client that waits.
    pub wanted: u32,
    /// The same, and some for clients to come, which are not worth anything that others may want.
    pub desired: u32,
    /// How many it cannot do without: those whose connections are at work, or kept for somebody.
    pub least: u32,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// So many slots more are to be taken, as far as they are free still.
    pub take: u32,
    /// So many are to be given up, as soon as their connections have ended.
    pub give: u32,
    /// How many are free, or were.
    pub free: u32,
}

/// What one proxy does next, of those that share `budget` slots.
pub fn decide(budget: u32, own: Own, others: &[Portion]) -> Decision {
    let wants = own.wanted.saturating_sub(own.held);
    let free = budget.saturating_sub(others.iter().fold(own.held, |sum, other| sum.saturating_add(other.held)));
    let demand = if wants > 0 { own.wanted } else { own.held.min(own.least) };
    let demands = others.iter().map(|other| other.held.saturating_add(other.wants)).chain([demand]);
    let fair = equal_part(budget, &demands.collect::<Vec<_>>());
    // What is due to others before anybody has more than an equal part.
    let due = others.iter().map(|other| other.wants.min(fair.saturating_sub(other.held))).fold(0, u32::saturating_add);
    let take = wants.min(free).min(free.saturating_sub(due).max(fair.saturating_sub(own.held)));
    let others_want = others.iter().fold(0, |sum: u32, other| sum.saturating_add(other.wants));
    let take = take.max(own.desired.saturating_sub(own.held).min(free.saturating_sub(others_want)));

    let unmet = others_want.saturating_sub(free);
    let content = others.iter().filter(|other| other.wants == 0).map(|other| other.held).fold(own.held, u32::saturating_add);
    let spare = if wants == 0 { own.held.saturating_sub(own.least).min(part_of(unmet, own.held, content)) } else { 0 };
    let beyond = own.held.saturating_sub(fair);
    let all_beyond = others.iter().map(|other| other.held.saturating_sub(fair)).fold(beyond, u32::saturating_add);
    let over = beyond.min(part_of(due.saturating_sub(free), beyond, all_beyond));
    Decision { take, give: spare.max(over), free }
}

/// What each has where the budget is divided so that nobody has less than another who wants as much, rounded down; all of it where it is enough for all.
fn equal_part(budget: u32, demands: &[u32]) -> u32 {
    let suffices = |part: u32| demands.iter().map(|demand| u64::from(*demand.min(&part))).sum::<u64>() <= u64::from(budget);
    let (mut least, mut most) = (0, budget);
    while least < most {
        let middle = most - (most - least) / 2;
        if suffices(middle) { least = middle } else { most = middle - 1 }
    }
    least
}

/// The part of `sum` that falls to one who has `own` of `all`, rounded up.
fn part_of(sum: u32, own: u32, all: u32) -> u32 {
    let part = (u64::from(sum) * u64::from(own)).div_ceil(u64::from(all.max(1)));
    u32::try_from(part).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A proxy: what it holds, and how many of these are at work or wanted.
    type Proxy = (u32, u32);

    /// What one of them sees of itself and of the others; its connections beyond what it needs are idle.
    fn sight(all: &[Proxy], at: usize) -> (Own, Vec<Portion>) {
        let (held, needs) = all[at];
        let others = all.iter().enumerate().filter(|(other, _)| *other != at);
        let others = others.map(|(_, (held, needs))| Portion { held: *held, wants: needs.saturating_sub(*held) }).collect();
        let wanted = held.max(needs);
        (Own { held, wanted, desired: wanted.max(2), least: needs }, others)
    }

    /// Lets them decide one after the other; whether anything changed.
    fn turn(budget: u32, all: &mut [Proxy]) -> bool {
        let before = all.to_vec();
        for at in 0..all.len() {
            let (own, others) = sight(all, at);
            let Decision { take, give, free } = decide(budget, own, &others);
            assert!(take <= free && give <= own.held && (take == 0 || give == 0), "{all:?}");
            all[at].0 = own.held + take - give;
            assert!(all.iter().map(|(held, _)| held).sum::<u32>() <= budget);
        }
        before != all
    }

    #[test]
    fn who_wants_takes_what_is_free_and_then_what_others_can_spare() {
        let portion = |held, wants| Portion { held, wants };
        let own = |held, wanted, least| Own { held, wanted, desired: wanted.max(2), least };
        let did = |budget, own, others: &[Portion]| {
            let Decision { take, give, .. } = decide(budget, own, others);
            (take, give)
        };
        assert_eq!(did(40, own(2, 12, 2), &[portion(20, 0)]), (10, 0), "there are enough");
        assert_eq!(did(40, own(2, 42, 2), &[portion(20, 0)]), (18, 0), "as many as there are");
        assert_eq!(did(40, own(38, 38, 6), &[portion(2, 10)]), (0, 10), "what the other wants, and no more");
        assert_eq!(did(40, own(38, 38, 33), &[portion(2, 10)]), (0, 10), "at work or not, as it has more than its part");
        assert_eq!(did(40, own(40, 60, 40), &[portion(0, 5)]), (0, 5), "who has more than its equal part gives, though it wants itself");
        assert_eq!(did(40, own(20, 60, 20), &[portion(20, 5)]), (0, 0), "all have the same");
        assert_eq!(did(40, own(10, 40, 10), &[portion(10, 30), portion(10, 0)]), (5, 0), "nobody takes what is due to another");
        assert_eq!(did(3, own(1, 9, 1), &[portion(1, 9)]), (1, 0), "one that is over is whose it is first");
        assert_eq!(did(3, own(2, 9, 2), &[portion(1, 9)]), (0, 0), "and stays there");
        assert_eq!(did(40, own(30, 30, 1), &[portion(0, 10), portion(10, 0)]), (0, 8), "others may have some to spare, too");
        assert_eq!(did(40, own(50, 50, 50), &[]), (0, 0));
        assert_eq!(did(40, own(0, 0, 0), &[portion(30, 0)]), (2, 0), "some for clients to come");
        assert_eq!(did(40, own(0, 0, 0), &[portion(30, 9)]), (1, 0), "which nobody else wants");
        assert_eq!(did(40, own(2, 2, 0), &[portion(38, 9)]), (0, 2), "or they are given up again");
    }

    proptest! {
        #[test]
        fn they_come_to_equal_parts_and_rest(
            budget in 1_u32..60,
            parts in proptest::collection::vec((0_u32..30, 0_u32..80), 1..7),
        ) {
            let mut left = budget;
            let mut all: Vec<Proxy> = parts.iter().map(|(held, needs)| {
                let held = (*held).min(left);
                left -= held;
                (held, *needs)
            }).collect();
            let mut turns = 0;
            while turn(budget, &mut all) {
                turns += 1;
                prop_assert!(turns < 40, "no rest: {all:?}");
            }
            let fair = equal_part(budget, &all.iter().map(|(_, needs)| *needs).collect::<Vec<_>>());
            let wants = all.iter().any(|(held, needs)| held < needs);
            for (held, needs) in &all {
                prop_assert!(*held >= fair.min(*needs), "{held} of {needs}, and {fair} for each: {all:?}");
                prop_assert!(!wants || held <= needs, "one has what it does not need while another wants: {all:?}");
            }
            let held: u32 = all.iter().map(|(held, _)| held).sum();
            prop_assert!(!wants || held == budget, "some are free while one wants: {all:?}");
        }
    }
}
