//! Logins and tokens: which `Authorization` a request carries.
//!
//! After the "Token Authentication Specification" of the distribution project: a registry answers
//! 401 with a challenge; the token service it names is asked for a token for the scopes of the
//! request, first by `GET`, then by the OAuth2 `POST`; tokens are kept until they expire or are
//! refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::header::HeaderValue;
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::Client;
use super::challenge::Challenge;
use super::credentials::{Credential, Found};
use super::endpoint::{Endpoint, host_of};
use super::error::RegistryError;
use super::transport::{Attempt, excerpt, read_limited};

/// Token services that say nothing mean this (token specification, `expires_in`).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token this close to its end is not used any more.
const LEEWAY: Duration = Duration::from_secs(10);
pub(super) const TOKEN_ANSWER_LIMIT: u64 = 1 << 20;
/// After a look-up for a refusal changed nothing, others do not cause one for so long: who lacks a
/// right is refused often, and a helper takes its time.
const LOOK_UP_PAUSE: Duration = Duration::from_secs(30);

/// What a request does to which repository, in the words of the token specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scopes(BTreeSet<String>);

impl Scopes {
    pub(super) fn pull(repository: &str) -> Self {
        Self([format!("repository:{repository}:pull")].into())
    }

    pub(super) fn push(repository: &str) -> Self {
        Self([format!("repository:{repository}:pull,push")].into())
    }

    pub(super) fn delete(repository: &str) -> Self {
        Self([format!("repository:{repository}:pull,delete")].into())
    }

    pub(super) fn mount(repository: &str, from: &str) -> Self {
        let mut scopes = Self::push(repository);
        scopes.0.insert(format!("repository:{from}:pull"));
        scopes
    }

    fn with(&self, challenged: Option<&str>) -> Self {
        let mut all = self.0.clone();
        all.extend(
            challenged
                .into_iter()
                .flat_map(str::split_whitespace)
                .map(str::to_owned),
        );
        Self(all)
    }
}

/// Logins of all servers that a client has talked to.
#[derive(Debug, Default)]
pub(super) struct Logins {
    /// By API root. Each has its own lock, which is held while a token is fetched, so that
    /// parallel blobs ask for one token together.
    servers: std::sync::Mutex<BTreeMap<String, Arc<Mutex<Login>>>>,
}

#[derive(Debug, Default)]
pub(super) struct Login {
    pub(super) found: Option<Found>,
    pub(super) challenge: Option<Challenge>,
    tokens: BTreeMap<Scopes, Token>,
    /// When a refusal last made us look the credential up in vain.
    looked_up: Option<Instant>,
    /// Tokens to hand on, which were asked for with nothing but the right to read one repository;
    /// `None` for what turned out to allow more.
    pub(super) handed_on: BTreeMap<Scopes, (Option<Token>, Instant)>,
}

#[derive(Clone)]
pub(super) struct Token {
    header: HeaderValue,
    pub(super) until: Instant,
}

