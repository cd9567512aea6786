//! The app's way to the service and the disk: runs effects, and tells what came of them.

mod builds;
mod compare;
mod connection;
mod declared;
mod poll;
pub(crate) mod recent;
mod watcher;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use chalk_core::wire::{GcReport, GcRequest, Image, ImageDetail, Node, Prewarm, Warm};
use reqwest::Method;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::effect::{Effect, Source, Text};
use super::event::{Entry, Feed, Trouble};
use super::model::View;
use crate::client::{Client, segment};
use crate::error::Failure;
use crate::progress::bytes;
use crate::settings::Loaded;
use connection::Connector;
use declared::Reader;

/// Most entries of a directory that are listed.
const ENTRIES: usize = 5_000;

/// What every task of the feed shares.
#[derive(Clone)]
pub(super) struct Shared {
    told: mpsc::Sender<Feed>,
    /// The service, while it is reached.
    client: watch::Receiver<Option<Client>>,
    /// What is looked at.
    attention: watch::Sender<View>,
    /// Something changed that is worth asking for at once.
    hurry: Arc<Notify>,
    /// What was asked for and is not done.
    tasks: TaskTracker,
    /// Nobody waits for answers any more.
    closing: CancellationToken,
}

impl Shared {
    /// Does something to its end, or until the app closes.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks
            .spawn(async move { closing.run_until_cancelled(work).await });
    }

    /// Tells the model. A model that is gone needs no news.
    async fn tell(&self, feed: Feed) {
        let _ = self.told.send(feed).await;
    }

    async fn failed(&self, failure: Failure) {
        self.tell(Feed::Failed(failure.into())).await;
    }

    /// The service, waiting until it is reached.
    async fn client(&self) -> Option<Client> {
        let mut client = self.client.clone();
        let found = client.wait_for(Option::is_some).await.ok()?;
        found.clone()
    }

    /// The service, if it is reached now.
    fn client_now(&self) -> Result<Client, Failure> {
        let client = self.client.borrow().clone();
        client.ok_or_else(|| {
            Failure::new(
                chalk_core::wire::exit::UNREACHABLE,
                "the service is not reached",
            )
        })
    }
}

/// Runs effects.
pub(crate) struct Runner {
    shared: Shared,
    connector: Connector,
    poller: JoinHandle<()>,
    reader: Reader,
    builds: BTreeMap<String, JoinHandle<()>>,
    warm: Option<JoinHandle<()>>,
}

impl Runner {
    /// Begins to connect; `told` is where news goes.
    pub(crate) fn new(
        loaded: Loaded,
        secrets: BTreeMap<String, String>,
        told: mpsc::Sender<Feed>,
    ) -> Self {
        let (client, reached) = watch::channel(None);
        let (attention, _) = watch::channel(View::Spec);
        let shared = Shared {
            told,
            client: reached,
            attention,
            hurry: Arc::new(Notify::new()),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        };
        let lost = Arc::new(Notify::new());
        let connector = Connector::start(loaded, shared.clone(), client, lost.clone());
        let poller = tokio::spawn(poll::poll(shared.clone(), lost));
        let reader = Reader::new(shared.clone(), secrets);
        Self {
            shared,
            connector,
            poller,
            reader,
            builds: BTreeMap::new(),
            warm: None,
        }
    }

    /// Ends what runs, and a service of our own in good order.
    pub(crate) async fn close(self) {
        self.poller.abort();
        if let Some(task) = self.warm {
            task.abort();
        }
        // A service of our own ends when its last request is answered or given up, and a plan may
        // wait long for a registry that does not answer.
        self.shared.closing.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        let client = self.shared.client_now();
        for (id, task) in self.builds {
            let running = !task.is_finished();
            task.abort();
            // Only when we are off the line is a build left.
            let _ = task.await;
            if let (true, true, Ok(client)) = (running, self.connector.is_own(), &client) {
                // It ends at once, and not after the time that is given to clients to come back.
                let path = format!("/v1/builds/{}?leave=true", segment(&id));
                let _ = client.delete(&path).await;
            }
        }
        self.connector.close().await;
    }

