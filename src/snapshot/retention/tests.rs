//! Golden tables, and what holds for every list.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::{Kept, Rules, judge};
use crate::config::Keep;
use crate::outcome::Outcome;

/// `c05` is complete, of the fifth of November 2026; `p` is partial, `?` unknown, `!` complete and pinned.
fn kept(short: &str) -> Kept {
    let outcome = match &short[..1] {
        "c" | "!" => Some(Outcome::Complete),
        "p" => Some(Outcome::Partial),
        _ => None,
    };
    let name = if short.len() > 3 { short[1..].to_owned() } else { format!("202611{}T023000Z", &short[1..]) };
    Kept { name, outcome, pinned: short.starts_with('!') }
}

fn now() -> Timestamp {
    "2026-11-20T02:30:00Z".parse().unwrap()
}

fn gone(have: &[Kept], keep: Keep, protect: &[&str], zone: &str) -> Vec<String> {
    let zone = TimeZone::get(zone).unwrap();
    let verdicts = judge(have, &Rules { keep, protect, zone: &zone, now: now() });
    verdicts.into_iter().filter(|verdict| verdict.reasons.is_empty()).map(|verdict| verdict.name).collect()
}

fn last(last: u16) -> Keep {
    Keep { last, ..Keep::NONE }
}

#[test]
fn the_golden_table_of_the_last_ones() {
    for (have, keep, protect, expected) in [
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
        // pinned ones stay and don't count
        ("!01 c02 c03 !04", 1, "", "c02"),
        ("!01 !02", 1, "", ""),
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
        assert_eq!(gone(&have, last(keep), &protect, "UTC"), names(expected), "{have:?} {keep}");
    }
    let by_hand = ["a", "b", "2026"].map(|name| Kept { name: name.into(), outcome: Some(Outcome::Complete), pinned: false });
    assert_eq!(gone(&by_hand, last(1), &[], "UTC"), Vec::<String>::new());
}

#[test]
fn the_golden_table_of_the_calendar() {
    let none = last(1);
    for (keep, zone, have, expected) in [
        // the newest of each day, whatever its hour
        (
            Keep { daily: 2, ..none },
            "UTC",
            "c20261117T010000Z c20261118T010000Z c20261118T230000Z c20261119T010000Z",
            "20261117T010000Z 20261118T010000Z",
        ),
        // days are those of the time zone: 23:30 UTC is the next day in Zurich
        (Keep { daily: 2, ..none }, "Europe/Zurich", "c20261117T233000Z c20261118T010000Z c20261118T233000Z", "20261117T233000Z"),
        (Keep { daily: 2, ..none }, "UTC", "c20261117T233000Z c20261118T010000Z c20261118T233000Z", "20261118T010000Z"),
        // days without a snapshot don't count
        (
            Keep { daily: 3, ..none },
            "UTC",
            "c20260101T000000Z c20260301T000000Z c20261101T000000Z c20261102T000000Z",
            "20260101T000000Z",
        ),
        // ISO weeks: Monday the 28th of December 2020 begins 2020-W53, which Sunday the 3rd of January 2021 ends
        (
            Keep { weekly: 2, ..none },
            "UTC",
            "c20201227T000000Z c20201228T000000Z c20210103T000000Z c20210104T000000Z",
            "20201227T000000Z 20201228T000000Z",
        ),
        // months and years
        (
            Keep { monthly: 2, yearly: 2, ..none },
            "UTC",
            "c20240101T000000Z c20251230T000000Z c20251231T000000Z c20261001T000000Z c20261031T000000Z c20261101T000000Z",
            "20240101T000000Z 20251230T000000Z 20261001T000000Z",
        ),
        // the hour that comes twice is two hours
        (
            Keep { hourly: 3, ..none },
            "Europe/Zurich",
            "c20261024T233000Z c20261025T003000Z c20261025T013000Z c20261025T014500Z",
            "20261025T013000Z",
        ),
        // every rule for itself
        (
            Keep { daily: 1, monthly: 3, ..last(2) },
            "UTC",
            "c20260815T000000Z c20260915T000000Z c20261015T000000Z c20261117T000000Z c20261118T000000Z",
            "20260815T000000Z",
        ),
    ] {
        let have: Vec<Kept> = have.split_whitespace().map(kept).collect();
        assert_eq!(gone(&have, keep, &[], zone), expected.split_whitespace().collect::<Vec<_>>(), "{have:?} {keep}");
    }
}