impl Token {
    /// The token itself.
    pub(super) fn text(&self) -> Option<&str> {
        self.header.to_str().ok()?.strip_prefix("Bearer ")
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Logins {
    pub(super) fn of(&self, endpoint: &Endpoint) -> Arc<Mutex<Login>> {
        // A poisoned lock guards a map that is sound all the same.
        let mut servers = self
            .servers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(servers.entry(endpoint.base.to_string()).or_default())
    }
}

impl Client {
    /// `Authorization` for a request, as far as it is known how this server wants it.
    pub(super) async fn authorization(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let login = self.inner.logins.of(endpoint);
        let mut login = login.lock().await;
        match login.challenge.clone() {
            None => Ok(None),
            Some(challenge) => {
                self.answer(endpoint, &mut login, &challenge, scopes, scopes)
                    .await
            }
        }
    }

    /// Takes in a 401: drops the `used` header, if it still is the one that is kept, and gives a
    /// new one to try; none when nothing else can be tried.
    pub(super) async fn challenged(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        used: Option<&HeaderValue>,
        challenge: Challenge,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let login = self.inner.logins.of(endpoint);
        let mut login = login.lock().await;
        let needed = match &challenge {
            Challenge::Bearer { scope, .. } => scopes.with(scope.as_deref()),
            Challenge::Basic => scopes.clone(),
        };
        login.challenge = Some(challenge.clone());
        if used.is_some() {
            // It may have been changed, or the helper gives one for some hours only.
            login.found = None;
        }
        // Under both names: the request's own scopes, and those the registry asked for.
        login.tokens.retain(|key, token| {
            !((key == scopes || *key == needed) && Some(&token.header) == used)
        });
        let header = self
            .answer(endpoint, &mut login, &challenge, &needed, scopes)
            .await?;
        if needed != *scopes
            && let Some(token) = login.tokens.get(&needed).cloned()
        {
            login.tokens.insert(scopes.clone(), token);
        }
        Ok(header.filter(|header| Some(header) != used))
    }

    /// Takes in a 403, which is also what a registry answers to a password or token that ran out
    /// (ECR): gives the header to try if the credential changed since it was looked up.
    pub(super) async fn forbidden(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        used: &HeaderValue,
    ) -> Option<HeaderValue> {
        if self.inner.options.explicit.contains_key(&endpoint.login) {
            return None;
        }
        let login = self.inner.logins.of(endpoint);
        let mut login = login.lock().await;
        let challenge = login.challenge.clone()?;
        let before = login.found.clone()?;
        let kept = self.kept(endpoint, &login, &challenge, scopes);
        if kept.as_ref() != Some(used) {
            // Another request has been here.
            let fresh = self.answer(endpoint, &mut login, &challenge, scopes, scopes);
            return fresh.await.ok().flatten().filter(|fresh| fresh != used);
        }
        if login
            .looked_up
            .is_some_and(|when| when.elapsed() < LOOK_UP_PAUSE)
        {
            return None;
        }
        login.found = None;
        let now = self.found(endpoint, &mut login).await;
        // A look-up that failed may go well later: nobody is logged out by it.
        if now.credential.is_none() || now.credential == before.credential {
            login.found = Some(before);
            login.looked_up = Some(Instant::now());
            return None;
        }
        // Tokens of the old one ran out with it.
        login.tokens.clear();
        login.handed_on.clear();
        let fresh = self
            .answer(endpoint, &mut login, &challenge, scopes, scopes)
            .await;
        match fresh {
            Ok(fresh) => fresh.filter(|fresh| fresh != used),
            Err(error) => {
                tracing::debug!(%error, "no new token after a refusal");
                None
            }
        }
    }

    /// The header that a request would carry now, if nobody has to be asked for it.
    fn kept(
        &self,
        endpoint: &Endpoint,
        login: &Login,
        challenge: &Challenge,
        scopes: &Scopes,
    ) -> Option<HeaderValue> {
        if let Some(token) = login.tokens.get(scopes) {
            return Some(token.header.clone());
        }
        match (challenge, login.found.as_ref()?.credential.as_ref()?) {
            (_, Credential::Bearer(token)) => secret(endpoint, "Bearer", token).ok(),
            (Challenge::Basic, Credential::Password { user, password }) => {
                basic(endpoint, user, password).ok()
            }
            _ => None,
        }
    }

    /// What to tell the user about the credentials when `endpoint` refuses.
    pub(super) async fn told(&self, endpoint: &Endpoint) -> String {
        let login = self.inner.logins.of(endpoint);
        let mut login = login.lock().await;
        self.found(endpoint, &mut login).await.told
    }

    pub(super) async fn found(&self, endpoint: &Endpoint, login: &mut Login) -> Found {
        if let Some(found) = &login.found {
            return found.clone();
        }
        let options = &self.inner.options;
        let found = match options.explicit.get(&endpoint.login) {
            Some(credential) => Found {
                credential: Some(credential.clone()),
                told: "by the credentials of the configuration".to_owned(),
            },
            None => {
                let source = options.sources.get(&endpoint.login);
                let source = source.unwrap_or(&options.credentials);
                source.look_up(&endpoint.login).await
            }
        };
        login.found.insert(found).clone()
    }

    /// `Authorization` for `scopes`, of which `own` are those of the request itself.
    async fn answer(
        &self,
        endpoint: &Endpoint,
        login: &mut Login,
        challenge: &Challenge,
        scopes: &Scopes,
        own: &Scopes,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        if let Some(token) = login.tokens.get(scopes)
            && token.until > Instant::now()
        {
            return Ok(Some(token.header.clone()));
        }
        let looked_up = login.found.is_none();
        let credential = self.found(endpoint, login).await.credential;
        match (challenge, credential) {
            (_, Some(Credential::Bearer(token))) => Ok(Some(secret(endpoint, "Bearer", &token)?)),
            (Challenge::Basic, Some(Credential::Password { user, password })) => {
                Ok(Some(basic(endpoint, &user, &password)?))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, .. }, credential) => {
                let ask = Ask {
                    realm,
                    service: service.as_deref(),
                    scopes,
                    own,
                    credential: credential.as_ref(),
                };
                let token = self.token(endpoint, login, ask, looked_up).await?;
                let header = token.header.clone();
                login.tokens.insert(scopes.clone(), token);
                Ok(Some(header))
            }
        }
    }

    /// A new token; `looked_up` says that the credential was looked up just now.
    pub(super) async fn token(
        &self,
        endpoint: &Endpoint,
        login: &mut Login,
        ask: Ask<'_>,
        looked_up: bool,
    ) -> Result<Token, RegistryError> {
        let asked = Instant::now();
        let answer = match self.ask_for_token(endpoint, &ask).await {
            Err(RegistryError::Denied { .. }) if !looked_up => {
                // The credential may be an old one.
                login.found = None;
                let credential = self.found(endpoint, login).await.credential;
                let ask = Ask {
                    credential: credential.as_ref(),
                    ..ask
                };
                self.ask_for_token(endpoint, &ask).await?
            }
            answer => answer?,
        };
        let token = answer.token.or(answer.access_token).unwrap_or_default();
        let lifetime = answer
            .expires_in
            .map_or(DEFAULT_LIFETIME, |s| Duration::from_secs(s.min(86_400)));
        Ok(Token {
            header: secret(endpoint, "Bearer", &token)?,
            until: asked + lifetime.saturating_sub(LEEWAY),
        })
    }

    /// Asks the broker of a registry, if it has one, else the token service.
    async fn ask_for_token(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
    ) -> Result<TokenAnswer, RegistryError> {
        let Some(broker) = self.inner.options.brokers.get(&endpoint.login) else {
            return self.fetch_token(endpoint, ask).await;
        };
        let url = Url::parse(&broker.url).map_err(|e| RegistryError::Setting {
            setting: format!("token broker of {}", endpoint.login),
            detail: e.to_string(),
        })?;
        let mut attempt = Attempt::get(url);
        // A broker knows what it may give: what the registry asks for besides is not for it.
        let own = ask.query_of(ask.own);
        attempt.url.query_pairs_mut().extend_pairs(own);
        attempt.authorization = Some(match &broker.credential {
            Credential::Password { user, password } => basic(endpoint, user, password)?,
            Credential::Bearer(token) | Credential::IdentityToken(token) => {
                secret(endpoint, "Bearer", token)?
            }
        });
        let what = format!("token from {}", host_of(&attempt.url));
        let response = self.send_plain(&attempt, &what).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return self.fetch_token(endpoint, ask).await;
        }
        self.token_answer(endpoint, ask, response, &what).await
    }

