//! The loop: events in, effects out, and a frame when something changed, at most 60 times a second.

use std::io;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use chalk_core::wire::exit;
use crossterm::event::{Event as Input, EventStream, KeyEventKind, MouseButton, MouseEventKind};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use rustix::process::{Signal, WaitStatus, kill_current_process_group};
use tokio::signal::unix::{Signal as Incoming, SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use super::Look;
use super::background::{self, Answer, Taken};
use super::config::Notify;
use super::editor::{Editor, Look as EditorLook};
use super::effect::Effect;
use super::event::{Event, Feed, Pointer, PointerKind, Trouble};
use super::feed::Runner;
use super::frames::Frames;
use super::model::State;
use super::terminal::{Held, faults, panic_if_asked};
use super::update::update;
use super::view::{Hits, draw};
use crate::error::Failure;

/// Shortest time between two frames.
const FRAME: Duration = Duration::from_micros(16_667);
/// Time that a terminal that is being resized is given to come to rest.
const RESIZE: Duration = Duration::from_millis(40);
/// Time that a terminal is given for an answer before it is given back.
const ANSWER: Duration = Duration::from_millis(200);
/// Time between two ticks.
const TICK: Duration = Duration::from_millis(100);
/// Most input that is taken in before a frame is due again.
const BURST: usize = 256;
/// Time for what is fed, before keys and frames have their turn again.
const FEED: Duration = Duration::from_millis(5);

/// What the loop holds.
pub(super) struct Loop {
    pub(super) state: State,
    pub(super) look: Look,
    pub(super) runner: Runner,
    pub(super) feed: Receiver<Feed>,
    held: Held,
    hits: Hits,
    input: Option<EventStream>,
    next_frame: Instant,
    signals: Signals,
    answer: Answer,
    began: Instant,
    frames: Option<Frames>,
}

struct Signals {
    deadly: Deadly,
    stop: Incoming,
    child: Incoming,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            deadly: Deadly::new()?,
            stop: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            child: signal(SignalKind::child())?,
        })
    }
}

/// The signals that end the app.
struct Deadly {
    terminate: Incoming,
    hangup: Incoming,
    interrupt: Incoming,
}

impl Deadly {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one; gives it with the code that the app ends with.
    async fn recv(&mut self) -> (Signal, u8) {
        tokio::select! {
            _ = self.terminate.recv() => (Signal::TERM, 143),
            _ = self.hangup.recv() => (Signal::HUP, 129),
            _ = self.interrupt.recv() => (Signal::INT, exit::INTERRUPTED),
        }
    }
}

/// Waits for a signal that is to end the app, after its loop has ended. Without signals to be had, for
/// ever.
pub(super) async fn signalled() {
    let Ok(mut signals) = Deadly::new() else {
        return std::future::pending().await;
    };
    signals.recv().await;
}

/// What has come of the input already, if anything. Looked for by this task and not by one that nobody
/// waits for, as `now_or_never` would: the stream wakes the first that found nothing, and keys that
/// come later would wait for the next tick.
async fn at_once(input: &mut EventStream) -> Option<Input> {
    std::future::poll_fn(|context| {
        Poll::Ready(match input.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(event))) => Some(event),
            _ => None,
        })
    })
    .await
}

fn gone(error: io::Error) -> Failure {
    Failure::new(exit::FAILED, "the terminal cannot be used").why(error)
}

fn unwritten(error: io::Error) -> Failure {
    Failure::new(exit::FAILED, "cannot write down the times of frames").why(error)
}

impl Loop {
    /// Takes the terminal.
    pub(super) fn new(
        state: State,
        look: Look,
        runner: Runner,
        feed: Receiver<Feed>,
    ) -> Result<Self, Failure> {
        let signals = Signals::new().map_err(gone)?;
        let held = Held::take(state.mouse).map_err(gone)?;
        Ok(Self {
            state,
            look,
            runner,
            feed,
            held,
            hits: Hits::default(),
            input: None,
            next_frame: Instant::now(),
            signals,
            answer: Answer::default(),
            began: Instant::now(),
            frames: Frames::wanted(),
        })
    }

    /// Runs until the person leaves, the terminal goes away or a signal ends it; gives the model for
    /// what is said at the end, and the work that is still to be ended in order.
    pub(super) async fn run(mut self, first: Vec<Effect>) -> (State, Runner, Result<(), Failure>) {
        let result = self.turn(first).await;
        self.await_answer().await;
        let Self {
            state,
            runner,
            held,
            input,
            frames,
            ..
        } = self;
        drop(input);
        drop(held);
        let written = frames.map_or(Ok(()), |frames| frames.write().map_err(unwritten));
        (state, runner, result.and(written))
    }

