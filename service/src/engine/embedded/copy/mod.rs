//! `COPY`, `ADD`, `WORKDIR`, `add_file` and `add_dir`: files into the upper directory of a step,
//! with the rules of BuildKit's copier. Nothing is mounted and no process runs; paths of image and
//! source are resolved inside their roots, so neither leads out.

mod archive;
mod crew;
mod dest;
mod select;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chalk_core::ignore::DockerIgnore;
use chalk_core::lower::Chmod;
use chalk_store::BlobStore;
use chalk_store::stack::EntryKind;

use crew::{Crew, Task};
use dest::{Dest, DestDir, Facts};
use source::{Node, join};

pub(in crate::engine) use select::{Selected, Selection};
pub(in crate::engine) use source::{Contents, MTIME, Source, Virtual};

/// What to copy, with names looked up and sources at hand.
pub(super) struct Job {
    /// Where from.
    pub(super) source: Source,
    /// Paths or patterns in it.
    pub(super) sources: Vec<String>,
    /// Absolute destination; a trailing slash says directory.
    pub(super) dest: String,
    /// Owner of all that is copied or made; their own where `None`.
    pub(super) owner: Option<(u32, u32)>,
    /// Change of permission bits.
    pub(super) chmod: Option<Chmod>,
    /// Keep the path of the sources below `dest`.
    pub(super) parents: bool,
    /// What is left out.
    pub(super) exclude: Vec<String>,
    /// Unpack archives.
    pub(super) unpack: bool,
}

/// One write into the root.
pub(super) enum Write {
    /// Copies files.
    Copy(Job),
    /// Makes a directory and its parents.
    MakeDir {
        /// Absolute path.
        path: String,
        /// Owner of what is made.
        owner: (u32, u32),
    },
}

/// Carries writes out, in order, in the directory `upper` over the layers `lower` (topmost
/// first). `scratch` gives empty directories on the same file system. Blocks.
///
/// # Errors
/// What failed, in words. `upper` is then to be thrown away.
pub(super) fn write(
    upper: &Path,
    lower: &[PathBuf],
    writes: &[Write],
    store: &BlobStore,
    scratch: &dyn Fn() -> Result<PathBuf, String>,
) -> Result<(), String> {
    let mut dest = Dest::open(upper, lower)?;
    for write in writes {
        match write {
            Write::MakeDir { path, owner } => {
                let path = dest.resolve(path)?;
                // A directory that is there is no change.
                if !dest.is_dir(&path)? {
                    dest.make_dirs(&path, *owner)?;
                }
            }
            Write::Copy(job) => Copier::new(job, &mut dest, store, scratch)?.run()?,
        }
    }
    dest.finish()
}

/// Copies a whole source directory into the empty directory `into`, as it is.
///
/// # Errors
/// What failed, in words.
pub(super) fn export(
    source: Source,
    path: &str,
    into: &Path,
    store: &BlobStore,
) -> Result<PathBuf, String> {
    let name = match source.find(path.as_bytes(), true)? {
        None => return Err(format!("`{path}` is not there")),
        Some(node) if node.kind() == EntryKind::Dir => None,
        Some(_) => Some("file"),
    };
    let job = Job {
        source,
        sources: vec![path.to_owned()],
        dest: format!("/{}", name.unwrap_or_default()),
        owner: None,
        chmod: None,
        parents: false,
        exclude: Vec::new(),
        unpack: false,
    };
    let scratch = || Err("an archive is not unpacked here".to_owned());
    write(into, &[], &[Write::Copy(job)], store, &scratch)?;
    Ok(name.map_or_else(|| into.to_owned(), |name| into.join(name)))
}

struct Copier<'a> {
    job: &'a Job,
    dest: &'a mut Dest,
    store: &'a BlobStore,
    scratch: &'a dyn Fn() -> Result<PathBuf, String>,
    exclude: DockerIgnore,
    /// Paths that hard-linked files of the source got, by device and inode.
    links: BTreeMap<(u64, u64), Vec<u8>>,
    /// Whether what is in the way is removed, as when an archive is unpacked.
    replace: bool,
    /// Files that are written by several threads.
    crew: Crew<'a>,
}

