//! `chalk.sandbox.v1.CustomImageService`: builds for Chalk's own SDK.

mod follow;
mod logs;
mod pushes;
mod spec;
mod told;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::reference::is_tag;
use chalk_core::wire::{Build, BuildReply, BuildRequest, Role, problem};
use chalk_core::{Digest, Reference};
use futures_util::{Stream, stream};
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::auth::reached_by;
use super::proto::chalk::sandbox::v1 as proto;
use super::proto::chalk::sandbox::v1::custom_image_service_server::CustomImageService;
use super::{scope, times};
use crate::access::Principal;
use crate::access::passes::{Good, Pass};
use crate::builds::BuildsError;
use crate::catalog::CatalogError;
use crate::http::{ApiError, begin_build};
use crate::places::IMAGES;
use crate::projects::Scope;
use crate::service::Service;
use follow::Following;
use pushes::{Push, Pushes, Target};

/// Name of the document that keeps, with a build, how it was declared.
const DECLARED: &str = "declared.pb";
/// Builds of a page unless the client says how many, and most.
const LIST: usize = 50;
const LIST_LIMIT: usize = 1000;
/// How often contents are brought in again that are gone when a build begins.
const TRIES: usize = 3;
/// How long an image can be pulled by credentials that were handed out.
const PULL_TTL: SignedDuration = SignedDuration::from_hours(1);
/// User name of such credentials; it is of no account.
const PULL_USER: &str = "chalk";
/// Builds that were begun again for others, at most.
const AGAIN: usize = 1000;

/// The service.
#[derive(Clone)]
pub(super) struct Images {
    service: Arc<Service>,
    pushes: Arc<Pushes>,
    /// Builds in the place of others that an earlier service left.
    again: Arc<Mutex<BTreeMap<String, String>>>,
}

type Answer<T> = Result<Response<T>, Status>;

