//! Values that image configs hold: ports, signals, environments, and how history prints lists.

/// The ports that a word of `EXPOSE` means: `80`, `53/udp`, `8000-8010`, and the host parts that
/// Docker reads and drops.
pub(crate) fn ports(word: &str) -> Result<Vec<String>, String> {
    let invalid = |reason: &str| format!("`{word}` is no port: {reason}");
    let port = word.rsplit(':').next().unwrap_or_default();
    let (range, protocol) = port.split_once('/').unwrap_or((port, ""));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return Err(invalid("the protocol is tcp, udp or sctp")),
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse::<u16>().ok().filter(|_| digits);
        number.ok_or_else(|| invalid("expected a number up to 65535, or two with `-` between"))
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(invalid("the range ends before it starts"));
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// Whether `text` is a signal of Linux: a name with or without `SIG`, or a number.
pub(crate) fn signal(text: &str) -> Result<(), String> {
    const NAMES: [&str; 34] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |name: &str| {
        let offset = |rest: &str, sign: char, most: u8| {
            rest.is_empty()
                || rest
                    .strip_prefix(sign)
                    .is_some_and(|n| n.parse::<u8>().is_ok_and(|n| (1..=most).contains(&n)))
        };
        name.strip_prefix("RTMIN")
            .is_some_and(|rest| offset(rest, '+', 15))
            || name
                .strip_prefix("RTMAX")
                .is_some_and(|rest| offset(rest, '-', 14))
    };
    let numbered = text
        .parse::<u8>()
        .is_ok_and(|number| (1..=64).contains(&number));
    if numbered || NAMES.contains(&name) || real_time(name) {
        Ok(())
    } else {
        Err(format!(
            "`{text}` is no signal: expected a name such as `SIGTERM` or a number up to 64"
        ))
    }
}

/// `name` and value of an entry of an image's `Env`.
pub(super) fn split_env(entry: &str) -> (String, String) {
    let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
    (name.to_owned(), value.to_owned())
}

/// Sets a variable in place, or adds it at the end.
pub(super) fn set_env(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some(entry) => value.clone_into(&mut entry.1),
        None => env.push((name.to_owned(), value.to_owned())),
    }
}

/// Strings as Docker's history prints them: `["a" "b"]`.
pub(super) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// Nanoseconds as Go prints a duration: `1m30s`, `500ms`, `0s`.
pub(super) fn duration(nanoseconds: i64) -> String {
    let fraction = |value: i64, unit: i64, digits: usize| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            whole.to_string()
        } else {
            let text = format!("{whole}.{rest:0digits$}");
            text.trim_end_matches('0').to_owned()
        }
    };
    match nanoseconds {
        0 => "0s".into(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => format!("{}µs", fraction(n, 1_000, 3)),
        n if n < 1_000_000_000 => format!("{}ms", fraction(n, 1_000_000, 6)),
        n => {
            let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
            let seconds = fraction(n % 60_000_000_000, 1_000_000_000, 9);
            match (hours, minutes) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ports() {
        let check = |word: &str, expect: Option<&[&str]>| {
            let got = ports(word).ok();
            let got: Option<Vec<&str>> =
                got.as_ref().map(|p| p.iter().map(String::as_str).collect());
            assert_eq!(got.as_deref(), expect, "{word}");
        };
        check("80", Some(&["80/tcp"]));
        check("53/UDP", Some(&["53/udp"]));
        check("8000-8002/tcp", Some(&["8000/tcp", "8001/tcp", "8002/tcp"]));
        check("127.0.0.1:80:8080", Some(&["8080/tcp"]));
        for bad in ["", "x", "80/x", "65536", "2-1", "-1", "+1", "1-"] {
            check(bad, None);
        }
    }

    #[test]
    fn knows_signals() {
        for good in ["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-1", "SIGUSR1"] {
            assert_eq!(signal(good), Ok(()));
        }
        for bad in ["", "0", "65", "SIGFOO", "RTMIN+99", "TERM "] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prints_durations_like_go() {
        let check = |ns: i64, expect: &str| assert_eq!(duration(ns), expect);
        check(0, "0s");
        check(30_000_000_000, "30s");
        check(90_500_000_000, "1m30.5s");
        check(3_600_000_000_000, "1h0m0s");
        check(1_500_000, "1.5ms");
    }
}
