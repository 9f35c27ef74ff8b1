//! The known name that a misspelt one was meant to be.

/// The name among `known` that differs from `written` by few letters; none if no name is near.
pub(super) fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any name by more than the letters that may differ; also bounds the work.
    const LONGEST: usize = 24;
    if written.len() > LONGEST {
        return None;
    }
    let written: Vec<char> = written.to_lowercase().replace('-', "_").chars().collect();
    known
        .map(|name| (distance(&written, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The Levenshtein distance, row by row; 1 for the same letters in another order, the commonest slip of all.
fn distance(written: &[char], name: &str) -> usize {
    let (mut letters, mut expected) = (written.to_vec(), name.chars().collect::<Vec<_>>());
    letters.sort_unstable();
    expected.sort_unstable();
    if letters == expected && !written.iter().copied().eq(name.chars()) {
        return 1;
    }
    let mut row: Vec<usize> = (0..=written.len()).collect();
    for (index, letter) in name.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for column in 1..row.len() {
            let substituted = diagonal + usize::from(written[column - 1] != letter);
            diagonal = row[column];
            row[column] = substituted.min(row[column] + 1).min(row[column - 1] + 1);
        }
    }
    row[written.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["host", "host_keys", "port", "paths", "at"];
        for (written, expected) in [
            ("hosts", Some("host")),
            ("hots", Some("host")),
            ("prt", Some("port")),
            ("path", Some("paths")),
            ("hostkeys", Some("host_keys")),
            ("Host-Keys", Some("host_keys")),
            ("a", Some("at")),
            ("password", None),
            ("", None),
            (&"host".repeat(20), None),
        ] {
            assert_eq!(nearest(written, known.into_iter()), expected, "{written}");
        }
    }
}
