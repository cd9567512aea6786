//! A command in a pseudo-terminal whose screen is read as a person would read it.

use std::io::{self, Read, Write};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::command::{run, tool};
use crate::patience::wait_for;
use crate::world::{forget, start};

/// Longest that anything on a screen is waited for on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Longest that a command may take to end when a test leaves it.
const LEAVE: Duration = Duration::from_secs(20);

/// Where a frame begins that is to appear at once (DEC private mode 2026), and where it ends.
const FRAME: [&[u8]; 2] = [b"\x1b[?2026h", b"\x1b[?2026l"];

/// A command in a pseudo-terminal. Dropping it ends the command.
pub struct Screen {
    child: Box<dyn Child + Send + Sync>,
    pid: u32,
    master: Box<dyn MasterPty + Send>,
    input: Box<dyn Write + Send>,
    shown: Arc<Shown>,
}

/// What the terminal shows, and a word when that changes.
struct Shown {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    terminal: vt100::Parser,
    /// All that was written to the terminal.
    bytes: Vec<u8>,
    /// When each piece of it came, and how many bytes there were then.
    reads: Vec<(Instant, usize)>,
    /// How much of it is shown: a frame is, when it is whole.
    seen: usize,
    /// Whether everyone who could write to the terminal is gone.
    over: bool,
}

impl State {
    fn take(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        self.reads.push((Instant::now(), self.bytes.len()));
        let new = &self.bytes[self.seen..];
        let last = |mark: &[u8]| new.windows(mark.len()).rposition(|bytes| bytes == mark);
        let [begin, end] = FRAME.map(last);
        let whole = match begin {
            Some(begin) if end.is_none_or(|end| end < begin) => begin,
            _ => {
                let cut = (1..FRAME[0].len()).rev();
                let cut = cut.map(|count| &FRAME[0][..count]);
                let cut = cut.into_iter().find(|part| new.ends_with(part));
                new.len() - cut.map_or(0, <[u8]>::len)
            }
        };
        self.show(self.seen + whole);
    }

    fn show(&mut self, until: usize) {
        self.terminal.process(&self.bytes[self.seen..until]);
        self.seen = until;
    }
}

