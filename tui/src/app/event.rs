//! What reaches the model: keys, the mouse, time, and what the service says.

use std::path::PathBuf;

use chalk_core::Spec;
use chalk_core::wire::{
    Build, CacheListing, CacheMap, Event as BuildEvent, Image, ImageDetail, Info, LocalPlan, Node,
    Plan, Prewarm, Region, Storage, Warm, WarmEvent,
};
use crossterm::event::KeyEvent;
use jiff::Timestamp;

use super::action::Action;
use super::model::View;
use crate::error::Failure;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    Key(KeyEvent),
    Pointer(Pointer),
    /// Text that was pasted.
    Paste(String),
    Resize(u16, u16),
    /// Time went on.
    Tick(Timestamp),
    Feed(Feed),
}

/// What the mouse did, and on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) kind: PointerKind,
    pub(crate) column: u16,
    pub(crate) row: u16,
    /// What lies there, as it was last drawn.
    pub(crate) target: Option<Target>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PointerKind {
    Press,
    Drag,
    Release,
    WheelUp,
    WheelDown,
}

/// What can be pointed at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A row of the main list, by index.
    Row(usize),
    /// A row of the steps of a build, by index.
    Step(usize),
    /// The log.
    Log,
    /// A text.
    Text,
    /// A row of the open dialog.
    Choice(usize),
    /// A heading of the main list.
    Column(usize),
    /// A word that stands for an action.
    Action(Action),
    /// A view that is open below this one, by depth.
    Crumb(usize),
}

/// What went wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) hint: String,
}

impl Trouble {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: String::new(),
            hint: String::new(),
        }
    }

    /// On one line.
    pub(crate) fn line(&self) -> String {
        let mut line = self.what.clone();
        for more in [&self.why, &self.hint] {
            if !more.is_empty() {
                line.push_str(": ");
                line.push_str(&more.replace('\n', "; "));
            }
        }
        line
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self {
            what: failure.what,
            why: failure.why,
            hint: failure.hint,
        }
    }
}

/// How the service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) url: String,
    /// Whether it lives in this process.
    pub(crate) own: bool,
    /// Where the token came from.
    pub(crate) identity: String,
    pub(crate) info: Info,
}

/// A declaration as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    /// Its spec.
    pub(crate) spec: Spec,
    /// What can be said without a service.
    pub(crate) local: LocalPlan,
    /// Its text, for declarations that are files.
    pub(crate) text: String,
}

/// A file or directory of the file picker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) directory: bool,
}

/// What comes from the service, from disk, or from work that an effect began.
#[derive(Debug)]
pub(crate) enum Feed {
    Connected(Box<Link>),
    /// The service is not reached; the next try is in so many seconds.
    Disconnected {
        trouble: Trouble,
        retry: f64,
    },
    /// What became of the node inside this process; empty when it runs.
    OwnNode(Result<String, Trouble>),
    Builds(Vec<Build>),
    BuildEvents {
        id: String,
        events: Vec<BuildEvent>,
    },
    /// No more events of a build will come.
    BuildLost {
        id: String,
        trouble: Trouble,
    },
    Images(Vec<Image>),
    ImageDetail(Box<ImageDetail>),
    /// A manifest, as JSON that reads well.
    Manifest {
        hash: String,
        text: String,
    },
    Nodes(Vec<Node>),
    Regions(Vec<Region>),
    Caches(CacheMap),
    Storage(Storage),
    Listing(Box<CacheListing>),
    Warms(Vec<Warm>),
    WarmEvents {
        id: String,
        events: Vec<WarmEvent>,
    },
    Warm(Box<Warm>),
    Prewarm(Prewarm),
    /// A declaration was read anew; `generation` says which reading this is.
    Declared {
        generation: u64,
        result: Result<Box<Declared>, Trouble>,
    },
    Planned {
        generation: u64,
        result: Result<Box<Plan>, Trouble>,
    },
    /// A declared file changed on disk.
    FilesChanged,
    /// A text of an open view is there, or cannot be had.
    Document {
        view: View,
        result: Result<super::model::Document, Trouble>,
    },
    Directory {
        path: PathBuf,
        entries: Vec<Entry>,
    },
    Recent(Vec<PathBuf>),
    /// A build was accepted, or the image was there.
    BuildStarted {
        build: Box<Build>,
        reused: bool,
    },
    /// Bytes of declared files that were sent so far.
    Uploading {
        sent: u64,
        total: u64,
    },
    WarmStarted(Box<Warm>),
    /// Something that was asked for is done; words for the person.
    Done(String),
    /// Something that was asked for went wrong.
    Failed(Trouble),
    /// The editor is closed.
    Edited,
}
