//! Places for sandboxes, made ahead of time: control group, disk, and a sandbox with nothing in it.
//!
//! What they take to make (joining a control group waits for all processors, a filesystem is
//! formatted, a process executed) is then no part of a start, and what they take to remove no
//! part of an end.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::Problem;
use chalk_sandbox::Spare;
use chalk_sandbox::cgroup::{CgroupError, Group, Hierarchies, Limits};
use chalk_sandbox::userns;
use tokio::sync::watch;

use super::disk::{Disk, Model};
use super::groups;
use super::problems::{node_failed, of_cgroup, of_disk, of_mount, of_spawn};
use crate::mounts::Mounts;

/// How many are kept ready: as many starts as may come at once without waiting. Each takes about
/// 3 MB of memory and a loop device.
const READY: usize = 4;
/// Longest that a node that ends waits until all of them are removed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A place for one sandbox.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) spare: Spare,
    pub(super) home: Home,
}

/// What of a slot stays until the sandbox is gone; gives everything back when dropped.
#[derive(Debug)]
pub(super) struct Home {
    /// `None` on a host without control groups.
    group: Option<Group>,
    disk: Option<Disk>,
    slots: Arc<Slots>,
}

/// Makes places and keeps some ready.
#[derive(Debug)]
pub(super) struct Slots {
    mounts: Mounts,
    hierarchies: Option<Hierarchies>,
    /// Group of all groups of this node.
    parent: PathBuf,
    dir: PathBuf,
    default_size: u64,
    /// What disks of the default size are copies of.
    model: Arc<Model>,
    next: AtomicU64,
    ready: Mutex<VecDeque<Slot>>,
    filling: AtomicBool,
    closed: AtomicBool,
    /// Homes that are not yet removed from the host.
    homes: Arc<watch::Sender<usize>>,
}

