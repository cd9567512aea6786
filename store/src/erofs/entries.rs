//! Doing what the entries of a layer say, by the rules of [`layer::unpack`](crate::layer::unpack).

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::finish::check_dir_attrs;
use super::format::{BLOCK, FileKind, INODE, Inode, Layout, attrs, device_number};
use super::output::Output;
use super::records::{Place, Records};
use super::tree::{Id, Node, Refusal, Tree, WHITEOUT};
use super::{Options, TAIL};
use crate::layer::{
    AUFS, Devices, EntryHeader, EntryProblem, Kind, LayerError, LayerReader, OPAQUE, Result,
    WHITEOUT as MARK, clean, clean_link, is_image_attr,
};

/// Longest target of a symbolic link on Linux.
const LONGEST_TARGET: usize = 4095;

/// A layer on its way into an image.
pub(super) struct Writer<'a> {
    pub(super) options: &'a Options,
    pub(super) output: Output<'a>,
    pub(super) records: Records,
    pub(super) tree: Tree,
    /// Inodes written so far, those that lost their name again included.
    pub(super) inodes: u32,
    pub(super) skipped_devices: u64,
    pub(super) opaque_root: bool,
    buffer: Vec<u8>,
}

/// A failure before it is told which layer and entry it belongs to.
enum Failure {
    Problem(EntryProblem),
    Full,
    Large,
    Write(io::Error),
    Done(LayerError),
}

impl From<EntryProblem> for Failure {
    fn from(problem: EntryProblem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Problem(problem) => Self::Problem(problem),
            Refusal::Full => Self::Full,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(output: Output<'a>, options: &'a Options) -> Self {
        Self {
            options,
            output,
            records: Records::new(),
            tree: Tree::new(options.memory),
            inodes: 0,
            skipped_devices: 0,
            opaque_root: false,
            buffer: vec![0; 256 * 1024],
        }
    }

    /// Does what one entry says; `reader` gives its content.
    pub(super) fn entry<R: Read>(
        &mut self,
        header: &EntryHeader,
        reader: &mut LayerReader<R>,
    ) -> Result<()> {
        let limit = |what, limit| LayerError::Limit {
            layer: reader.layer().to_owned(),
            what,
            limit,
        };
        let full = limit(super::NAMES, self.options.memory);
        let large = limit("blocks in an image", u64::from(u32::MAX));
        self.apply(header, reader).map_err(|failure| match failure {
            Failure::Problem(problem) => reader.entry_error(&header.path, problem),
            Failure::Full => full,
            Failure::Large => large,
            Failure::Write(error) => LayerError::io("write", &header.path, error),
            Failure::Done(error) => error,
        })
    }

    fn apply<R: Read>(
        &mut self,
        header: &EntryHeader,
        reader: &mut LayerReader<R>,
    ) -> Result<(), Failure> {
        let longest = self.options.limits.path;
        let path = clean(&header.path, longest)?;
        if path.is_empty() {
            if header.kind != Kind::Dir {
                return Err(EntryProblem::Root.into());
            }
            return self.dress_dir(super::tree::ROOT, header);
        }
        let (parent_path, name) = split(&path);
        if name == OPAQUE {
            self.opaque_root |= parent_path.is_empty();
            let dir = self.tree.make_dirs(parent_path)?;
            self.mark_opaque(dir);
            return Ok(());
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(MARK) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(EntryProblem::Whiteout.into());
            }
            return self.whiteout(parent_path, hidden);
        }
        let is_device = matches!(header.kind, Kind::Char | Kind::Block);
        if is_device && self.options.devices == Devices::Refuse {
            return Err(EntryProblem::Device.into());
        }
        if header.kind == Kind::HardLink && clean_link(&header.link, longest)? == path {
            return Ok(());
        }
        let parent = self.tree.make_dirs(parent_path)?;
        let old = self.tree.child(parent, name);
        let old_dir = old.filter(|id| self.tree.dir(*id).is_some());
        let merges = header.kind == Kind::Dir && old_dir.is_some();
        if old.is_some() && !merges {
            self.tree.remove(parent, name);
        }
        // Device 0/0 is no device but overlayfs' mark, which only we may make.
        let is_mark = header.kind == Kind::Char && header.device == (0, 0);
        if is_device && (self.options.devices == Devices::Skip || is_mark) {
            self.skipped_devices += 1;
            return Ok(self.tree.name(parent, name, WHITEOUT)?);
        }
        let id = match header.kind {
            Kind::Dir => {
                let dir = match old_dir {
                    Some(dir) => dir,
                    None => self.tree.add_dir(parent, name)?,
                };
                // What a deletion of this layer hid stays hidden.
                if old == Some(WHITEOUT) {
                    self.mark_opaque(dir);
                }
                return self.dress_dir(dir, header);
            }
            Kind::HardLink => self.link_target(header)?,
            Kind::File => {
                let place = self.file(header, reader)?;
                self.tree.add(Node::File(place))?
            }
            Kind::Symlink => self.symlink(header)?,
            Kind::Fifo => self.special(FileKind::Fifo, header)?,
            Kind::Char => self.special(FileKind::Char, header)?,
            Kind::Block => self.special(FileKind::Block, header)?,
        };
        Ok(self.tree.name(parent, name, id)?)
    }

