//! The names of a layer in memory, while the contents go into the file.
//!
//! Paths are resolved as the kernel would in a root of their own (`RESOLVE_IN_ROOT`, as
//! [`layer::unpack`](crate::layer::unpack) does it on disk): symbolic links of the layer are
//! followed, absolute ones from its root, and `..` stops there.

use std::collections::BTreeMap;

use super::records::Place;
use crate::layer::EntryProblem;

/// Number of a node.
pub(super) type Id = u32;
/// The root, and the one mark of a deletion that all deleted names share.
pub(super) const ROOT: Id = 0;
pub(super) const WHITEOUT: Id = 1;

/// Most symbolic links followed for one path, as Linux has it.
const MAX_LINKS: usize = 40;
/// Memory of an entry beside its name, and of a directory in addition: nodes, names and links to
/// them in their maps, as measured.
const ENTRY_COST: u64 = 128;
const DIR_COST: u64 = 384;

pub(super) enum Node {
    /// overlayfs' mark of a deletion.
    Whiteout,
    Dir(Box<Dir>),
    Symlink {
        target: Box<[u8]>,
        place: Place,
    },
    /// Fifo or device.
    Special {
        kind: super::format::FileKind,
        place: Place,
    },
    File(Place),
}

pub(super) struct Dir {
    pub(super) parent: Id,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) attrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Hides what lower layers have in it.
    pub(super) opaque: bool,
    pub(super) names: BTreeMap<Box<[u8]>, Id>,
}

impl Dir {
    /// As a directory is that the layer does not describe. Its time is the epoch, so that the
    /// image does not depend on when it was written.
    fn new(parent: Id) -> Self {
        Self {
            parent,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            attrs: BTreeMap::new(),
            opaque: false,
            names: BTreeMap::new(),
        }
    }
}

/// Why a change to the tree is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    Problem(EntryProblem),
    /// More names than memory was granted for.
    Full,
}

impl From<EntryProblem> for Refusal {
    fn from(problem: EntryProblem) -> Self {
        Self::Problem(problem)
    }
}

pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Bytes of memory left.
    budget: u64,
    /// The directory used last, with the path that led there: entries of one directory mostly
    /// come together.
    recent: Option<(Vec<u8>, Id)>,
}

impl Tree {
    /// An empty root; names may take about `budget` bytes of memory.
    pub(super) fn new(budget: u64) -> Self {
        Self {
            nodes: vec![Node::Dir(Box::new(Dir::new(ROOT))), Node::Whiteout],
            budget,
            recent: None,
        }
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn dir(&self, id: Id) -> Option<&Dir> {
        match self.node(id) {
            Node::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    pub(super) fn dir_mut(&mut self, id: Id) -> Option<&mut Dir> {
        match self.nodes.get_mut(id as usize) {
            Some(Node::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    pub(super) fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        self.dir(dir)?.names.get(name).copied()
    }

    /// Takes `count` bytes of memory from what is left.
    pub(super) fn charge(&mut self, count: u64) -> Result<(), Refusal> {
        self.budget = self.budget.checked_sub(count).ok_or(Refusal::Full)?;
        Ok(())
    }

    /// A node without a name yet.
    pub(super) fn add(&mut self, node: Node) -> Result<Id, Refusal> {
        let id = Id::try_from(self.nodes.len()).map_err(|_| Refusal::Full)?;
        self.charge(match &node {
            Node::Dir(_) => DIR_COST,
            Node::Symlink { target, .. } => target.len() as u64,
            _ => 0,
        })?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Gives a node a name in a directory, in place of what had that name.
    pub(super) fn name(&mut self, dir: Id, name: &[u8], id: Id) -> Result<(), Refusal> {
        self.charge(ENTRY_COST + name.len() as u64)?;
        let link = matches!(self.node(id), Node::Symlink { .. });
        let names = self.dir_mut(dir).map(|dir| &mut dir.names);
        let old = names.and_then(|names| names.insert(name.into(), id));
        // The path to the recent directory may lead elsewhere now.
        if link || old.is_some() {
            self.recent = None;
        }
        Ok(())
    }

    pub(super) fn add_dir(&mut self, parent: Id, name: &[u8]) -> Result<Id, Refusal> {
        let id = self.add(Node::Dir(Box::new(Dir::new(parent))))?;
        self.name(parent, name, id)?;
        Ok(id)
    }

    pub(super) fn remove(&mut self, dir: Id, name: &[u8]) {
        self.recent = None;
        if let Some(dir) = self.dir_mut(dir) {
            dir.names.remove(name);
        }
    }

    /// The directory at a clean path; what is missing is made.
    pub(super) fn make_dirs(&mut self, path: &[u8]) -> Result<Id, Refusal> {
        if let Some((recent, id)) = &self.recent
            && recent == path
        {
            return Ok(*id);
        }
        let id = self.walk(path, true)?;
        self.recent = Some((path.to_vec(), id));
        Ok(id)
    }

    /// The directory at a clean path, if there is one.
    pub(super) fn find_dir(&mut self, path: &[u8]) -> Option<Id> {
        self.walk(path, false).ok()
    }

    fn walk(&mut self, path: &[u8], create: bool) -> Result<Id, Refusal> {
        // Names still to be entered, the next one last, and whether they stand in `path` itself
        // and not in a link: only those are made.
        let mut ahead: Vec<(Vec<u8>, bool)> = Vec::new();
        push_names(&mut ahead, path, true);
        let mut at = ROOT;
        let mut links = 0;
        while let Some((name, named)) = ahead.pop() {
            if name == b".." {
                at = self.dir(at).map_or(ROOT, |dir| dir.parent);
                continue;
            }
            let Some(child) = self.child(at, &name) else {
                if !(create && named) {
                    return Err(EntryProblem::NotInDirectory.into());
                }
                at = self.add_dir(at, &name)?;
                continue;
            };
            match self.node(child) {
                Node::Dir(_) => at = child,
                Node::Symlink { target, .. } => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(EntryProblem::NotInDirectory.into());
                    }
                    let absolute = target.starts_with(b"/");
                    push_names(&mut ahead, target, false);
                    if absolute {
                        at = ROOT;
                    }
                }
                Node::Whiteout if create && named => {
                    self.remove(at, &name);
                    at = self.add_dir(at, &name)?;
                    if let Some(dir) = self.dir_mut(at) {
                        dir.opaque = true;
                    }
                }
                _ => return Err(EntryProblem::NotInDirectory.into()),
            }
        }
        Ok(at)
    }

    /// All directories that have a name, each before those in it, and how many names every node
    /// has.
    pub(super) fn survey(&self) -> (Vec<Id>, Vec<u32>) {
        let mut names = vec![0u32; self.nodes.len()];
        let mut dirs = Vec::new();
        let mut ahead = vec![ROOT];
        while let Some(id) = ahead.pop() {
            dirs.push(id);
            let Some(dir) = self.dir(id) else { continue };
            let below = ahead.len();
            for child in dir.names.values() {
                names[*child as usize] += 1;
                if self.dir(*child).is_some() {
                    ahead.push(*child);
                }
            }
            ahead[below..].reverse();
        }
        (dirs, names)
    }
}

fn push_names(ahead: &mut Vec<(Vec<u8>, bool)>, path: &[u8], named: bool) {
    let names = path
        .split(|b| *b == b'/')
        .rev()
        .filter(|name| !matches!(*name, b"" | b"."));
    ahead.extend(names.map(|name| (name.to_vec(), named)));
}
