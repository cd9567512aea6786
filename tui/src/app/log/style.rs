//! How a tool wanted its text to look: read from SGR sequences, kept as a few bytes per change.

use anstyle_parse::Params;
use ratatui::style::{Color, Modifier, Style};

/// A colour as SGR names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// Of the palette; the first 16 are the terminal's own.
    Palette(u8),
    Rgb(u8, u8, u8),
}

/// What a tool set for the text that follows. Blinking and hidden text are not among it: a reader
/// is to see everything, and in peace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pen {
    pub(super) foreground: Option<Ink>,
    pub(super) background: Option<Ink>,
    /// Only of [`KEPT`].
    pub(super) modifiers: Modifier,
}

/// The modifiers that are kept, in the order of their bits in a stored pen.
const KEPT: [Modifier; 6] = [
    Modifier::BOLD,
    Modifier::DIM,
    Modifier::ITALIC,
    Modifier::UNDERLINED,
    Modifier::REVERSED,
    Modifier::CROSSED_OUT,
];
const HAS_FOREGROUND: u8 = 1 << 6;
const HAS_BACKGROUND: u8 = 1 << 7;

impl Pen {
    /// Takes over the parameters of one SGR sequence (ECMA-48, 8.3.117, with the colours of xterm).
    pub(super) fn select(&mut self, params: &Params) {
        let mut params = params.iter();
        while let Some(param) = params.next() {
            let Some((&code, rest)) = param.split_first() else {
                continue;
            };
            match code {
                0 => *self = Self::default(),
                1 => self.modifiers |= Modifier::BOLD,
                2 => self.modifiers |= Modifier::DIM,
                3 => self.modifiers |= Modifier::ITALIC,
                4 => self
                    .modifiers
                    .set(Modifier::UNDERLINED, rest.first() != Some(&0)),
                7 => self.modifiers |= Modifier::REVERSED,
                9 => self.modifiers |= Modifier::CROSSED_OUT,
                21 => self.modifiers |= Modifier::UNDERLINED,
                22 => self.modifiers -= Modifier::BOLD | Modifier::DIM,
                23 => self.modifiers -= Modifier::ITALIC,
                24 => self.modifiers -= Modifier::UNDERLINED,
                27 => self.modifiers -= Modifier::REVERSED,
                29 => self.modifiers -= Modifier::CROSSED_OUT,
                30..=37 => self.foreground = palette(code - 30),
                38 => {
                    if let Some(ink) = extended(rest, &mut params) {
                        self.foreground = Some(ink);
                    }
                }
                39 => self.foreground = None,
                40..=47 => self.background = palette(code - 40),
                48 => {
                    if let Some(ink) = extended(rest, &mut params) {
                        self.background = Some(ink);
                    }
                }
                49 => self.background = None,
                // The colour of an underline: its arguments must not be read as codes.
                58 => {
                    extended(rest, &mut params);
                }
                90..=97 => self.foreground = palette(code - 90 + 8),
                100..=107 => self.background = palette(code - 100 + 8),
                _ => {}
            }
        }
    }

    /// The look on the screen; without colours only the modifiers are left.
    pub(super) fn style(self, colors: bool) -> Style {
        let mut style = Style::new().add_modifier(self.modifiers);
        if colors {
            style.fg = self.foreground.map(Ink::color);
            // Text in the colour of its ground would be hidden text.
            let ground = self.background.filter(|ink| self.foreground != Some(*ink));
            style.bg = ground.map(Ink::color);
        }
        style
    }
}

impl Ink {
    fn color(self) -> Color {
        match self {
            Self::Palette(0) => Color::Black,
            Self::Palette(1) => Color::Red,
            Self::Palette(2) => Color::Green,
            Self::Palette(3) => Color::Yellow,
            Self::Palette(4) => Color::Blue,
            Self::Palette(5) => Color::Magenta,
            Self::Palette(6) => Color::Cyan,
            Self::Palette(7) => Color::Gray,
            Self::Palette(8) => Color::DarkGray,
            Self::Palette(9) => Color::LightRed,
            Self::Palette(10) => Color::LightGreen,
            Self::Palette(11) => Color::LightYellow,
            Self::Palette(12) => Color::LightBlue,
            Self::Palette(13) => Color::LightMagenta,
            Self::Palette(14) => Color::LightCyan,
            Self::Palette(15) => Color::White,
            Self::Palette(index) => Color::Indexed(index),
            Self::Rgb(red, green, blue) => Color::Rgb(red, green, blue),
        }
    }
}

fn palette(index: u16) -> Option<Ink> {
    u8::try_from(index).ok().map(Ink::Palette)
}

