//! What the model wants done: the only way by which it reaches anything outside.

use std::path::PathBuf;

use chalk_core::wire::WarmRequest;

use super::log::LogCopy;
use super::model::View;

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Leave the app.
    Quit,
    /// Stop as a shell job.
    Suspend,
    /// Draw every cell anew.
    Redraw,
    /// To the clipboard of the terminal.
    Copy(String),
    /// Tell of the end of something long.
    Notify(String),
    /// Take the mouse, or leave it to the terminal.
    Mouse(bool),
    /// Open a file in the editor.
    Edit(PathBuf),
    /// What is looked at, so that it is asked for more often than the rest.
    Attend(View),
    /// Ask for everything at once.
    Refresh,
    /// Read a declaration and its files.
    ReadSpec {
        source: Source,
        generation: u64,
    },
    /// Ask what a build of the declaration that was read last would do.
    Plan {
        generation: u64,
    },
    /// Build the declaration that was read last; steps from `from` on, or all, run anew.
    Build {
        force: bool,
        from: Option<usize>,
    },
    /// Build again what a build was of.
    Rebuild {
        image: String,
        name: Option<String>,
        from: Option<usize>,
        force: bool,
    },
    /// Pin the bases of a declaration beside it.
    Lock(PathBuf),
    FollowBuild(String),
    LeaveBuild(String),
    CancelBuild(String),
    LoadImage(String),
    LoadManifest(String),
    /// Compare two images, or an image with the declaration.
    Diff {
        before: String,
        after: Option<String>,
    },
    /// Compare an image with the one that was built before it under its name.
    Why {
        image: String,
        name: Option<String>,
        created: String,
    },
    /// Compare the declaration with the last build under its name.
    WhySpec,
    Tag {
        image: String,
        name: String,
    },
    DeleteImages(Vec<String>),
    Warm(WarmRequest),
    FollowWarm(String),
    RetryWarm(String),
    CancelWarm(String),
    LoadListing(String),
    Drain {
        node: String,
        drain: bool,
    },
    CollectCache(String),
    RemoveFromCache {
        node: String,
        image: String,
    },
    SetPrewarm(Vec<String>),
    ListDirectory(PathBuf),
    SaveText {
        path: PathBuf,
        text: Text,
    },
}

/// A text to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Text {
    Lines(Vec<String>),
    /// A log, however long, takes little room on its way.
    Log(LogCopy),
}

/// Where a declaration comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    File(PathBuf),
    /// Hash or name of an image.
    Image(String),
}
