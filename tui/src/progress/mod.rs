//! Progress of a build on standard error: several front ends of [`BuildState`].

mod plain;
mod region;
mod tty;
mod warm;

pub(crate) use region::StatusLine;
pub(crate) use warm::WarmProgress;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use chalk_core::wire::Event;

use crate::build_state::BuildState;
use crate::cli;
use crate::error::Failure;

/// Bursts of events are drawn at most this often.
const FRAME: Duration = Duration::from_millis(80);

/// A front end running on a thread of its own, so that a slow terminal never holds up the
/// connection to the service.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Until its thread starts.
    front_end: Option<FrontEnd>,
    events: Option<Sender<Event>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum FrontEnd {
    Tty(tty::Tty),
    Plain(plain::Plain),
    Rawjson,
    Quiet,
}

/// How progress is shown, where a terminal was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Tty,
    Plain,
    Rawjson,
    Quiet,
}

/// The style that `mode` means here.
///
/// # Errors
/// When `tty` is asked for and standard error is no terminal.
fn style(mode: cli::Progress) -> Result<Style, Failure> {
    let terminal = io::stderr().is_terminal();
    let capable = terminal && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
    Ok(match mode {
        cli::Progress::Tty if !terminal => {
            return Err(
                Failure::usage("--progress tty needs a terminal on standard error")
                    .hint("use --progress plain, or leave it out"),
            );
        }
        cli::Progress::Tty => Style::Tty,
        cli::Progress::Auto if capable => Style::Tty,
        cli::Progress::Auto | cli::Progress::Plain => Style::Plain,
        cli::Progress::Rawjson => Style::Rawjson,
        cli::Progress::Quiet => Style::Quiet,
    })
}

impl Progress {
    /// Starts the front end that `mode` names.
    ///
    /// # Errors
    /// When `tty` is asked for and standard error is no terminal.
    pub(crate) fn start(mode: cli::Progress) -> Result<Self, Failure> {
        let style = style(mode)?;
        let mut progress = Self {
            front_end: Some(match style {
                Style::Tty => FrontEnd::Tty(tty::Tty::new()),
                Style::Plain => FrontEnd::Plain(plain::Plain::default()),
                Style::Rawjson => FrontEnd::Rawjson,
                Style::Quiet => FrontEnd::Quiet,
            }),
            events: None,
            thread: None,
        };
        // A terminal shows the time that passes before there is anything to tell. The others have
        // nothing to do for an image that is there already.
        if style == Style::Tty {
            progress.begin();
        }
        Ok(progress)
    }

    /// Starts the thread, unless it was.
    fn begin(&mut self) {
        let Some(mut front_end) = self.front_end.take() else {
            return;
        };
        let (events, inbox) = mpsc::channel::<Event>();
        let thread = std::thread::spawn(move || {
            let mut model = BuildState::default();
            loop {
                match inbox.recv_timeout(FRAME) {
                    Ok(event) => {
                        front_end.event(&mut model, &event);
                        while let Ok(event) = inbox.try_recv() {
                            front_end.event(&mut model, &event);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                front_end.frame(&model);
            }
            front_end.end(&model);
        });
        self.events = Some(events);
        self.thread = Some(thread);
    }

    /// Shows one event.
    pub(crate) fn event(&mut self, event: Event) {
        self.begin();
        if let Some(events) = &self.events {
            // The thread ends only after the sender is dropped; a lost line would be all anyway.
            let _ = events.send(event);
        }
    }

    /// Draws what is left and gives the terminal back.
    pub(crate) fn finish(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.events = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop();
    }
}

impl FrontEnd {
    fn event(&mut self, model: &mut BuildState, event: &Event) {
        let printed = model.update(event);
        match self {
            Self::Plain(plain) => plain.event(model, &event.kind, &printed),
            Self::Rawjson => {
                if let Ok(line) = serde_json::to_string(event) {
                    let _ = writeln!(io::stderr(), "{line}");
                }
            }
            Self::Tty(tty) => tty.event(&event.kind),
            Self::Quiet => {}
        }
    }

    fn frame(&mut self, model: &BuildState) {
        if let Self::Tty(tty) = self {
            tty.draw(model);
        }
    }

    fn end(&mut self, model: &BuildState) {
        if let Self::Tty(tty) = self {
            tty.end(model);
        }
    }
}

/// Text of a build's output made harmless for a terminal: escape sequences and control characters
/// gone, and of a line that was overwritten with carriage returns the last version kept.
pub(crate) fn harmless(line: &str) -> String {
    let line = line.trim_end_matches(['\n', '\r']);
    let line = line.rsplit('\r').next().unwrap_or(line);
    anstream::adapter::strip_str(line)
        .to_string()
        .chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .filter(|c| !c.is_control())
        .collect()
}

/// Bytes for people: `12.3 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// Seconds for people: `0.12s`, `3.4s`, `2m05s`.
pub(crate) fn seconds(value: f64) -> String {
    if value < 9.95 {
        format!("{value:.2}s")
    } else if value < 59.95 {
        format!("{value:.1}s")
    } else {
        let whole = value.round() as u64;
        format!("{}m{:02}s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_made_harmless() {
        let check = |line: &str, expect: &str| assert_eq!(harmless(line), expect);
        check("plain\n", "plain");
        check("\u{1b}[31mred\u{1b}[0m", "red");
        check("\u{1b}]0;title\u{7}x", "x");
        check("10%\r50%\r100%\r\n", "100%");
        check("a\tb\u{8}c", "a bc");
        check("ünï 漢字", "ünï 漢字");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(242_000_000), "242.0 MB");
        assert_eq!(bytes(999_960_000), "1.0 GB");
        assert_eq!(seconds(0.123), "0.12s");
        assert_eq!(seconds(12.34), "12.3s");
        assert_eq!(seconds(125.0), "2m05s");
    }
}
