//! Tags, and listings that come in pages.

use chalk_core::Reference;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, LINK};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::Client;
use super::auth::Scopes;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::transport::{ANSWER_LIMIT, Answer, Attempt};

/// A registry may page for ever; nobody has this many tags of one image.
const MAX_PAGES: usize = 1000;
/// Bytes of all pages of a listing together, since they are kept until the last has come.
const LISTING_LIMIT: usize = 128 << 20;

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

    /// All pages of a listing; none when the first is not there. A listing that cannot be read to its
    /// end is an error: whoever took it for whole would take what it leaves out for gone.
    pub(super) async fn pages(
        &self,
        endpoint: &Endpoint,
        mut url: Url,
        repository: &str,
        what: &str,
    ) -> Result<Vec<Answer>, RegistryError> {
        let mut all = Vec::new();
        let mut kept = 0;
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
            kept += answer.body.len();
            if kept > LISTING_LIMIT {
                return Err(RegistryError::TooLarge {
                    host: endpoint.host(),
                    what: what.to_owned(),
                    limit: LISTING_LIMIT as u64,
                });
            }
            let next = match next_page(&answer.headers) {
                Some(link) => Some(resolved(endpoint, &answer.url, &link, what)?),
                None => None,
            };
            all.push(answer);
            match next {
                // The same page once more brings nothing: so some registries end their listings.
                Some(next) if next != url => url = next,
                _ => return Ok(all),
            }
        }
        Err(RegistryError::Protocol {
            host: endpoint.host(),
            what: what.to_owned(),
            detail: format!("the listing has more than {MAX_PAGES} pages"),
        })
    }
}

/// Where the next page of a listing is: on the same server, since our login goes along.
fn resolved(endpoint: &Endpoint, page: &Url, link: &str, what: &str) -> Result<Url, RegistryError> {
    let next = page.join(link).ok();
    let next = next.and_then(|next| endpoint.raised(next));
    next.filter(|next| endpoint.owns(next))
        .ok_or_else(|| RegistryError::Protocol {
            host: endpoint.host(),
            what: what.to_owned(),
            detail: format!(
                "the next page of the listing is said to be `{}`, expected one at {}; if a proxy stands before the registry, tell the registry its address (`http.host` of docker-registry)",
                shortened(link),
                endpoint.base
            ),
        })
}

/// The start of what a registry sent, fit for a message.
fn shortened(text: &str) -> String {
    // Queries may hold keys.
    let text = text.split('?').next().unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(200).collect()
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

    #[test]
    fn next_pages_are_on_the_same_server() {
        let endpoint = Endpoint {
            registry: "r.example".into(),
            base: Url::parse("https://r.example/v2/").unwrap(),
            login: "r.example".into(),
            mirror: false,
            unsettled: false,
        };
        let page = Url::parse("https://r.example/v2/a/tags/list?n=1").unwrap();
        let check = |link: &str, expect: Option<&str>| {
            let next = resolved(&endpoint, &page, link, "tags of a");
            match (next, expect) {
                (Ok(next), Some(expect)) => assert_eq!(next.as_str(), expect),
                (Err(RegistryError::Protocol { .. }), None) => {}
                (next, _) => panic!("{link}: {next:?}"),
            }
        };
        let whole = "https://r.example/v2/a/tags/list?last=b";
        check("/v2/a/tags/list?last=b", Some(whole));
        check("?last=b", Some(whole));
        check(whole, Some(whole));
        // A registry behind a proxy that ends TLS does not know its own scheme.
        check("http://r.example/v2/a/tags/list?last=b", Some(whole));
        check("http://other.example/v2/a/tags/list?last=b", None);
        check("https://other.example/v2/a/tags/list?last=b", None);
        check("https://r.example:5000/v2/a/tags/list?last=b", None);
        check("http://", None);
    }
}