/// What a build is asked for by.
#[derive(Clone, Copy)]
enum Named<'a> {
    Hash(&'a str),
    Build(&'a str),
}

/// The `oneof identifier` of several requests.
macro_rules! named {
    ($request:expr, $kind:path) => {{
        use $kind as Identifier;
        match &$request.identifier {
            Some(Identifier::ContentHash(hash)) => Named::Hash(hash),
            Some(Identifier::BuildId(id)) => Named::Build(id),
            None => {
                return Err(Status::invalid_argument(
                    "expected content_hash or build_id",
                ));
            }
        }
    }};
}

impl Images {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            pushes: Arc::default(),
            again: Arc::default(),
        }
    }

    fn again(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds or builds the image of a declaration, and keeps the declaration with the build.
    async fn begin(
        &self,
        scope: &Scope,
        declaration: &proto::ImageSpec,
        name: Option<String>,
    ) -> Result<BuildReply, Status> {
        let declared = spec::declare(declaration)?;
        let request = || BuildRequest {
            spec: declared.resolved.spec.clone(),
            name: name.clone(),
            force: false,
            secrets: BTreeMap::new(),
            cancel_on_disconnect: false,
            compression: None,
        };
        for _ in 0..TRIES {
            let reply = begin_build(&self.service, None, scope, request()).await;
            let reply = reply.map_err(|error| declared.explain(error.into()))?;
            match &reply {
                BuildReply::NeedsBlobs(_) => {}
                BuildReply::Reused(_) => return Ok(reply),
                BuildReply::Accepted(build) => {
                    let document = declaration.encode_to_vec();
                    let kept = self.service.builds().attach(&build.id, DECLARED, document);
                    // The build goes on all the same.
                    if let Err(error) = kept.await {
                        tracing::warn!(id = build.id, %error, "a declaration is not kept");
                    }
                    return Ok(reply);
                }
            }
            let contents = declared.contents();
            let stored = self.service.blobs().run(move |store| {
                let put = contents.iter().map(|bytes| store.put(bytes));
                put.collect::<Result<Vec<_>, _>>()
            });
            let stored = stored
                .await
                .map_err(|error| ApiError::internal("the store failed", &error))?;
            let sizes = stored.into_iter().map(|blob| (blob.digest, blob.size));
            scope.projects().keep_blobs(scope.project(), sizes);
        }
        Err(Status::internal(
            "the declaration names contents that were not sent",
        ))
    }

    /// The build of that identifier, or the one that is in its place.
    ///
    /// A build that the service stopped under is begun again for one who may build: the SDK asks how
    /// it stands and nothing else, and it was not the build that failed.
    async fn build(&self, scope: &Scope, id: &str, may_build: bool) -> Result<Build, Status> {
        let instead = self.again().get(id).cloned();
        let found = instead.as_deref().unwrap_or(id);
        let builds = self.service.builds();
        let build = builds.get(found).await.map_err(ApiError::from)?;
        if !scope.sees(&build.project) {
            let unknown = BuildsError::Unknown(id.to_owned());
            return Err(ApiError::from(unknown).into());
        }
        let interrupted = build
            .error
            .as_ref()
            .is_some_and(|error| error.kind == problem::INTERRUPTED);
        if !interrupted || !may_build {
            return Ok(build);
        }
        let document = builds.attached(id, DECLARED).await;
        let Some(document) = document.map_err(ApiError::from)? else {
            return Ok(build);
        };
        if self.service.stopping() {
            return Ok(told::waiting(build));
        }
        let declaration = proto::ImageSpec::decode(&*document)
            .map_err(|error| Status::internal(format!("the declaration is damaged: {error}")))?;
        tracing::info!(id, "an interrupted build is begun again");
        let next = match self.begin(scope, &declaration, build.name.clone()).await? {
            BuildReply::Reused(next) | BuildReply::Accepted(next) => next,
            BuildReply::NeedsBlobs(_) => return Ok(build),
        };
        let mut again = self.again();
        while again.len() >= AGAIN {
            again.pop_first();
        }
        again.insert(id.to_owned(), next.id.clone());
        Ok(next)
    }

    /// How a build stands: status, image and error as the SDK reads them.
    async fn standing(&self, build: &Build) -> (&'static str, String, Option<String>) {
        let image = build.image.clone().unwrap_or_default();
        let word = told::word(build);
        match self.pushes.of(&self.service, build).await {
            Some(Push::Runs) => return ("building", String::new(), None),
            Some(Push::Failed(error)) => return ("failed", String::new(), Some(error)),
            Some(Push::Done(image)) => return (word, image, None),
            None => {}
        }
        if build.error.is_none() {
            return (word, image, None);
        }
        let events = self.service.builds().follow(&build.id, 0).await;
        (word, image, told::reason(build, events.ok()).await)
    }

    /// The newest build of an image, or that build.
    async fn named(&self, scope: &Scope, named: Named<'_>) -> Result<Build, Status> {
        let hash = match named {
            Named::Build(id) => return self.build(scope, id, false).await,
            Named::Hash(hash) => hash,
        };
        let found = self.service.builds().list(
            1,
            None,
            scope.only().map(str::to_owned),
            None,
            Some(hex(hash)?),
        );
        let found = found.await.map_err(ApiError::from)?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| Status::not_found(format!("there is no build of {hash}")))
    }

    /// How a build was declared, when it was by the SDK.
    async fn declared(&self, build: &Build) -> Option<proto::ImageSpec> {
        let document = self.service.builds().attached(&build.id, DECLARED).await;
        proto::ImageSpec::decode(&*document.ok()??).ok()
    }

    /// The name and the other registry that a request asks for.
    fn destination(
        &self,
        target: Option<&str>,
        tag: Option<&str>,
    ) -> Result<(Option<String>, Option<String>), Status> {
        let given = |text: Option<&str>| text.filter(|t| !t.is_empty()).map(str::to_owned);
        let (target, tag) = (given(target), given(tag));
        let Some(target) = target else {
            return Ok((tag, None));
        };
        // A place in our own registry is a name.
        let own: Option<Reference> = target.parse().ok();
        let regions = self.service.fleet().regions();
        let inside = own.and_then(|reference| regions.repository(&reference));
        match inside {
            Some(repository) => {
                let tag = tag.unwrap_or_else(|| "latest".to_owned());
                Ok((Some(format!("{repository}:{tag}")), None))
            }
            None => {
                if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
                    return Err(Status::invalid_argument(format!("tag: `{tag}` is no tag")));
                }
                Ok((None, Some(target)))
            }
        }
    }

    /// Begins a build whose image may go to another registry, too.
    async fn begin_for(
        &self,
        scope: &Scope,
        declaration: Option<&proto::ImageSpec>,
        target: Option<&str>,
        tag: Option<&str>,
    ) -> Result<(Build, bool, Option<Target>), Status> {
        let Some(declaration) = declaration else {
            return Err(Status::invalid_argument("image_spec: is missing"));
        };
        let (name, target) = self.destination(target, tag)?;
        if let Some(target) = &target {
            // Before anything is built for it.
            Target::new(target, tag, &Digest::of(b""))?;
        }
        let (build, reused) = match self.begin(scope, declaration, name).await? {
            BuildReply::Reused(build) => (build, true),
            BuildReply::Accepted(build) => (build, false),
            BuildReply::NeedsBlobs(_) => {
                return Err(Status::internal("contents of the declaration are missing"));
            }
        };
        let target = match target {
            Some(target) => {
                let target = Target::new(&target, tag, &build.image_hash)?;
                let pushes = &self.pushes;
                pushes.add(&self.service, &build, target.clone()).await?;
                Some(target)
            }
            None => None,
        };
        Ok((build, reused, target))
    }
}