    /// Waits a moment for what the terminal was asked for just now, which would otherwise be typed into
    /// the shell.
    async fn await_answer(&mut self) {
        let late = self.began.elapsed() > ANSWER * 4;
        let Some(input) = self.input.as_mut().filter(|_| !late) else {
            return;
        };
        let answer = &mut self.answer;
        let come = async {
            while answer.is_awaited()
                && let Some(Ok(read)) = input.next().await
            {
                if let Input::Key(key) = read {
                    answer.take(key);
                }
            }
        };
        // Not every terminal has an answer.
        let _ = tokio::time::timeout(ANSWER, come).await;
    }

    async fn turn(&mut self, first: Vec<Effect>) -> Result<(), Failure> {
        // The first frame does not wait for anything.
        self.frame().map_err(gone)?;
        if self.look.ask {
            self.held.ask(background::QUESTION).map_err(gone)?;
            self.answer.asked();
        }
        self.input = Some(EventStream::new());
        if self.effects(first).await? {
            return Ok(());
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            let now = Instant::now();
            if self.state.dirty && now >= self.next_frame {
                self.frame().map_err(gone)?;
                self.next_frame = now + FRAME;
            }
            let wake = if self.state.dirty {
                self.next_frame.min(next_tick)
            } else {
                next_tick
            };
            let Some(input) = &mut self.input else {
                self.input = Some(EventStream::new());
                continue;
            };
            let mut events = Vec::new();
            tokio::select! {
                biased;
                (_, code) = self.signals.deadly.recv() => return Err(Failure::code(code)),
                _ = self.signals.stop.recv() => {
                    self.suspend().map_err(gone)?;
                    continue;
                }
                read = input.next() => {
                    match read {
                        Some(Ok(read)) => events.push(read),
                        // The terminal hung up.
                        Some(Err(error)) => return Err(gone(error)),
                        None => return Err(gone(io::ErrorKind::UnexpectedEof.into())),
                    }
                    // What else is there, so that a burst makes one frame.
                    while events.len() < BURST && let Some(more) = at_once(input).await {
                        events.push(more);
                    }
                }
                fed = self.feed.recv() => {
                    // By time and not by number: what is fed may be one line or a thousand, and
                    // may come faster than it is taken in.
                    let until = Instant::now() + FEED;
                    let mut next = fed;
                    while let Some(feed) = next {
                        if self.take(Event::Feed(feed)).await? {
                            return Ok(());
                        }
                        next = if Instant::now() < until { self.feed.try_recv().ok() } else { None };
                    }
                }
                () = sleep_until(wake) => {}
            }
            for read in events {
                for event in self.events(read) {
                    if self.take(event).await? {
                        return Ok(());
                    }
                }
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                for fault in faults() {
                    let trouble = Trouble::new(format!("a fault of the program: {fault}"));
                    self.take(Event::Feed(Feed::Failed(trouble))).await?;
                }
                self.take(Event::Tick(Timestamp::now())).await?;
            }
        }
    }

    /// What of the terminal's input concerns the app.
    fn events(&mut self, input: Input) -> Vec<Event> {
        let Input::Key(key) = input else {
            return self.event(input).into_iter().collect();
        };
        if key.kind == KeyEventKind::Release {
            return Vec::new();
        }
        match self.answer.take(key) {
            Taken::Held => Vec::new(),
            Taken::Keys(keys) => keys.into_iter().map(Event::Key).collect(),
            Taken::Answered(tone) => {
                if let Some(tone) = tone {
                    self.look.set_tone(tone);
                    self.state.dirty = true;
                }
                Vec::new()
            }
        }
    }

    fn event(&mut self, input: Input) -> Option<Event> {
        Some(match input {
            Input::Paste(text) => Event::Paste(text),
            Input::Resize(columns, rows) => {
                self.next_frame = Instant::now() + RESIZE;
                Event::Resize(columns, rows)
            }
            Input::Mouse(mouse) => {
                let kind = match mouse.kind {
                    MouseEventKind::Down(MouseButton::Left) => PointerKind::Press,
                    MouseEventKind::Drag(MouseButton::Left) => PointerKind::Drag,
                    MouseEventKind::Up(MouseButton::Left) => PointerKind::Release,
                    MouseEventKind::ScrollUp => PointerKind::WheelUp,
                    MouseEventKind::ScrollDown => PointerKind::WheelDown,
                    _ => return None,
                };
                Event::Pointer(Pointer {
                    kind,
                    column: mouse.column,
                    row: mouse.row,
                    target: self.hits.at(mouse.column, mouse.row).cloned(),
                })
            }
            _ => return None,
        })
    }

