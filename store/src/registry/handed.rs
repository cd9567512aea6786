//! Tokens that are handed to others: what they show of our login, and what they allow.
//!
//! A token service may give less than it is asked for, and some give more: a token of all rights of
//! the login, or the very password in other clothes (GHCR's token is the base64 form of the personal
//! access token).

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use chalk_core::Reference;
use serde_json::Value;

use super::Client;
use super::auth::{Ask, Scopes, TOKEN_ANSWER_LIMIT, Token};
use super::challenge::Challenge;
use super::credentials::Credential;
use super::error::RegistryError;
use super::transport::Attempt;

/// Secrets shorter than this are found by chance in what is long enough.
const DISTINCT: usize = 6;

/// A token for reading one repository.
#[derive(Clone)]
pub struct PullToken {
    /// To be sent as `Authorization: Bearer`.
    pub token: String,
    /// How long it can be used.
    pub lifetime: Duration,
}

impl std::fmt::Debug for PullToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullToken")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A token for reading a repository and nothing else, which shows nothing of our login; `None`
    /// when the registry takes no tokens of a token service, or that gives tokens which allow more or
    /// hold the password.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NotFound` and `NoSuchPlatform`.
    pub async fn pull_token(
        &self,
        repository: &Reference,
    ) -> Result<Option<PullToken>, RegistryError> {
        let endpoint = self.origin(repository.registry()).await?;
        let name = repository.repository();
        let scopes = Scopes::pull(name);
        let what = format!("token for {name}");
        let login = self.inner.logins.of(&endpoint);
        if login.lock().await.challenge.is_none() {
            // How the registry wants it is not known yet.
            let attempt = Attempt::get(endpoint.base.clone());
            self.fetch(&endpoint, &scopes, attempt, TOKEN_ANSWER_LIMIT, &what)
                .await?;
        }
        let mut login = login.lock().await;
        let Some(Challenge::Bearer { realm, service, .. }) = login.challenge.clone() else {
            return Ok(None);
        };
        let now = Instant::now();
        login.handed_on.retain(|_, (_, until)| *until > now);
        if let Some((token, _)) = login.handed_on.get(&scopes) {
            return Ok(token.as_ref().and_then(to_hand_on));
        }
        let looked_up = login.found.is_none();
        let credential = self.found(&endpoint, &mut login).await.credential;
        if let Some(Credential::Bearer(_)) = credential {
            return Ok(None);
        }
        // Not one of those that are kept: they may be for what the registry asked for besides.
        let ask = Ask {
            realm: &realm,
            service: service.as_deref(),
            scopes: &scopes,
            own: &scopes,
            credential: credential.as_ref(),
        };
        let token = self.token(&endpoint, &mut login, ask, looked_up).await?;
        let until = token.until;
        // It may have been looked up again.
        let credential = self.found(&endpoint, &mut login).await.credential;
        let text = token.text().unwrap_or_default();
        let token = match problem(text, name, credential.as_ref()) {
            None => Some(token),
            Some(problem) => {
                tracing::warn!(
                    registry = endpoint.login,
                    repository = name,
                    "no token is handed to nodes, which need a login of their own (`node.credentials`): {problem}"
                );
                None
            }
        };
        let given = token.as_ref().and_then(to_hand_on);
        login.handed_on.insert(scopes, (token, until));
        Ok(given)
    }
}

fn to_hand_on(token: &Token) -> Option<PullToken> {
    Some(PullToken {
        token: token.text()?.to_owned(),
        lifetime: token.until.saturating_duration_since(Instant::now()),
    })
}

/// Why a token is not for somebody who may read `repository` and do nothing else; `None` when nothing
/// speaks against it.
fn problem(token: &str, repository: &str, credential: Option<&Credential>) -> Option<&'static str> {
    let secret = match credential {
        Some(Credential::Password { password, .. }) => password.as_str(),
        Some(Credential::IdentityToken(token) | Credential::Bearer(token)) => token.as_str(),
        None => "",
    };
    if shows(token, secret) {
        return Some("the token service's tokens hold the password");
    }
    match claims(token) {
        Some(claims) if !is_pull_alone(&claims, repository) => {
            Some("the token service's tokens allow more than was asked for")
        }
        _ => None,
    }
}

