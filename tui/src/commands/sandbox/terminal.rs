//! The user's own terminal while a sandbox has it.

use std::io::{IsTerminal as _, stdin};

use chalk_core::wire::{TerminalSize, exit};
use crossterm::terminal;

use crate::error::Failure;

/// Raw mode of the terminal, given back on every way out.
#[derive(Debug)]
pub(super) struct RawMode(bool);

impl RawMode {
    /// Turns raw mode on, where standard input is a terminal.
    pub(super) fn enter() -> Result<Self, Failure> {
        let terminal = stdin().is_terminal();
        if terminal {
            terminal::enable_raw_mode().map_err(|e| {
                Failure::new(exit::FAILED, "cannot switch the terminal to raw mode").why(e)
            })?;
        }
        Ok(Self(terminal))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if self.0 {
            // Nothing more can be done for a terminal that is gone.
            let _ = terminal::disable_raw_mode();
        }
    }
}

/// The size of the user's terminal; 80 by 24 where there is none.
pub(super) fn size() -> TerminalSize {
    let (cols, rows) = terminal::size().unwrap_or((80, 24));
    TerminalSize { rows, cols }
}
