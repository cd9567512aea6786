//! What the app knows and shows, without a terminal and without I/O.

pub(crate) mod builds;
mod connection;
mod document;
pub(crate) mod filter;
pub(crate) mod fleet;
pub(crate) mod images;
mod list;
mod matrix;
pub(crate) mod overlay;
pub(crate) mod spec;
pub(crate) mod warms;

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::action::Action;
use super::config::Config;
use super::event::Trouble;
use super::keymap::Place;

pub(crate) use builds::Builds;
pub(crate) use connection::{Connection, LinkState};
pub(crate) use document::{Document, Span};
pub(crate) use fleet::Fleet;
pub(crate) use images::Images;
pub(crate) use list::List;
pub(crate) use matrix::Matrix;
pub(crate) use overlay::Overlay;
pub(crate) use spec::SpecState;
pub(crate) use warms::Warms;

/// Lines of a failed step that stay on the screen after the app.
const FAREWELL: usize = 40;

/// Something that fills the screen between header and footer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum View {
    Spec,
    Builds,
    /// A build, by id.
    Build(String),
    Images,
    /// An image, by hash.
    Image(String),
    /// The manifest of an image, by hash.
    Manifest(String),
    /// What differs between two images; from an image to the declaration when there is no second.
    Diff(String, Option<String>),
    /// Why an image was rebuilt.
    Why(String),
    /// Why the declaration would be rebuilt.
    WhySpec,
    Cache,
    Matrix,
    Node(String),
    Warms,
    Warm(String),
    Prewarm,
}

impl View {
    /// The views that have a tab, with the action that shows each.
    pub(crate) const TABS: [(Self, Action, &'static str); 5] = [
        (Self::Spec, Action::ShowSpec, "Spec"),
        (Self::Builds, Action::ShowBuilds, "Builds"),
        (Self::Images, Action::ShowImages, "Images"),
        (Self::Cache, Action::ShowCache, "Cache"),
        (Self::Warms, Action::ShowWarms, "Warm"),
    ];

    /// Whether it shows a text.
    pub(crate) fn is_text(&self) -> bool {
        matches!(
            self,
            Self::Image(_) | Self::Manifest(_) | Self::Diff(..) | Self::Why(_) | Self::WhySpec
        )
    }
}

/// How much a word weighs: nothing takes the place of what weighs more and was not seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Something happened.
    News,
    /// What the person did is done.
    Answer,
    /// Something went wrong, or is refused.
    Complaint,
}

/// A word for the person, for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) text: String,
    pub(crate) weight: Weight,
    pub(crate) since: Timestamp,
    /// Whether the person went on to something else since.
    pub(crate) seen: bool,
}

impl Notice {
    /// Time that it stands, unless something takes its place.
    fn seconds(&self) -> i64 {
        match self.weight {
            Weight::Complaint => 12,
            Weight::Answer | Weight::News => 5,
        }
    }

    pub(crate) fn is_bad(&self) -> bool {
        self.weight == Weight::Complaint
    }
}

/// A rectangle of the screen that is selected with the mouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drag {
    pub(crate) from: (u16, u16),
    pub(crate) to: (u16, u16),
    /// Whether it lies in the log, which selects by itself.
    pub(crate) log: bool,
    /// What it holds, as of the last frame.
    pub(crate) text: String,
}