impl<'a> Copier<'a> {
    fn new(
        job: &'a Job,
        dest: &'a mut Dest,
        store: &'a BlobStore,
        scratch: &'a dyn Fn() -> Result<PathBuf, String>,
    ) -> Result<Self, String> {
        let exclude = DockerIgnore::of(job.exclude.iter().map(String::as_str));
        Ok(Self {
            job,
            dest,
            store,
            scratch,
            exclude: exclude.map_err(|e| format!("--exclude: {e}"))?,
            links: BTreeMap::new(),
            replace: false,
            crew: Crew::new(store),
        })
    }

    fn run(&mut self) -> Result<(), String> {
        let job = self.job;
        let mut matches = Vec::new();
        for source in &job.sources {
            let found = job.source.expand(source.trim_start_matches('/'))?;
            matches.extend(found.into_iter().map(|path| (source, path)));
        }
        if matches.len() > 1 && !job.dest.ends_with('/') && !job.parents {
            let dest = self.dest.resolve(&job.dest)?;
            if !self.dest.is_dir(&dest)? {
                return Err(format!(
                    "{} sources are copied to `{}`, which is no directory; end it with `/`",
                    matches.len(),
                    job.dest
                ));
            }
        }
        for (pattern, path) in matches {
            let node = job.source.find(&path, true)?.ok_or_else(|| {
                format!(
                    "`{}` is a symbolic link that leads nowhere",
                    path.escape_ascii()
                )
            })?;
            if job.unpack && node.kind() == EntryKind::File && self.unpack(&node)? {
                continue;
            }
            if job.parents {
                self.copy_with_parents(pattern, &path, &node)?;
            } else {
                self.copy_to(&path, &node)?;
            }
            // What comes next may replace it.
            self.crew.finish()?;
        }
        Ok(())
    }

    fn owner_of(&self, node: &Node<'_>) -> (u32, u32) {
        self.job.owner.unwrap_or_else(|| node.owner())
    }

    /// Owner of directories that are made on the way.
    fn owner_of_new(&self) -> (u32, u32) {
        self.job.owner.unwrap_or((0, 0))
    }

    fn facts(&self, node: &Node<'_>) -> Facts {
        let is_dir = node.kind() == EntryKind::Dir;
        let mode = match &self.job.chmod {
            Some(chmod) => chmod.apply(node.mode(), is_dir),
            None => node.mode(),
        };
        Facts {
            mode,
            owner: self.owner_of(node),
            mtime: node.mtime(),
        }
    }

    /// Copies one source to the destination: what a directory holds into a directory, a file to
    /// that path or into that directory.
    fn copy_to(&mut self, path: &[u8], node: &Node<'a>) -> Result<(), String> {
        let owner = self.owner_of_new();
        let dest = self.dest.resolve(&self.job.dest)?;
        if node.kind() == EntryKind::Dir {
            // Made on the way, so it does not look like the source (BuildKit does the same).
            let dir = Arc::new(self.dest.make_dirs(&dest, owner)?);
            return self.copy_children(node, &dir, b"");
        }
        let name = last(path);
        if self.exclude.matches(&String::from_utf8_lossy(&name)) {
            return Ok(());
        }
        let into_dir = self.job.dest.ends_with('/') || self.dest.is_dir(&dest)?;
        let (parent, name) = if into_dir {
            (dest, name)
        } else {
            (parent(&dest), last(&dest))
        };
        if name.is_empty() {
            return Err(format!("cannot copy a file to `{}`", self.job.dest));
        }
        let dir = Arc::new(self.dest.make_dirs(&parent, owner)?);
        self.copy_node(node, &dir, &name, b"")
    }

    /// `--parents`: the source keeps its path, or what of it follows `/./`.
    fn copy_with_parents(
        &mut self,
        pattern: &str,
        path: &[u8],
        node: &Node<'a>,
    ) -> Result<(), String> {
        // The components in front of the pivot are the same in the pattern and in the match.
        let pivot = match pattern.trim_start_matches('/').split_once("/./") {
            Some((before, _)) => before
                .split('/')
                .filter(|p| !p.is_empty() && *p != ".")
                .count(),
            None => 0,
        };
        let parts: Vec<&[u8]> = path
            .split(|b| *b == b'/')
            .filter(|p| !p.is_empty() && *p != b".")
            .collect();
        let kept = parts.get(pivot..).unwrap_or_default();
        let dest = self.dest.resolve(&self.job.dest)?;
        let mut dir = self.dest.make_dirs(&dest, self.owner_of_new())?;
        let Some((name, above)) = kept.split_last() else {
            return self.copy_children(node, &Arc::new(dir), b"");
        };
        let mut at = parts[..pivot.min(parts.len())].join(&b'/');
        for part in above {
            at = join(&at, part);
            let source = self.job.source.find(&at, true)?;
            let facts = match &source {
                Some(source) => Facts {
                    mode: source.mode(),
                    ..self.facts(source)
                },
                None => Facts::new_dir(self.owner_of_new()),
            };
            dir = self.dest.enter(&dir, part, facts, false)?.0;
        }
        self.copy_node(node, &Arc::new(dir), name, b"")
    }

