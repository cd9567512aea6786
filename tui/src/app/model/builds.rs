//! Builds: the list, and those that are followed event by event.

use std::collections::{BTreeMap, BTreeSet};

use chalk_core::wire::{Build, BuildStatus, Event, EventKind, StepState, Stream};

use super::filter::Filter;
use super::list::List;
use crate::app::log::{Log, LogLine, LogPane, Window};
use crate::build_state::BuildState;
use crate::output::short;

/// Builds whose logs are kept at once, besides those that run.
const KEPT: usize = 4;

/// All that is known of builds.
pub(crate) struct Builds {
    pub(crate) all: BTreeMap<String, Build>,
    pub(crate) list: List,
    pub(crate) followed: BTreeMap<String, Followed>,
    /// Builds that this app started, for what is left on the screen at its end.
    pub(crate) started: Vec<String>,
    /// Builds that were seen to run, so that their end is news.
    running: BTreeSet<String>,
    /// Whether the list was ever told.
    pub(crate) known: bool,
}

/// A build whose events are followed.
pub(crate) struct Followed {
    pub(crate) state: BuildState,
    /// Output of all steps.
    log: Log,
    /// The window on all of it.
    window: Window,
    /// Windows on what single steps printed, of those that were looked at.
    step_windows: BTreeMap<usize, Window>,
    /// `all`, and each step by its index.
    pub(crate) tree: List,
    /// Whether the choice goes along with what runs.
    pub(crate) auto: bool,
    pub(crate) log_focused: bool,
    pub(crate) zoomed: bool,
    /// Whether more events may come.
    pub(crate) streaming: bool,
    /// When it was last looked at, by a count.
    pub(crate) looked: u64,
}

/// Key of the row that stands for all steps.
pub(crate) const ALL_STEPS: &str = "all";

/// Headings of the list.
pub(crate) const COLUMNS: [&str; 6] = ["STATE", "NAME", "HASH", "STEPS", "TIME", "AGE"];

impl Builds {
    pub(crate) fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            // Newest first.
            list: List::sorted_by(5, false),
            followed: BTreeMap::new(),
            started: Vec::new(),
            running: BTreeSet::new(),
            known: false,
        }
    }

    /// Takes the list as the service has it, and gives the builds that ended since the last time.
    pub(crate) fn take(&mut self, builds: Vec<Build>) -> Vec<Build> {
        let mut ended = Vec::new();
        for build in builds {
            ended.extend(self.put(build));
        }
        self.known = true;
        self.arrange();
        ended
    }

    /// Takes one build; gives it back when it ended since the last time.
    pub(crate) fn put(&mut self, build: Build) -> Option<Build> {
        let over = build.status.is_final();
        // A list that was on its way when the last event came does not bring a build back to life.
        if self.all.get(&build.id).is_some_and(|b| b.status.is_final()) && !over {
            return None;
        }
        let ended = if over {
            self.running.remove(&build.id)
        } else {
            self.running.insert(build.id.clone());
            false
        };
        let told = ended.then(|| build.clone());
        self.all.insert(build.id.clone(), build);
        told
    }

    /// Sorts and filters.
    pub(crate) fn arrange(&mut self) {
        let mut filter = Filter::new(&self.list.filter);
        let mut rows: Vec<&Build> = self
            .all
            .values()
            .filter(|b| {
                filter.lets_by(|| {
                    format!(
                        "{} {} {} {}",
                        word(b.status),
                        b.name.as_deref().unwrap_or(""),
                        b.image_hash.hex(),
                        b.id
                    )
                })
            })
            .collect();
        // Identifiers sort by time.
        rows.sort_by(|a, b| b.id.cmp(&a.id));
        match self.list.sort {
            0 => rows.sort_by_key(|b| rank(b.status)),
            1 => rows.sort_by(|a, b| a.name.cmp(&b.name)),
            2 => rows.sort_by_key(|b| b.image_hash),
            3 => rows.sort_by_key(|b| b.steps.len()),
            4 => rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds)),
            _ => {}
        }
        if self.list.reverse {
            rows.reverse();
        }
        let keys = rows.into_iter().map(|b| b.id.clone()).collect();
        self.list.arrange(keys);
    }

    pub(crate) fn chosen(&self) -> Option<&Build> {
        self.all.get(self.list.chosen()?)
    }

    /// Begins to keep the events of a build; gives the builds that are to be forgotten for it.
    pub(crate) fn follow(&mut self, id: &str, lines: usize, count: u64) -> Vec<String> {
        let followed = self
            .followed
            .entry(id.to_owned())
            .or_insert_with(|| Followed::new(lines));
        followed.looked = count;
        followed.streaming = true;
        let mut old: Vec<(u64, String, usize)> = self
            .followed
            .iter()
            .filter(|(other, f)| *other != id && !f.streaming)
            .map(|(other, f)| (f.looked, other.clone(), f.lines()))
            .collect();
        // The last that was looked at is kept first, and as many as have together no more lines than
        // one log may have.
        old.sort_by(|a, b| b.cmp(a));
        let mut room = lines;
        let kept = old.iter().take(KEPT).take_while(|(_, _, has)| {
            let left = room.checked_sub(*has);
            room = left.unwrap_or(0);
            left.is_some()
        });
        let kept = kept.count();
        let gone: Vec<String> = old.into_iter().skip(kept).map(|(_, id, _)| id).collect();
        for id in &gone {
            self.followed.remove(id);
        }
        gone
    }

    /// Builds that wait or run.
    pub(crate) fn active(&self) -> usize {
        self.all.values().filter(|b| !b.status.is_final()).count()
    }

    /// Share of steps that came from the cache, of the builds that are known, with their number.
    pub(crate) fn cached_steps(&self) -> (usize, usize) {
        let steps = self.all.values().flat_map(|b| &b.steps);
        steps.fold((0, 0), |(cached, all), step| match step.state {
            StepState::Cached => (cached + 1, all + 1),
            StepState::Ran | StepState::Failed => (cached, all + 1),
            StepState::Waiting | StepState::Running => (cached, all),
        })
    }
}

