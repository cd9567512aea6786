//! Tags, referrers and deletion.

use chalk_core::{Digest, Reference};
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, LINK};
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::Client;
use super::auth::Scopes;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::transport::{ANSWER_LIMIT, Answer, Attempt};

/// A registry may page for ever; nobody has this many tags of one image.
const MAX_PAGES: usize = 1000;

/// Manifest that names another as its `subject`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Type of the manifest.
    pub media_type: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Size of the manifest in bytes.
    pub size: u64,
    /// Kind of artifact that the manifest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Annotations of the manifest.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// Tag under which registries without the referrers API keep the referrers of `subject`.
pub(super) fn fallback_tag(of: &Reference, subject: &Digest) -> Result<Reference, RegistryError> {
    let tag = subject.to_string().replace(':', "-");
    Reference::new(of.registry(), of.repository(), Some(&tag), None).map_err(|e| {
        RegistryError::Protocol {
            host: of.registry().to_owned(),
            what: format!("referrers of {subject}"),
            detail: e.to_string(),
        }
    })
}

impl Client {
    /// All tags of a repository, in the registry's order; none when there is no such repository.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NotFound` and `NoSuchPlatform`.
    pub async fn tags(&self, repository: &Reference) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let endpoint = self.origin(repository.registry()).await?;
        let name = repository.repository();
        let what = format!("tags of {name}");
        let mut url = endpoint.url(&format!("{name}/tags/list"))?;
        url.query_pairs_mut().append_pair("n", "1000");
        let mut all = Vec::new();
        for answer in self.pages(&endpoint, url, name, &what).await? {
            let page: Page = parse(&endpoint, &answer, &what)?;
            all.extend(page.tags.unwrap_or_default());
        }
        Ok(all)
    }

    /// Manifests that name `subject`, of one kind only if `artifact_type` is given; by the
    /// referrers API, else by the referrers tag.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NotFound` and `NoSuchPlatform`.
    pub async fn referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let endpoint = self.origin(repository.registry()).await?;
        let name = repository.repository();
        let what = format!("referrers of {subject} in {name}");
        let mut url = endpoint.url(&format!("{name}/referrers/{subject}"))?;
        if let Some(kind) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", kind);
        }
        let answers = self.pages(&endpoint, url, name, &what).await?;
        let mut all: Vec<Referrer> = Vec::new();
        if answers.is_empty() {
            let at = fallback_tag(repository, subject)?;
            if let Some(found) = self.manifest(&at).await? {
                let index: Index =
                    serde_json::from_slice(&found.bytes).map_err(|e| RegistryError::Protocol {
                        host: endpoint.host(),
                        what,
                        detail: format!("the referrers tag holds no valid index: {e}"),
                    })?;
                all = index.manifests;
            }
        } else {
            for answer in answers {
                all.extend(parse::<Index>(&endpoint, &answer, &what)?.manifests);
            }
        }
        // Filtering is optional for a registry (spec.md, "Listing Referrers"), so do it here too.
        all.retain(|one| artifact_type.is_none() || one.artifact_type.as_deref() == artifact_type);
        Ok(all)
    }

    /// Deletes the manifest behind a digest, or a tag; `false` when there was none.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NotFound` and `NoSuchPlatform`; `Protocol` when the registry
    /// does not allow deletion.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<bool, RegistryError> {
        let endpoint = self.origin(reference.registry()).await?;
        let (repository, name) = (reference.repository(), reference.manifest_name());
        let url = endpoint.url(&format!("{repository}/manifests/{name}"))?;
        let what = format!("deletion of {reference}");
        let scopes = Scopes::delete(repository);
        let attempt = Attempt::new(Method::DELETE, url);
        let answer = self
            .fetch(&endpoint, &scopes, attempt, ANSWER_LIMIT, &what)
            .await?;
        match answer.status {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(&endpoint, &answer, &what).await),
        }
    }

    /// All pages of a listing; none when the first is not there.
    async fn pages(
        &self,
        endpoint: &Endpoint,
        mut url: Url,
        repository: &str,
        what: &str,
    ) -> Result<Vec<Answer>, RegistryError> {
        let mut all = Vec::new();
        while all.len() < MAX_PAGES {
            let mut attempt = Attempt::get(url.clone());
            attempt.headers.insert(
                ACCEPT,
                HeaderValue::from_static("application/json, */*;q=0.5"),
            );
            let scopes = Scopes::pull(repository);
            let answer = self
                .fetch(endpoint, &scopes, attempt, ANSWER_LIMIT, what)
                .await?;
            match answer.status {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND if all.is_empty() => return Ok(all),
                _ => return Err(self.refused(endpoint, &answer, what).await),
            }
            let next = next_page(&answer.headers).and_then(|link| answer.url.join(&link).ok());
            all.push(answer);
            match next {
                // A page elsewhere, or the same once more, is no page of this listing.
                Some(next) if endpoint.owns(&next) && next != url => url = next,
                _ => return Ok(all),
            }
        }
        Ok(all)
    }
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Referrer>,
}

fn parse<T: serde::de::DeserializeOwned>(
    endpoint: &Endpoint,
    answer: &Answer,
    what: &str,
) -> Result<T, RegistryError> {
    serde_json::from_slice(&answer.body).map_err(|e| RegistryError::Protocol {
        host: endpoint.host(),
        what: what.to_owned(),
        detail: format!("is not the expected JSON: {e}"),
    })
}

/// Target of a `Link: <...>; rel="next"` (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().find_map(|value| {
        let (target, rest) = value
            .to_str()
            .ok()?
            .trim()
            .strip_prefix('<')?
            .split_once('>')?;
        let next = rest.split(';').any(|parameter| {
            let parameter = parameter.trim().to_ascii_lowercase();
            matches!(parameter.as_str(), "rel=\"next\"" | "rel=next")
        });
        next.then(|| target.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_next_page() {
        let check = |value: &str, expect: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, HeaderValue::from_str(value).unwrap());
            assert_eq!(next_page(&headers).as_deref(), expect, "{value}");
        };
        check(
            "</v2/a/tags/list?n=1&last=b>; rel=\"next\"",
            Some("/v2/a/tags/list?n=1&last=b"),
        );
        check("<x>; title=y; REL=next", Some("x"));
        check("<x>; rel=\"prev\"", None);
        check("x; rel=next", None);
    }
}