/// What follows 38, 48 or 58: `5;N` and `2;R;G;B` as parameters of their own, or the same as
/// sub-parameters, where a colour space may stand before the red.
fn extended<'a>(rest: &[u16], params: &mut impl Iterator<Item = &'a [u16]>) -> Option<Ink> {
    let rgb = |red: u16, green: u16, blue: u16| {
        let part = |value: u16| u8::try_from(value).ok();
        Some(Ink::Rgb(part(red)?, part(green)?, part(blue)?))
    };
    match *rest {
        [5, index, ..] => palette(index),
        [2, red, green, blue] | [2, _, red, green, blue, ..] => rgb(red, green, blue),
        [_, ..] => None,
        [] => {
            let mut next = || params.next().and_then(|param| param.first().copied());
            match next()? {
                5 => palette(next()?),
                2 => {
                    let (red, green, blue) = (next()?, next()?, next()?);
                    rgb(red, green, blue)
                }
                _ => None,
            }
        }
    }
}

/// Appends the changes of a line, each with the byte of the text that it starts at, ascending.
pub(super) fn encode(changes: &[(usize, Pen)], out: &mut Vec<u8>) {
    let mut last = 0;
    for &(at, pen) in changes {
        let mut gap = at - last;
        last = at;
        while gap >= 0x80 {
            out.push(gap as u8 | 0x80);
            gap >>= 7;
        }
        out.push(gap as u8);
        let mut flags = 0;
        for (bit, modifier) in KEPT.iter().enumerate() {
            flags |= u8::from(pen.modifiers.contains(*modifier)) << bit;
        }
        flags |= if pen.foreground.is_some() {
            HAS_FOREGROUND
        } else {
            0
        };
        flags |= if pen.background.is_some() {
            HAS_BACKGROUND
        } else {
            0
        };
        out.push(flags);
        for ink in [pen.foreground, pen.background].into_iter().flatten() {
            match ink {
                Ink::Palette(index) => out.extend([0, index]),
                Ink::Rgb(red, green, blue) => out.extend([1, red, green, blue]),
            }
        }
    }
}

/// The changes that [`encode`] wrote.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Changes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    fn ink(&mut self) -> Option<Ink> {
        Some(match self.byte()? {
            0 => Ink::Palette(self.byte()?),
            _ => Ink::Rgb(self.byte()?, self.byte()?, self.byte()?),
        })
    }
}

impl Iterator for Changes<'_> {
    type Item = (usize, Pen);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut gap, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            gap |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        self.at += gap;
        let flags = self.byte()?;
        let mut pen = Pen::default();
        for (bit, modifier) in KEPT.iter().enumerate() {
            pen.modifiers.set(*modifier, flags & (1 << bit) != 0);
        }
        if flags & HAS_FOREGROUND != 0 {
            pen.foreground = Some(self.ink()?);
        }
        if flags & HAS_BACKGROUND != 0 {
            pen.background = Some(self.ink()?);
        }
        Some((self.at, pen))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ink() -> impl Strategy<Value = Option<Ink>> {
        prop_oneof![
            Just(None),
            any::<u8>().prop_map(|index| Some(Ink::Palette(index))),
            any::<(u8, u8, u8)>().prop_map(|(red, green, blue)| Some(Ink::Rgb(red, green, blue))),
        ]
    }

    fn pen() -> impl Strategy<Value = Pen> {
        (ink(), ink(), 0_u8..64).prop_map(|(foreground, background, bits)| {
            let mut modifiers = Modifier::empty();
            for (bit, modifier) in KEPT.iter().enumerate() {
                modifiers.set(*modifier, bits & (1 << bit) != 0);
            }
            Pen {
                foreground,
                background,
                modifiers,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_stored_is_what_was_set(gaps in prop::collection::vec((0_usize..70_000, pen()), 0..20)) {
            let mut at = 0;
            let changes: Vec<_> = gaps
                .into_iter()
                .map(|(gap, pen)| {
                    at += gap;
                    (at, pen)
                })
                .collect();
            let mut bytes = Vec::new();
            encode(&changes, &mut bytes);
            prop_assert_eq!(Changes::new(&bytes).collect::<Vec<_>>(), changes);
            // Cut short, it ends.
            for end in 0..bytes.len() {
                prop_assert!(Changes::new(&bytes[..end]).count() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_look_has_the_terminals_own_colours_where_it_can() {
        let check = |foreground, background, colors, expect: Style| {
            let pen = Pen {
                foreground,
                background,
                modifiers: Modifier::BOLD,
            };
            assert_eq!(pen.style(colors), expect);
        };
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let red = Some(Ink::Palette(1));
        check(red, None, true, bold.fg(Color::Red));
        check(red, None, false, bold);
        check(red, red, true, bold.fg(Color::Red));
        check(
            Some(Ink::Palette(208)),
            Some(Ink::Rgb(1, 2, 3)),
            true,
            bold.fg(Color::Indexed(208)).bg(Color::Rgb(1, 2, 3)),
        );
    }
}
