//! Where things are in the regional registry ([`crate::registry::Regional`]).
//!
//! | repository | tag | what |
//! |---|---|---|
//! | [`IMAGES`] | hex of the image hash | a built image; its spec is a referrer of type [`SPEC_TYPE`] |
//! | [`STEPS`] | hex of the step key | layers up to and including a step |
//! | [`BUILDS`] | `passing_tag` | what a builder of BuildKit made, until it is published |
//! | [`BUILD_CACHE`] | hex of what builds are placed by | the cache that builders share |
//! | [`NAMES`] | hex of the SHA-256 of a name | that the name was given ([`crate::catalog`]) |
//! | `imports/<registry>/<repository>` | tag | a base that was imported under that reference |
//! | any other | any | a built image by the name that somebody gave it |

use std::time::{Duration, SystemTime};

use chalk_core::reference::{is_repository, is_tag};
use chalk_core::{Digest, Reference};
use chalk_store::registry::{ClientCertificate, CredentialSource, Options, RegistryError};

use crate::registry::registry_host;
use crate::settings;

/// Repository of built images.
pub const IMAGES: &str = "chalk/images";
/// Repository of cached steps.
pub const STEPS: &str = "chalk/steps";
/// Repository of images on their way from builders of BuildKit to [`STEPS`] and [`IMAGES`]; their tags
/// are gone when their build has ended.
pub const BUILDS: &str = "chalk/builds";
/// Repository of what builders of BuildKit cache for each other.
pub const BUILD_CACHE: &str = "chalk/build-cache";
/// Repository of the directory of names.
pub const NAMES: &str = "chalk/names";
/// First words of repositories that names may not have.
pub const RESERVED: [&str; 2] = ["chalk", "imports"];
/// Artifact type of the referrer that carries the spec of an image: a manifest whose one layer,
/// of this media type too, is the pinned spec as JSON.
pub const SPEC_TYPE: &str = "application/vnd.chalk.spec.v1+json";
/// Annotation of that referrer: when the image was built, RFC 3339.
pub const CREATED_NOTE: &str = "org.opencontainers.image.created";

/// A tag of [`BUILDS`] that was made at that time: seconds in hexadecimal digits, and chance.
pub(crate) fn passing_tag(now: SystemTime, chance: u64) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    format!("{:010x}-{chance:016x}", since.unwrap_or_default().as_secs())
}