#[test]
fn the_reasons_are_told() {
    let have: Vec<Kept> = ["c01", "!02", "?03", "p04", "c19", "c29"].map(kept).into();
    let keep = Keep { daily: 1, ..last(1) };
    let verdicts = judge(&have, &Rules { keep, protect: &[], zone: &TimeZone::UTC, now: now() });
    let told: Vec<String> =
        verdicts.iter().map(|verdict| format!("{} {}", &verdict.name[6..8], verdict.reasons.join(", "))).collect();
    let expected = [
        "01 ",
        "02 pinned",
        "03 not known to be good or bad",
        "04 partial",
        "19 last, day 2026-11-19",
        "29 its time hasn't come yet",
    ];
    assert_eq!(told, expected);
}

fn any_list() -> impl Strategy<Value = Vec<Kept>> {
    let outcome = prop_oneof![Just("c"), Just("p"), Just("?"), Just("!")];
    vec(outcome, 0..28).prop_flat_map(|outcomes| {
        let list: Vec<Kept> = (1..).zip(outcomes).map(|(day, letter)| kept(&format!("{letter}{day:02}"))).collect();
        Just(list).prop_shuffle()
    })
}

fn any_keep() -> impl Strategy<Value = Keep> {
    (0..4_u16, 0..3_u16, 0..4_u16, 0..3_u16, 0..3_u16, 0..2_u16).prop_map(|(last, hourly, daily, weekly, monthly, yearly)| Keep {
        last,
        hourly,
        daily,
        weekly,
        monthly,
        yearly,
    })
}

proptest! {
    #[test]
    fn the_newest_stay_and_so_does_all_that_is_not_counted(list in any_list(), keep in any_keep()) {
        let gone = gone(&list, keep, &[], "UTC");
        for outcome in [Outcome::Complete, Outcome::Partial] {
            let past = |kept: &&Kept| kept.outcome == Some(outcome) && !kept.pinned && *kept.name <= *"20261120T023000Z";
            let mut past: Vec<&str> = list.iter().filter(past).map(|kept| kept.name.as_str()).collect();
            past.sort_unstable();
            let newest = past.iter().rev().take(usize::from(keep.last.max(1)));
            prop_assert!(newest.clone().all(|name| !gone.iter().any(|gone| gone == name)));
        }
        let untouchable = |kept: &&Kept| kept.pinned || kept.outcome.is_none() || *kept.name > *"20261120T023000Z";
        prop_assert!(list.iter().filter(untouchable).all(|kept| !gone.contains(&kept.name)));
    }

    #[test]
    fn the_order_is_irrelevant_and_a_second_time_removes_nothing(list in any_list(), keep in any_keep()) {
        let first = gone(&list, keep, &[], "UTC");
        let mut sorted = list.clone();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        prop_assert_eq!(&gone(&sorted, keep, &[], "UTC"), &first);
        let left: Vec<Kept> = list.into_iter().filter(|kept| !first.contains(&kept.name)).collect();
        prop_assert_eq!(gone(&left, keep, &[], "UTC"), Vec::<String>::new());
    }

    #[test]
    fn more_is_never_less(list in any_list(), keep in any_keep()) {
        let more = Keep { last: keep.last + 1, daily: keep.daily + 1, monthly: keep.monthly + 1, ..keep };
        let gone_with_more = gone(&list, more, &[], "UTC");
        let gone = gone(&list, keep, &[], "UTC");
        prop_assert!(gone_with_more.iter().all(|name| gone.contains(name)));
    }
}