    /// Runs an effect.
    pub(crate) fn run(&mut self, effect: Effect) {
        let shared = self.shared.clone();
        match effect {
            // Of the terminal, and done there.
            Effect::Quit
            | Effect::Suspend
            | Effect::Redraw
            | Effect::Copy(_)
            | Effect::Notify(_)
            | Effect::Mouse(_)
            | Effect::Edit(_) => {}
            Effect::Attend(view) => {
                shared.attention.send_replace(view);
                shared.hurry.notify_one();
            }
            Effect::Refresh => shared.hurry.notify_one(),
            Effect::ReadSpec { source, generation } => {
                if let Source::File(path) = &source {
                    recent::remember(path.clone());
                }
                self.reader.read(source, generation);
            }
            Effect::Plan { generation } => self.reader.plan(generation),
            Effect::Build { force, from } => {
                let own = self.connector.is_own();
                self.reader.build(force, from, own);
            }
            Effect::Rebuild {
                image,
                name,
                from,
                force,
            } => {
                let own = self.connector.is_own();
                self.reader.rebuild(image, name, from, force, own);
            }
            Effect::Lock(path) => self.reader.lock(path),
            Effect::FollowBuild(id) => {
                let task = tokio::spawn(builds::follow(shared, id.clone()));
                if let Some(old) = self.builds.insert(id, task) {
                    old.abort();
                }
            }
            Effect::LeaveBuild(id) => {
                if let Some(task) = self.builds.remove(&id) {
                    task.abort();
                }
            }
            Effect::FollowWarm(id) => {
                if let Some(old) = self.warm.take() {
                    old.abort();
                }
                self.warm = Some(tokio::spawn(builds::follow_warm(shared, id)));
            }
            Effect::Diff { before, after } => {
                let declared = self.reader.spec();
                let view = View::Diff(before.clone(), after.clone());
                self.document(view, async move {
                    compare::diff(&shared.client_now()?, &before, after.as_deref(), declared).await
                });
            }
            Effect::Why {
                image,
                name,
                created,
            } => {
                let view = View::Why(image.clone());
                self.document(view, async move {
                    compare::why(&shared.client_now()?, &image, name.as_deref(), &created).await
                });
            }
            Effect::WhySpec => {
                let declared = self.reader.spec();
                self.document(View::WhySpec, async move {
                    compare::why_spec(&shared.client_now()?, declared).await
                });
            }
            other => {
                // A file is written to its end.
                let whole = matches!(other, Effect::SaveText { .. });
                let work = {
                    let shared = shared.clone();
                    async move {
                        match call(&shared, other).await {
                            Ok(()) => shared.hurry.notify_one(),
                            Err(failure) => shared.failed(failure).await,
                        }
                    }
                };
                if whole {
                    shared.tasks.spawn(work);
                } else {
                    shared.spawn(work);
                }
            }
        }
    }

    fn document(
        &self,
        view: View,
        work: impl Future<Output = Result<super::model::Document, Failure>> + Send + 'static,
    ) {
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            let result = work.await.map_err(Trouble::from);
            shared.tell(Feed::Document { view, result }).await;
        });
    }
}

