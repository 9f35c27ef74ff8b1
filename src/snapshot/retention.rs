//! Which snapshots of a source have to go: a decision, and nothing else.
//!
//! - The newest `keep` complete ones stay.
//! - The newest `keep` partial ones stay beside them. Counted apart, a partial one never pushes out a complete one, and a
//!   source that is partial for months can't fill the disk.
//! - One of which nothing is known (its index is missing or damaged) stays and doesn't count: it may be good or not, and a
//!   person has to look.
//! - One whose name is no time, or a time that hasn't come yet, stays and doesn't count either. The clock was wrong once, or
//!   is wrong now. Counted as the newest, two weeks of nights from a wrong clock would push out every new snapshot as soon as
//!   it is made. Counted as the oldest, a clock set back would remove all that is good. They wait until their time has come,
//!   or a person removes them.

use jiff::Timestamp;

use crate::outcome::Outcome;
use crate::snapshot::list::time_of;

/// What retention knows of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// What its index says; none when that can't be told.
    pub outcome: Option<Outcome>,
}

/// The names of those of `snapshots`, in any order, that are to be removed `now`, from the oldest to the newest.
///
/// At least one complete one always stays: a `keep` of 0 is taken for 1. Names in `protect` stay too, and count.
pub fn surplus(snapshots: &[Kept], keep: u16, protect: &[&str], now: Timestamp) -> Vec<String> {
    let mut names = Vec::new();
    for outcome in [Outcome::Complete, Outcome::Partial] {
        let counts =
            |snapshot: &&Kept| snapshot.outcome == Some(outcome) && time_of(&snapshot.name).is_some_and(|time| time <= now);
        let mut counted: Vec<&str> = snapshots.iter().filter(counts).map(|snapshot| snapshot.name.as_str()).collect();
        counted.sort_unstable();
        let stay = usize::from(keep.max(1)).min(counted.len());
        counted.truncate(counted.len() - stay);
        names.extend(counted.into_iter().filter(|name| !protect.contains(name)).map(String::from));
    }
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::collection::vec;
    use proptest::prelude::{Just, Strategy, prop_oneof};
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::{Kept, surplus};
    use crate::outcome::Outcome;

    /// `c05` is complete, of the fifth of November; `p` is partial, `?` unknown.
    fn kept(short: &str) -> Kept {
        let outcome = match &short[..1] {
            "c" => Some(Outcome::Complete),
            "p" => Some(Outcome::Partial),
            _ => None,
        };
        Kept { name: format!("202611{}T023000Z", &short[1..]), outcome }
    }

    fn now() -> Timestamp {
        "2026-11-20T02:30:00Z".parse().unwrap()
    }

    #[test]
    fn the_golden_table() {
        for (have, keep, protect, gone) in [
            ("", 3, "", ""),
            ("c01", 1, "", ""),
            ("c01 c02", 1, "", "c01"),
            ("c01 c02 c03 c04", 2, "", "c01 c02"),
            ("c03 c01 c04 c02", 2, "", "c01 c02"),
            ("c01 c02", 3, "", ""),
            // 0 is not a way to lose everything
            ("c01 c02", 0, "", "c01"),
            // partial ones are counted apart, both ways
            ("c01 p02 p03 p04 p05", 2, "", "p02 p03"),
            ("c01 c02 c03 p04 p05", 2, "", "c01"),
            ("p01 p02 c03", 1, "", "p01"),
            ("p01 p02 p03", 2, "", "p01"),
            // unknown ones stay and don't count
            ("?01 c02 ?03 c04 ?05", 1, "", "c02"),
            ("?01 ?02 ?03", 1, "", ""),
            // protected ones stay and count
            ("c01 c02 c03 c04", 2, "c01", "c02"),
            ("c01 c02 c03 c04", 2, "c04", "c01 c02"),
            // those that haven't been yet stay and don't count: today is the 20th
            ("c01 c02 c20 c21 c29", 2, "", "c01"),
            ("c18 c19 c21 c22 c23", 2, "", ""),
            ("c21 c22 c23 p24 p25", 1, "", ""),
        ] {
            let have: Vec<Kept> = have.split_whitespace().map(kept).collect();
            let names = |text: &str| text.split_whitespace().map(|short| kept(short).name).collect::<Vec<_>>();
            let protect = names(protect);
            let protect: Vec<&str> = protect.iter().map(String::as_str).collect();
            assert_eq!(surplus(&have, keep, &protect, now()), names(gone), "{have:?} {keep}");
        }
        let by_hand = ["a", "b", "2026"].map(|name| Kept { name: name.into(), outcome: Some(Outcome::Complete) });
        assert_eq!(surplus(&by_hand, 1, &[], now()), Vec::<String>::new());
    }

    fn any_list() -> impl Strategy<Value = Vec<Kept>> {
        let outcome = prop_oneof![Just("c"), Just("p"), Just("?")];
        vec(outcome, 0..28).prop_flat_map(|outcomes| {
            let list: Vec<Kept> = (1..).zip(outcomes).map(|(day, letter)| kept(&format!("{letter}{day:02}"))).collect();
            Just(list).prop_shuffle()
        })
    }

    fn past(list: &[Kept], outcome: Outcome) -> Vec<&Kept> {
        let mut past: Vec<&Kept> =
            list.iter().filter(|kept| kept.outcome == Some(outcome) && *kept.name <= *"20261120T023000Z").collect();
        past.sort_by(|a, b| a.name.cmp(&b.name));
        past
    }

    proptest! {
        #[test]
        fn the_newest_stay_and_no_more_go_than_needed(list in any_list(), keep in 0_u16..6) {
            let gone = surplus(&list, keep, &[], now());
            for outcome in [Outcome::Complete, Outcome::Partial] {
                let (stay, go): (Vec<&Kept>, Vec<&Kept>) =
                    past(&list, outcome).into_iter().partition(|kept| !gone.contains(&kept.name));
                prop_assert_eq!(stay.len(), past(&list, outcome).len().min(usize::from(keep.max(1))));
                prop_assert!(go.iter().all(|go| stay.iter().all(|stay| go.name < stay.name)));
            }
            let untouchable = |kept: &&Kept| kept.outcome.is_none() || *kept.name > *"20261120T023000Z";
            prop_assert!(list.iter().filter(untouchable).all(|kept| !gone.contains(&kept.name)));
        }

        #[test]
        fn the_order_is_irrelevant_and_a_second_time_removes_nothing(list in any_list(), keep in 0_u16..6) {
            let gone = surplus(&list, keep, &[], now());
            let mut sorted = list.clone();
            sorted.sort_by(|a, b| a.name.cmp(&b.name));
            prop_assert_eq!(&surplus(&sorted, keep, &[], now()), &gone);
            let left: Vec<Kept> = list.into_iter().filter(|kept| !gone.contains(&kept.name)).collect();
            prop_assert_eq!(surplus(&left, keep, &[], now()), Vec::<String>::new());
        }
    }
}
