//! gRPC on the service's port: what Chalk's own SDK calls (`docs/chalk-sdk.md`), health and
//! reflection.
//!
//! The services are those of the definitions in `proto/`. They stand beside the HTTP API and use what it
//! uses; each member is checked by the same [`Guard`](crate::http::Guard) before it gets here, and finds
//! the [`Principal`](crate::access::Principal) among the extensions of its request.

mod auth;
pub(crate) mod connect;
mod images;
mod sandboxes;
mod status;
pub(crate) mod times;
mod volumes;

pub(crate) use status::words;

/// The definitions of `proto/` in Rust.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::iter_over_hash_type
)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));

    /// All definitions with what they import, for reflection.
    pub(crate) const DESCRIPTORS: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, header};
use axum::response::Response;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use proto::chalk::sandbox::v1::custom_image_service_server::CustomImageServiceServer;
use proto::chalk::sandbox::v2::sandbox_filesystem_service_server::SandboxFilesystemServiceServer;
use proto::chalk::sandbox::v2::sandbox_process_service_server::SandboxProcessServiceServer;
use proto::chalk::sandbox::v2::sandbox_service_server::SandboxServiceServer;
use proto::chalk::server::v1::auth_service_server::AuthServiceServer;
use proto::chalk::volume::v2::volume_service_server::VolumeServiceServer;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::projects::Scope;
use crate::service::Service;

/// Where clients get their access tokens.
const GET_TOKEN: &str = "/chalk.server.v1.AuthService/GetToken";
/// gRPC Health Checking Protocol.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// `http[s]://host[:port]` by which a call reached us; the guard puts it among the extensions.
#[derive(Debug, Clone)]
pub(crate) struct Reached(pub(crate) String);

/// What whoever calls sees; the guard puts it among the extensions.
///
/// # Errors
/// When the call came without a token.
fn scope<T>(request: &tonic::Request<T>) -> Result<Scope, Status> {
    let scope = request.extensions().get::<Scope>();
    scope
        .cloned()
        .ok_or_else(|| Status::unauthenticated("the call carries no access token"))
}

/// Whether that is a gRPC call, known here or not (gRPC over HTTP/2, "Requests").
pub(crate) fn is_call(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    request.method() == Method::POST
        && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a call needs no token.
pub(crate) fn is_open(path: &str) -> bool {
    path == GET_TOKEN || path.starts_with(HEALTH)
}

/// A refusal as gRPC clients understand it.
pub(crate) fn answer(status: Status) -> Response {
    status.into_http()
}

/// What a call without a token, or with a wrong one, is told.
pub(crate) fn unauthenticated() -> Response {
    answer(Status::unauthenticated(
        "the call carries no access token, or one that is wrong or has expired: log in again by AuthService/GetToken; `chalk token create` makes the credentials",
    ))
}

/// What a call is told that nobody serves.
pub(crate) fn unimplemented(path: &str) -> Response {
    let member = path.trim_start_matches('/');
    let member: String = member.chars().take(200).collect();
    answer(Status::new(
        Code::Unimplemented,
        format!("{member} is not served here: docs/chalk-sdk.md lists what is"),
    ))
}

/// A service, below its name.
fn add<S>(mut router: Router, service: &S) -> Router
where
    S: tower::Service<Request, Error = std::convert::Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Response: axum::response::IntoResponse,
    S::Future: Send + 'static,
{
    for member in members(S::NAME) {
        router = router.route_service(&format!("/{}/{member}", S::NAME), service.clone());
    }
    router
}

/// The members of all services by their definitions, so that others get an answer that says more than
/// that of the generated code.
static MEMBERS: LazyLock<BTreeMap<String, Vec<String>>> = LazyLock::new(|| {
    let definitions = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut services = BTreeMap::new();
    for definition in definitions {
        // They are a part of the program, and a test reads them.
        let set = FileDescriptorSet::decode(definition).unwrap_or_default();
        for file in &set.file {
            for service in &file.service {
                let members = service.method.iter().map(|member| member.name().to_owned());
                let name = format!("{}.{}", file.package(), service.name());
                services.insert(name, members.collect());
            }
        }
    }
    services
});

fn members(service: &str) -> &'static [String] {
    MEMBERS.get(service).map_or(&[], Vec::as_slice)
}

/// Whether there is such a member.
pub(crate) fn is_served(path: &str) -> bool {
    let call = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    call.is_some_and(|(service, member)| members(service).iter().any(|known| known == member))
}

/// All services.
///
/// # Errors
/// When the built-in definitions are damaged.
pub(crate) async fn router(
    service: &Arc<Service>,
) -> Result<Router, tonic_reflection::server::Error> {
    let limit = usize::try_from(service.settings().limits.request.as_u64()).unwrap_or(usize::MAX);
    let (health, health_server) = tonic_health::server::health_reporter();
    health.set_serving::<AuthServiceServer<auth::Auth>>().await;
    health
        .set_serving::<CustomImageServiceServer<images::Images>>()
        .await;
    health
        .set_serving::<VolumeServiceServer<volumes::Volumes>>()
        .await;
    health
        .set_serving::<SandboxServiceServer<sandboxes::Lifecycle>>()
        .await;
    health
        .set_serving::<SandboxProcessServiceServer<sandboxes::Processes>>()
        .await;
    health
        .set_serving::<SandboxFilesystemServiceServer<sandboxes::Files>>()
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut router = Router::new();
    router = add(
        router,
        &AuthServiceServer::new(auth::Auth::new(service.clone()))
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(limit),
    );
    router = add(
        router,
        &CustomImageServiceServer::new(images::Images::new(service.clone()))
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(limit),
    );
    router = add(
        router,
        &VolumeServiceServer::new(volumes::Volumes::new(service.clone()))
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(limit),
    );
    router = add(
        router,
        &SandboxServiceServer::new(sandboxes::Lifecycle::new(service.clone()))
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(limit),
    );
    // What they stream is sent as it is: to compress it takes longer than to send it.
    router = add(
        router,
        &SandboxProcessServiceServer::new(sandboxes::Processes::new(service.clone()))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(limit),
    );
    router = add(
        router,
        &SandboxFilesystemServiceServer::new(sandboxes::Files::new(service.clone()))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(limit),
    );
    router = add(router, &health_server);
    router = add(router, &reflection().build_v1()?);
    router = add(router, &reflection().build_v1alpha()?);
    Ok(router)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_has_a_rule() {
        let open = |path: &str| is_open(path);
        for (service, members) in &*MEMBERS {
            for member in members {
                let path = format!("/{service}/{member}");
                assert!(
                    open(&path) || crate::access::rules::names_member(&path),
                    "{path} has no rule in access/rules.rs"
                );
            }
        }
    }

    #[test]
    fn members_are_those_of_the_definitions() {
        assert_eq!(members("chalk.server.v1.AuthService"), ["GetToken"]);
        assert!(members("chalk.none.v1.Service").is_empty());
        assert_eq!(members("grpc.health.v1.Health"), ["Check", "Watch"]);
        for version in ["v1", "v1alpha"] {
            let service = format!("grpc.reflection.{version}.ServerReflection");
            assert_eq!(members(&service), ["ServerReflectionInfo"]);
        }
        assert!(is_served("/chalk.server.v1.AuthService/GetToken"));
        for other in [
            "/chalk.server.v1.AuthService/Other",
            "/chalk.none.v1.S/Get",
            "/",
            "",
        ] {
            assert!(!is_served(other), "{other}");
        }
    }
}
