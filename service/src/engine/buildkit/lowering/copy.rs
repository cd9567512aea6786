//! `COPY`, `ADD`, `WORKDIR`, `add_file` and `add_dir`. Patterns, exclusions and modes of files from the
//! store are worked out here, by the same code as in the embedded engine; builders get trees of just
//! what is to be copied. Between stages BuildKit's own copier works, after which the embedded
//! engine's rules are modelled.

use chalk_core::glob::has_wildcard;
use chalk_core::lower::{Action, Chmod, Copy, CopySource, Download};

use super::Lowering;
use crate::engine::buildkit::files::Offered;
use crate::engine::buildkit::llb::{About, FileChange, FileCopy, Output, State};
use crate::engine::buildkit::solve::Halt;
use crate::engine::buildkit::watch::OpId;
use crate::engine::embedded::copy::{Contents, MTIME, Selected, Selection, Virtual};
use crate::engine::embedded::download::fetch;
use crate::engine::embedded::files::read_tree;
use crate::engine::embedded::storage;

/// What an old BuildKit does not know: patterns in copies between stages.
const PATTERNS: &str = "file.copy.includeexcludepatterns";

impl Lowering<'_, '_> {
    /// Lowers an operation that changes files without a process; whether there is something to change,
    /// which makes one vertex.
    pub(super) async fn files(
        &mut self,
        id: OpId,
        state: &mut State,
        action: &Action,
        mut about: About,
    ) -> Result<bool, Halt> {
        let actions = match action {
            Action::Sequence(actions) => actions.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut changes = Vec::new();
        for action in actions {
            match action {
                Action::Copy(copy) => {
                    let owner = match &copy.chown {
                        Some(user) => Some(self.owner(id, state, user).await?),
                        None => None,
                    };
                    match &copy.from {
                        CopySource::Stage(stage) => {
                            let from = self.state_of(*stage)?;
                            let copies = between(copy, &from, owner, &mut about);
                            changes.extend(copies.map_err(|why| self.fault(id, &why))?);
                        }
                        _ => changes.extend(self.copied_from_store(id, copy, owner).await?),
                    }
                }
                Action::Download(download) => {
                    changes.push(self.download(id, state, download).await?);
                }
                Action::MakeDir { path, user } => changes.push(FileChange::MakeDir {
                    path: path.clone(),
                    mode: 0o755,
                    owner: self.owner(id, state, user).await?,
                }),
                Action::Config | Action::Run(_) | Action::Install(_) | Action::Sequence(_) => {
                    let why = "an instruction mixes files with something else";
                    return Err(self.fault(id, why));
                }
            }
        }
        // A pattern may match nothing.
        if changes.is_empty() {
            return Ok(false);
        }
        *state = Some(self.graph.files(state, changes, about));
        Ok(true)
    }

    async fn copied_from_store(
        &mut self,
        id: OpId,
        copy: &Copy,
        owner: Option<(u32, u32)>,
    ) -> Result<Vec<FileChange>, Halt> {
        let (blobs, copy) = (self.blobs(), copy.clone());
        let work = move || {
            let (root, sources) = source(&copy, &blobs)?;
            let selection = Selection {
                sources: &sources,
                exclude: &copy.exclude,
                parents: copy.parents,
            };
            let selected = selection.of(root)?;
            let chmod = copy.chmod.as_ref();
            let mut offers = Vec::new();
            let many = selected.len() > 1 && !copy.dest.ends_with('/') && !copy.parents;
            for Selected { root, name } in selected {
                let offered = Offered::new(&root, chmod, &blobs)?;
                let is_file = name.is_some();
                let file = FileCopy {
                    src: format!("/{}", name.unwrap_or_default()),
                    dest: match many {
                        true => format!("{}/", copy.dest),
                        false => copy.dest.clone(),
                    },
                    owner,
                    unpack: copy.unpack && is_file,
                    // Several sources want a directory that is there.
                    make_dest: !many,
                    ..FileCopy::default()
                };
                offers.push((offered, file));
            }
            Ok::<_, String>(offers)
        };
        let offers = tokio::task::spawn_blocking(work).await;
        let offers = offers.map_err(|e| storage("read files to copy", &e))?;
        let offers = offers.map_err(|why| self.fault(id, &why))?;
        let mut changes = Vec::new();
        for (offered, copy) in offers {
            changes.push(FileChange::Copy {
                from: Some(self.offer(offered)),
                copy,
            });
        }
        Ok(changes)
    }

    fn offer(&mut self, offered: Offered) -> Output {
        let name = self.answers().offer(offered);
        self.graph.local(&name, self.attempt.session())
    }

    async fn download(
        &mut self,
        id: OpId,
        state: &State,
        download: &Download,
    ) -> Result<FileChange, Halt> {
        let owner = match &download.chown {
            Some(user) => Some(self.owner(id, state, user).await?),
            None => None,
        };
        let build = self.build;
        let into = build.scratch.dir("download")?;
        let limit = build.shared.settings.step_timeout;
        let fetched = tokio::select! {
            fetched = fetch(download, &into, &build.shared.surroundings) => fetched,
            () = build.cancel.cancelled() => {
                return Err(Halt::Build(crate::engine::EngineError::Cancelled));
            }
            () = tokio::time::sleep(limit) => {
                Err("it takes longer than a step may (setting `build.step_timeout`)".to_owned())
            }
        };
        let failed = |why| format!("cannot download {}: {why}", download.url);
        let fetched = fetched.map_err(|why| self.fault(id, &failed(why)))?;
        let (name, blobs) = (download.file_name.clone(), self.blobs());
        let chmod = download.chmod.clone().unwrap_or(Chmod::Bits(0o600));
        let work = move || {
            let mut root = Virtual::empty();
            let file = Virtual::File {
                contents: Contents::Path(fetched.path),
                mode: 0o600,
                mtime: fetched.modified.unwrap_or(MTIME),
            };
            root.insert(&name, file)?;
            Offered::new(&root, Some(&chmod), &blobs)
        };
        let offered = tokio::task::spawn_blocking(work).await;
        let offered = offered.map_err(|e| storage("read a download", &e))?;
        let offered = offered.map_err(|why| self.fault(id, &why))?;
        Ok(FileChange::Copy {
            from: Some(self.offer(offered)),
            copy: FileCopy {
                src: format!("/{}", download.file_name),
                dest: download.dest.clone(),
                owner,
                unpack: download.unpack,
                make_dest: true,
                ..FileCopy::default()
            },
        })
    }
}

/// The tree that a copy takes files from, and the patterns in it.
fn source(copy: &Copy, blobs: &chalk_store::BlobStore) -> Result<(Virtual, Vec<String>), String> {
    let file = |contents, mode| Virtual::File {
        contents,
        mode,
        mtime: MTIME,
    };
    let mut root = Virtual::empty();
    match &copy.from {
        CopySource::Tree(digest) => Ok((read_tree(*digest, blobs)?, copy.sources.clone())),
        CopySource::Blob { digest, mode } => {
            let name = copy.sources.first().map_or("file", String::as_str);
            let name = name.trim_start_matches('/');
            root.insert(name, file(Contents::Blob(*digest), *mode))?;
            Ok((root, vec![name.to_owned()]))
        }
        CopySource::Inline(files) => {
            for (name, contents) in files {
                root.insert(name, file(Contents::Bytes(contents.clone()), 0o644))?;
            }
            let names = files.iter().map(|(name, _)| name.clone());
            Ok((root, names.collect()))
        }
        CopySource::Stage(_) => Err("a stage is not in the store".to_owned()),
    }
}

/// Copies from another stage.
fn between(
    copy: &Copy,
    from: &State,
    owner: Option<(u32, u32)>,
    about: &mut About,
) -> Result<Vec<FileChange>, String> {
    let mode = match &copy.chmod {
        None => None,
        Some(Chmod::Bits(bits)) => Some(*bits),
        Some(Chmod::Symbolic(_)) => {
            return Err("`--chmod` with letters and `--from` another stage is not possible with BuildKit; give the mode as a number".to_owned());
        }
    };
    if copy.parents || !copy.exclude.is_empty() {
        about.needs.push(PATTERNS);
    }
    let mut changes = Vec::new();
    for source in &copy.sources {
        let source = source.trim_start_matches('/');
        let mut file = FileCopy {
            src: format!("/{source}"),
            dest: copy.dest.clone(),
            owner,
            mode,
            wildcard: has_wildcard(source),
            may_be_missing: has_wildcard(source),
            make_dest: true,
            exclude: copy.exclude.clone(),
            ..FileCopy::default()
        };
        if copy.parents {
            let (pivot, rest) = source.split_once("/./").unwrap_or(("", source));
            file.src = format!("/{pivot}");
            file.include = vec![rest.to_owned()];
            file.wildcard = false;
        }
        changes.push(FileChange::Copy {
            from: from.clone(),
            copy: file,
        });
    }
    Ok(changes)
}
