//! The terminal: taken for the app, and given back as it was however the app ends.

use std::io::{self, BufWriter, Stdout, Write as _};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;

use base64::Engine as _;
use crossterm::{cursor, event, queue, style, terminal};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

/// Bytes of a frame that are written at once.
const FRAME: usize = 1 << 16;
/// Longest text that goes to the clipboard: more than that terminals drop.
const CLIPBOARD: usize = 1 << 20;

/// Whether the terminal is in the app's hands, for the panic hook.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// What threads other than the app's own panicked with.
static FAULTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The terminal in the app's hands.
pub(crate) struct Held {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    mouse: bool,
}

impl Held {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it cannot be used; it is then as it was.
    pub(crate) fn take(mouse: bool) -> io::Result<Self> {
        let backend = CrosstermBackend::new(BufWriter::with_capacity(FRAME, io::stdout()));
        enter(mouse)?;
        let terminal = Terminal::new(backend).inspect_err(|_| leave())?;
        Ok(Self { terminal, mouse })
    }

    /// Gives the terminal back for a while.
    pub(crate) fn pause(&mut self) {
        leave();
    }

    /// Takes it again after [`pause`](Self::pause).
    ///
    /// # Errors
    /// When it cannot be used any more.
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        enter(self.mouse)?;
        self.redraw()
    }

    /// Draws every cell anew with the next frame.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn redraw(&mut self) -> io::Result<()> {
        // Not by `clear`, which asks where the cursor is and fails when no answer comes in time.
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }

    /// Takes the mouse, or leaves it to the terminal.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn set_mouse(&mut self, mouse: bool) -> io::Result<()> {
        self.mouse = mouse;
        let out = self.terminal.backend_mut();
        if mouse {
            queue!(out, event::EnableMouseCapture)?;
        } else {
            queue!(out, event::DisableMouseCapture)?;
        }
        out.flush()
    }

    /// Draws a frame, which appears at once where the terminal can do that; the cursor is shown at
    /// the place that is given back.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn draw(
        &mut self,
        draw: impl FnOnce(&mut Buffer) -> Option<(u16, u16)>,
    ) -> io::Result<()> {
        queue!(
            self.terminal.backend_mut(),
            terminal::BeginSynchronizedUpdate
        )?;
        self.terminal.draw(|frame| {
            if let Some(at) = draw(frame.buffer_mut()) {
                frame.set_cursor_position(at);
            }
        })?;
        queue!(self.terminal.backend_mut(), terminal::EndSynchronizedUpdate)?;
        self.terminal.backend_mut().flush()
    }

    /// Puts a text into the clipboard of the terminal (OSC 52), also over ssh.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn copy(&mut self, text: &str) -> io::Result<()> {
        let mut end = text.len().min(CLIPBOARD);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let coded = base64::engine::general_purpose::STANDARD.encode(&text[..end]);
        self.say(&format!("\x1b]52;c;{coded}\x07"))
    }

    /// Rings the bell.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn bell(&mut self) -> io::Result<()> {
        self.say("\x07")
    }

    /// Has the terminal notify its user (OSC 9).
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn notify(&mut self, text: &str) -> io::Result<()> {
        let plain: String = text.chars().filter(|c| !c.is_control()).collect();
        self.say(&format!("\x1b]9;{plain}\x07"))
    }

    /// Asks the terminal something; its answer comes among the keys.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn ask(&mut self, question: &str) -> io::Result<()> {
        self.say(question)
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        let out = self.terminal.backend_mut();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        leave();
    }
}

fn enter(mouse: bool) -> io::Result<()> {
    terminal::enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    let mut out = io::stdout().lock();
    let mut write = || -> io::Result<()> {
        queue!(
            out,
            terminal::EnterAlternateScreen,
            event::EnableBracketedPaste,
            cursor::Hide
        )?;
        if mouse {
            queue!(out, event::EnableMouseCapture)?;
        }
        out.flush()
    };
    write().inspect_err(|_| leave())
}

/// Undoes all that was done to the terminal. What cannot be written to a terminal that is gone is
/// left at that.
pub(crate) fn leave() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut out = io::stdout().lock();
    let _ = undo(&mut out).and_then(|()| out.flush());
    drop(out);
    let _ = terminal::disable_raw_mode();
}

/// Writes what undoes all that programs of a full screen do to a terminal.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn undo(out: &mut impl io::Write) -> io::Result<()> {
    queue!(
        out,
        terminal::EndSynchronizedUpdate,
        event::DisableMouseCapture,
        event::DisableBracketedPaste,
        style::ResetColor,
        terminal::LeaveAlternateScreen,
        cursor::Show
    )
}

/// A panic of the app's own thread gives the terminal back before it is printed; one of another
/// thread, such as that of a service in this process, must not write over the screen.
pub(crate) fn catch_panics() {
    let own: ThreadId = std::thread::current().id();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        if std::thread::current().id() == own || !TAKEN.load(Ordering::SeqCst) {
            leave();
            before(info);
        } else {
            let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
            faults.push(info.to_string());
        }
    }));
}

/// Panics while a frame of so many columns and rows is drawn, where `CHALK_APP_PANIC=COLUMNSxROWS` asks
/// a debug build for it. There is no other way to have the real program panic, and what it leaves of
/// the terminal then is a promise that a test is to see kept.
pub(crate) fn panic_if_asked((columns, rows): (u16, u16)) {
    if cfg!(debug_assertions)
        && std::env::var("CHALK_APP_PANIC").is_ok_and(|asked| asked == format!("{columns}x{rows}"))
    {
        #[expect(clippy::panic, reason = "asked for")]
        {
            panic!("as CHALK_APP_PANIC asks for");
        }
    }
}

/// What other threads panicked with since the last time.
pub(crate) fn faults() -> Vec<String> {
    std::mem::take(&mut *FAULTS.lock().unwrap_or_else(PoisonError::into_inner))
}