/// The digits of an image hash, or its first ones.
fn hex(hash: &str) -> Result<String, Status> {
    let hex = hash.strip_prefix("sha256:").unwrap_or(hash);
    let sound = (8..=64).contains(&hex.len())
        && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if sound {
        return Ok(hex.to_owned());
    }
    Err(Status::invalid_argument(
        "content_hash: expected `sha256:` and 64 hex digits, or at least the first 8 digits",
    ))
}

fn may_build<T>(request: &Request<T>) -> bool {
    match request.extensions().get::<Principal>() {
        Some(Principal::Admin) => true,
        Some(Principal::Client(grant)) => grant.has(Role::Build),
        _ => false,
    }
}

#[tonic::async_trait]
impl CustomImageService for Images {
    async fn get_or_build_custom_image(
        &self,
        request: Request<proto::GetOrBuildCustomImageRequest>,
    ) -> Answer<proto::GetOrBuildCustomImageResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        if asked.base_image_source() != proto::CustomImageBaseImageSource::Unspecified {
            return Err(Status::unimplemented(
                "base_image_source: this service has no image of a notebook runtime: name the base in image_spec",
            ));
        }
        let (build, reused, target) = self
            .begin_for(
                &scope,
                asked.image_spec.as_ref(),
                asked.target_registry.as_deref(),
                None,
            )
            .await?;
        let (word, image, error) = match (reused, target) {
            (true, None) => ("exists", build.image.clone().unwrap_or_default(), None),
            _ => self.standing(&build).await,
        };
        Ok(Response::new(proto::GetOrBuildCustomImageResponse {
            image,
            build_id: build.id,
            status: word.to_owned(),
            error,
            content_hash: build.image_hash.to_string(),
        }))
    }

    async fn build_custom_image(
        &self,
        request: Request<proto::BuildCustomImageRequest>,
    ) -> Answer<proto::BuildCustomImageResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let (build, _, target) = self
            .begin_for(
                &scope,
                asked.image_spec.as_ref(),
                asked.target_registry.as_deref(),
                asked.tag.as_deref().filter(|tag| !tag.is_empty()),
            )
            .await?;
        let image = match target {
            Some(target) => target.to_string(),
            None => self.service.catalog().pullable(&build.image_hash),
        };
        Ok(Response::new(proto::BuildCustomImageResponse {
            image,
            build_id: build.id,
        }))
    }

    async fn get_custom_image(
        &self,
        request: Request<proto::GetCustomImageRequest>,
    ) -> Answer<proto::GetCustomImageResponse> {
        let (may_build, scope) = (may_build(&request), scope(&request)?);
        let id = request.into_inner().build_id;
        let build = self.build(&scope, &id, may_build).await?;
        let (word, image, error) = self.standing(&build).await;
        Ok(Response::new(proto::GetCustomImageResponse {
            build_id: id,
            status: word.to_owned(),
            image,
            error,
        }))
    }

    type StreamCustomImageBuildUpdatesStream = Pin<
        Box<dyn Stream<Item = Result<proto::StreamCustomImageBuildUpdatesResponse, Status>> + Send>,
    >;

    async fn stream_custom_image_build_updates(
        &self,
        request: Request<proto::StreamCustomImageBuildUpdatesRequest>,
    ) -> Answer<Self::StreamCustomImageBuildUpdatesStream> {
        let (may_build, scope) = (may_build(&request), scope(&request)?);
        let build = self
            .build(&scope, &request.into_inner().build_id, may_build)
            .await?;
        let events = self.service.builds().follow(&build.id, 0).await;
        let events = events.map_err(ApiError::from)?;
        let stop = self.service.fleet().stop().clone();
        let following = Following::new(self.clone(), build.id, events);
        let updates = stream::unfold((following, stop), |(mut following, stop)| async move {
            let update = tokio::select! {
                update = following.next() => update?,
                () = stop.cancelled() => Err(Status::unavailable("the service stops: ask again")),
            };
            Some((update, (following, stop)))
        });
        Ok(Response::new(Box::pin(updates)))
    }

    async fn list_custom_image_builds(
        &self,
        request: Request<proto::ListCustomImageBuildsRequest>,
    ) -> Answer<proto::ListCustomImageBuildsResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let limit = match asked.limit.map(usize::try_from) {
            None | Some(Ok(0)) => LIST,
            Some(Ok(limit)) => limit.min(LIST_LIMIT),
            Some(Err(_)) => return Err(Status::invalid_argument("limit: expected 0 or more")),
        };
        let hash = asked.filters.and_then(|filters| filters.content_hash);
        let hash = hash.filter(|hash| !hash.is_empty());
        let hash = hash.map(|hash| hex(&hash)).transpose()?;
        let before = asked.cursor.filter(|cursor| !cursor.is_empty());
        // One more, to know whether there is a next page.
        let listed = self.service.builds().list(
            limit + 1,
            before,
            scope.only().map(str::to_owned),
            None,
            hash,
        );
        let mut listed = listed.await.map_err(ApiError::from)?;
        let more = listed.len() > limit;
        listed.truncate(limit);
        let next_cursor = listed.last().filter(|_| more).map(|build| build.id.clone());
        let mut builds = Vec::with_capacity(listed.len());
        for build in &listed {
            let base = self.declared(build).await.map(|spec| spec.base_image);
            builds.push(told::summary(build, base));
        }
        Ok(Response::new(proto::ListCustomImageBuildsResponse {
            builds,
            next_cursor,
        }))
    }

    async fn get_custom_image_build(
        &self,
        request: Request<proto::GetCustomImageBuildRequest>,
    ) -> Answer<proto::GetCustomImageBuildResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let named = named!(asked, proto::get_custom_image_build_request::Identifier);
        let build = self.named(&scope, named).await?;
        let image_spec = self.declared(&build).await;
        let base = image_spec.as_ref().map(|spec| spec.base_image.clone());
        Ok(Response::new(proto::GetCustomImageBuildResponse {
            build: Some(told::summary(&build, base)),
            image_spec,
        }))
    }

    async fn get_custom_image_build_logs(
        &self,
        request: Request<proto::GetCustomImageBuildLogsRequest>,
    ) -> Answer<proto::GetCustomImageBuildLogsResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let named = named!(
            asked,
            proto::get_custom_image_build_logs_request::Identifier
        );
        let wanted = logs::Wanted::new(
            asked.start_time.as_ref().map(times::from_proto),
            asked.end_time.as_ref().map(times::from_proto),
            asked.limit,
            asked.page_token.as_deref(),
        )?;
        let build = self.named(&scope, named).await?;
        // The event that the page begins in is read once more.
        let after = wanted.start.seq.saturating_sub(1);
        let events = self.service.builds().follow(&build.id, after).await;
        let page = logs::page(events.map_err(ApiError::from)?, &wanted).await;
        let (logs, next_page_token) = page.map_err(|error| {
            Status::from(ApiError::internal("the output cannot be read", &error))
        })?;
        Ok(Response::new(proto::GetCustomImageBuildLogsResponse {
            logs,
            next_page_token,
        }))
    }

    async fn get_custom_image_build_workflow(
        &self,
        request: Request<proto::GetCustomImageBuildWorkflowRequest>,
    ) -> Answer<proto::GetCustomImageBuildWorkflowResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let named = named!(
            asked,
            proto::get_custom_image_build_workflow_request::Identifier
        );
        let build = self.named(&scope, named).await?;
        let declared = self.declared(&build).await.unwrap_or_default();
        let workflow = told::workflow(&build, declared.base_image);
        Ok(Response::new(proto::GetCustomImageBuildWorkflowResponse {
            workflow: Some(workflow),
        }))
    }

    async fn get_custom_image_build_usage(
        &self,
        request: Request<proto::GetCustomImageBuildUsageRequest>,
    ) -> Answer<proto::GetCustomImageBuildUsageResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let named = named!(
            asked,
            proto::get_custom_image_build_usage_request::Identifier
        );
        // Images that were built elsewhere are used here, too.
        let hash = match named {
            Named::Hash(text) => {
                hex(text)?;
                match self.service.catalog().resolve(&scope, text).await {
                    Ok(id) => id.hash(),
                    Err(CatalogError::NotFound(_)) => self.named(&scope, named).await?.image_hash,
                    Err(error) => return Err(ApiError::from(error).into()),
                }
            }
            Named::Build(_) => self.named(&scope, named).await?.image_hash,
        };
        let fleet = self.service.fleet();
        let sandboxes = fleet.sandboxes().list(&scope, false, None, |sandbox| {
            sandbox.image_hash == Some(hash)
        });
        let known = self.service.catalog().find(&hash).await;
        let nodes = match known.map_err(ApiError::from)? {
            Some(known) => fleet.nodes().warm(&known.digest),
            None => Vec::new(),
        };
        Ok(Response::new(proto::GetCustomImageBuildUsageResponse {
            containers: nodes
                .iter()
                .map(|node| proto::CustomImageContainerUsage {
                    id: node.name.to_string(),
                    name: node.name.to_string(),
                    status: "cached".to_owned(),
                })
                .collect(),
            scaling_groups: Vec::new(),
            sandboxes: sandboxes
                .iter()
                .map(|sandbox| proto::CustomImageSandboxUsage {
                    id: sandbox.id.clone(),
                    name: sandbox.name.clone().unwrap_or_else(|| sandbox.id.clone()),
                    status: serde_json::to_value(sandbox.state)
                        .ok()
                        .and_then(|word| word.as_str().map(str::to_owned))
                        .unwrap_or_default(),
                })
                .collect(),
        }))
    }

    async fn get_image_pull_credentials(
        &self,
        request: Request<proto::GetImagePullCredentialsRequest>,
    ) -> Answer<proto::GetImagePullCredentialsResponse> {
        if self.service.settings().registry.url.is_some() {
            return Err(Status::failed_precondition(
                "images are in an external registry, which hands out its own credentials",
            ));
        }
        let reached = reached_by(&request, &self.service);
        let scope = scope(&request)?;
        let client = match request.extensions().get::<Principal>() {
            Some(Principal::Client(grant)) => Some(grant.id.to_string()),
            _ => None,
        };
        let image = request.into_inner().image;
        let reference: Reference = image
            .parse()
            .map_err(|error| Status::invalid_argument(format!("image: {error}")))?;
        let host = reached
            .split_once("://")
            .map_or(&*reached, |(_, host)| host);
        let regions = self.service.fleet().regions();
        let repository = match reference.registry() == host {
            true => Some(reference.repository().to_owned()),
            false => regions.repository(&reference),
        };
        let Some(repository) = repository else {
            return Err(Status::not_found(format!(
                "image: `{image}` is not in the registry of this service, {}",
                self.service.catalog().public()
            )));
        };
        let by_hash = || {
            let tag = reference.tag().unwrap_or_default();
            let hash = format!("sha256:{tag}").parse();
            let digest = reference.digest();
            repository == IMAGES
                && (hash.is_ok_and(|hash| scope.has_image(&hash))
                    || digest.is_some_and(|digest| scope.has_blob(&digest)))
        };
        if !scope.reads(&repository) && !by_hash() {
            return Err(Status::not_found(format!("image: there is no `{image}`")));
        }
        let expires = Timestamp::now().checked_add(PULL_TTL);
        let expires = expires.unwrap_or(Timestamp::MAX);
        let pass = Pass {
            client,
            expires: expires.as_second(),
            good: Good::Pull { repository },
        };
        Ok(Response::new(proto::GetImagePullCredentialsResponse {
            server_address: reference.registry().to_owned(),
            username: PULL_USER.to_owned(),
            password: pass.seal(self.service.access().key()),
            expires_at: Some(times::proto(expires)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes() {
        let whole = Digest::of(b"x").to_string();
        assert_eq!(hex(&whole).ok(), Some(whole["sha256:".len()..].to_owned()));
        assert_eq!(hex("0123abcd").ok().as_deref(), Some("0123abcd"));
        for wrong in ["", "0123abc", "0123ABCD", "sha512:0123abcd"] {
            assert!(hex(wrong).is_err(), "{wrong}");
        }
    }
}
