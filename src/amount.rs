//! Amounts of bytes as a person reads them.

/// Bytes in the unit in which they are at least one: `1023 bytes`, `1.5 KiB`.
pub fn amount(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        // tenths, in whole numbers: no rounding to think about
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::amount;

    #[test]
    fn the_unit_is_the_largest_that_fits() {
        assert_eq!([0, 1023, 1024, (1 << 20) - 1].map(amount), ["0 bytes", "1023 bytes", "1.0 KiB", "1023.9 KiB"]);
    }
}
