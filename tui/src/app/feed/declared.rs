//! The declaration that is worked on: read, planned and built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::wire::{BuildReply, BuildRequest, LocalPlan, Plan, ResolveRequest, Resolved, exit};
use chalk_core::{Digest, Spec};

use super::watcher::FileWatcher;
use super::{Shared, image};
use crate::app::effect::Source;
use crate::app::event::{Declared, Feed, Trouble};
use crate::cli::{DockerfileFlags, File};
use crate::client::Client;
use crate::commands::build::submit;
use crate::commands::upload::Sent;
use crate::declaration::{self, Upload, UploadFrom};
use crate::error::Failure;

/// Longest text that is shown beside the plan, in bytes.
const TEXT: usize = 1 << 20;
/// Time between two words on how much was sent.
const PACE: Duration = Duration::from_millis(200);

/// What was read last.
#[derive(Clone)]
struct Known {
    spec: Spec,
    uploads: Arc<BTreeMap<Digest, Upload>>,
}

/// Reads, plans and builds the declaration that is worked on.
pub(super) struct Reader {
    shared: Shared,
    secrets: Arc<BTreeMap<String, String>>,
    known: Arc<Mutex<Option<Known>>>,
    watcher: Arc<Mutex<FileWatcher>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    pub(super) fn new(shared: Shared, secrets: BTreeMap<String, String>) -> Self {
        Self {
            watcher: Arc::new(Mutex::new(FileWatcher::new(shared.clone()))),
            shared,
            secrets: Arc::new(secrets),
            known: Arc::new(Mutex::new(None)),
        }
    }

    /// The spec that was read last.
    pub(super) fn spec(&self) -> Option<Spec> {
        lock(&self.known).as_ref().map(|known| known.spec.clone())
    }

    pub(super) fn read(&self, source: Source, generation: u64) {
        let (shared, known) = (self.shared.clone(), self.known.clone());
        let watcher = self.watcher.clone();
        self.shared.spawn(async move {
            let read = match &source {
                Source::File(path) => read_file(path, &watcher).await,
                Source::Image(id) => read_image(&shared, id).await,
            };
            let result = match read {
                Ok((declared, uploads)) => {
                    *lock(&known) = Some(Known {
                        spec: declared.spec.clone(),
                        uploads: Arc::new(uploads),
                    });
                    Ok(Box::new(declared))
                }
                Err(failure) => Err(failure.into()),
            };
            shared.tell(Feed::Declared { generation, result }).await;
        });
    }

    pub(super) fn plan(&self, generation: u64) {
        let Some(known) = lock(&self.known).clone() else {
            return;
        };
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            let result = match plan(&shared, &known).await {
                Ok(plan) => Ok(Box::new(plan)),
                Err(failure) => Err(Trouble::from(with_demo(failure, in_checkout()))),
            };
            shared.tell(Feed::Planned { generation, result }).await;
        });
    }

    /// Builds what was read last. A service of our own ends with us, and its builds with it.
    pub(super) fn build(&self, force: bool, from: Option<usize>, own: bool) {
        let Some(mut known) = lock(&self.known).clone() else {
            return;
        };
        let force = force || !force_from(&mut known.spec, from);
        self.submit(known.spec, known.uploads, None, force, own);
    }

    /// Builds again what an image was built from.
    pub(super) fn rebuild(
        &self,
        id: String,
        name: Option<String>,
        from: Option<usize>,
        force: bool,
        own: bool,
    ) {
        let reader = self.clone_for_task();
        self.shared.spawn(async move {
            let shared = reader.shared.clone();
            let found = async { image(&shared.client_now()?, &id).await };
            match found.await {
                Ok(detail) => {
                    let mut spec = detail.spec;
                    let force = force || !force_from(&mut spec, from);
                    reader.submit(spec, Arc::new(BTreeMap::new()), name, force, own);
                }
                Err(failure) if failure.code == exit::NOT_FOUND => {
                    let failure = failure.hint(
                        "a build that failed left no image; open its declaration and build that",
                    );
                    shared.failed(failure).await;
                }
                Err(failure) => shared.failed(failure).await,
            }
        });
    }

    fn clone_for_task(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            secrets: self.secrets.clone(),
            known: self.known.clone(),
            watcher: self.watcher.clone(),
        }
    }

    fn submit(
        &self,
        spec: Spec,
        uploads: Arc<BTreeMap<Digest, Upload>>,
        name: Option<String>,
        force: bool,
        own: bool,
    ) {
        let shared = self.shared.clone();
        let secrets = (*self.secrets).clone();
        self.shared.spawn(async move {
            let request = BuildRequest {
                spec,
                name,
                force,
                secrets,
                cancel_on_disconnect: own,
                compression: None,
            };
            match send(&shared, &request, &uploads).await {
                Ok(BuildReply::Accepted(build)) => {
                    let build = Box::new(build);
                    let reused = false;
                    shared.tell(Feed::BuildStarted { build, reused }).await;
                }
                Ok(BuildReply::Reused(build)) => {
                    let build = Box::new(build);
                    let reused = true;
                    shared.tell(Feed::BuildStarted { build, reused }).await;
                }
                Ok(BuildReply::NeedsBlobs(_)) => {
                    let failure = Failure::new(
                        exit::UNREACHABLE,
                        "the service asks for files again and again",
                    );
                    shared.failed(failure).await;
                }
                Err(failure) => shared.failed(with_demo(failure, in_checkout())).await,
            }
            shared.hurry.notify_one();
        });
    }

    /// Pins the bases of a declaration in `image.lock` beside it.
    pub(super) fn lock(&self, path: PathBuf) {
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            match write_lock(&shared, &path).await {
                Ok(lock) => {
                    let text = format!("wrote {}", lock.display());
                    shared.tell(Feed::Done(text)).await;
                    shared.tell(Feed::FilesChanged).await;
                }
                Err(failure) => shared.failed(failure).await,
            }
        });
    }
}