    fn copy_children(
        &mut self,
        node: &Node<'a>,
        dir: &Arc<DestDir>,
        below: &[u8],
    ) -> Result<(), String> {
        for (name, child) in node.children()? {
            let path = join(below, &name);
            if !self.exclude.is_empty() {
                let text = String::from_utf8_lossy(&path);
                let excluded = self.exclude.matches(&text);
                if excluded && (child.kind() != EntryKind::Dir || self.exclude.can_skip(&text)) {
                    continue;
                }
            }
            self.copy_node(&child, dir, &name, &path)?;
        }
        Ok(())
    }

    /// Copies a node to `name` in `dir`; `below` is its path below the source.
    fn copy_node(
        &mut self,
        node: &Node<'a>,
        dir: &Arc<DestDir>,
        name: &[u8],
        below: &[u8],
    ) -> Result<(), String> {
        let facts = self.facts(node);
        match node.kind() {
            EntryKind::Dir => {
                let (inner, is_new) = self.dest.enter(dir, name, facts, self.replace)?;
                // Directories of a tree have no mode that could be meant; those of layers do.
                if matches!(node, Node::Layers(_)) || is_new {
                    self.dest.set_dir(&inner, facts, &node.attributes()?)?;
                }
                self.copy_children(node, &Arc::new(inner), below)
            }
            EntryKind::File => {
                let link = node.link();
                if let Some(first) = link.and_then(|link| self.links.get(&link)) {
                    return self.dest.hard_link(dir, name, first, self.replace);
                }
                let task = Task {
                    dir: Arc::clone(dir),
                    name: name.to_vec(),
                    node: node.clone(),
                    facts,
                };
                if self.replace {
                    self.dest.clear(dir, name, true)?;
                    self.crew.write_now(&task)?;
                } else if link.is_some() {
                    self.crew.write_now(&task)?;
                } else {
                    return self.crew.write(task);
                }
                if let Some(link) = link {
                    self.links.insert(link, join(dir.path(), name));
                }
                Ok(())
            }
            EntryKind::Symlink => {
                let target = node.target()?;
                self.dest.symlink(dir, name, &target, facts, self.replace)
            }
            // Fifos; devices and sockets are nothing that could be copied.
            EntryKind::Special => match node {
                Node::Layers(entry) if entry.device().0 == rustix::fs::FileType::Fifo => {
                    self.dest.fifo(dir, name, facts, self.replace)
                }
                _ => Ok(()),
            },
        }
    }

    /// Unpacks a file into the destination if it is an archive; whether it was.
    fn unpack(&mut self, node: &Node<'_>) -> Result<bool, String> {
        let Some(stream) = archive::open(node.open(self.store)?)? else {
            return Ok(false);
        };
        let dir = (self.scratch)()?;
        archive::unpack(stream, &dir)?;
        let job = Job {
            source: archive::source(&dir)?,
            sources: vec![".".to_owned()],
            dest: self.job.dest.clone(),
            owner: self.job.owner,
            chmod: self.job.chmod.clone(),
            parents: false,
            exclude: self.job.exclude.clone(),
            unpack: false,
        };
        let dest = self.dest.resolve(&job.dest)?;
        let target = Arc::new(self.dest.make_dirs(&dest, self.owner_of_new())?);
        let mut inner = Copier::new(&job, self.dest, self.store, self.scratch)?;
        inner.replace = true;
        let root = job.source.find(b"", true)?;
        if let Some(root) = root {
            inner.copy_children(&root, &target, b"")?;
        }
        std::fs::remove_dir_all(&dir).map_err(|e| format!("cannot clean up: {e}"))?;
        Ok(true)
    }
}

fn last(path: &[u8]) -> Vec<u8> {
    let mut parts = path.split(|b| *b == b'/').rev();
    parts.find(|p| !p.is_empty()).unwrap_or_default().to_vec()
}

fn parent(path: &[u8]) -> Vec<u8> {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => path[..at].to_vec(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
