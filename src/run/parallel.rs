//! Work on several things at once, up to a limit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// What `work` makes of each of `items`, in their order; up to `most` are at work at once, begun in that order.
pub fn map<T: Sync, R: Send>(items: &[T], most: usize, work: &(dyn Fn(&T) -> R + Sync)) -> Vec<R> {
    let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let take = || {
        while let Some((number, item)) = items.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let result = work(item);
            made.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..most.min(items.len()).max(1) {
            scope.spawn(take);
        }
    });
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::map;

    #[test]
    fn results_are_in_order_and_no_more_than_the_limit_are_at_work() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |number: &u64| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(20 - 2 * number));
            now.fetch_sub(1, Ordering::SeqCst);
            number * 10
        };
        assert_eq!(map(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 3, &work), [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
        assert!(most.into_inner() <= 3);
        // Each waits for the other: one after the other they never ended.
        let both = Barrier::new(2);
        assert_eq!(map(&[1, 2], 2, &|number| (both.wait(), *number).1), [1, 2]);
        assert!(map::<u64, u64>(&[], 2, &|_| unreachable!()).is_empty());
    }
}
