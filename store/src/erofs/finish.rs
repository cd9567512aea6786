//! What can be written only when all names are known: directories, numbers of links, and the
//! superblock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::entries::Writer;
use super::format::{
    BEHIND_SUPER, BLOCK, DIRENT, FileKind, INODE, Inode, Layout, NLINK_AT, SLOT, Super, attrs,
    push_attr,
};
use super::tree::{Dir, Id, Node, ROOT, Tree, WHITEOUT};
use crate::layer::{EntryProblem, OverlayAttrs};

/// Most attributes of the root: beyond its block they are shared ones, counted by a byte.
const ROOT_ATTRS: usize = 255;

/// A directory's place in the image.
struct Plan {
    id: Id,
    /// Where its inode is, in bytes.
    position: u64,
    /// Attributes behind the inode.
    attrs: Vec<u8>,
    /// Bytes of its entries.
    size: u64,
    /// First block of those entries that do not follow the inode, and how many blocks.
    first: u64,
    apart: u64,
}

/// Figures of a finished image.
pub(super) struct Finished {
    pub(super) size: u64,
    pub(super) inodes: u64,
}

/// Attributes of a directory, with overlayfs' mark if it hides what lies below.
pub(super) fn dir_attrs(dir: &Dir, opaque: bool) -> Result<Vec<u8>, EntryProblem> {
    if !opaque {
        return attrs(&dir.attrs);
    }
    let mut all = dir.attrs.clone();
    all.insert(OverlayAttrs::Trusted.opaque().into(), b"y".to_vec());
    attrs(&all)
}

/// Checks that the attributes of a directory can be written, marked or not.
pub(super) fn check_dir_attrs(id: Id, dir: &Dir) -> Result<(), EntryProblem> {
    if id == ROOT && dir.attrs.len() >= ROOT_ATTRS {
        return Err(EntryProblem::Header(
            "more than 254 extended attributes on the root",
        ));
    }
    dir_attrs(dir, true).map(drop)
}