    async fn fetch_token(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
    ) -> Result<TokenAnswer, RegistryError> {
        let url = ask.url(endpoint)?;
        let what = format!("token from {}", host_of(&url));
        // An identity token is good for the OAuth2 form only.
        if !matches!(ask.credential, Some(Credential::IdentityToken(_))) {
            let mut get = url.clone();
            get.query_pairs_mut().extend_pairs(ask.query_of(ask.scopes));
            let mut attempt = Attempt::get(get);
            if let Some(Credential::Password { user, password }) = ask.credential {
                attempt.url.query_pairs_mut().append_pair("account", user);
                attempt.authorization = Some(basic(endpoint, user, password)?);
            }
            let response = self.send_plain(&attempt, &what).await?;
            let oauth = matches!(
                response.status(),
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
            );
            if !(oauth && matches!(ask.credential, Some(Credential::Password { .. }))) {
                return self.token_answer(endpoint, ask, response, &what).await;
            }
        }
        let attempt = Attempt::form(url, &ask.form());
        let response = self.send_plain(&attempt, &what).await?;
        self.token_answer(endpoint, ask, response, &what).await
    }

    async fn token_answer(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        response: Response,
        what: &str,
    ) -> Result<TokenAnswer, RegistryError> {
        let status = response.status();
        let host = host_of(response.url());
        let bytes = read_limited(response, TOKEN_ANSWER_LIMIT, what, self.idle()).await?;
        if status == StatusCode::UNAUTHORIZED
            || status == StatusCode::FORBIDDEN
            || status == StatusCode::BAD_REQUEST
        {
            return Err(RegistryError::Denied {
                registry: endpoint.login.clone(),
                what: ask.scopes.0.iter().cloned().collect::<Vec<_>>().join(" "),
                detail: format!(
                    "token service {host} answered {status}: {}",
                    excerpt(&bytes)
                ),
                credentials: match ask.credential {
                    Some(_) => "with the credentials that are configured for it".to_owned(),
                    None => "without credentials: none are configured for it".to_owned(),
                },
            });
        }
        let protocol = |detail: String| RegistryError::Protocol {
            host: host.clone(),
            what: what.to_owned(),
            detail,
        };
        if !status.is_success() {
            return Err(protocol(format!("answered {status}: {}", excerpt(&bytes))));
        }
        // The answer is never quoted: it may hold a token.
        let answer: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_| protocol("the token service's answer is not the expected JSON".into()))?;
        if answer.token.is_none() && answer.access_token.is_none() {
            return Err(protocol("the token service's answer has no token".into()));
        }
        Ok(answer)
    }
}