impl Slots {
    /// Removes what an earlier life of the node left (`dir` and control groups), which may take a
    /// while, and begins to make places. Must be called within a Tokio runtime.
    pub(super) fn start(
        mounts: Mounts,
        dir: &Path,
        default_size: u64,
    ) -> Result<Arc<Slots>, Problem> {
        let failed =
            |error: &std::io::Error| node_failed("the directory of disks cannot be used", error);
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(&error));
            }
            _ => {}
        }
        std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
        let dir = std::fs::canonicalize(dir).map_err(|error| failed(&error))?;
        let hierarchies = Hierarchies::detect()
            .and_then(groups::usable)
            .inspect_err(|error| tracing::warn!(%error, "sandboxes can have no limits"))
            .ok();
        // Two nodes on one host have different state directories.
        let name = &Digest::of(dir.as_os_str().as_encoded_bytes()).hex()[..12];
        let parent = match &hierarchies {
            Some(hierarchies) => {
                groups::begin(hierarchies, name).map_err(|error| of_cgroup(&error))?
            }
            None => PathBuf::new(),
        };
        let slots = Arc::new(Slots {
            mounts,
            hierarchies,
            parent,
            dir,
            default_size,
            model: Arc::default(),
            next: AtomicU64::new(0),
            ready: Mutex::default(),
            filling: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            homes: Arc::new(watch::Sender::new(0)),
        });
        slots.fill();
        Ok(slots)
    }

    /// A place with a disk of `size` bytes, the usual size when `None`.
    pub(super) async fn take(self: &Arc<Self>, size: Option<u64>) -> Result<Slot, Problem> {
        let usual = size.is_none_or(|size| size == self.default_size);
        let ready = if usual { self.ready() } else { None };
        self.fill();
        match ready {
            Some(slot) => Ok(slot),
            None => self.make_one(size).await,
        }
    }

    /// A place as of [`take`](Self::take) that was not ready before.
    pub(super) async fn make_one(self: &Arc<Self>, size: Option<u64>) -> Result<Slot, Problem> {
        self.make(size.unwrap_or(self.default_size)).await
    }

    /// One of those that are ready. What died meanwhile, say for want of memory, is given up.
    fn ready(&self) -> Option<Slot> {
        loop {
            let mut slot = self.lock().pop_front()?;
            if slot.spare.is_alive() {
                return Some(slot);
            }
            tracing::warn!("a place for a sandbox had ended before it was used");
        }
    }

    /// Whether no more places are kept ready, because the node ends.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Keeps no more places ready, and gives up those that are.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let ready = std::mem::take(&mut *self.lock());
        drop(ready);
        if let Some(parent) = self.parent_group() {
            self.mounts.within_later(move || parent.remove_if_empty());
        }
    }

    /// Waits until nothing of any place is left on the host, but not for ever.
    pub(super) async fn emptied(&self) {
        let mut homes = self.homes.subscribe();
        let empty = homes.wait_for(|count| *count == 0);
        if tokio::time::timeout(PATIENCE, empty).await.is_err() {
            tracing::warn!("disks or control groups are left; the next start removes them");
        }
    }

    /// The group of all groups, on a host that has any.
    fn parent_group(&self) -> Option<Group> {
        let hierarchies = self.hierarchies.as_ref()?;
        Some(Group::named(hierarchies, &self.parent))
    }

    /// Makes places in the background until enough are ready.
    fn fill(self: &Arc<Self>) {
        if self.filling.swap(true, Ordering::SeqCst) {
            return;
        }
        let slots = Arc::clone(self);
        tokio::spawn(async move {
            let mut failed = false;
            while slots.lacks() && !failed {
                match slots.make(slots.default_size).await {
                    Ok(slot) => slots.lock().push_back(slot),
                    Err(problem) => {
                        tracing::warn!(?problem, "no place for a sandbox can be made ahead");
                        failed = true;
                    }
                }
            }
            slots.filling.store(false, Ordering::SeqCst);
            if slots.is_closed() {
                slots.close();
            } else if slots.lacks() && !failed {
                // Taken in this very moment by one who found the filling under way.
                slots.fill();
            }
        });
    }

    /// Whether more places are to be made ready.
    fn lacks(&self) -> bool {
        self.lock().len() < READY && !self.is_closed()
    }

    async fn make(self: &Arc<Self>, size: u64) -> Result<Slot, Problem> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        // Dropping it, should something fail, takes back what was made.
        self.homes.send_modify(|count| *count += 1);
        let mut home = Home {
            group: None,
            disk: None,
            slots: Arc::clone(self),
        };
        if let Some(hierarchies) = &self.hierarchies {
            let group = Group::create(hierarchies, self.parent.join(&name));
            home.group = Some(group.map_err(|error| of_cgroup(&error))?);
        }
        let dir = self.dir.clone();
        let model = (size == self.default_size).then(|| Arc::clone(&self.model));
        // The home goes along: who waits for the disk may be gone when it is made.
        let made = self.mounts.within(move || {
            home.disk = Some(Disk::make(&dir, &name, size, model.as_deref())?);
            Ok(home)
        });
        let made = made.await.map_err(|error| of_mount(&error))?;
        let home = made.map_err(|error| of_disk(&error))?;
        let spare = self.mounts.spare(home.cgroups()).await;
        Ok(Slot {
            spare: spare.map_err(|error| of_spawn(&error))?,
            home,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Slot>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Home {
    /// The directories of its control groups.
    pub(super) fn cgroups(&self) -> Vec<PathBuf> {
        self.group
            .as_ref()
            .map(Group::directories)
            .unwrap_or_default()
    }

    /// The writable layer.
    pub(super) fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Sets limits.
    pub(super) fn limit(&self, limits: &Limits) -> Result<(), Problem> {
        match &self.group {
            Some(group) => group.limit(limits).map_err(|error| of_cgroup(&error)),
            None if *limits == Limits::default() => Ok(()),
            None => Err(of_cgroup(&match userns::inside() {
                true => CgroupError::NotDelegated,
                false => CgroupError::NotMounted,
            })),
        }
    }

    /// How many processes were killed for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        let stats = self.group.as_ref().and_then(|group| group.stats().ok());
        stats.map_or(0, |stats| stats.oom_kills)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let (group, disk) = (self.group.take(), self.disk.take());
        // The last one of a node that ends takes the group above along.
        let ending = self.slots.is_closed();
        let parent = self.slots.parent_group().filter(|_| ending);
        let homes = Arc::clone(&self.slots.homes);
        self.slots.mounts.within_later(move || {
            if let Some(group) = group
                && let Err(error) = group.remove()
            {
                tracing::warn!(%error, "cannot remove a control group");
            }
            if let Some(parent) = parent {
                parent.remove_if_empty();
            }
            if let Some(disk) = disk {
                disk.remove();
            }
            homes.send_modify(|count| *count -= 1);
        });
    }
}
