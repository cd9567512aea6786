//! Patterns in `${x#…}`, `${x%…}` and `${x/…/…}`: `*`, `?`, and `\` before `*`, `?`, `\`, `/`, `}`.

/// Longest value and pattern that are matched, in characters: replacing takes time in the square of
/// the one times the other.
const VALUE_LIMIT: usize = 2048;
const PATTERN_LIMIT: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Star,
}

/// `value` without the shortest (or longest) start that matches.
pub(super) fn trim_prefix(pattern: &str, value: &str, greedy: bool) -> Result<String, String> {
    let tokens = parse(pattern)?;
    let value = chars(value)?;
    let end = ends(&tokens, &value, greedy).unwrap_or(0);
    Ok(value[end..].iter().collect())
}

/// `value` without the shortest (or longest) end that matches.
pub(super) fn trim_suffix(pattern: &str, value: &str, greedy: bool) -> Result<String, String> {
    let mut tokens = parse(pattern)?;
    let mut value = chars(value)?;
    tokens.reverse();
    value.reverse();
    let end = ends(&tokens, &value, greedy).unwrap_or(0);
    Ok(value[end..].iter().rev().collect())
}

/// `value` with the first (or every) match replaced; a match is as long as it can be.
pub(super) fn replace(
    pattern: &str,
    value: &str,
    replacement: &str,
    all: bool,
) -> Result<String, String> {
    let tokens = parse(pattern)?;
    let value = chars(value)?;
    let replacement = replacement.replace("\\/", "/").replace("\\}", "}");
    let mut out = String::new();
    let mut at = 0;
    // Where the last match ended: an empty match right there is none.
    let mut last_end = None;
    loop {
        match ends(&tokens, &value[at..], true) {
            Some(length) if length > 0 || last_end != Some(at) => {
                out.push_str(&replacement);
                at += length;
                last_end = Some(at);
                if !all {
                    out.extend(&value[at..]);
                    return Ok(out);
                }
                if length > 0 {
                    continue;
                }
            }
            _ => {}
        }
        let Some(c) = value.get(at) else {
            return Ok(out);
        };
        out.push(*c);
        at += 1;
    }
}

fn chars(value: &str) -> Result<Vec<char>, String> {
    let value: Vec<char> = value.chars().collect();
    if value.len() > VALUE_LIMIT {
        return Err(format!(
            "a value over {VALUE_LIMIT} characters cannot be matched"
        ));
    }
    Ok(value)
}

fn parse(pattern: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::One,
            '\\' => match rest.next() {
                Some(c @ ('*' | '?' | '\\' | '/' | '}')) => Token::Char(c),
                other => {
                    let other = other.map_or_else(String::new, String::from);
                    return Err(format!(
                        "`\\{other}` cannot stand in the pattern `{pattern}`"
                    ));
                }
            },
            c => Token::Char(c),
        });
    }
    tokens.dedup_by(|a, b| *a == Token::Star && *b == Token::Star);
    if tokens.len() > PATTERN_LIMIT {
        return Err(format!(
            "a pattern over {PATTERN_LIMIT} characters cannot be matched"
        ));
    }
    Ok(tokens)
}

/// Length of the shortest or longest start of `value` that matches. As in Go's regular
/// expressions, wildcards do not match a line feed.
fn ends(tokens: &[Token], value: &[char], longest: bool) -> Option<usize> {
    let mut states = vec![false; tokens.len() + 1];
    let enter = |states: &mut Vec<bool>, mut at: usize| {
        states[at] = true;
        while tokens.get(at) == Some(&Token::Star) {
            at += 1;
            states[at] = true;
        }
    };
    enter(&mut states, 0);
    let mut found = None;
    for length in 0..=value.len() {
        if states[tokens.len()] {
            found = Some(length);
            if !longest {
                return found;
            }
        }
        let Some(&c) = value.get(length) else { break };
        let mut next = vec![false; tokens.len() + 1];
        for (at, token) in tokens.iter().enumerate().filter(|(at, _)| states[*at]) {
            match token {
                Token::Char(want) if *want == c => enter(&mut next, at + 1),
                Token::One if c != '\n' => enter(&mut next, at + 1),
                Token::Star if c != '\n' => enter(&mut next, at),
                _ => {}
            }
        }
        if !next.contains(&true) {
            break;
        }
        states = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces() {
        let check = |pattern: &str, value: &str, to: &str, all: bool, expect: &str| {
            let got = replace(pattern, value, to, all);
            assert_eq!(got.as_deref(), Ok(expect), "{pattern} in {value}");
        };
        check("a", "banana", "o", false, "bonana");
        check("a", "banana", "o", true, "bonono");
        check("a*n", "banana", "-", false, "b-a");
        check("", "ab", "-", true, "-a-b-");
        check("*", "ab", "-", true, "-");
        check("x", "ab", "-", true, "ab");
        check("?", "ab", "-", true, "--");
    }

    #[test]
    fn is_bounded() {
        assert!(trim_prefix("*", &"x".repeat(VALUE_LIMIT + 1), true).is_err());
        assert!(parse(&"?".repeat(PATTERN_LIMIT + 1)).is_err());
        assert!(parse(&"*".repeat(PATTERN_LIMIT + 1)).is_ok());
        let value = "a".repeat(VALUE_LIMIT);
        assert_eq!(
            replace(&format!("{}b", "a*".repeat(5)), &value, "x", true),
            Ok(value.clone())
        );
    }
}