    fn whiteout(&mut self, parent: &[u8], hidden: &[u8]) -> Result<(), Failure> {
        let parent = self.tree.make_dirs(parent)?;
        match self.tree.child(parent, hidden) {
            None => self.tree.name(parent, hidden, WHITEOUT)?,
            // This layer brings something of that name itself; the lower one's goes.
            Some(old) => self.mark_opaque(old),
        }
        Ok(())
    }

    fn mark_opaque(&mut self, id: Id) {
        if let Some(dir) = self.tree.dir_mut(id) {
            dir.opaque = true;
        }
    }

    fn dress_dir(&mut self, id: Id, header: &EntryHeader) -> Result<(), Failure> {
        let found = image_attrs(header);
        let size = found
            .iter()
            .map(|(name, value)| 64 + name.len() + value.len());
        self.tree.charge(size.sum::<usize>() as u64)?;
        if let Some(dir) = self.tree.dir_mut(id) {
            dir.attrs.extend(found);
            check_dir_attrs(id, dir)?;
            dir.mode = header.mode;
            dir.mtime = header.mtime;
            // The last id means "leave as it is" to chown, and to nobody a user.
            if header.uid != u32::MAX {
                dir.uid = header.uid;
            }
            if header.gid != u32::MAX {
                dir.gid = header.gid;
            }
        }
        Ok(())
    }

    fn link_target(&mut self, header: &EntryHeader) -> Result<Id, Failure> {
        let target = clean_link(&header.link, self.options.limits.path)?;
        let missing = || EntryProblem::LinkTarget(header.link.escape_ascii().to_string());
        let (parent, name) = split(&target);
        let dir = self.tree.find_dir(parent);
        let id = dir.and_then(|dir| self.tree.child(dir, name));
        let id = id.ok_or_else(missing)?;
        match self.tree.node(id) {
            Node::Dir(_) => Err(missing().into()),
            Node::Whiteout => {
                // A device that was left out, by another name.
                self.skipped_devices += 1;
                Ok(id)
            }
            _ => Ok(id),
        }
    }

