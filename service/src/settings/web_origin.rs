//! Origins of web pages (RFC 6454), as browsers send them and as `serve.cors_origins` lists them.

use std::fmt;
use std::str::FromStr;

use axum::http::Uri;
use axum::http::uri::Authority;
use serde::{Deserialize, Serialize};

/// Where a page comes from: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin {
    secure: bool,
    /// In lower case; an IPv6 address in its brackets.
    host: String,
    port: u16,
}

/// A text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no origin: expected a text such as `https://page.example` or `*`")]
pub struct InvalidOrigin(pub String);

impl WebOrigin {
    /// Whether a page of this origin came from the service that is addressed as `authority`,
    /// `host[:port]`. A proxy in front may speak TLS, so the scheme only gives the port where
    /// none stands.
    pub(crate) fn is_at(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else {
            return false;
        };
        let port = authority.port_u16().unwrap_or(self.default_port());
        authority.host().eq_ignore_ascii_case(&self.host) && port == self.port
    }

    fn default_port(&self) -> u16 {
        if self.secure { 443 } else { 80 }
    }
}

impl FromStr for WebOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidOrigin(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid()),
        };
        let authority = uri.authority().ok_or_else(invalid)?;
        let has_port = authority.as_str().len() > authority.host().len();
        let strange = authority.as_str().contains(['@', '*'])
            || authority.host().is_empty()
            || uri.query().is_some()
            || uri.path() != "/"
            || (has_port && authority.port_u16().is_none());
        if strange {
            return Err(invalid());
        }
        let mut origin = Self {
            secure,
            host: authority.host().to_lowercase(),
            port: 0,
        };
        origin.port = authority.port_u16().unwrap_or(origin.default_port());
        Ok(origin)
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != self.default_port() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

/// An entry of `serve.cors_origins`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AllowedOrigin {
    /// `*`: pages from anywhere, files and sandboxes included.
    Any,
    /// Pages of one origin.
    One(WebOrigin),
}

impl AllowedOrigin {
    /// Whether pages of that origin, the text of an `Origin` header, may talk to the service.
    pub(crate) fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => origin.parse().is_ok_and(|origin: WebOrigin| origin == *one),
        }
    }
}

impl TryFrom<String> for AllowedOrigin {
    type Error = InvalidOrigin;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "*" => Ok(Self::Any),
            text => text.parse().map(Self::One),
        }
    }
}

impl From<AllowedOrigin> for String {
    fn from(allowed: AllowedOrigin) -> Self {
        match allowed {
            AllowedOrigin::Any => "*".to_owned(),
            AllowedOrigin::One(origin) => origin.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let check = |text: &str, expect: Option<&str>| {
            let origin = text.parse::<WebOrigin>().ok();
            let shown = origin.map(|origin| origin.to_string());
            assert_eq!(shown.as_deref(), expect, "{text}");
        };
        check("https://page.example", Some("https://page.example"));
        check("https://page.example:443", Some("https://page.example"));
        check("http://Page.Example:80", Some("http://page.example"));
        check("http://localhost:5173", Some("http://localhost:5173"));
        check("http://localhost/", Some("http://localhost"));
        check("http://[::1]:7474", Some("http://[::1]:7474"));
        for wrong in [
            "",
            "null",
            "*",
            "page.example",
            "//page.example",
            "file://",
            "ftp://page.example",
            "https://",
            "https://:443",
            "https://page.example:",
            "https://page.example:99999",
            "https://page.example/path",
            "https://page.example?x",
            "https://user@page.example",
            "https://page.example https://other.example",
            "https://*.example",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn origins_of_the_service_itself() {
        let check = |origin: &str, host: &str, expect: bool| {
            let origin: WebOrigin = origin.parse().unwrap();
            assert_eq!(origin.is_at(host), expect, "{origin} {host}");
        };
        check("http://127.0.0.1:7474", "127.0.0.1:7474", true);
        check("http://localhost:7474", "LOCALHOST:7474", true);
        check("http://[::1]:7474", "[::1]:7474", true);
        check("http://[::1]", "[::1]", true);
        check("https://chalk.example", "chalk.example", true);
        check("https://chalk.example", "chalk.example:443", true);
        check("http://chalk.example", "chalk.example:80", true);
        check("http://127.0.0.1:7475", "127.0.0.1:7474", false);
        check("http://127.0.0.1", "127.0.0.1:7474", false);
        check("http://localhost:7474", "127.0.0.1:7474", false);
        check("http://[::1]:7474", "[::2]:7474", false);
        check("http://evil.example:7474", "127.0.0.1:7474", false);
        check("http://evil.example", "", false);
    }

    #[test]
    fn entries() {
        let any = AllowedOrigin::try_from("*".to_owned()).unwrap();
        assert!(any.allows("null") && any.allows("https://a.example"));
        let one = AllowedOrigin::try_from("https://A.example:443".to_owned()).unwrap();
        assert!(one.allows("https://a.example"));
        for other in ["null", "http://a.example", "https://b.a.example", ""] {
            assert!(!one.allows(other), "{other}");
        }
        assert_eq!(String::from(one), "https://a.example");
        assert!(AllowedOrigin::try_from("null".to_owned()).is_err());
    }
}