impl Writer<'_> {
    /// Writes what is left. The superblock comes last: without it the file is no image.
    pub(super) fn finish(mut self, file: &File) -> io::Result<Finished> {
        self.records.flush(&mut self.output)?;
        self.output.align()?;
        let (dirs, names) = self.tree.survey();
        let mut nids = self.nids(&names);

        let start = self.output.position();
        let mut position = start;
        let marked = names[WHITEOUT as usize];
        if marked > 0 {
            nids[WHITEOUT as usize] = position / SLOT;
            position += INODE as u64;
        }
        let mut plans = Vec::with_capacity(dirs.len());
        for id in dirs {
            let plan = plan(&self.tree, id, &mut position)?;
            nids[id as usize] = plan.position / SLOT;
            plans.push(plan);
        }
        let mut block = position.div_ceil(BLOCK as u64);
        for plan in &mut plans {
            plan.first = block;
            block += plan.apart;
        }

        if marked > 0 {
            let inode = self.mark(marked);
            self.output.write(&inode.encode(&[]))?;
        }
        let mut head = [0; BLOCK];
        let mut shared = Vec::new();
        for plan in &plans {
            let record = self.dir_record(plan, &nids, &mut shared)?;
            if plan.id == ROOT {
                head[BEHIND_SUPER..BEHIND_SUPER + record.len()].copy_from_slice(&record);
                continue;
            }
            let gap = plan.position - self.output.position();
            self.output.skip(gap)?;
            self.output.write(&record)?;
        }
        self.output.align()?;
        for plan in &plans {
            self.dir_blocks(plan, &nids)?;
        }
        let shared_at = self.output.position() / BLOCK as u64;
        self.output.write(&shared)?;
        self.output.align()?;

        let size = self.output.position();
        let marks = u64::from(marked > 0);
        let named = |id: &usize| names[*id] > 0 && self.tree.dir(*id as Id).is_none();
        let others = (WHITEOUT as usize + 1..names.len()).filter(named).count();
        let inodes = plans.len() as u64 + others as u64 + marks;
        let large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let superblock = Super {
            root: (BEHIND_SUPER as u64 / SLOT) as u16,
            inodes,
            blocks: u32::try_from(size / BLOCK as u64).map_err(large)?,
            attrs: u32::try_from(shared_at).map_err(large)?,
        };
        self.output.finish()?;
        for (nid, count) in nids.iter().zip(&names).skip(WHITEOUT as usize + 1) {
            // Directories have one name; their links were counted with their entries.
            if *count > 1 {
                file.write_all_at(&count.to_le_bytes(), nid * SLOT + NLINK_AT)?;
            }
        }
        superblock.put(&mut head);
        file.write_all_at(&head, 0)?;
        Ok(Finished { size, inodes })
    }

    /// Numbers of the inodes that are in the file by now, by node.
    fn nids(&self, names: &[u32]) -> Vec<u64> {
        let nid = |id: usize| match self.tree.node(id as Id) {
            Node::File(place) | Node::Symlink { place, .. } | Node::Special { place, .. } => {
                self.records.position(*place) / SLOT
            }
            Node::Dir(_) | Node::Whiteout => 0,
        };
        (0..names.len()).map(nid).collect()
    }

    fn mark(&mut self, names: u32) -> Inode {
        self.inodes = self.inodes.wrapping_add(1);
        Inode {
            kind: FileKind::Char,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
            links: names,
            layout: Layout::Plain,
            place: 0,
            number: self.inodes,
        }
    }

    /// A directory's inode with its attributes and the entries that follow it.
    fn dir_record(
        &mut self,
        plan: &Plan,
        nids: &[u64],
        shared: &mut Vec<u8>,
    ) -> io::Result<Vec<u8>> {
        let Some(dir) = self.tree.dir(plan.id) else {
            return Ok(Vec::new());
        };
        self.inodes = self.inodes.wrapping_add(1);
        let below = dir
            .names
            .values()
            .filter(|id| self.tree.dir(**id).is_some());
        let whole = plan.size.div_ceil(BLOCK as u64);
        let inline = plan.apart < whole;
        let inode = Inode {
            kind: FileKind::Dir,
            mode: dir.mode,
            uid: dir.uid,
            gid: dir.gid,
            mtime: dir.mtime,
            size: plan.size,
            links: 2 + below.count() as u32,
            layout: if inline {
                Layout::Inline
            } else {
                Layout::Plain
            },
            place: block_number(plan.first)?,
            number: self.inodes,
        };
        let mut behind = plan.attrs.clone();
        if plan.id == ROOT && root_shares(&behind) {
            behind = share(dir, shared)?;
        }
        let mut record = inode.encode(&behind);
        if inline {
            let entries = entries(&self.tree, plan.id);
            if let Some(last) = blocks(&entries).pop() {
                record.extend(encode(&self.tree, &entries[last], nids));
            }
        }
        Ok(record)
    }

    /// The entries of a directory that do not follow its inode.
    fn dir_blocks(&mut self, plan: &Plan, nids: &[u64]) -> io::Result<()> {
        if plan.apart == 0 {
            return Ok(());
        }
        let entries = entries(&self.tree, plan.id);
        for range in blocks(&entries).into_iter().take(plan.apart as usize) {
            let block = encode(&self.tree, &entries[range], nids);
            self.output.write(&block)?;
            self.output.align()?;
        }
        Ok(())
    }
}

