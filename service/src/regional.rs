//! The regional registry: where built images, cached steps and imported bases live. It is the
//! embedded one, reached over loopback like by anybody else, or an external one.
//!
//! | repository | tag | what |
//! |---|---|---|
//! | `chalk/images` | hex of the image hash | a built image; its spec is a referrer of type [`SPEC_TYPE`] |
//! | `chalk/steps` | hex of the step key | layers up to and including a step |
//! | `imports/<registry>/<repository>` | tag | a base that was imported under that reference |
//! | any other | any | a built image by the name that somebody gave it |

use std::collections::{BTreeMap, BTreeSet};

use chalk_core::reference::{InvalidReference, is_repository, is_tag};
use chalk_core::{Digest, Reference};
use chalk_store::registry::{Client, Credential, CredentialSource, Options, RegistryError};

use crate::settings;

/// Repository of built images.
pub const IMAGES: &str = "chalk/images";
/// Repository of cached steps.
pub const STEPS: &str = "chalk/steps";
/// First words of repositories that names may not have.
pub const RESERVED: [&str; 2] = ["chalk", "imports"];
/// Artifact type of the referrer that carries the spec of an image: a manifest whose one layer,
/// of this media type too, is the pinned spec as JSON.
pub const SPEC_TYPE: &str = "application/vnd.chalk.spec.v1+json";

/// The regional registry with a client for it.
#[derive(Debug, Clone)]
pub struct Regional {
    client: Client,
    /// `host:port` that we speak to.
    host: String,
    /// `host:port` that others speak to.
    public: String,
    /// Path in front of every repository, without slashes at its ends; empty for none.
    prefix: String,
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

impl Regional {
    /// The embedded registry: `host` is the address that we listen on, `public` what others reach
    /// it under.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn embedded(host: &str, public: &str, token: &str) -> Result<Self, RegistryError> {
        let login = Credential::Password {
            user: "chalk".to_owned(),
            password: token.to_owned(),
        };
        let client = Client::new(Options {
            insecure: BTreeSet::from([host.to_owned()]),
            credentials: CredentialSource::Anonymous,
            explicit: BTreeMap::from([(host.to_owned(), login)]),
            ..Options::default()
        })?;
        Ok(Self {
            client,
            host: host.to_owned(),
            public: public.to_owned(),
            prefix: String::new(),
        })
    }

    /// The external registry that the settings name, if they name one.
    ///
    /// # Errors
    /// When the client cannot be made, or the address is none.
    pub fn external(settings: &settings::Registry) -> Result<Option<Self>, RegistryError> {
        let Some(url) = &settings.url else {
            return Ok(None);
        };
        let wrong = |setting: &str, detail: String| RegistryError::Setting {
            setting: setting.to_owned(),
            detail,
        };
        let host = url
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .trim_end_matches('/');
        let prefix = settings.prefix.as_deref().unwrap_or_default();
        let prefix = prefix.trim_matches('/').to_owned();
        let mut options = upstream_options(settings);
        // What we published must be seen as it is, not as a mirror remembers it.
        options.mirrors.clear();
        if url.starts_with("http://") {
            options.insecure.insert(host.to_owned());
        }
        let regional = Self {
            client: Client::new(options)?,
            host: host.to_owned(),
            public: host.to_owned(),
            prefix,
        };
        let sample = regional
            .reference(IMAGES, "latest")
            .map_err(|e| wrong("registry.url and registry.prefix", e.to_string()))?;
        if sample.registry() != host {
            let detail = format!("`{url}` is not `host[:port]`");
            return Err(wrong("registry.url", detail));
        }
        Ok(Some(regional))
    }

    /// The client that speaks to it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// `host:port[/prefix]` under which others pull.
    pub fn public(&self) -> String {
        match self.prefix.as_str() {
            "" => self.public.clone(),
            prefix => format!("{}/{prefix}", self.public),
        }
    }