/// A request to a token service.
pub(super) struct Ask<'a> {
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) scopes: &'a Scopes,
    /// Those of `scopes` that are the request's own.
    pub(super) own: &'a Scopes,
    pub(super) credential: Option<&'a Credential>,
}

impl Ask<'_> {
    /// The realm, which must not be less protected than the registry itself.
    fn url(&self, endpoint: &Endpoint) -> Result<Url, RegistryError> {
        let refuse = |detail: String| RegistryError::Protocol {
            host: endpoint.host(),
            what: format!("token service `{}`", self.realm),
            detail,
        };
        let url = Url::parse(self.realm).map_err(|e| refuse(e.to_string()))?;
        match (url.scheme(), endpoint.base.scheme()) {
            ("https", _) | ("http", "http") => Ok(url),
            _ => Err(refuse(
                "a registry with TLS must not ask for a login without".into(),
            )),
        }
    }

    fn query_of<'a>(&'a self, scopes: &'a Scopes) -> Vec<(&'a str, &'a str)> {
        let service = self.service.map(|service| ("service", service));
        let scopes = scopes.0.iter().map(|scope| ("scope", scope.as_str()));
        service.into_iter().chain(scopes).collect()
    }

    fn form(&self) -> Vec<(String, String)> {
        let mut form = vec![("client_id".to_owned(), "chalk".to_owned())];
        let mut add = |name: &str, value: &str| form.push((name.to_owned(), value.to_owned()));
        add("service", self.service.unwrap_or_default());
        let scopes: Vec<&str> = self.scopes.0.iter().map(String::as_str).collect();
        add("scope", &scopes.join(" "));
        match self.credential {
            Some(Credential::Password { user, password }) => {
                add("grant_type", "password");
                add("username", user);
                add("password", password);
            }
            Some(Credential::IdentityToken(token)) => {
                add("grant_type", "refresh_token");
                add("refresh_token", token);
            }
            Some(Credential::Bearer(_)) | None => {}
        }
        form
    }
}

fn basic(endpoint: &Endpoint, user: &str, password: &str) -> Result<HeaderValue, RegistryError> {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret(endpoint, "Basic", &pair)
}

fn secret(endpoint: &Endpoint, scheme: &str, value: &str) -> Result<HeaderValue, RegistryError> {
    let mut header =
        HeaderValue::from_str(&format!("{scheme} {value}")).map_err(|_| RegistryError::Denied {
            registry: endpoint.login.clone(),
            what: "the registry".to_owned(),
            detail: "the token has characters that no header can carry".to_owned(),
            credentials: "token not shown".to_owned(),
        })?;
    header.set_sensitive(true);
    Ok(header)
}
