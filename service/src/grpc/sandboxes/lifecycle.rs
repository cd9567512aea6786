//! `chalk.sandbox.v2.SandboxService`: start, look at, end.

use std::sync::Arc;

use chalk_core::wire::{Sandbox, SandboxEnd, SandboxReply, SandboxState};
use tonic::{Request, Response, Status};

use super::super::proto::chalk::container::v1::ChalkContainerSpec;
use super::super::proto::chalk::sandbox::v2::create_sandbox_request::Source;
use super::super::proto::chalk::sandbox::v2::sandbox_service_server::SandboxService;
use super::super::proto::chalk::sandbox::v2::{
    CreateSandboxRequest, CreateSandboxResponse, GetSandboxRequest, GetSandboxResponse,
    ListSandboxesFilters, ListSandboxesRequest, ListSandboxesResponse, ResumeSandboxRequest,
    ResumeSandboxResponse, SandboxInfo, SandboxSortOrder, SandboxStatus, SuspendSandboxRequest,
    SuspendSandboxResponse, TerminateSandboxRequest, TerminateSandboxResponse,
};
use super::super::{scope, status, times};
use super::{exact, seconds, spec, volumes};
use crate::http;
use crate::projects::Scope;
use crate::service::Service;

/// `chalk.sandbox.v2.SandboxService`
#[derive(Clone)]
pub(in super::super) struct Lifecycle {
    service: Arc<Service>,
}

impl Lifecycle {
    pub(in super::super) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

#[tonic::async_trait]
impl SandboxService for Lifecycle {
    async fn create_sandbox(
        &self,
        request: Request<CreateSandboxRequest>,
    ) -> Result<Response<CreateSandboxResponse>, Status> {
        let scope = scope(&request)?;
        let wanted = match request.into_inner().source {
            Some(Source::Spec(spec)) => spec,
            Some(Source::SnapshotId(_)) => {
                return Err(Status::unimplemented(
                    "snapshot_id is not served here: there are no snapshots",
                ));
            }
            None => return Err(Status::invalid_argument("source: expected a spec")),
        };
        let (mut request, mounted) = spec::request(wanted)?;
        request.mounts = volumes::mounts(&self.service, &scope, &mounted).await?;
        // The files of volumes are what the service itself names.
        let mounts = Scope::all(scope.projects(), scope.project().clone());
        match http::sandboxes::create(&self.service, &scope, request, &mounts).await? {
            SandboxReply::Accepted(sandbox) => Ok(Response::new(CreateSandboxResponse {
                sandbox: Some(info(&sandbox)),
            })),
            SandboxReply::NeedsBlobs(_) => Err(Status::failed_precondition(
                "spec.volumes: contents of a volume are not there any more",
            )),
        }
    }

    async fn get_sandbox(
        &self,
        request: Request<GetSandboxRequest>,
    ) -> Result<Response<GetSandboxResponse>, Status> {
        let sandbox = exact(&self.service, &scope(&request)?, &request.into_inner().id)?;
        Ok(Response::new(GetSandboxResponse {
            sandbox: Some(info(&sandbox)),
        }))
    }

    async fn list_sandboxes(
        &self,
        request: Request<ListSandboxesRequest>,
    ) -> Result<Response<ListSandboxesResponse>, Status> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let sandboxes = self.service.fleet().sandboxes();
        let sandboxes = sandboxes.list(&scope, true, None, |_| true);
        Ok(Response::new(page(sandboxes, &asked)?))
    }

    async fn suspend_sandbox(
        &self,
        _: Request<SuspendSandboxRequest>,
    ) -> Result<Response<SuspendSandboxResponse>, Status> {
        Err(Status::unimplemented(
            "SuspendSandbox is not served here: sandboxes run until they end",
        ))
    }

    async fn resume_sandbox(
        &self,
        _: Request<ResumeSandboxRequest>,
    ) -> Result<Response<ResumeSandboxResponse>, Status> {
        Err(Status::unimplemented(
            "ResumeSandbox is not served here: sandboxes are never suspended",
        ))
    }

    async fn terminate_sandbox(
        &self,
        request: Request<TerminateSandboxRequest>,
    ) -> Result<Response<TerminateSandboxResponse>, Status> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let grace = asked.grace_period.as_ref();
        let grace = grace.map(|grace| seconds("grace_period", grace));
        let sandbox = exact(&self.service, &scope, &asked.id)?;
        let sandboxes = self.service.fleet().sandboxes();
        let stopped = sandboxes.stop(&sandbox.id, grace.transpose()?).await;
        stopped.map_err(|problem| status::of(&problem))?;
        Ok(Response::new(TerminateSandboxResponse {}))
    }
}

