//! How much may wait in the queue, and how often a mail may be refused.
//!
//! A mail's refusals are counted in its name: `NAME.eml`, then `NAME.1.eml` and so on. `NAME` has no dot.

/// How many mails wait at most: two months of nights.
pub const MOST: usize = 60;

/// How many bytes they have at most, so that large logs don't fill root.
pub const MOST_BYTES: u64 = 64 << 20;

/// A server that said "never" this often won't say anything else.
const MOST_REFUSALS: u32 = 5;

/// How many of the oldest go, of mails with these sizes, oldest first.
pub fn surplus(sizes: &[u64]) -> usize {
    let mut bytes = 0;
    let fitting = sizes.iter().rev().take(MOST).take_while(|size| {
        bytes += **size;
        bytes <= MOST_BYTES
    });
    sizes.len() - fitting.count()
}

/// What a file name keeps through all refusals.
pub fn stem(name: &str) -> &str {
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

/// Whether a mail of this file name was refused for good, at least once.
pub fn was_refused(name: &str) -> bool {
    name.split('.').count() > 2
}

/// The file name after one more refusal; none when it was the last one.
pub fn refused_once_more(name: &str) -> Option<String> {
    let refusals = name.split('.').nth(1).and_then(|count| count.parse::<u32>().ok()).unwrap_or(0) + 1;
    (refusals < MOST_REFUSALS).then(|| format!("{}.{refusals}.eml", stem(name)))
}

#[cfg(test)]
mod tests {
    use super::{MOST_BYTES, refused_once_more, stem, surplus, was_refused};

    #[test]
    fn the_oldest_beyond_either_bound_go() {
        for (sizes, expected) in [
            (vec![], 0),
            (vec![1; 60], 0),
            (vec![1; 62], 2),
            (vec![MOST_BYTES], 0),
            (vec![MOST_BYTES, 1], 1),
            (vec![1, MOST_BYTES], 1),
            (vec![1, MOST_BYTES, 1], 2),
            (vec![1, MOST_BYTES / 2, MOST_BYTES / 2], 1),
        ] {
            assert_eq!(surplus(&sizes), expected, "{sizes:?}");
        }
    }

    #[test]
    fn a_name_counts_to_five() {
        let mut names = vec!["20261123T023000Z-0a.eml".to_owned()];
        assert!(!was_refused(&names[0]));
        while let Some(next) = refused_once_more(names.last().unwrap()) {
            assert_eq!((stem(&next), was_refused(&next)), ("20261123T023000Z-0a", true));
            names.push(next);
        }
        let ends: Vec<&str> = names.iter().map(|name| name.strip_prefix("20261123T023000Z-0a").unwrap()).collect();
        assert_eq!(ends, [".eml", ".1.eml", ".2.eml", ".3.eml", ".4.eml"]);
    }
}