impl Followed {
    fn new(lines: usize) -> Self {
        let mut tree = List::default();
        tree.arrange(vec![ALL_STEPS.to_owned()]);
        let mut log = Log::new(lines);
        let window = log.window(None);
        Self {
            state: BuildState::default(),
            log,
            window,
            step_windows: BTreeMap::new(),
            tree,
            auto: true,
            log_focused: false,
            zoomed: false,
            streaming: true,
            looked: 0,
        }
    }

    /// Takes an event that is not older than those before.
    pub(crate) fn take(&mut self, event: &Event) {
        if event.seq <= self.state.seq {
            return;
        }
        let time: Option<jiff::Timestamp> = event.time.parse().ok();
        let time = time.map(jiff::Timestamp::as_millisecond);
        for line in self.state.update(event) {
            self.line(time, line.step, line.stream == Stream::Stderr, line.text);
        }
        match &event.kind {
            EventKind::Started { steps } => {
                let keys = (0..steps.len()).map(|n| n.to_string());
                let keys = std::iter::once(ALL_STEPS.to_owned()).chain(keys);
                self.tree.arrange(keys.collect());
            }
            EventKind::StepStarted { step } if self.auto => self.tree.choose(&step.to_string()),
            EventKind::StepFailed { step, message, .. } => {
                self.line(time, *step, true, format!("failed: {message}"));
                if self.auto {
                    self.tree.choose(&step.to_string());
                }
            }
            EventKind::Warning { message } => self.note(time, &format!("warning: {message}")),
            EventKind::Finished { build } => {
                if let Some(problem) = &build.error {
                    for text in [&problem.title, &problem.detail, &problem.hint] {
                        if !text.is_empty() {
                            self.note(time, text);
                        }
                    }
                }
                self.streaming = false;
            }
            _ => {}
        }
    }

    fn line(&mut self, time: Option<i64>, step: usize, stderr: bool, text: String) {
        self.log.push(LogLine {
            time,
            source: source(step),
            stderr,
            text,
        });
    }

    fn note(&mut self, time: Option<i64>, text: &str) {
        for text in text.lines() {
            self.log.push(LogLine {
                time,
                source: String::new(),
                stderr: false,
                text: text.to_owned(),
            });
        }
    }

    /// The log of the chosen step, or of all; that of all, too, while a step has said nothing.
    pub(crate) fn pane(&mut self) -> LogPane<'_> {
        let step = self.step().filter(|step| self.log.has(&source(*step)));
        let Some(step) = step else {
            return LogPane::new(&mut self.log, &mut self.window);
        };
        let all = (self.window.is_wrapped(), self.window.shows_times());
        let window = self.step_windows.entry(step).or_insert_with(|| {
            let mut window = self.log.window(Some(&source(step)));
            if all.0 != window.is_wrapped() {
                window.toggle_wrap();
            }
            if all.1 != window.shows_times() {
                window.toggle_times();
            }
            window
        });
        LogPane::new(&mut self.log, window)
    }

    /// Whether the log of the chosen step is empty, although that of all is not.
    pub(crate) fn is_silent(&self) -> bool {
        self.step().is_some_and(|step| !self.log.has(&source(step)))
    }

    /// The last lines of a step.
    pub(crate) fn tail(&self, step: usize, count: usize) -> Vec<String> {
        self.log.tail(&source(step), count)
    }

    /// Lines that are kept of its output.
    fn lines(&self) -> usize {
        self.log.len()
    }

    pub(crate) fn toggle_wrap(&mut self) {
        self.window.toggle_wrap();
        self.step_windows.values_mut().for_each(Window::toggle_wrap);
    }

    pub(crate) fn toggle_times(&mut self) {
        self.window.toggle_times();
        self.step_windows
            .values_mut()
            .for_each(Window::toggle_times);
    }

    /// The chosen step; none when all are chosen.
    pub(crate) fn step(&self) -> Option<usize> {
        self.tree.chosen()?.parse().ok()
    }
}

/// What the lines of a step are labelled with.
pub(crate) fn source(step: usize) -> String {
    format!("#{}", step + 1)
}

/// The word of a state.
pub(crate) fn word(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Queued => "queued",
        BuildStatus::Running => "running",
        BuildStatus::Built => "built",
        BuildStatus::Reused => "reused",
        BuildStatus::Failed => "failed",
        BuildStatus::Cancelled => "cancelled",
    }
}

fn rank(status: BuildStatus) -> u8 {
    match status {
        BuildStatus::Running => 0,
        BuildStatus::Queued => 1,
        BuildStatus::Failed => 2,
        BuildStatus::Cancelled => 3,
        BuildStatus::Built => 4,
        BuildStatus::Reused => 5,
    }
}

/// What a build is called: its name, else its hash.
pub(crate) fn called(build: &Build) -> String {
    build
        .name
        .clone()
        .unwrap_or_else(|| short(build.image_hash))
}
