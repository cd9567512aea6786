//! `WWW-Authenticate` headers (RFC 9110, section 11.6.1).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// How a registry wants to be logged in to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token from a token service (Docker's token authentication specification).
    Bearer {
        /// URL of the token service.
        realm: String,
        /// Name of the registry at the token service.
        service: Option<String>,
        /// Scopes that the refused request needs, blank-separated.
        scope: Option<String>,
    },
}

/// The challenge to answer: bearer before basic; none when there is none that we know.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut best = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for (scheme, parameters) in parse(text) {
            let get = |name: &str| {
                let found = parameters.iter().find(|(n, _)| n == name);
                found.map(|(_, value)| value.clone())
            };
            match scheme.as_str() {
                "bearer" => {
                    if let Some(realm) = get("realm") {
                        return Some(Challenge::Bearer {
                            realm,
                            service: get("service"),
                            scope: get("scope"),
                        });
                    }
                }
                "basic" => best = Some(Challenge::Basic),
                _ => {}
            }
        }
    }
    best
}

type Parsed = Vec<(String, Vec<(String, String)>)>;

/// Schemes with their parameters, names in lower case. Lenient: what it cannot read, it skips.
fn parse(text: &str) -> Parsed {
    let mut out: Parsed = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return out;
        }
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let word = word.to_ascii_lowercase();
        let tail = after.trim_start_matches([' ', '\t']);
        let Some(value) = tail.strip_prefix('=').filter(|_| !word.is_empty()) else {
            // No `=`: a scheme. A stray `=` is stepped over, so that the loop always ends.
            rest = after.strip_prefix('=').unwrap_or(after);
            if !word.is_empty() {
                out.push((word, Vec::new()));
            }
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let parameter;
        (parameter, rest) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find([' ', '\t', ',']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        if let Some((_, parameters)) = out.last_mut() {
            parameters.push((word, parameter));
        }
    }
}

fn unquote(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (out, &text[at + 1..]),
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            c => out.push(c),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn reads_challenges() {
        let check = |values: &[&str], expect: Option<Challenge>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(challenge(&headers), expect, "{values:?}");
        };
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        check(
            &[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            ],
            bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:a/b:pull,push"),
            ),
        );
        check(&[r#"Basic realm="chalk""#], Some(Challenge::Basic));
        check(&["basic"], Some(Challenge::Basic));
        check(
            &[r#"Basic realm="x", BEARER Realm = "https://t" , error="insufficient_scope""#],
            bearer("https://t", None, None),
        );
        check(
            &[r#"Basic realm="x""#, "Bearer realm=https://t,service=s"],
            bearer("https://t", Some("s"), None),
        );
        check(&[r#"Bearer realm="a\"b""#], bearer("a\"b", None, None));
        check(&[r#"Bearer realm="open"#], bearer("open", None, None));
        check(&["Bearer"], None);
        check(&["Negotiate", "=", "= =,=", "=\"", "a=b", ""], None);
    }
}
