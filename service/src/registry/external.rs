//! An external registry in the place of the embedded one.

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::reference::is_repository;
use chalk_core::{Digest, Reference};
use chalk_store::registry::{
    Client, Manifest, ManifestHead, Options, Progress, Published, PullToken, Pushed, Referrer,
    is_removed,
};
use chalk_store::{Blob, BlobStore};

use super::regional::{Regional, RegionalError};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// More than what stands under a tag that is being removed takes, in bytes.
const REMOVED_SIZE: u64 = 1024;

type Result<T, E = RegionalError> = std::result::Result<T, E>;

/// A registry elsewhere that takes the embedded one's place.
#[derive(Debug, Clone)]
pub struct External {
    client: Client,
    registry: String,
    prefix: String,
    /// URL of the API, where that is not the usual one.
    api: Option<String>,
}

/// `host[:port]` of a registry given by that, by a URL, or by the URL of its API.
pub fn registry_host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

impl External {
    /// Uses the registry at `url` (`registry.example:5000`, with a scheme, or the URL of its API,
    /// `https://registry.example/path/v2`) with `prefix` before every repository (`team/chalk`, may
    /// be empty). `http://` allows plain HTTP.
    ///
    /// # Errors
    /// [`RegionalError::Name`] for a bad address or prefix, and what [`Client::new`] gives.
    pub fn new(url: &str, prefix: &str, mut options: Options) -> Result<Self> {
        let bad = |detail: &str| RegionalError::Name {
            text: url.to_owned(),
            detail: detail.to_owned(),
        };
        let (plain, rest) = match url.split_once("://") {
            Some(("http", rest)) => (true, rest),
            Some(("https", rest)) => (false, rest),
            Some(_) => return Err(bad("expected `host[:port]`, or http or https before it")),
            None => (false, url),
        };
        let (registry, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        if rest.contains(['@', '?', '#']) {
            return Err(bad("expected `host[:port]`, without login and query"));
        }
        let api = match path {
            // Else the scheme is what the host and the settings make of it.
            "" | "v2" => url
                .starts_with("https://")
                .then(|| format!("https://{registry}/v2")),
            path if path.ends_with("/v2") && url.contains("://") => {
                let scheme = if plain { "http" } else { "https" };
                Some(format!("{scheme}://{registry}/{path}"))
            }
            _ => {
                return Err(bad(
                    "expected `host[:port]`, or the URL of the registry's API, which ends with `/v2`; a path in front of repositories belongs into the prefix",
                ));
            }
        };
        if let Some(api) = &api {
            options.roots.insert(registry.to_owned(), api.clone());
        }
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty() && !is_repository(prefix) {
            return Err(RegionalError::Name {
                text: prefix.to_owned(),
                detail: "the prefix is no repository path".to_owned(),
            });
        }
        if plain {
            options.insecure.insert(registry.to_owned());
        }
        let external = Self {
            client: Client::new(options)?,
            registry: registry.to_owned(),
            prefix: prefix.to_owned(),
            api,
        };
        // Says now what every later call would say.
        external.reference("chalk", None)?;
        Ok(external)
    }

    /// `host[:port][/prefix]` by which others know the registry.
    pub fn public(&self) -> String {
        match self.prefix.as_str() {
            "" => self.registry.clone(),
            prefix => format!("{}/{prefix}", self.registry),
        }
    }

    /// The pullable reference of a manifest.
    ///
    /// # Errors
    /// [`RegionalError::Name`].
    pub fn reference(&self, repository: &str, name: Option<&str>) -> Result<Reference> {
        let path = match self.prefix.as_str() {
            "" => repository.to_owned(),
            prefix => format!("{prefix}/{repository}"),
        };
        let refuse = |detail: String| RegionalError::Name {
            text: format!("{}/{path}", self.registry),
            detail,
        };
        let digest = match name.filter(|name| name.contains(':')) {
            Some(text) => Some(text.parse::<Digest>().map_err(|e| refuse(e.to_string()))?),
            None => None,
        };
        let tag = name.filter(|_| digest.is_none());
        let reference = Reference::new(&self.registry, &path, tag, digest);
        reference.map_err(|e| refuse(e.to_string()))
    }
}

#[async_trait]
impl Regional for External {
    async fn head_manifest(&self, repository: &str, name: &str) -> Result<Option<ManifestHead>> {
        let at = self.reference(repository, Some(name))?;
        let head = self.client.head_manifest(&at).await?;
        let suspect = head.as_ref().is_some_and(|head| {
            let small = head.size.is_none_or(|size| size <= REMOVED_SIZE);
            head.media_type == INDEX && small && at.digest().is_none()
        });
        if suspect && self.manifest(repository, name).await?.is_none() {
            return Ok(None);
        }
        Ok(head)
    }

    async fn manifest(&self, repository: &str, name: &str) -> Result<Option<Manifest>> {
        let at = self.reference(repository, Some(name))?;
        let found = self.client.manifest(&at).await?;
        // A tag that is being removed, or whose removal broke off, is gone.
        Ok(found.filter(|found| at.digest().is_some() || !is_removed(found)))
    }

    async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let at = self.reference(repository, None)?;
        Ok(self.client.has_blob(&at, digest).await?)
    }

    async fn mount_blob(&self, repository: &str, digest: &Digest, from: &str) -> Result<bool> {
        let at = self.reference(repository, None)?;
        let from = self.reference(from, None)?;
        Ok(self.client.mount(&at, digest, from.repository()).await?)
    }

    async fn push_blob(
        &self,
        repository: &str,
        blob: &Blob,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<Pushed> {
        let at = self.reference(repository, None)?;
        Ok(self
            .client
            .push_blob(&at, blob, store, None, progress)
            .await?)
    }

    async fn pull_blob(
        &self,
        repository: &str,
        blob: &Blob,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<()> {
        let at = self.reference(repository, None)?;
        Ok(self.client.pull_blob(&at, blob, store, progress).await?)
    }

    async fn put_manifest(
        &self,
        repository: &str,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Published> {
        let at = self.reference(repository, Some(name))?;
        Ok(self.client.put_manifest(&at, media_type, bytes).await?)
    }

    async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let at = self.reference(repository, None)?;
        Ok(self.client.tags(&at).await?)
    }

    async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>> {
        let at = self.reference(repository, None)?;
        Ok(self.client.referrers(&at, subject, artifact_type).await?)
    }

    async fn delete(&self, repository: &str, name: &str) -> Result<bool> {
        let at = self.reference(repository, Some(name))?;
        Ok(self.client.delete_manifest(&at).await?)
    }

    async fn pull_token(&self, repository: &str) -> Result<Option<PullToken>> {
        let at = self.reference(repository, None)?;
        Ok(self.client.pull_token(&at).await?)
    }

    fn api(&self) -> Option<&str> {
        self.api.as_deref()
    }
}
