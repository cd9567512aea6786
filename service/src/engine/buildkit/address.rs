//! Where builders are: addresses as the setting `build.buildkit.addresses` gives them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Address of a builder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `unix:///run/buildkit/buildkitd.sock`: a buildkitd on this host.
    Unix(PathBuf),
    /// `tcp://host:port`: a buildkitd elsewhere; with TLS where the settings name certificates.
    Tcp {
        /// Name or IP address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `docker:///var/run/docker.sock`: the BuildKit inside of a Docker Engine.
    Docker(PathBuf),
}

/// A text that is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no builder: expected `unix:///path`, `tcp://host:port` or `docker:///path/of/docker.sock` (setting `build.buildkit.addresses`)"
)]
pub struct InvalidAddress(pub String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidAddress(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let path = || match rest.starts_with('/') && rest.len() > 1 {
            true => Ok(PathBuf::from(rest)),
            false => Err(invalid()),
        };
        match scheme {
            "unix" => Ok(Self::Unix(path()?)),
            "docker" => Ok(Self::Docker(path()?)),
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(invalid)?;
                let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
                let host = bare.unwrap_or(host);
                if host.is_empty() || host.contains('/') || (bare.is_none() && host.contains(':')) {
                    return Err(invalid());
                }
                Ok(Self::Tcp {
                    host: host.to_owned(),
                    port: port.parse().map_err(|_| invalid())?,
                })
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Docker(path) => write!(f, "docker://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        let check = |text: &str| {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        };
        check("unix:///run/buildkit/buildkitd.sock");
        check("docker:///var/run/docker.sock");
        check("tcp://builder-1:1234");
        check("tcp://10.0.0.7:1234");
        check("tcp://[fd00::7]:1234");
    }

    #[test]
    fn refuses_what_is_no_address() {
        let check = |text: &str| {
            assert_eq!(
                text.parse::<Address>(),
                Err(InvalidAddress(text.to_owned()))
            );
        };
        check("");
        check("/run/buildkitd.sock");
        check("unix://relative");
        check("unix:///");
        check("tcp://builder");
        check("tcp://:1234");
        check("tcp://fd00::7:1234");
        check("tcp://builder:70000");
        check("tcp://builder:1/path");
        check("http://builder:1234");
    }
}
