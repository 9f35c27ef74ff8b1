//! Amounts as people read them.

/// Bytes in the unit in which they are at least one.
pub fn amount(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        // tenths, in whole numbers: no rounding to think about
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

/// Seconds in the two largest units that they have.
pub fn duration(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::{amount, duration};

    #[test]
    fn amounts_and_durations_read_well() {
        assert_eq!([0, 1023, 1024, (1 << 20) - 1].map(amount), ["0 bytes", "1023 bytes", "1.0 KiB", "1023.9 KiB"]);
        assert_eq!([-5, 59, 60, 7325].map(duration), ["0 s", "59 s", "1 min 0 s", "2 h 2 min"]);
    }
}