/// Whether a token holds a secret, as it is or in base64.
fn shows(token: &str, secret: &str) -> bool {
    if secret.is_empty() {
        return false;
    }
    let decoded = token.split('.').chain([token]).flat_map(decodings);
    let mut forms = decoded.chain([token.as_bytes().to_vec()]);
    let secret = secret.as_bytes();
    forms.any(|form| {
        if secret.len() < DISTINCT {
            let rest = form.strip_suffix(secret);
            return rest.is_some_and(|rest| rest.is_empty() || rest.ends_with(b":"));
        }
        form.windows(secret.len()).any(|part| part == secret)
    })
}

fn decodings(text: &str) -> Vec<Vec<u8>> {
    let engines = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD];
    let decoded = engines.iter().filter_map(|engine| engine.decode(text).ok());
    decoded.collect()
}

/// The claims of a token that is a JWT (RFC 7519).
fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims.is_object().then_some(claims)
}

/// Whether the `access` of a token (token specification of the distribution project, "JWT") is at most
/// to pull from a repository. Tokens without it say nothing.
fn is_pull_alone(claims: &Value, repository: &str) -> bool {
    let access = match claims.get("access") {
        None | Some(Value::Null) => return true,
        Some(Value::Array(access)) => access,
        Some(_) => return false,
    };
    access.iter().all(|one| {
        let actions = match &one["actions"] {
            Value::Null => return true,
            Value::Array(actions) => actions,
            _ => return false,
        };
        let inside = one["type"] == "repository" && one["name"] == repository;
        actions.is_empty() || inside && actions.iter().all(|action| action == "pull")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn jwt(claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(&json!({"alg": "RS256"})), part(claims))
    }

    #[test]
    fn tokens_that_hold_the_password_are_found() {
        let login = |password: &str| Credential::Password {
            user: "me".to_owned(),
            password: password.to_owned(),
        };
        let check = |token: &str, password: &str, expect: bool| {
            let problem = problem(token, "a", Some(&login(password)));
            assert_eq!(problem.is_some(), expect, "{token} {password}");
        };
        let pat = "ghp_0123456789";
        check(pat, pat, true);
        check(&STANDARD.encode(pat), pat, true);
        check(&URL_SAFE_NO_PAD.encode(format!("me:{pat}")), pat, true);
        check(&jwt(&json!({"password": pat})), pat, true);
        check(&jwt(&json!({"sub": "me"})), pat, false);
        check("opaque", pat, false);
        check("opaque", "", false);
        // Not by chance.
        check("opaque", "aq", false);
        check(&STANDARD.encode("me:aq"), "aq", true);
        check("aq", "aq", true);
        let identity = Credential::IdentityToken("refresh-1234".into());
        assert!(problem("refresh-1234", "a", Some(&identity)).is_some());
        assert!(problem("other", "a", Some(&identity)).is_none());
        assert!(problem("other", "a", None).is_none());
    }

    #[test]
    fn tokens_that_allow_more_are_found() {
        let check = |access: Value, expect: bool| {
            let token = jwt(&json!({"sub": "me", "access": access}));
            let problem = problem(&token, "team/app", None);
            assert_eq!(problem.is_none(), expect, "{access} {problem:?}");
        };
        let one = |kind: &str, name: &str, actions: &[&str]| json!([{"type": kind, "name": name, "actions": actions}]);
        check(one("repository", "team/app", &["pull"]), true);
        check(one("repository", "team/app", &[]), true);
        check(json!([]), true);
        check(Value::Null, true);
        check(one("repository", "team/app", &["pull", "push"]), false);
        check(one("repository", "team/app", &["*"]), false);
        check(one("repository", "team/other", &["pull"]), false);
        check(one("registry", "catalog", &["*"]), false);
        check(json!("everything"), false);
        check(
            json!([{"type": "repository", "name": "team/app", "actions": "*"}]),
            false,
        );
        let two = json!([
            {"type": "repository", "name": "team/app", "actions": ["pull"]},
            {"type": "repository", "name": "team/other", "actions": ["pull"]},
        ]);
        check(two, false);
    }
}
