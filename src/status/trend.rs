//! How long the disk will last.

use jiff::Timestamp;

use crate::space::Space;

/// From how few points on nothing is foretold.
const LEAST: usize = 5;

/// How far apart the oldest and the newest point are at least, in seconds: five nights.
const LEAST_SPAN: i128 = 4 * 86_400;

/// How far apart two points are at least, in seconds, for a slope between them to count: what runs within a few minutes
/// leave, as when somebody tries things out, isn't what a night leaves.
const LEAST_APART: i128 = 43_200;

/// How many of the newest points count: two months of nights. What was longer ago says little of the next weeks.
const MOST: usize = 60;

/// What is called for ever, in days: ten years.
const EVER: u64 = 3650;

/// In how many days the disk is full, if its free space goes on shrinking as it does. `points` go from the oldest to the
/// newest. None when it doesn't shrink, when there are too few points or they lie too close together, or when it would last for
/// ten years.
///
/// The rate is the median of the slopes between all pairs of points (Theil and Sen's estimator): one odd night doesn't turn
/// it over, and what is pruned once a week is taken off. Points from before another disk was put in, which has
/// another size, don't count.
pub fn days_left(points: &[(Timestamp, Space)]) -> Option<u64> {
    let (_, now) = points.last()?;
    let same = points.iter().rev().take_while(|(_, space)| space.total == now.total).take(MOST);
    let points: Vec<(i128, i128)> = same.map(|(time, space)| (i128::from(time.as_second()), i128::from(space.free))).collect();
    let (newest, oldest) = (points.first()?.0, points.last()?.0);
    if points.len() < LEAST || newest - oldest < LEAST_SPAN {
        return None;
    }
    let mut rates = Vec::new();
    for (index, (later, after)) in points.iter().enumerate() {
        let earlier = points[index + 1..].iter().filter(|(earlier, _)| later - earlier >= LEAST_APART);
        rates.extend(earlier.map(|(earlier, before)| (after - before) * 86_400 / (later - earlier)));
    }
    rates.sort_unstable();
    let daily = *rates.get(rates.len() / 2)?;
    let days = u64::try_from(i128::from(now.free) / (daily < 0).then_some(-daily)?).ok()?;
    (days < EVER).then_some(days)
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::days_left;
    use crate::space::Space;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_days_left_are_those_at_the_usual_rate() {
        for (free, left, why) in [
            (vec![], None, "nothing is known"),
            (vec![100, 99, 98, 97], None, "four points are too few"),
            (vec![100, 99, 98, 97, 96], Some(96), "a GiB a day"),
            (vec![100, 98, 96, 94, 92], Some(46), "two"),
            (vec![100, 99, 98, 97, 130, 95, 94, 93], Some(93), "one odd night changes nothing"),
            (vec![100, 99, 98, 97, 50, 95, 94, 93], Some(93), "nor does the opposite"),
            (vec![100, 98, 96, 100, 98, 96, 100, 98, 96, 100], None, "what grows is pruned in time"),
            (vec![96, 97, 98, 99, 100], None, "it grows"),
            (vec![100; 9], None, "it stays"),
            (vec![5, 4, 3, 2, 1, 0], Some(0), "it is full"),
        ] {
            let points = free.iter().enumerate().map(|(day, free)| point(day, *free, 200));
            assert_eq!(days_left(&points.collect::<Vec<_>>()), left, "{why}");
        }
    }

    #[test]
    fn another_disk_begins_anew() {
        let mut points: Vec<_> = (0..9).map(|day| point(day, 100 - day as u64, 200)).collect();
        assert_eq!(days_left(&points), Some(92));
        points.extend((9..12).map(|day| point(day, 900, 1000)));
        assert_eq!(days_left(&points), None);
    }

    #[test]
    fn a_clock_that_stood_still_or_went_back_is_no_trouble() {
        assert_eq!(days_left(&[point(3, 100, 200); 6]), None);
        let back: Vec<_> = [5, 4, 3, 2, 1].into_iter().map(|day| point(day, 90 + day as u64, 200)).collect();
        assert_eq!(days_left(&back), None);
    }

    #[test]
    fn runs_within_minutes_are_no_nights() {
        let minutes = |after: i64, free: u64| {
            let (time, space) = point(4, free, 200);
            (time + SignedDuration::from_mins(after), space)
        };
        let tried: Vec<_> = (1..=5).map(|run| minutes(run, 96 - run.unsigned_abs())).collect();
        assert_eq!(days_left(&tried), None);
        let mut points: Vec<_> = (0..5).map(|day| point(day, 100 - day as u64, 200)).collect();
        points.extend(tried);
        assert!(days_left(&points).is_some_and(|days| days > 30), "{:?}", days_left(&points));
        let short: Vec<_> = (0..4).map(|day| point(day, 100 - day as u64, 200)).chain([minutes(-1, 96)]).collect();
        assert_eq!(days_left(&short), None, "four nights and a bit");
    }

    fn point(day: usize, free: u64, total: u64) -> (Timestamp, Space) {
        let first: Timestamp = "2026-11-01T02:30:00Z".parse().unwrap();
        let time = first + SignedDuration::from_hours(24 * i64::try_from(day).unwrap());
        (time, Space { free: free * GIB, total: total * GIB })
    }
}
