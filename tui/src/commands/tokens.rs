//! `token create|ls|revoke`: tokens of people and programs.

use std::time::Duration;

use chalk_core::wire::{ClientToken, ClientTokenRequest, Role};
use serde_json::json;

use crate::cli;
use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::settings::Loaded;
use crate::{output, quantity};

const HEAD: [&str; 6] = [
    "CLIENT ID",
    "NAME",
    "PROJECT",
    "ROLES",
    "CREATED",
    "EXPIRES",
];

pub(crate) async fn tokens(
    verb: cli::ClientToken,
    loaded: &Loaded,
    json: bool,
) -> Result<(), Failure> {
    // What is wrong in the words is told before a service is started for them.
    let verb = match verb {
        cli::ClientToken::Create {
            name,
            roles,
            project,
            expires,
        } => Verb::Create(ClientTokenRequest {
            name,
            roles,
            project,
            ttl_seconds: expires.as_deref().map(left).transpose()?,
        }),
        cli::ClientToken::Ls => Verb::Ls,
        cli::ClientToken::Revoke { ids } => Verb::Revoke(ids),
    };
    let server = Server::connect(loaded).await?;
    let result = run(verb, &server, json).await;
    server.close().await;
    result
}

enum Verb {
    Create(ClientTokenRequest),
    Ls,
    Revoke(Vec<String>),
}

/// Seconds until the end that a text names, at least one.
fn left(text: &str) -> Result<u64, Failure> {
    let now = jiff::Timestamp::now();
    if let Ok(end) = text.trim().parse::<jiff::Timestamp>() {
        let left = end.duration_since(now).as_secs();
        let left = u64::try_from(left).ok().filter(|left| *left > 0);
        return left.ok_or_else(|| Failure::usage(format!("--expires: `{text}` is over")));
    }
    let length = days(text).map_or_else(|| quantity::time("--expires", text), Ok);
    let length = length.map_err(|failure| {
        failure.hint(
            "write such as 90d, 12h or 2030-01-01T00:00:00Z; without it, the token never ends",
        )
    })?;
    Ok(length.as_secs().max(1))
}

/// `90d`: tokens are the one thing here that lasts for days.
fn days(text: &str) -> Option<Duration> {
    let days: u64 = text.trim().strip_suffix('d')?.trim().parse().ok()?;
    Some(Duration::from_secs(days.checked_mul(24 * 3600)?))
}

fn words(roles: &[Role]) -> String {
    let words: Vec<&str> = roles.iter().map(|role| role.word()).collect();
    words.join(",")
}

async fn run(verb: Verb, server: &Server, json: bool) -> Result<(), Failure> {
    let client = server.client();
    match verb {
        Verb::Create(request) => {
            let made: ClientToken = client.post("/v1/tokens", &request).await?;
            if json {
                return output::json(&made);
            }
            let until = made.expires.as_deref().unwrap_or("it is revoked");
            output::aside(&format!(
                "`{}` may {} in project `{}`, until {until}; what follows is shown only this once",
                made.name,
                words(&made.roles),
                made.project,
            ));
            let secret = made.client_secret.as_deref().unwrap_or_default();
            let token = made.token.as_deref().unwrap_or_default();
            output::line(&format!("CHALK_API_SERVER={}", client.url()))?;
            output::line(&format!("CHALK_CLIENT_ID={}", made.client_id))?;
            output::line(&format!("CHALK_CLIENT_SECRET={secret}"))?;
            output::line(&format!("CHALK_TOKEN={token}"))
        }
        Verb::Ls => {
            let tokens: Vec<ClientToken> = client.get("/v1/tokens").await?;
            if json {
                return output::json(&tokens);
            }
            let rows: Vec<Vec<String>> = tokens
                .into_iter()
                .map(|token| {
                    let expires = token.expires.unwrap_or_else(|| "never".to_owned());
                    let roles = words(&token.roles);
                    vec![
                        token.client_id,
                        token.name,
                        token.project,
                        roles,
                        token.created,
                        expires,
                    ]
                })
                .collect();
            output::table(&HEAD, &rows)
        }
        Verb::Revoke(ids) => revoke(server, "/v1/tokens", &ids, json).await,
    }
}

/// Revokes the tokens of those identifiers, which are listed at `path`.
pub(super) async fn revoke(
    server: &Server,
    path: &str,
    ids: &[String],
    json: bool,
) -> Result<(), Failure> {
    for id in ids {
        let token = format!("{path}/{}", segment(id));
        server.client().delete(&token).await?;
        if json {
            output::json(&json!({ "revoked": id }))?;
        } else {
            output::line(&format!("revoked {id}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let day = 24 * 3600;
        assert_eq!(left("90d").unwrap(), 90 * day);
        assert_eq!(left("1h 30m").unwrap(), 5400);
        assert_eq!(left("10").unwrap(), 10);
        let year = left("9000-01-01T00:00:00Z").unwrap();
        assert!(year > 1000 * 365 * day);
        for wrong in [
            "",
            "2001-01-01T00:00:00Z",
            "soon",
            "-1d",
            "99999999999999999999d",
        ] {
            assert!(left(wrong).is_err(), "{wrong}");
        }
    }
}
