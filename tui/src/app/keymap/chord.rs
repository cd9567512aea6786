//! A key with its modifiers, as text: `q`, `G`, `ctrl-l`, `pageup`, `f1`.

use std::fmt;
use std::str::FromStr;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Names of keys that are not one character.
const NAMES: [(&str, KeyCode); 14] = [
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("backspace", KeyCode::Backspace),
    ("space", KeyCode::Char(' ')),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pageup", KeyCode::PageUp),
    ("pagedown", KeyCode::PageDown),
    ("delete", KeyCode::Delete),
];

/// A key with its modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Chord {
    code: KeyCode,
    ctrl: bool,
    alt: bool,
    /// Only of keys whose character does not tell it.
    shift: bool,
}

impl Chord {
    /// The chord of a key that was pressed.
    pub(crate) fn of(key: &KeyEvent) -> Self {
        let (code, shift) = match key.code {
            KeyCode::BackTab => (KeyCode::Tab, true),
            KeyCode::Char(c) => (KeyCode::Char(c), false),
            code => (code, key.modifiers.contains(KeyModifiers::SHIFT)),
        };
        Self {
            code,
            ctrl: key.modifiers.contains(KeyModifiers::CONTROL),
            alt: key.modifiers.contains(KeyModifiers::ALT),
            shift,
        }
    }
}

impl fmt::Display for Chord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (set, word) in [
            (self.ctrl, "ctrl-"),
            (self.alt, "alt-"),
            (self.shift, "shift-"),
        ] {
            if set {
                f.write_str(word)?;
            }
        }
        if let Some((name, _)) = NAMES.iter().find(|(_, code)| *code == self.code) {
            return f.write_str(name);
        }
        match self.code {
            KeyCode::Char(c) => write!(f, "{c}"),
            KeyCode::F(n) => write!(f, "f{n}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl FromStr for Chord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut ctrl, mut alt, mut shift) = (false, false, false);
        let mut rest = text;
        loop {
            let (flag, after) = if let Some(after) = rest.strip_prefix("ctrl-") {
                (&mut ctrl, after)
            } else if let Some(after) = rest.strip_prefix("alt-") {
                (&mut alt, after)
            } else if let Some(after) = rest.strip_prefix("shift-") {
                (&mut shift, after)
            } else {
                break;
            };
            // `ctrl--` is the minus key.
            if after.is_empty() {
                break;
            }
            *flag = true;
            rest = after;
        }
        let mut chars = rest.chars();
        let code = match (chars.next(), chars.next()) {
            (Some(c), None) if !c.is_control() => KeyCode::Char(c),
            _ => {
                let named = NAMES.iter().find(|(name, _)| *name == rest);
                let function = rest.strip_prefix('f').and_then(|n| n.parse().ok());
                match (named, function) {
                    (Some((_, code)), _) => *code,
                    (None, Some(n @ 1..=24)) => KeyCode::F(n),
                    _ => {
                        return Err(format!(
                            "`{text}` is no key; write such as q, G, ctrl-l, space, enter, pageup or f1"
                        ));
                    }
                }
            }
        };
        if let (true, KeyCode::Char(c)) = (shift, code) {
            return match c {
                ' ' => Err("a terminal does not tell shift-space from space".to_owned()),
                c => Err(format!("write `{}` for `{text}`", c.to_uppercase())),
            };
        }
        if let (true, KeyCode::Char(c)) = (ctrl, code)
            && c.is_uppercase()
        {
            return Err(format!(
                "a terminal does not tell `{text}` from its small letter"
            ));
        }
        Ok(Self {
            code,
            ctrl,
            alt,
            shift,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chords_are_read_and_written() {
        for text in [
            "q",
            "G",
            "ctrl-l",
            "alt-x",
            "space",
            "enter",
            "f12",
            "?",
            "-",
            "ctrl--",
            "shift-tab",
        ] {
            let chord: Chord = text.parse().unwrap();
            assert_eq!(chord.to_string(), text);
        }
        for bad in [
            "",
            "ctrl-",
            "quit",
            "f99",
            "shift-a",
            "ctrl-A",
            "shift-space",
        ] {
            assert!(bad.parse::<Chord>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_that_were_pressed_are_chords() {
        let check = |code, modifiers, expect: &str| {
            assert_eq!(
                Chord::of(&KeyEvent::new(code, modifiers)).to_string(),
                expect
            );
        };
        check(KeyCode::Char('G'), KeyModifiers::SHIFT, "G");
        check(KeyCode::BackTab, KeyModifiers::SHIFT, "shift-tab");
        check(KeyCode::Char('c'), KeyModifiers::CONTROL, "ctrl-c");
    }
}
