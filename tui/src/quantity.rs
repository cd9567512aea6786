//! Sizes, lengths of time and pairs, as flags write them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Failure;

/// Bytes: a plain number, `512m` as Docker writes it (binary), or a unit as in `2GiB` and `500 MB`.
pub(crate) fn size(flag: &str, text: &str) -> Result<u64, Failure> {
    let wrong = || {
        Failure::usage(format!("{flag}: `{text}` is not a size"))
            .hint("write such as 512m, 2GiB or a number of bytes")
    };
    let trimmed = text.trim();
    let digits = trimmed.trim_end_matches(|c: char| c.is_alphabetic());
    let unit: u64 = match trimmed[digits.len()..].to_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let bytes = number * unit as f64;
    if !bytes.is_finite() || bytes < 1.0 || bytes >= u64::MAX as f64 {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// A length of time: `90s`, `1h 30m`, or a plain number of seconds.
pub(crate) fn time(flag: &str, text: &str) -> Result<Duration, Failure> {
    let wrong = || {
        Failure::usage(format!("{flag}: `{text}` is not a length of time"))
            .hint("write such as 90s, 1h 30m or a number of seconds")
    };
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    let signed: jiff::SignedDuration = text.trim().parse().map_err(|_| wrong())?;
    Duration::try_from(signed).map_err(|_| wrong())
}

/// `K=V` pairs, several of them separated by commas.
pub(crate) fn labels(flag: &str, given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for pair in given.iter().flat_map(|list| list.split(',')) {
        match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                labels.insert(key.trim().to_owned(), value.trim().to_owned());
            }
            _ => return Err(Failure::usage(format!("{flag}: `{pair}` is not KEY=VALUE"))),
        }
    }
    Ok(labels)
}

/// How long ago an RFC 3339 time was, for people: `5s`, `12m`, `3h`, `9d`.
pub(crate) fn ago(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else {
        return "-".to_owned();
    };
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(size("--memory", text).ok(), expect, "{text}");
        };
        check("1000", Some(1000));
        check("512m", Some(512 << 20));
        check("1.5g", Some(3 << 29));
        check("2GiB", Some(2 << 30));
        check("500 MB", Some(500_000_000));
        for bad in ["", "m", "0", "-1", "1x", "inf", "nan", "99999999t", "1 2"] {
            check(bad, None);
        }
    }

    #[test]
    fn times() {
        let check = |text: &str, expect: Option<u64>| {
            let got = time("--timeout", text).ok().map(|t| t.as_millis() as u64);
            assert_eq!(got, expect, "{text}");
        };
        check("90", Some(90_000));
        check("0.5", Some(500));
        check("1h 30m", Some(5_400_000));
        check("10s", Some(10_000));
        for bad in ["", "soon", "-1", "-5s", "inf"] {
            check(bad, None);
        }
    }

    #[test]
    fn pairs() {
        let check = |given: &[&str], expect: Option<&[(&str, &str)]>| {
            let given: Vec<String> = given.iter().map(|g| (*g).to_owned()).collect();
            let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            let expect = expect.map(|list| list.iter().map(pair).collect());
            assert_eq!(labels("--label", &given).ok(), expect);
        };
        check(
            &["a=b,c=d", "e="],
            Some(&[("a", "b"), ("c", "d"), ("e", "")]),
        );
        check(&["a"], None);
        check(&["=b"], None);
    }
}
