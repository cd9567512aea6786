//! Login of Chalk's own SDK.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tonic::{Request, Response, Status};

use super::proto::chalk::server::v1::auth_service_server::AuthService;
use super::proto::chalk::server::v1::{GetTokenRequest, GetTokenResponse};
use crate::access::passes::{Good, Pass};
use crate::service::Service;

/// What the one environment is called for clients that name none. There are no others, so that a client
/// may go on calling it what it was called elsewhere.
const ENVIRONMENT: &str = "default";
/// Longest name of an environment, in bytes.
const ENVIRONMENT_LIMIT: usize = 200;
/// Grant type of RFC 6749, section 4.4.
const GRANT: &str = "client_credentials";

/// `chalk.server.v1.AuthService`
#[derive(Clone)]
pub(super) struct Auth {
    service: Arc<Service>,
}

impl Auth {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

/// `http[s]://host[:port]` by which a call reached us, for clients to go on with.
pub(super) fn reached_by<T>(request: &Request<T>, service: &Service) -> String {
    let found = request.extensions().get::<super::Reached>();
    found.map_or_else(|| service.url().to_owned(), |reached| reached.0.clone())
}

#[tonic::async_trait]
impl AuthService for Auth {
    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        let api_server = reached_by(&request, &self.service);
        let asked = request.into_inner();
        if asked.grant_type != GRANT {
            return Err(Status::invalid_argument(format!(
                "grant_type: expected `{GRANT}`"
            )));
        }
        let now = Timestamp::now();
        let access = self.service.access();
        let login = access
            .clients()
            .login(&asked.client_id, asked.client_secret.as_bytes(), now);
        let Some(login) = login else {
            return Err(Status::unauthenticated(
                "client_id and client_secret fit no token that counts: `chalk token ls` lists those that do, and `chalk token create` makes one",
            ));
        };
        let scope = asked.scope.as_deref().unwrap_or_default();
        let environment = match scope.strip_prefix("env:").unwrap_or(scope) {
            "" => ENVIRONMENT,
            named if named.len() <= ENVIRONMENT_LIMIT => named,
            _ => {
                return Err(Status::invalid_argument(format!(
                    "scope: expected at most {ENVIRONMENT_LIMIT} bytes"
                )));
            }
        };
        let most = self.service.settings().serve.access_ttl;
        let most = SignedDuration::try_from(most).unwrap_or(SignedDuration::MAX);
        let ttl = match &asked.expires_at {
            None => most,
            Some(wanted) => {
                let wanted = SignedDuration::new(wanted.seconds, wanted.nanos);
                if wanted < SignedDuration::from_secs(1) {
                    return Err(Status::invalid_argument(
                        "expires_at: expected at least a second",
                    ));
                }
                wanted.min(most)
            }
        };
        let end = now.checked_add(ttl).unwrap_or(Timestamp::MAX);
        let end = login.expires.map_or(end, |client| client.min(end));
        let pass = Pass {
            client: Some(login.grant.id.to_string()),
            expires: end.as_second(),
            good: Good::Client,
        };
        let seconds = (end.as_second() - now.as_second()).max(0);
        let authority = api_server
            .split_once("://")
            .map_or(&*api_server, |(_, rest)| rest);
        let of = |value: &str| BTreeMap::from([(environment.to_owned(), value.to_owned())]);
        Ok(Response::new(GetTokenResponse {
            access_token: pass.seal(access.key()),
            token_type: "Bearer".to_owned(),
            expires_in: i32::try_from(seconds).unwrap_or(i32::MAX),
            expires_at: Some(super::times::proto(end)),
            primary_environment: Some(environment.to_owned()),
            engines: of(&api_server),
            grpc_engines: of(&api_server),
            environment_id_to_name: of(environment),
            environment_id_to_authority: of(authority),
            service_prefixes: BTreeMap::new(),
            api_server,
        }))
    }
}