    fn file<R: Read>(
        &mut self,
        header: &EntryHeader,
        reader: &mut LayerReader<R>,
    ) -> Result<Place, Failure> {
        let attrs = attrs(&image_attrs(header))?;
        let tail = (header.size % BLOCK as u64) as usize;
        let inline = tail > 0 && tail <= TAIL && INODE + attrs.len() + tail <= BLOCK;
        let apart = header.size - if inline { tail as u64 } else { 0 };
        let mut place = 0;
        if apart > 0 {
            self.output.align()?;
            place = self.block()?;
            self.copy(apart, reader)?;
            self.output.align()?;
        }
        let layout = match inline {
            true => Layout::Inline,
            false => Layout::Plain,
        };
        let inode = self.inode(FileKind::Regular, header, header.size, layout, place);
        let mut record = inode.encode(&attrs);
        if inline {
            let from = record.len();
            record.resize(from + tail, 0);
            let mut filled = from;
            while filled < record.len() {
                let n = reader
                    .read_content(&mut record[filled..])
                    .map_err(Failure::Done)?;
                if n == 0 {
                    break;
                }
                filled += n;
            }
        }
        Ok(self.records.put(&record, &mut self.output)?)
    }

    /// Block at which the output stands.
    fn block(&self) -> Result<u32, Failure> {
        let block = self.output.position() / BLOCK as u64;
        u32::try_from(block).map_err(|_| Failure::Large)
    }

    fn copy<R: Read>(
        &mut self,
        mut count: u64,
        reader: &mut LayerReader<R>,
    ) -> Result<(), Failure> {
        while count > 0 {
            let hole = reader.skip_hole(count);
            if hole > 0 {
                self.output.skip(hole)?;
                count -= hole;
                continue;
            }
            let most = count.min(self.buffer.len() as u64) as usize;
            let got = reader.read_content(&mut self.buffer[..most]);
            let n = got.map_err(Failure::Done)?;
            if n == 0 {
                break;
            }
            self.output.write(&self.buffer[..n])?;
            count -= n as u64;
        }
        Ok(())
    }

    fn symlink(&mut self, header: &EntryHeader) -> Result<Id, Failure> {
        let target = &header.link;
        if target.is_empty() || target.contains(&0) {
            return Err(EntryProblem::Header("link target").into());
        }
        if target.len() > LONGEST_TARGET {
            return Err(EntryProblem::PathLength(target.len(), LONGEST_TARGET).into());
        }
        let size = target.len() as u64;
        let inline = INODE + target.len() <= BLOCK;
        let mut place = 0;
        let layout = if inline {
            Layout::Inline
        } else {
            self.output.align()?;
            place = self.block()?;
            self.output.write(target)?;
            self.output.align()?;
            Layout::Plain
        };
        let mut inode = self.inode(FileKind::Symlink, header, size, layout, place);
        inode.mode = 0o777;
        let mut record = inode.encode(&[]);
        if inline {
            record.extend_from_slice(target);
        }
        let place = self.records.put(&record, &mut self.output)?;
        let target = target.as_slice().into();
        Ok(self.tree.add(Node::Symlink { target, place })?)
    }

    fn special(&mut self, kind: FileKind, header: &EntryHeader) -> Result<Id, Failure> {
        let device = match kind {
            FileKind::Fifo => 0,
            _ => device_number(header.device).ok_or(EntryProblem::Header("device number"))?,
        };
        let inode = self.inode(kind, header, 0, Layout::Plain, device);
        let place = self.records.put(&inode.encode(&[]), &mut self.output)?;
        Ok(self.tree.add(Node::Special { kind, place })?)
    }

    fn inode(
        &mut self,
        kind: FileKind,
        header: &EntryHeader,
        size: u64,
        layout: Layout,
        place: u32,
    ) -> Inode {
        self.inodes = self.inodes.wrapping_add(1);
        let owner = |id: u32| if id == u32::MAX { 0 } else { id };
        Inode {
            kind,
            mode: header.mode,
            uid: owner(header.uid),
            gid: owner(header.gid),
            mtime: header.mtime,
            size,
            links: 1,
            layout,
            place,
            number: self.inodes,
        }
    }
}

fn image_attrs(header: &EntryHeader) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let all = header.xattrs.iter();
    all.filter(|(name, _)| is_image_attr(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Parent and name of a clean path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}