/// When a [`passing_tag`] was made.
pub(crate) fn passing_since(tag: &str) -> Option<SystemTime> {
    let (seconds, _) = tag.split_once('-')?;
    let seconds = u64::from_str_radix(seconds, 16).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The name of an image: `repository[:tag]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Repository.
    pub repository: String,
    /// Tag.
    pub tag: String,
}

/// A text that cannot name an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It is not `repository[:tag]`.
    #[error(
        "`{0}` is not a name: expected `repository[:tag]`, lower-case words joined by `.`, `_`, `-` and `/`, without a registry"
    )]
    Syntax(String),
    /// It begins with a word that is ours.
    #[error("`{0}` cannot be a name: `chalk/…` and `imports/…` are the service's own")]
    Reserved(String),
}

impl std::str::FromStr for Name {
    type Err = InvalidName;

    /// Parses `repository[:tag]`; the tag is `latest` when absent.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (repository, tag) = text.split_once(':').unwrap_or((text, "latest"));
        if !is_repository(repository) || !is_tag(tag) {
            return Err(InvalidName::Syntax(text.to_owned()));
        }
        let first = repository.split('/').next().unwrap_or_default();
        if RESERVED.contains(&first) {
            return Err(InvalidName::Reserved(text.to_owned()));
        }
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// Repository and tag of an image that was imported as `base`: `imports/docker.io/library/python`
/// and `3.12`. The colon before a port becomes `_`.
pub fn import(base: &Reference) -> (String, String) {
    let host = base.registry().to_lowercase().replace([':', '[', ']'], "_");
    let host = host.trim_matches('_');
    let repository = format!("imports/{host}/{}", base.repository());
    (repository, base.tag().unwrap_or("latest").to_owned())
}

/// The repository that a reference means in the registry `public`, `host[:port][/prefix]`, if it is of
/// that registry.
pub(crate) fn inside(public: &str, reference: &Reference) -> Option<String> {
    let (host, prefix) = public.split_once('/').unwrap_or((public, ""));
    let repository = reference.repository();
    match prefix {
        _ if host != reference.registry() => None,
        "" => Some(repository.to_owned()),
        prefix => Some(
            repository
                .strip_prefix(prefix)?
                .strip_prefix('/')?
                .to_owned(),
        ),
    }
}

/// What clients pull the image of that hash by; `public` is `host[:port][/prefix]` of the regional
/// registry.
pub fn pullable(public: &str, hash: &Digest) -> String {
    format!("{public}/{IMAGES}:{}", hash.hex())
}

/// How the settings say that base images are fetched.
pub fn upstream_options(settings: &settings::Registry) -> Options {
    Options {
        mirrors: settings.mirrors.clone(),
        ca_bundle: settings.ca_bundle.clone(),
        insecure: settings.insecure.iter().cloned().collect(),
        credentials: match &settings.credentials {
            Some(file) => CredentialSource::DockerConfig(file.clone()),
            None => CredentialSource::Docker,
        },
        sources: own_login(settings).into_iter().collect(),
        ..Options::default()
    }
}

/// The login of the regional registry that is in the settings, by its `host[:port]`.
fn own_login(settings: &settings::Registry) -> Option<(String, CredentialSource)> {
    let login = CredentialSource::PasswordFile {
        user: settings.username.clone()?,
        file: settings.password_file.clone()?,
    };
    Some((registry_host(settings.url.as_deref()?).to_owned(), login))
}

/// How the settings say that the regional registry itself is spoken to.
///
/// # Errors
/// When settings that belong together are not all there.
pub fn regional_options(settings: &settings::Registry) -> Result<Options, RegistryError> {
    let mut options = upstream_options(settings);
    // What we published must be seen as it is, not as a mirror remembers it.
    options.mirrors.clear();
    let both = |one: &str, other: &str| RegistryError::Setting {
        setting: format!("`registry.{one}`"),
        detail: format!("`registry.{other}` must be set with it"),
    };
    match (&settings.username, &settings.password_file) {
        (Some(_), Some(_)) | (None, None) => {}
        (Some(_), None) => return Err(both("username", "password_file")),
        (None, Some(_)) => return Err(both("password_file", "username")),
    }
    options.identity = match (&settings.client_cert, &settings.client_key) {
        (Some(certificate), Some(key)) => Some(ClientCertificate {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        (Some(_), None) => return Err(both("client_cert", "client_key")),
        (None, Some(_)) => return Err(both("client_key", "client_cert")),
        (None, None) => None,
    };
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_tags_say_when_they_were_made() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let tag = passing_tag(made, 7);
        assert!(chalk_core::reference::is_tag(&tag), "{tag}");
        assert_eq!(passing_since(&tag), Some(made));
        for other in ["", "7", "x-1", "latest"] {
            assert_eq!(passing_since(other), None, "{other}");
        }
    }

    #[test]
    fn names() {
        let check = |text: &str, expect: Result<&str, fn(String) -> InvalidName>| {
            let got = text.parse::<Name>().map(|name| name.to_string());
            let expect = expect
                .map(str::to_owned)
                .map_err(|kind| kind(text.to_owned()));
            assert_eq!(got, expect);
        };
        check("app", Ok("app:latest"));
        check("team/app:v1.2", Ok("team/app:v1.2"));
        check("chalkboard/x", Ok("chalkboard/x:latest"));
        check("chalk/images:x", Err(InvalidName::Reserved));
        check("imports", Err(InvalidName::Reserved));
        for bad in [
            "", "App", "a b", "a:", ":b", "a//b", "../a", "h:1/a:b", "a:b:c", "a@b",
        ] {
            check(bad, Err(InvalidName::Syntax));
        }
    }

    #[test]
    fn imports() {
        let check = |base: &str, repository: &str, tag: &str| {
            let place = import(&base.parse().unwrap());
            assert_eq!(place, (repository.to_owned(), tag.to_owned()));
            assert!(is_repository(repository), "{repository}");
        };
        check("python:3", "imports/docker.io/library/python", "3");
        check("h.example:5000/a/b", "imports/h.example_5000/a/b", "latest");
        check("LOCALHOST/a:v1", "imports/localhost/a", "v1");
        check("[::1]:5000/a", "imports/1__5000/a", "latest");
    }
}