    /// Takes an event in and does what comes of it; whether the app is to end.
    async fn take(&mut self, event: Event) -> Result<bool, Failure> {
        let effects = update(&mut self.state, event);
        self.effects(effects).await
    }

    async fn effects(&mut self, effects: Vec<Effect>) -> Result<bool, Failure> {
        for effect in effects {
            match effect {
                Effect::Quit => return Ok(true),
                Effect::Suspend => self.suspend().map_err(gone)?,
                Effect::Redraw => {
                    self.held.redraw().map_err(gone)?;
                    self.state.dirty = true;
                }
                Effect::Copy(text) => self.held.copy(&text).map_err(gone)?,
                Effect::Mouse(mouse) => self.held.set_mouse(mouse).map_err(gone)?,
                Effect::Notify(text) => match self.state.config.notify {
                    Notify::Bell => self.held.bell().map_err(gone)?,
                    Notify::Osc9 => self.held.notify(&text).map_err(gone)?,
                    Notify::Off => {}
                },
                Effect::Edit(path) => self.edit(&path).await?,
                effect => self.runner.run(effect),
            }
        }
        Ok(false)
    }

    fn frame(&mut self) -> io::Result<()> {
        let began = std::time::Instant::now();
        self.state.dirty = false;
        let theme = self.look.theme(self.state.other_tone);
        let (state, glyphs) = (&mut self.state, &self.look.glyphs);
        let hits = &mut self.hits;
        self.held.draw(|buffer| {
            let area = buffer.area();
            state.size = (area.width, area.height);
            panic_if_asked(state.size);
            let drawn = draw(state, buffer, theme, glyphs);
            *hits = drawn.hits;
            drawn.cursor
        })?;
        if let Some(frames) = &mut self.frames {
            frames.note(began);
        }
        Ok(())
    }

    /// Stops as a job of the shell, until `fg`.
    fn suspend(&mut self) -> io::Result<()> {
        self.input = None;
        self.held.pause();
        // All of the job, as the terminal's own suspend key does it.
        kill_current_process_group(Signal::STOP)?;
        self.held.resume()?;
        self.input = Some(EventStream::new());
        self.state.dirty = true;
        Ok(())
    }

    /// Opens a file in the editor, while the rest goes on.
    async fn edit(&mut self, path: &Path) -> Result<(), Failure> {
        self.input = None;
        self.held.pause();
        let command = super::editor::command();
        let ended = match Editor::start(&command, path) {
            Ok(editor) => self.beside(editor).await?,
            Err(error) => Err(error),
        };
        self.held.resume().map_err(gone)?;
        self.input = Some(EventStream::new());
        self.state.dirty = true;
        let hint = "set EDITOR to an editor that is installed".to_owned();
        let told = match ended {
            Ok(status) if status.exit_status() == Some(0) => Feed::Edited,
            Ok(status) => Feed::Failed(Trouble {
                what: match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("`{command}` ended with {code}"),
                    (None, Some(signal)) => format!("`{command}` was ended by signal {signal}"),
                    (None, None) => format!("`{command}` ended"),
                },
                why: String::new(),
                hint,
            }),
            Err(error) => Feed::Failed(Trouble {
                what: format!("cannot start `{command}`"),
                why: error.to_string(),
                hint,
            }),
        };
        for effect in update(&mut self.state, Event::Feed(told)) {
            self.runner.run(effect);
        }
        Ok(())
    }

    /// Takes in what is fed while the editor has the terminal.
    async fn beside(&mut self, editor: Editor) -> Result<io::Result<WaitStatus>, Failure> {
        loop {
            match editor.look() {
                Ok(EditorLook::Runs) => {}
                Ok(EditorLook::Ended(status)) => return Ok(Ok(status)),
                Ok(EditorLook::Stopped) => {
                    // The app and its editor are one job to whoever started it.
                    kill_current_process_group(Signal::STOP).map_err(|error| gone(error.into()))?;
                    editor.go_on();
                }
                Err(error) => return Ok(Err(error)),
            }
            tokio::select! {
                (signal, code) = self.signals.deadly.recv() => {
                    editor.end(signal).await;
                    return Err(Failure::code(code));
                }
                Some(feed) = self.feed.recv() => {
                    // What it wants done to the terminal can wait for the next event.
                    for effect in update(&mut self.state, Event::Feed(feed)) {
                        self.runner.run(effect);
                    }
                }
                // Of several children that end at once only one is told.
                _ = tokio::time::timeout(TICK, self.signals.child.recv()) => {}
            }
        }
    }
}
