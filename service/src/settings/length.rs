//! Lengths of time as settings have them: `90s`, `1h 30m`, `30d`. A day has 24 hours.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

fn parse(text: &str) -> Result<Duration, jiff::Error> {
    let span: Span = text.parse()?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours())?;
    Duration::try_from(length)
}

/// One that always is set.
pub(super) mod required {
    use std::time::Duration;

    pub(in crate::settings) use jiff::fmt::serde::unsigned_duration::friendly::compact::required::serialize;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer};

    pub(in crate::settings) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        super::parse(&text).map_err(D::Error::custom)
    }
}

/// One that may be unset.
pub(super) mod optional {
    use std::time::Duration;

    pub(in crate::settings) use jiff::fmt::serde::unsigned_duration::friendly::compact::optional::serialize;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer};

    pub(in crate::settings) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let length = text.as_deref().map(super::parse).transpose();
        length.map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_24_hours() {
        let check = |text: &str, expect: Option<u64>| {
            let found = parse(text).ok().map(|length| length.as_secs());
            assert_eq!(found, expect, "{text}");
        };
        check("90s", Some(90));
        check("1h 30m", Some(5400));
        check("30d", Some(30 * 86_400));
        check("1w 1d", Some(8 * 86_400));
        check("-1s", None);
        check("1 year", None);
        check("", None);
        check("soon", None);
    }
}
