//! Times on the wire.

use jiff::Timestamp;

/// A time as gRPC has it.
pub(crate) fn proto(time: Timestamp) -> prost_types::Timestamp {
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    // Nanoseconds count forward, also before 1970.
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// The RFC 3339 text of one of our records as gRPC has times.
pub(crate) fn of_text(text: &str) -> Option<prost_types::Timestamp> {
    text.parse().ok().map(proto)
}

/// A time that a client sent; the nearest that there is, when it is out of bounds.
pub(crate) fn from_proto(time: &prost_types::Timestamp) -> Timestamp {
    let found = Timestamp::new(time.seconds, time.nanos);
    found.unwrap_or(if time.seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        for text in ["2026-01-02T03:04:05.000000006Z", "1969-12-31T23:59:59.5Z"] {
            let time: Timestamp = text.parse().unwrap();
            let sent = of_text(text).unwrap();
            assert!(sent.nanos >= 0);
            assert_eq!(from_proto(&sent), time);
        }
        let far = prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert_eq!(from_proto(&far), Timestamp::MAX);
    }
}
