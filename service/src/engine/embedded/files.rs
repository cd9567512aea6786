//! Steps that put files into the root without running anything.

use std::path::{Path, PathBuf};

use chalk_core::Digest;
use chalk_core::lower::{Action, Chmod, Copy, CopySource, Download};
use chalk_store::BlobStore;
use chalk_store::stack::Stack;

use super::Shared;
use super::build::TREE_LIMIT;
use super::chain::{blocking, user_in};
use super::copy::{Contents, Job, MTIME, Source, Virtual, Write, export, write};
use super::download::{Fetched, fetch};
use super::owners::overlay_attrs;
use super::run::{Runner, StepError};
use crate::engine::EngineError;

/// What is to be written, with everything at hand that has to be waited for.
enum Planned {
    Copy(Copy, From),
    Download(Download, Fetched),
    MakeDir { path: String, user: String },
}

/// Where a copy takes its files from.
enum From {
    Tree(Digest),
    Blob { digest: Digest, mode: u32 },
    Layers(Vec<PathBuf>),
    Inline(Vec<(String, Vec<u8>)>),
}

impl Runner<'_> {
    /// Carries out copies, downloads and directories to be made.
    ///
    /// # Errors
    /// When something is not there or cannot be written.
    pub(super) async fn write_files(&mut self, action: &Action) -> Result<(), StepError> {
        let actions = match action {
            Action::Sequence(actions) => actions.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut planned = Vec::new();
        for action in actions {
            planned.push(self.plan(action).await?);
        }
        let lower = self.chain.lower_dirs(&self.shared.empty);
        let (upper, store) = (self.upper.clone(), self.shared.blobs.clone());
        let unpacking = self.scratch.dir("unpack")?;
        let cancelled = self.cancel.clone();
        let work = move || {
            let mut writes = Vec::new();
            for plan in planned {
                writes.push(plan.write(&lower, &store)?);
            }
            if cancelled.is_cancelled() {
                return Ok(());
            }
            let scratch = || new_dir(&unpacking);
            write(&upper, &lower, &writes, &store, &scratch)
        };
        blocking(work).await?;
        match self.cancel.is_cancelled() {
            true => Err(StepError::Cancelled),
            false => Ok(()),
        }
    }

    async fn plan(&mut self, action: &Action) -> Result<Planned, StepError> {
        match action {
            Action::Copy(copy) => {
                let from = match &copy.from {
                    CopySource::Tree(tree) => From::Tree(*tree),
                    CopySource::Blob { digest, mode } => From::Blob {
                        digest: *digest,
                        mode: *mode,
                    },
                    CopySource::Stage(stage) => {
                        From::Layers(self.stage(*stage)?.lower_dirs(&self.shared.empty))
                    }
                    CopySource::Inline(files) => From::Inline(files.clone()),
                };
                Ok(Planned::Copy(copy.clone(), from))
            }
            Action::Download(download) => {
                let into = self.scratch.dir("download")?;
                let around = &self.shared.surroundings;
                let fetched = tokio::select! {
                    fetched = fetch(download, &into, around) => fetched,
                    () = self.cancel.cancelled() => return Err(StepError::Cancelled),
                    () = tokio::time::sleep_until(self.deadline.into()) => {
                        Err("it takes longer than a step may (setting `build.step_timeout`)".to_owned())
                    }
                };
                let failed =
                    |why| StepError::failed(format!("cannot download {}: {why}", download.url));
                Ok(Planned::Download(
                    download.clone(),
                    fetched.map_err(failed)?,
                ))
            }
            Action::MakeDir { path, user } => Ok(Planned::MakeDir {
                path: path.clone(),
                user: user.clone(),
            }),
            Action::Config | Action::Run(_) | Action::Install(_) | Action::Sequence(_) => {
                let why = "an instruction mixes files with something else".to_owned();
                Err(StepError::Engine(EngineError::Spec(why)))
            }
        }
    }
}

fn new_dir(parent: &Path) -> Result<PathBuf, String> {
    let dir = tempfile::Builder::new().tempdir_in(parent);
    let dir = dir
        .map_err(|e| format!("cannot make a directory: {e}"))?
        .keep();
    Ok(dir)
}