/// What clients are told of a sandbox.
fn info(sandbox: &Sandbox) -> SandboxInfo {
    let mut told = SandboxInfo {
        id: sandbox.id.clone(),
        name: sandbox.name.clone().unwrap_or_default(),
        status_message: message(sandbox),
        spec: Some(ChalkContainerSpec {
            name: sandbox.name.clone().unwrap_or_default(),
            image: sandbox.image.clone(),
            entrypoint: sandbox.args.clone(),
            tags: sandbox.tags.clone(),
            ..ChalkContainerSpec::default()
        }),
        created_at: times::of_text(&sandbox.created),
        finished_at: sandbox.finished.as_deref().and_then(times::of_text),
        region: sandbox.region.clone(),
        cluster_id: sandbox.node.clone(),
        ..SandboxInfo::default()
    };
    told.set_status(state(sandbox));
    told
}

fn state(sandbox: &Sandbox) -> SandboxStatus {
    match (sandbox.state, sandbox.ended_by, sandbox.exit_code) {
        (SandboxState::Starting, ..) => SandboxStatus::Pending,
        (SandboxState::Running, ..) => SandboxStatus::Running,
        (SandboxState::Lost, ..) => SandboxStatus::Error,
        (
            SandboxState::Exited | SandboxState::Failed,
            Some(SandboxEnd::Stopped | SandboxEnd::TimedOut | SandboxEnd::Disconnected),
            _,
        ) => SandboxStatus::Terminated,
        (SandboxState::Exited, None, Some(0)) => SandboxStatus::Succeeded,
        (SandboxState::Exited | SandboxState::Failed, ..) => SandboxStatus::Failed,
    }
}

/// Why it is in that state, or what is probably not meant.
fn message(sandbox: &Sandbox) -> Option<String> {
    if let Some(problem) = &sandbox.error {
        return Some(status::words(problem));
    }
    let ended = match (sandbox.ended_by, sandbox.exit_code) {
        (Some(SandboxEnd::Stopped), _) => Some("it was terminated".to_owned()),
        (Some(SandboxEnd::TimedOut), _) => Some("its lifetime was over".to_owned()),
        (Some(SandboxEnd::OutOfMemory), _) => {
            Some("it needed more memory than it may have".to_owned())
        }
        (Some(SandboxEnd::Disconnected), _) => Some("its client was gone".to_owned()),
        (None, Some(code)) => Some(format!("its main process ended with code {code}")),
        (None, None) => None,
    };
    let all = ended.into_iter().chain(sandbox.warnings.iter().cloned());
    let all: Vec<String> = all.collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Those that are asked for, of all, newest first.
fn page(
    mut sandboxes: Vec<Sandbox>,
    asked: &ListSandboxesRequest,
) -> Result<ListSandboxesResponse, Status> {
    let filters = asked.filters.clone().unwrap_or_default();
    if !filters.created_by.is_empty() {
        return Err(Status::unimplemented(
            "filters.created_by is not served here: who made a sandbox is not kept",
        ));
    }
    let limit = match asked.limit {
        None | Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit)
            .map_err(|_| Status::invalid_argument("limit: expected 0 or more"))?,
    };
    let ascending = asked.sort_order() == SandboxSortOrder::Asc;
    if ascending {
        sandboxes.reverse();
    }
    let after = |sandbox: &&Sandbox| match &asked.cursor {
        None => true,
        // Identifiers sort by time.
        Some(cursor) if ascending => sandbox.id > *cursor,
        Some(cursor) => sandbox.id < *cursor,
    };
    let fitting = sandboxes.iter().filter(after);
    let mut fitting = fitting.filter(|sandbox| fits(sandbox, &asked.search, &filters));
    let page: Vec<SandboxInfo> = fitting.by_ref().take(limit).map(info).collect();
    let more = fitting.next().is_some();
    Ok(ListSandboxesResponse {
        next_cursor: page.last().filter(|_| more).map(|last| last.id.clone()),
        sandboxes: page,
    })
}