/// One call of the service, or one look at the disk.
async fn call(shared: &Shared, effect: Effect) -> Result<(), Failure> {
    match effect {
        Effect::CancelBuild(id) => {
            let client = shared.client_now()?;
            client
                .delete(&format!("/v1/builds/{}", segment(&id)))
                .await?;
            shared
                .tell(Feed::Done(format!("build {id} is cancelled")))
                .await;
        }
        Effect::LoadImage(hash) => {
            let client = shared.client_now()?;
            let detail = image(&client, &hash).await;
            match detail {
                Ok(detail) => shared.tell(Feed::ImageDetail(Box::new(detail))).await,
                Err(failure) => {
                    let view = View::Image(hash);
                    let result = Err(failure.into());
                    shared.tell(Feed::Document { view, result }).await;
                }
            }
        }
        Effect::LoadManifest(hash) => {
            let client = shared.client_now()?;
            match compare::manifest(&client, &hash).await {
                Ok(text) => shared.tell(Feed::Manifest { hash, text }).await,
                Err(failure) => {
                    let view = View::Manifest(hash);
                    let result = Err(failure.into());
                    shared.tell(Feed::Document { view, result }).await;
                }
            }
        }
        Effect::Tag { image, name } => {
            let client = shared.client_now()?;
            let path = format!("/v1/images/{}/names/{}", segment(&image), segment(&name));
            let named: Image = client.put(&path).await?;
            let text = format!("named {}", named.names.join(" "));
            shared.tell(Feed::Done(text)).await;
        }
        Effect::DeleteImages(hashes) => {
            let client = shared.client_now()?;
            for hash in &hashes {
                client
                    .delete(&format!("/v1/images/{}", segment(hash)))
                    .await?;
            }
            let text = match hashes.len() {
                1 => "deleted".to_owned(),
                count => format!("{count} images deleted"),
            };
            shared.tell(Feed::Done(text)).await;
        }
        Effect::Warm(request) => {
            let warm: Warm = shared.client_now()?.post("/v1/warms", &request).await?;
            shared.tell(Feed::WarmStarted(Box::new(warm))).await;
        }
        Effect::RetryWarm(id) => {
            let path = format!("/v1/warms/{}/retry", segment(&id));
            let warm: Warm = shared.client_now()?.call(Method::POST, &path).await?;
            shared.tell(Feed::WarmStarted(Box::new(warm))).await;
        }
        Effect::CancelWarm(id) => {
            let path = format!("/v1/warms/{}", segment(&id));
            let warm: Warm = shared.client_now()?.call(Method::DELETE, &path).await?;
            shared.tell(Feed::Warm(Box::new(warm))).await;
            shared
                .tell(Feed::Done(format!("warm {id} is cancelled")))
                .await;
        }
        Effect::LoadListing(node) => {
            let path = format!("/v1/nodes/{}/cache", segment(&node));
            let listing = shared.client_now()?.get(&path).await?;
            shared.tell(Feed::Listing(Box::new(listing))).await;
        }
        Effect::Drain { node, drain } => {
            let verb = if drain { "drain" } else { "undrain" };
            let path = format!("/v1/nodes/{}/{verb}", segment(&node));
            let node: Node = shared.client_now()?.call(Method::POST, &path).await?;
            let text = if drain {
                format!("{} takes no new work", node.name)
            } else {
                format!("{} takes work again", node.name)
            };
            shared.tell(Feed::Done(text)).await;
        }
        Effect::CollectCache(node) => {
            let path = format!("/v1/nodes/{}/cache/gc", segment(&node));
            let request = GcRequest::default();
            let report: GcReport = shared.client_now()?.post(&path, &request).await?;
            freed(shared, &report).await;
        }
        Effect::RemoveFromCache { node, image } => {
            let path = format!("/v1/nodes/{}/cache/{}", segment(&node), segment(&image));
            let report: GcReport = shared.client_now()?.call(Method::DELETE, &path).await?;
            freed(shared, &report).await;
        }
        Effect::SetPrewarm(images) => {
            let list = Prewarm {
                images,
                states: Vec::new(),
            };
            let list: Prewarm = shared.client_now()?.put_json("/v1/prewarm", &list).await?;
            shared.tell(Feed::Prewarm(list)).await;
        }
        Effect::ListDirectory(path) => {
            let listed = path.clone();
            let entries = tokio::task::spawn_blocking(move || entries(&listed)).await;
            let entries = entries.map_err(|e| Failure::usage("listing broke off").why(e))?;
            let entries = entries
                .map_err(|e| Failure::usage(format!("cannot list {}", path.display())).why(e))?;
            shared.tell(Feed::Directory { path, entries }).await;
        }
        Effect::SaveText { path, text } => {
            let to = path.clone();
            let saved = tokio::task::spawn_blocking(move || save(&to, &text)).await;
            let saved = saved.map_err(|e| Failure::usage("saving broke off").why(e))?;
            let count = saved
                .map_err(|e| Failure::usage(format!("cannot write {}", path.display())).why(e))?;
            let text = format!("saved {count} lines to {}", path.display());
            shared.tell(Feed::Done(text)).await;
        }
        _ => {}
    }
    Ok(())
}

/// Writes a text to a file; gives its number of lines.
fn save(path: &Path, text: &Text) -> io::Result<usize> {
    let mut out = io::BufWriter::new(std::fs::File::create(path)?);
    let count = match text {
        Text::Lines(lines) => {
            for line in lines {
                writeln!(out, "{line}")?;
            }
            lines.len()
        }
        Text::Log(log) => log.write(&mut out)?,
    };
    out.flush()?;
    Ok(count)
}

async fn freed(shared: &Shared, report: &GcReport) {
    let text = format!("{} freed on {}", bytes(report.freed_bytes), report.node);
    shared.tell(Feed::Done(text)).await;
    if let Ok(client) = shared.client_now() {
        let path = format!("/v1/nodes/{}/cache", segment(&report.node));
        if let Ok(listing) = client.get(&path).await {
            shared.tell(Feed::Listing(Box::new(listing))).await;
        }
    }
}

/// An image by its hash or name.
async fn image(client: &Client, id: &str) -> Result<ImageDetail, Failure> {
    client.get(&format!("/v1/images/{}", segment(id))).await
}

/// Directories first, then files, each by name; hidden ones left out.
fn entries(path: &Path) -> std::io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)?.take(ENTRIES) {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !name.starts_with('.') {
            entries.push(Entry {
                directory: entry.path().is_dir(),
                name,
            });
        }
    }
    entries.sort_by(|a, b| (!a.directory, &a.name).cmp(&(!b.directory, &b.name)));
    Ok(entries)
}