impl Planned {
    /// Looks names up and opens sources. Blocks.
    fn write(self, lower: &[PathBuf], store: &BlobStore) -> Result<Write, String> {
        let owner = |user: &str| user_in(lower, user).map(|found| (found.uid, found.gid));
        match self {
            Self::MakeDir { path, user } => {
                let owner = owner(&user)?;
                Ok(Write::MakeDir { path, owner })
            }
            Self::Copy(copy, from) => {
                let source = match from {
                    From::Tree(digest) => Source::Virtual(read_tree(digest, store)?),
                    From::Layers(dirs) => Source::Layers(
                        Stack::open(&dirs, overlay_attrs()).map_err(|e| e.to_string())?,
                    ),
                    From::Blob { digest, mode } => {
                        let name = copy.sources.first().map_or("file", String::as_str);
                        one_file(name, Contents::Blob(digest), mode, MTIME)?
                    }
                    From::Inline(files) => {
                        let mut root = Virtual::empty();
                        for (name, contents) in &files {
                            let file = file(Contents::Bytes(contents.clone()), 0o644, MTIME);
                            root.insert(name, file)?;
                        }
                        return Ok(Write::Copy(Job {
                            source: Source::Virtual(root),
                            sources: files.into_iter().map(|(name, _)| name).collect(),
                            owner: copy.chown.as_deref().map(owner).transpose()?,
                            dest: copy.dest,
                            chmod: copy.chmod,
                            parents: false,
                            exclude: Vec::new(),
                            unpack: false,
                        }));
                    }
                };
                Ok(Write::Copy(Job {
                    source,
                    sources: copy.sources,
                    owner: copy.chown.as_deref().map(owner).transpose()?,
                    dest: copy.dest,
                    chmod: copy.chmod,
                    parents: copy.parents,
                    exclude: copy.exclude,
                    unpack: copy.unpack,
                }))
            }
            Self::Download(download, fetched) => {
                let contents = Contents::Path(fetched.path);
                let name = &download.file_name;
                Ok(Write::Copy(Job {
                    source: one_file(name, contents, 0o600, fetched.modified.unwrap_or(MTIME))?,
                    sources: vec![name.clone()],
                    owner: download.chown.as_deref().map(owner).transpose()?,
                    dest: download.dest,
                    chmod: download.chmod.or(Some(Chmod::Bits(0o600))),
                    parents: false,
                    exclude: Vec::new(),
                    unpack: download.unpack,
                }))
            }
        }
    }
}

fn file(contents: Contents, mode: u32, mtime: i64) -> Virtual {
    Virtual::File {
        contents,
        mode,
        mtime,
    }
}

fn one_file(name: &str, contents: Contents, mode: u32, mtime: i64) -> Result<Source, String> {
    let mut root = Virtual::empty();
    root.insert(name.trim_start_matches('/'), file(contents, mode, mtime))?;
    Ok(Source::Virtual(root))
}

/// A tree of the store, as a copy reads it.
///
/// # Errors
/// When it is not there, damaged, or no tree; in words.
pub(in crate::engine) fn read_tree(digest: Digest, store: &BlobStore) -> Result<Virtual, String> {
    let bytes = store
        .read_small(digest, TREE_LIMIT)
        .map_err(|e| e.to_string())?;
    Virtual::of_tree(&bytes).map_err(|why| format!("{digest} is {why}"))
}

impl Shared {
    /// Makes what is at `path` in a tree of the store appear in the empty directory `into`; gives
    /// where.
    ///
    /// # Errors
    /// When it is not there or cannot be copied.
    pub(super) async fn export_tree(
        &self,
        tree: Digest,
        path: &str,
        into: &Path,
    ) -> Result<PathBuf, StepError> {
        let (path, into, store) = (path.to_owned(), into.to_owned(), self.blobs.clone());
        blocking(move || {
            let path = match path.as_str() {
                "" => ".",
                path => path,
            };
            export(
                Source::Virtual(read_tree(tree, &store)?),
                path,
                &into,
                &store,
            )
        })
        .await
    }
}