/// Whether this is a checkout of the project, whose example is what is worked on at first.
fn in_checkout() -> bool {
    Path::new("xtask/src/demo.rs").is_file()
}

/// Names the way to a base that a checkout has beside those that the service names: where no registry
/// is reached, the demo makes a stand-in for the base of the example.
fn with_demo(mut failure: Failure, checkout: bool) -> Failure {
    if checkout && failure.hint.contains("chalk compute image import") {
        failure
            .hint
            .push_str("; for the example, `cargo xtask demo` brings a stand-in");
    }
    failure
}

/// Marks the steps that run anew; false when that is all of them, since the first is not a step of
/// its own.
fn force_from(spec: &mut Spec, from: Option<usize>) -> bool {
    let Some(from) = from else {
        return true;
    };
    // The instructions of a Dockerfile come before the steps, and cannot be forced one by one.
    let before = spec
        .steps_with_keys()
        .len()
        .saturating_sub(spec.steps.len());
    let Some(from) = from.checked_sub(before) else {
        return false;
    };
    for step in spec.steps.iter_mut().skip(from) {
        step.force = true;
    }
    true
}

async fn read_file(
    path: &Path,
    watcher: &Mutex<FileWatcher>,
) -> Result<(Declared, BTreeMap<Digest, Upload>), Failure> {
    let file = File {
        file: path.display().to_string(),
        dockerfile: DockerfileFlags::default(),
    };
    // Before the files are read, so that no change in between is missed.
    let mut directories = BTreeSet::from([directory(path)]);
    lock(watcher).watch(&directories);
    let read = declaration::read(&file).await?;
    for upload in read.uploads.values() {
        if let UploadFrom::File(path) = &upload.from {
            directories.insert(directory(path));
        }
    }
    lock(watcher).watch(&directories);
    let text = tokio::fs::read(path).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..text.len().min(TEXT)]).into_owned();
    let bytes = read.uploads.values().map(|upload| upload.size).sum();
    let declared = Declared {
        local: LocalPlan::new(&read.spec, bytes, read.warnings),
        spec: read.spec,
        text,
    };
    Ok((declared, read.uploads))
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

async fn read_image(
    shared: &Shared,
    id: &str,
) -> Result<(Declared, BTreeMap<Digest, Upload>), Failure> {
    let client = shared.client().await.ok_or_else(Failure::interrupted)?;
    let detail = image(&client, id).await?;
    let declared = Declared {
        local: LocalPlan::new(&detail.spec, 0, Vec::new()),
        text: detail.spec.to_json().pretty(),
        spec: detail.spec,
    };
    Ok((declared, BTreeMap::new()))
}

async fn plan(shared: &Shared, known: &Known) -> Result<Plan, Failure> {
    let client = shared.client().await.ok_or_else(Failure::interrupted)?;
    let request = ResolveRequest {
        spec: known.spec.clone(),
        blobs: known
            .uploads
            .iter()
            .map(|(digest, upload)| (*digest, upload.size))
            .collect(),
    };
    let mut plan: Plan = client.post("/v1/plan", &request).await?;
    if plan.image_hash.is_none() {
        // Why is among the warnings already.
        plan.warnings.push(without_base(in_checkout()).to_owned());
    }
    Ok(plan)
}

/// What to do where a base cannot be had.
fn without_base(checkout: bool) -> &'static str {
    if checkout {
        "`chalk compute image import PATH --as REF` brings a base in; for the example, `cargo xtask demo` brings a stand-in"
    } else {
        "`chalk compute image import PATH --as REF` brings a base in"
    }
}

/// Asks for a build, and says how much was sent while files go up.
async fn send(
    shared: &Shared,
    request: &BuildRequest,
    uploads: &BTreeMap<Digest, Upload>,
) -> Result<BuildReply, Failure> {
    let client: Client = shared.client_now()?;
    let sent = Sent::default();
    let total = uploads.values().map(|upload| upload.size).sum();
    let work = submit(&client, request, uploads, &sent);
    tokio::pin!(work);
    let mut pace = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            reply = &mut work => return reply,
            _ = pace.tick() => {
                let sent = sent.bytes();
                if sent > 0 {
                    shared.tell(Feed::Uploading { sent, total }).await;
                }
            }
        }
    }
}

async fn write_lock(shared: &Shared, path: &Path) -> Result<PathBuf, Failure> {
    let file = File {
        file: path.display().to_string(),
        dockerfile: DockerfileFlags::default(),
    };
    let read = declaration::read_unlocked(&file).await?;
    let request = ResolveRequest {
        spec: read.spec,
        blobs: BTreeMap::new(),
    };
    let resolved: Resolved = shared.client_now()?.post("/v1/resolve", &request).await?;
    let lock = chalk_core::lock::Lock::of(&resolved.spec);
    declaration::write_lock(&read.lock, &lock)?;
    Ok(read.lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_knows_another_way_to_a_base() {
        let check = |hint: &str, checkout: bool, expect: bool| {
            let failure = Failure::new(exit::UNREACHABLE, "registry cannot be reached");
            let hint = with_demo(failure.hint(hint), checkout).hint;
            assert_eq!(hint.contains("cargo xtask demo"), expect, "{hint}");
        };
        let import = "bring the image in with `chalk compute image import PATH --as REF`";
        check(import, true, true);
        check(import, false, false);
        check("log in with `docker login`", true, false);
    }
}