/// Finds a place for a directory's inode at or behind `position`, which moves on.
fn plan(tree: &Tree, id: Id, position: &mut u64) -> io::Result<Plan> {
    let entries = entries(tree, id);
    let blocks = blocks(&entries);
    let last: usize = blocks.last().map_or(0, |range| {
        entries[range.clone()].iter().map(entry_size).sum()
    });
    let whole = blocks.len() as u64;
    let attrs = match tree.dir(id) {
        Some(dir) => dir_attrs(dir, dir.opaque).map_err(io::Error::other)?,
        None => Vec::new(),
    };
    let block = BLOCK as u64;
    let (room, taken) = match id {
        ROOT if root_shares(&attrs) => (BLOCK - BEHIND_SUPER, 12 + 4 * ROOT_ATTRS),
        ROOT => (BLOCK - BEHIND_SUPER, attrs.len()),
        _ => (BLOCK, attrs.len()),
    };
    let inline = INODE + taken + last <= room;
    let at = if id == ROOT {
        BEHIND_SUPER as u64
    } else {
        let record = (INODE + taken + if inline { last } else { 0 }) as u64;
        if *position % block + record > block {
            *position = position.next_multiple_of(block);
        }
        let at = *position;
        *position = (at + record).next_multiple_of(SLOT);
        at
    };
    Ok(Plan {
        id,
        position: at,
        attrs,
        size: whole.saturating_sub(1) * block + last as u64,
        first: 0,
        apart: if inline { whole - 1 } else { whole },
    })
}

/// The root's inode lies in the first block, where not everything has room.
fn root_shares(attrs: &[u8]) -> bool {
    BEHIND_SUPER + INODE + attrs.len() > BLOCK
}

/// Puts a directory's attributes among the shared ones, and gives what stands behind its inode
/// instead.
fn share(dir: &Dir, shared: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mark = (OverlayAttrs::Trusted.opaque().as_bytes(), b"y".as_slice());
    let all: BTreeMap<&[u8], &[u8]> = dir
        .attrs
        .iter()
        .map(|(name, value)| (name.as_slice(), value.as_slice()))
        .chain(dir.opaque.then_some(mark))
        .collect();
    let mut behind = vec![0; 12];
    for (name, value) in all {
        behind[4] += 1;
        behind.extend_from_slice(&block_number(shared.len() as u64 / 4)?.to_le_bytes());
        push_attr(shared, name, value).map_err(io::Error::other)?;
    }
    Ok(behind)
}

fn block_number(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// Names of a directory in the order of their bytes, `.` and `..` among them.
fn entries(tree: &Tree, id: Id) -> Vec<(&[u8], Id)> {
    let Some(dir) = tree.dir(id) else {
        return Vec::new();
    };
    let mut all: Vec<(&[u8], Id)> = Vec::with_capacity(dir.names.len() + 2);
    all.extend(dir.names.iter().map(|(name, id)| (&**name, *id)));
    for (name, id) in [(b".".as_slice(), id), (b"..", dir.parent)] {
        let at = all.partition_point(|(other, _)| *other < name);
        all.insert(at, (name, id));
    }
    all
}

fn entry_size((name, _): &(&[u8], Id)) -> usize {
    DIRENT + name.len()
}

/// Ranges of entries that fill a block each.
fn blocks(entries: &[(&[u8], Id)]) -> Vec<std::ops::Range<usize>> {
    let mut blocks = Vec::new();
    let (mut from, mut used) = (0, 0);
    for (i, entry) in entries.iter().enumerate() {
        let size = entry_size(entry);
        if used + size > BLOCK {
            blocks.push(from..i);
            (from, used) = (i, 0);
        }
        used += size;
    }
    blocks.push(from..entries.len());
    blocks
}

/// One block of a directory, without the zeros at its end.
fn encode(tree: &Tree, entries: &[(&[u8], Id)], nids: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK);
    let mut name_at = entries.len() * DIRENT;
    for (name, id) in entries {
        let kind = match tree.node(*id) {
            Node::Whiteout => FileKind::Char,
            Node::Dir(_) => FileKind::Dir,
            Node::Symlink { .. } => FileKind::Symlink,
            Node::Special { kind, .. } => *kind,
            Node::File(_) => FileKind::Regular,
        };
        out.extend_from_slice(&nids[*id as usize].to_le_bytes());
        out.extend_from_slice(&(name_at as u16).to_le_bytes());
        out.extend_from_slice(&[kind as u8, 0]);
        name_at += name.len();
    }
    for (name, _) in entries {
        out.extend_from_slice(name);
    }
    out
}