    /// A repository of ours with a tag.
    ///
    /// # Errors
    /// When repository or tag are not in the grammar.
    pub fn reference(&self, repository: &str, tag: &str) -> Result<Reference, InvalidReference> {
        Reference::new(&self.host, &self.path(repository), Some(tag), None)
    }

    /// A repository of ours at a digest.
    ///
    /// # Errors
    /// When the repository is not in the grammar.
    pub fn pinned(&self, repository: &str, digest: Digest) -> Result<Reference, InvalidReference> {
        Reference::new(&self.host, &self.path(repository), None, Some(digest))
    }

    /// Where the image of that hash is, or would be.
    ///
    /// # Errors
    /// Never with a prefix that was checked at start.
    pub fn image(&self, hash: &Digest) -> Result<Reference, InvalidReference> {
        self.reference(IMAGES, &hash.hex())
    }

    /// Where the layers of that step key are, or would be.
    ///
    /// # Errors
    /// Never with a prefix that was checked at start.
    pub fn step(&self, key: &Digest) -> Result<Reference, InvalidReference> {
        self.reference(STEPS, &key.hex())
    }

    /// Where an image that was imported as `base` is, or would be: a port's colon becomes `_`.
    ///
    /// # Errors
    /// When the path is longer than a repository may be.
    pub fn import(&self, base: &Reference) -> Result<Reference, InvalidReference> {
        let host = base.registry().to_lowercase().replace([':', '[', ']'], "_");
        let host = host.trim_matches('_');
        let repository = format!("imports/{host}/{}", base.repository());
        self.reference(&repository, base.tag().unwrap_or("latest"))
    }

    /// What others pull the image of that hash by.
    pub fn pullable(&self, hash: &Digest) -> String {
        format!("{}/{IMAGES}:{}", self.public(), hash.hex())
    }

    fn path(&self, repository: &str) -> String {
        match self.prefix.as_str() {
            "" => repository.to_owned(),
            prefix => format!("{prefix}/{repository}"),
        }
    }
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
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn places() {
        let regional = Regional::embedded("127.0.0.1:5", "chalk.example:5", "token").unwrap();
        let hash = Digest::of(b"");
        let check = |got: Reference, expect: &str| assert_eq!(got.to_string(), expect);
        let import = |base: &str| regional.import(&base.parse().unwrap()).unwrap();
        check(
            regional.image(&hash).unwrap(),
            &format!("127.0.0.1:5/chalk/images:{}", hash.hex()),
        );
        check(
            import("python:3"),
            "127.0.0.1:5/imports/docker.io/library/python:3",
        );
        check(
            import("h.example:5000/a/b"),
            "127.0.0.1:5/imports/h.example_5000/a/b:latest",
        );
        check(
            import("[::1]:5000/a"),
            "127.0.0.1:5/imports/1__5000/a:latest",
        );
        assert_eq!(
            regional.pullable(&hash),
            format!("chalk.example:5/chalk/images:{}", hash.hex())
        );

        let settings = |url: &str, prefix: &str| settings::Registry {
            url: Some(url.into()),
            prefix: Some(prefix.into()),
            ..settings::Registry::default()
        };
        let external = |url: &str, prefix: &str| Regional::external(&settings(url, prefix));
        let regional = external("http://r.example:5000/", "/team/x/")
            .unwrap()
            .unwrap();
        assert_eq!(regional.public(), "r.example:5000/team/x");
        check(
            regional.reference("app", "v1").unwrap(),
            "r.example:5000/team/x/app:v1",
        );
        for (url, prefix) in [
            ("", ""),
            ("h/path", ""),
            ("h.example", "UPPER"),
            ("a b", ""),
        ] {
            assert!(external(url, prefix).is_err(), "{url} {prefix}");
        }
        assert!(
            Regional::external(&settings::Registry::default())
                .unwrap()
                .is_none()
        );
    }
}
