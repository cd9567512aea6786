//! Sizes and times for people.

use std::time::Duration;

/// `3 days`, `2 hours`: the largest unit that there are two of, or one.
pub(super) fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let fits = units.iter().find(|(unit, _)| seconds >= *unit);
    let (unit, word) = fits.copied().unwrap_or((1, "second"));
    match seconds / unit {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    }
}

/// `1.5 GiB`.
pub(super) fn bytes(size: u64) -> String {
    bytesize::ByteSize(size).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        let check = |seconds: u64, expect: &str| {
            assert_eq!(length(Duration::from_secs(seconds)), expect);
        };
        check(0, "0 seconds");
        check(1, "1 second");
        check(119, "1 minute");
        check(7200, "2 hours");
        check(86_400 * 40, "40 days");
    }
}