fn fits(sandbox: &Sandbox, search: &str, filters: &ListSandboxesFilters) -> bool {
    let name = sandbox.name.as_deref().unwrap_or_default();
    let one_of =
        |list: &[String], value: &str| list.is_empty() || list.iter().any(|one| one == value);
    let status = state(sandbox);
    let statuses = &filters.statuses;
    let tags = &filters.tags;
    [&sandbox.id, name, &sandbox.image]
        .iter()
        .any(|text| text.contains(search))
        && one_of(&filters.names, name)
        && one_of(&filters.images, &sandbox.image)
        && (statuses.is_empty() || statuses.contains(&i32::from(status)))
        && tags
            .iter()
            .all(|(key, value)| sandbox.tags.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str, change: impl FnOnce(&mut Sandbox)) -> Sandbox {
        let mut sandbox = Sandbox {
            id: id.to_owned(),
            name: None,
            tags: Default::default(),
            state: SandboxState::Running,
            node: "n".into(),
            region: "home".into(),
            image: "app".into(),
            image_hash: None,
            args: Vec::new(),
            tty: false,
            warm: true,
            created: "2026-01-02T03:04:05Z".into(),
            started: None,
            finished: None,
            exit_code: None,
            ended_by: None,
            error: None,
            warnings: Vec::new(),
        };
        change(&mut sandbox);
        sandbox
    }

    #[test]
    fn ends_are_told_apart() {
        let check = |state_: SandboxState,
                     by: Option<SandboxEnd>,
                     code: Option<i32>,
                     expect: SandboxStatus| {
            let sandbox = sandbox("1", |sandbox| {
                sandbox.state = state_;
                sandbox.ended_by = by;
                sandbox.exit_code = code;
            });
            assert_eq!(state(&sandbox), expect, "{sandbox:?}");
        };
        use SandboxState::{Exited, Failed, Lost, Running, Starting};
        check(Starting, None, None, SandboxStatus::Pending);
        check(Running, None, None, SandboxStatus::Running);
        check(Exited, None, Some(0), SandboxStatus::Succeeded);
        check(Exited, None, Some(3), SandboxStatus::Failed);
        check(
            Exited,
            Some(SandboxEnd::Stopped),
            Some(143),
            SandboxStatus::Terminated,
        );
        check(
            Exited,
            Some(SandboxEnd::Stopped),
            Some(0),
            SandboxStatus::Terminated,
        );
        check(
            Exited,
            Some(SandboxEnd::TimedOut),
            Some(124),
            SandboxStatus::Terminated,
        );
        check(
            Exited,
            Some(SandboxEnd::OutOfMemory),
            Some(137),
            SandboxStatus::Failed,
        );
        check(Failed, None, None, SandboxStatus::Failed);
        check(
            Failed,
            Some(SandboxEnd::Stopped),
            None,
            SandboxStatus::Terminated,
        );
        check(Lost, None, None, SandboxStatus::Error);
    }

    #[test]
    fn pages_hold_what_fits() {
        let all: Vec<Sandbox> = (0..6)
            .rev()
            .map(|number| {
                sandbox(&format!("id{number}"), |sandbox| {
                    sandbox.name = Some(format!("box-{}", number % 2));
                    sandbox.tags.insert("n".into(), (number % 3).to_string());
                })
            })
            .collect();
        let check = |asked: ListSandboxesRequest, expect: &[&str], more: bool| {
            let page = page(all.clone(), &asked).unwrap();
            let ids: Vec<&str> = page.sandboxes.iter().map(|s| &*s.id).collect();
            assert_eq!(ids, expect, "{asked:?}");
            let cursor = page.next_cursor.as_deref();
            assert_eq!(cursor, more.then(|| *expect.last().unwrap()));
        };
        let asked = ListSandboxesRequest::default();
        check(
            asked.clone(),
            &["id5", "id4", "id3", "id2", "id1", "id0"],
            false,
        );
        let limited = ListSandboxesRequest {
            limit: Some(2),
            ..asked.clone()
        };
        check(limited.clone(), &["id5", "id4"], true);
        let next = ListSandboxesRequest {
            cursor: Some("id2".into()),
            ..limited.clone()
        };
        check(next, &["id1", "id0"], false);
        let mut ascending = ListSandboxesRequest {
            cursor: Some("id2".into()),
            ..limited
        };
        ascending.set_sort_order(SandboxSortOrder::Asc);
        check(ascending, &["id3", "id4"], true);
        let filters = ListSandboxesFilters {
            names: vec!["box-1".into()],
            tags: [("n".to_owned(), "0".to_owned())].into(),
            ..ListSandboxesFilters::default()
        };
        let filtered = ListSandboxesRequest {
            filters: Some(filters),
            ..asked.clone()
        };
        check(filtered, &["id3"], false);
        let mut ended = ListSandboxesFilters::default();
        ended.push_statuses(SandboxStatus::Terminated);
        let none = ListSandboxesRequest {
            filters: Some(ended),
            ..asked.clone()
        };
        check(none, &[], false);
        let searched = ListSandboxesRequest {
            search: "d4".into(),
            ..asked
        };
        check(searched, &["id4"], false);
    }
}