/// Everything.
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) readonly: bool,
    pub(crate) mouse: bool,
    /// Whether the theme is the other one of dark and light.
    pub(crate) other_tone: bool,
    pub(crate) now: Timestamp,
    pub(crate) size: (u16, u16),
    pub(crate) connection: Connection,
    /// Open views; the last one is shown. Never empty.
    pub(crate) views: Vec<View>,
    /// Texts of open views; absent while they are on their way.
    pub(crate) documents: BTreeMap<View, Result<Document, Trouble>>,
    pub(crate) overlay: Option<Overlay>,
    pub(crate) notice: Option<Notice>,
    /// What is told when the notice that weighs more has had its time.
    later: Option<Notice>,
    pub(crate) drag: Option<Drag>,
    pub(crate) spec: SpecState,
    pub(crate) builds: Builds,
    pub(crate) images: Images,
    pub(crate) fleet: Fleet,
    pub(crate) matrix: Matrix,
    pub(crate) warms: Warms,
    /// What was last searched for.
    pub(crate) searched: String,
    /// Rises with every build that is looked at.
    pub(crate) count: u64,
    /// Rows that the shown list or text has, as last drawn; for moving by pages.
    pub(crate) page: u16,
    /// Whether the next frame would differ from the last.
    pub(crate) dirty: bool,
}

impl State {
    pub(crate) fn new(config: Config, now: Timestamp, size: (u16, u16)) -> Self {
        Self {
            readonly: config.readonly,
            mouse: config.mouse,
            config,
            other_tone: false,
            now,
            size,
            connection: Connection::new(now),
            views: vec![View::Spec],
            documents: BTreeMap::new(),
            overlay: None,
            notice: None,
            later: None,
            drag: None,
            spec: SpecState::default(),
            builds: Builds::new(),
            images: Images::new(),
            fleet: Fleet::new(),
            matrix: Matrix::new(),
            warms: Warms::new(),
            searched: String::new(),
            count: 0,
            page: 10,
            dirty: true,
        }
    }

    /// The view that is shown.
    pub(crate) fn view(&self) -> &View {
        // `views` is never emptied.
        self.views.last().unwrap_or(&View::Spec)
    }

    /// Whose keys count.
    pub(crate) fn place(&self) -> Place {
        match self.view() {
            View::Spec => Place::Spec,
            View::Builds => Place::Builds,
            View::Build(id) => match self.builds.followed.get(id) {
                Some(followed) if followed.log_focused => Place::Log,
                _ => Place::Steps,
            },
            View::Images => Place::Images,
            view if view.is_text() => Place::Text,
            View::Cache => Place::Cache,
            View::Matrix => Place::Matrix,
            View::Node(_) => Place::Node,
            View::Warms => Place::Warms,
            View::Warm(_) => Place::Warm,
            View::Prewarm => Place::Prewarm,
            _ => Place::Everywhere,
        }
    }

    /// The list that the shown view is about.
    pub(crate) fn list(&mut self) -> Option<&mut List> {
        match self.view().clone() {
            View::Spec => Some(&mut self.spec.steps),
            View::Builds => Some(&mut self.builds.list),
            View::Build(id) => self.builds.followed.get_mut(&id).map(|f| &mut f.tree),
            View::Images => Some(&mut self.images.list),
            View::Cache => Some(&mut self.fleet.list),
            View::Matrix => Some(&mut self.matrix.list),
            View::Node(_) => Some(&mut self.fleet.contents),
            View::Warms => Some(&mut self.warms.list),
            View::Warm(_) => Some(&mut self.warms.targets),
            View::Prewarm => Some(&mut self.warms.prewarm_list),
            _ => None,
        }
    }

    /// The text that is shown.
    pub(crate) fn document(&mut self) -> Option<&mut Document> {
        let view = self.view().clone();
        self.documents.get_mut(&view)?.as_mut().ok()
    }

    /// Sorts and filters the list of the shown view anew.
    pub(crate) fn arrange(&mut self) {
        match self.view().clone() {
            View::Spec => self.spec.arrange(),
            View::Builds => self.builds.arrange(),
            View::Images => self.images.arrange(&self.fleet),
            View::Cache => self.fleet.arrange(),
            View::Matrix => self.matrix.arrange(&self.images, &self.fleet),
            View::Node(name) => self.fleet.arrange_contents(&name),
            View::Warms => self.warms.arrange(),
            View::Warm(id) => self.warms.arrange_targets(&id),
            View::Prewarm => self.warms.arrange_prewarm(),
            _ => {}
        }
    }

