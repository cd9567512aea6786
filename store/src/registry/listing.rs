//! Tags and deletion, and listings that come in pages.

use chalk_core::Reference;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, LINK};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;

use super::Client;
use super::auth::Scopes;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::referrers::INDEX;
use super::transport::{ANSWER_LIMIT, Answer, Attempt};

/// A registry may page for ever; nobody has this many tags of one image.
const MAX_PAGES: usize = 1000;

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

    /// Deletes the manifest behind a digest, or a tag; `false` when there was none. A manifest that
    /// goes leaves the index of its subject's referrers first, since registries take no index that
    /// lists what is gone, and its own index goes with it (spec.md, "Deleting Manifests"; both only
    /// where the registry lacks the referrers API).
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NotFound` and `NoSuchPlatform`; `Protocol` when the registry
    /// does not allow deletion.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<bool, RegistryError> {
        let Some(digest) = reference.digest() else {
            return self.delete_tag(reference).await;
        };
        let filed = self.unfile_referrer(reference, &digest).await?;
        let deleted = match self.delete_one(reference).await {
            Ok(deleted) => deleted,
            Err(error) => {
                // It stays, and so must be found.
                if let Some(found) = filed {
                    let (kind, bytes) = (&found.media_type, &found.bytes);
                    self.file_referrer(reference, kind, bytes).await?;
                }
                return Err(error);
            }
        };
        self.remove_own_index(reference, &digest).await?;
        Ok(deleted)
    }

    /// Deletes a tag and nothing else. Older registries delete by digest alone, which takes every tag
    /// of it along: there the tag is first moved to an index that no other tag has.
    async fn delete_tag(&self, reference: &Reference) -> Result<bool, RegistryError> {
        match self.delete_one(reference).await {
            Err(RegistryError::Protocol { .. }) => {}
            deleted => return deleted,
        }
        if self.head_manifest(reference).await?.is_none() {
            return Ok(false);
        }
        let nothing = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [],
            "annotations": { "chalk.removed": format!("{:032x}", rand::random::<u128>()) },
        });
        let nothing = nothing.to_string().into();
        let always = HeaderMap::new();
        let moved = self.put_one(reference, INDEX, nothing, always).await?;
        self.delete_one(&reference.with_digest(moved.digest)).await
    }

    /// Deletes what is under a digest or tag and nothing else.
    pub(super) async fn delete_one(&self, reference: &Reference) -> Result<bool, RegistryError> {
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
    pub(super) async fn pages(
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

pub(super) fn parse<T: serde::de::DeserializeOwned>(
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