impl Screen {
    /// Starts a command in a terminal of so many rows and columns.
    #[track_caller]
    pub fn open(command: &Command, rows: u16, cols: u16) -> Self {
        let pair = native_pty_system().openpty(size(rows, cols));
        let pair = pair.expect("a pseudo-terminal");
        let mut builder = CommandBuilder::new(command.get_program());
        builder.args(command.get_args());
        builder.env("TERM", "xterm-256color");
        builder.env("LC_ALL", "C.UTF-8");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => builder.env(name, value),
                None => builder.env_remove(name),
            }
        }
        let here = || std::env::current_dir().expect("a working directory");
        builder.cwd(command.get_current_dir().map_or_else(here, PathBuf::from));
        let output = pair.master.try_clone_reader().expect("its output");
        let input = pair.master.take_writer().expect("its input");
        let (pid, child) = start(|| {
            let child = pair.slave.spawn_command(builder);
            let child = child.map_err(io::Error::other)?;
            Ok((child.process_id().expect("it was just started"), child))
        })
        .expect("start the command");
        let (rows, cols) = (nonzero(rows), nonzero(cols));
        let shown = Arc::new(Shown {
            state: Mutex::new(State {
                terminal: vt100::Parser::new(rows, cols, 0),
                bytes: Vec::new(),
                reads: Vec::new(),
                seen: 0,
                over: false,
            }),
            changed: Condvar::new(),
        });
        let reader = Arc::clone(&shown);
        std::thread::spawn(move || reader.read(output));
        Self {
            child,
            pid,
            master: pair.master,
            input,
            shown,
        }
    }

    /// Types keys.
    #[track_caller]
    pub fn press(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).expect("it listens");
        self.input.flush().expect("it listens");
    }

    /// Gives the terminal another size.
    #[track_caller]
    pub fn resize(&self, rows: u16, cols: u16) {
        // Held, so that nothing for the new size is drawn on a screen of the old one.
        let mut state = self.shown.lock();
        let screen = state.terminal.screen_mut();
        screen.set_size(nonzero(rows), nonzero(cols));
        let resized = self.master.resize(size(rows, cols));
        resized.expect("resize the pseudo-terminal");
    }

    /// Waits until the screen is so; gives when the last piece of it came.
    #[track_caller]
    pub fn wait_until(&self, what: &str, so: impl Fn(&vt100::Screen) -> bool) -> Instant {
        self.shown.wait(what, |state| {
            let (came, _) = state.reads.last()?;
            so(state.terminal.screen()).then_some(*came)
        })
    }

    /// Waits until something stands on the screen.
    #[track_caller]
    pub fn wait_for(&self, words: &str) -> Instant {
        self.wait_until(&format!("`{words}`"), |screen| {
            screen.contents().contains(words)
        })
    }

    /// Waits until something stands no longer on the screen.
    #[track_caller]
    pub fn wait_gone(&self, words: &str) -> Instant {
        self.wait_until(&format!("no `{words}`"), |screen| {
            !screen.contents().contains(words)
        })
    }

    /// Waits for the first whole frame; gives when it came.
    #[track_caller]
    pub fn first_frame(&self) -> Instant {
        self.shown.wait("the first frame", |state| {
            let mut windows = state.bytes.windows(FRAME[1].len());
            let end = windows.position(|bytes| bytes == FRAME[1])? + FRAME[1].len();
            let (came, _) = state.reads.iter().find(|(_, bytes)| *bytes >= end)?;
            Some(*came)
        })
    }

    /// What stands on the screen.
    pub fn text(&self) -> String {
        self.look(vt100::Screen::contents)
    }

    /// Something of the screen.
    pub fn look<T>(&self, look: impl FnOnce(&vt100::Screen) -> T) -> T {
        look(self.shown.lock().terminal.screen())
    }

    /// All that was written to the terminal so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.shown.lock().bytes.clone()
    }

    /// How the terminal treats what is typed: line by line with an echo, or raw.
    pub fn modes(&self) -> String {
        format!("{:?}", self.master.get_termios().expect("a terminal"))
    }

    /// Process id of the command.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal such as `-INT`.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        run(&mut tool("kill", [signal, &self.pid.to_string()])).ok();
    }

    /// Whether it has ended, and all that it wrote is shown.
    pub fn is_over(&self) -> bool {
        self.shown.lock().over
    }

    /// Waits for its end and for all that it wrote; the exit code.
    #[track_caller]
    pub fn end(&mut self) -> u32 {
        self.shown
            .wait("the end of the command", |state| state.over.then_some(()));
        let ended = wait_for("the exit code", || {
            self.child.try_wait().expect("the child is ours")
        });
        assert_eq!(ended.signal(), None, "killed by a signal");
        ended.exit_code()
    }
}

impl Shown {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut found: impl FnMut(&State) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(found) = found(&state) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !state.over,
                "waited in vain for {what} on\n{}",
                state.terminal.screen().contents()
            );
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn read(&self, mut output: Box<dyn Read + Send>) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = output.read(&mut buffer).unwrap_or(0);
            let mut state = self.lock();
            if count == 0 {
                let all = state.bytes.len();
                state.show(all);
                state.over = true;
            } else {
                state.take(&buffer[..count]);
            }
            drop(state);
            self.changed.notify_all();
            if count == 0 {
                return;
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- screen\n{}\n---", self.text());
        }
        // Asked first: a service inside the command takes its mounts down.
        for signal in ["-TERM", "-KILL"] {
            let until = Instant::now() + LEAVE;
            while let Ok(None) = self.child.try_wait() {
                if Instant::now() > until {
                    break;
                }
                let _ = tool("kill", [signal, &self.pid.to_string()]).output();
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        forget(self.pid);
    }
}

fn size(rows: u16, cols: u16) -> PtySize {
    PtySize {
        rows,
        cols,
        ..PtySize::default()
    }
}

fn nonzero(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).expect("a terminal has some cells")
}