    /// Number of columns that the list of the shown view can be sorted by.
    pub(crate) fn columns(&self) -> usize {
        match self.view() {
            View::Builds => builds::COLUMNS.len(),
            View::Images => images::COLUMNS.len(),
            View::Cache => fleet::COLUMNS.len(),
            View::Matrix => matrix::COLUMNS.len(),
            View::Node(_) => fleet::CONTENTS.len(),
            View::Warms => warms::COLUMNS.len(),
            View::Warm(_) => warms::TARGETS.len(),
            View::Prewarm => warms::PREWARM.len(),
            _ => 0,
        }
    }

    /// Shows for a while what came of an action.
    pub(crate) fn say(&mut self, text: impl Into<String>) {
        self.tell(text.into(), Weight::Answer);
    }

    /// Shows for a while what happened without the person's doing.
    pub(crate) fn mention(&mut self, text: impl Into<String>) {
        self.tell(text.into(), Weight::News);
    }

    /// Shows what went wrong for a while.
    pub(crate) fn complain(&mut self, text: impl Into<String>) {
        self.tell(text.into(), Weight::Complaint);
    }

    fn tell(&mut self, text: String, weight: Weight) {
        let notice = Notice {
            text,
            weight,
            since: self.now,
            seen: false,
        };
        self.dirty = true;
        match &self.notice {
            Some(shown) if shown.weight > weight && !shown.seen => self.later = Some(notice),
            _ => self.notice = Some(notice),
        }
    }

    /// The person went on: what is shown may give way from now on, and a complaint that could be read
    /// goes.
    pub(crate) fn went_on(&mut self) {
        let Some(notice) = &mut self.notice else {
            return;
        };
        notice.seen = true;
        // One that came up while a key was on its way down was not read.
        let read = self.now.duration_since(notice.since).as_secs() >= 1;
        if notice.is_bad() && read {
            self.next_notice();
        }
    }

    /// Takes a notice away that has had its time.
    pub(crate) fn expire_notice(&mut self) {
        let over = self.notice.as_ref().is_some_and(|notice| {
            self.now.duration_since(notice.since).as_secs() >= notice.seconds()
        });
        if over {
            self.next_notice();
        }
    }

    fn next_notice(&mut self) {
        self.notice = self.later.take();
        if let Some(notice) = &mut self.notice {
            notice.since = self.now;
        }
        self.dirty = true;
    }

    /// Last lines of the builds of this app that failed and were not built again, for the screen that
    /// it leaves behind.
    pub(crate) fn farewell(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let called = |id: &String| self.builds.all.get(id).map(builds::called);
        for (at, id) in self.builds.started.iter().enumerate() {
            let later = &self.builds.started[at + 1..];
            if later.iter().any(|other| called(other) == called(id)) {
                continue;
            }
            let Some(followed) = self.builds.followed.get(id) else {
                continue;
            };
            let Some(at) = followed.state.failed() else {
                continue;
            };
            let step = &followed.state.steps[at];
            let name = called(id).unwrap_or_else(|| id.clone());
            lines.push(format!("build {name} failed at: {}", step.title));
            let tail = followed.tail(at, FAREWELL);
            lines.extend(tail.iter().map(|line| format!("  {line}")));
            lines.push(format!(
                "  `chalk compute image logs {id}` prints all of it"
            ));
        }
        lines
    }
}

/// An RFC 3339 time for people: day and time in UTC, to the second.
pub(crate) fn moment(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => time.to_owned(),
    }
}

/// How long ago an RFC 3339 time was, for people: `5s`, `12m`, `3h`, `9d`.
pub(crate) fn ago(now: Timestamp, time: &str) -> String {
    let Ok(then) = time.parse::<Timestamp>() else {
        return "-".to_owned();
    };
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
