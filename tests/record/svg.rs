//! A picture of a terminal's screen, as SVG.
//!
//! Every cell has its place on the grid, whatever font the picture is shown in: text is stretched to
//! the cells that it takes, and lines and blocks are drawn as shapes, so that they meet.

use std::fmt::Write as _;

use vt100::{Cell, Color};

/// Width, height and size of type of a cell, and the room around all of them.
const CELL: (u32, u32) = (9, 20);
const TYPE: u32 = 15;
/// From the top of a cell to the line that letters stand on.
const BASELINE: u32 = 15;
const MARGIN: u32 = 12;

/// Ground, frame and text. The ground is the picture's own, so that it can be read on any page.
const GROUND: &str = "#161b22";
const FRAME: &str = "#30363d";
const TEXT: &str = "#d1d7e0";
/// The terminal's sixteen colours.
const COLORS: [&str; 16] = [
    "#010409", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4",
    "#8b949e", "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#ffffff",
];

/// Draws a screen; `title` is for those who do not see it.
pub(crate) fn draw(screen: &vt100::Screen, title: &str) -> String {
    let (rows, cols) = screen.size();
    let (rows, cols) = (rows.get(), cols.get());
    let wide = u32::from(cols) * CELL.0 + 2 * MARGIN;
    let high = u32::from(rows) * CELL.1 + 2 * MARGIN;
    let title = escaped(title);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" width=\"{wide}\" \
         height=\"{high}\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"{GROUND}\" \
         stroke=\"{FRAME}\"/>\n\
         <g fill=\"{TEXT}\" font-size=\"{TYPE}\" font-family=\"ui-monospace,\
         SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace\">\n",
        wide - 1,
        high - 1,
    );
    for row in 0..rows {
        draw_row(screen, row, cols, &mut svg);
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

fn draw_row(screen: &vt100::Screen, row: u16, cols: u16, svg: &mut String) {
    let y = MARGIN + u32::from(row) * CELL.1;
    let mut pieces: Vec<Piece> = Vec::new();
    for col in 0..cols {
        let Some(cell) = screen.cell(row, col) else {
            continue;
        };
        if cell.is_wide_continuation() {
            continue;
        }
        let more = Piece::of(cell, u32::from(col));
        match pieces.last_mut() {
            Some(piece) if piece.takes(&more) => piece.take(&more),
            _ => pieces.push(more),
        }
    }
    for piece in &pieces {
        if let Some(ground) = &piece.style.ground {
            let (x, wide) = (piece.x(), piece.cells * CELL.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{}\" fill=\"{ground}\"/>",
                CELL.1
            );
        }
    }
    for piece in &pieces {
        piece.draw(y, svg);
    }
}

/// How text looks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Style {
    color: Option<String>,
    ground: Option<String>,
    bold: bool,
    dim: bool,
    italic: bool,
    underline: bool,
}

impl Style {
    fn of(cell: &Cell) -> Self {
        let (mut color, mut ground) = (color(cell.fgcolor()), color(cell.bgcolor()));
        if cell.inverse() {
            let text = color.unwrap_or_else(|| TEXT.to_owned());
            color = Some(ground.unwrap_or_else(|| GROUND.to_owned()));
            ground = Some(text);
        }
        Self {
            color,
            ground,
            bold: cell.bold(),
            dim: cell.dim(),
            italic: cell.italic(),
            underline: cell.underline(),
        }
    }

    /// As attributes of an element.
    fn attributes(&self) -> String {
        let mut text = String::new();
        if let Some(color) = &self.color {
            let _ = write!(text, " fill=\"{color}\"");
        }
        for (is, attribute) in [
            (self.bold, " font-weight=\"bold\""),
            (self.dim, " opacity=\"0.7\""),
            (self.italic, " font-style=\"italic\""),
            (self.underline, " text-decoration=\"underline\""),
        ] {
            if is {
                text.push_str(attribute);
            }
        }
        text
    }
}

fn color(color: Color) -> Option<String> {
    match color {
        Color::Default => None,
        Color::Idx(index) => Some(indexed(index)),
        Color::Rgb(red, green, blue) => Some(format!("#{red:02x}{green:02x}{blue:02x}")),
    }
}

/// A colour of the 256 that terminals know: sixteen, a cube and greys.
fn indexed(index: u8) -> String {
    match index {
        0..16 => COLORS[usize::from(index)].to_owned(),
        16..232 => {
            let index = index - 16;
            let level = |step: u8| if step == 0 { 0 } else { 55 + 40 * step };
            let (red, green, blue) = (index / 36, index / 6 % 6, index % 6);
            format!("#{:02x}{:02x}{:02x}", level(red), level(green), level(blue))
        }
        232.. => {
            let grey = 8 + 10 * (index - 232);
            format!("#{grey:02x}{grey:02x}{grey:02x}")
        }
    }
}

/// Cells of a row that are drawn together.
struct Piece {
    text: String,
    at: u32,
    cells: u32,
    style: Style,
}

impl Piece {
    fn of(cell: &Cell, at: u32) -> Self {
        let text = match cell.contents() {
            "" => " ",
            text => text,
        };
        Self {
            text: text.to_owned(),
            at,
            cells: if cell.is_wide() { 2 } else { 1 },
            style: Style::of(cell),
        }
    }

    /// Whether it can be drawn together with the next: fonts agree on the width of ASCII alone.
    fn takes(&self, next: &Self) -> bool {
        let plain = |piece: &Self| piece.text.is_ascii();
        let same = self.text.starts_with(&next.text) && Shape::of(&next.text).is_some();
        self.style == next.style && ((plain(self) && plain(next)) || same)
    }

    fn take(&mut self, next: &Self) {
        self.text.push_str(&next.text);
        self.cells += next.cells;
    }

    fn x(&self) -> u32 {
        MARGIN + self.at * CELL.0
    }

    fn draw(&self, y: u32, svg: &mut String) {
        let style = self.style.attributes();
        if let Some(shape) = Shape::of(&self.text) {
            return shape.draw(self.x(), y, self.cells, &style, svg);
        }
        let text = self.text.trim_end_matches(' ');
        let start = text.trim_start_matches(' ');
        if start.is_empty() && !self.style.underline {
            return;
        }
        // Blanks are all of one cell, whatever else the piece holds.
        let before = (text.len() - start.len()) as u32;
        let after = (self.text.len() - text.len()) as u32;
        let wide = (self.cells - before - after) * CELL.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" textLength=\"{wide}\" lengthAdjust=\"spacingAndGlyphs\"{style}>{}</text>",
            self.x() + before * CELL.0,
            y + BASELINE,
            // Programs that draw SVG make one blank of several.
            escaped(start).replace("  ", " \u{a0}")
        );
    }
}

/// What is drawn and not written.
enum Shape {
    /// Half lines from the middle of the cell: left, right, up, down.
    Lines([bool; 4]),
    /// A part of the cell in eighths: from the left, from the bottom.
    Block(u32, u32),
    /// The whole cell, thinly.
    Shade,
}

impl Shape {
    fn of(text: &str) -> Option<Self> {
        let sides =
            |sides: &str| Self::Lines(['l', 'r', 'u', 'd'].map(|side| sides.contains(side)));
        Some(match text.chars().next()? {
            '─' => sides("lr"),
            '│' => sides("ud"),
            '┌' => sides("rd"),
            '┐' => sides("ld"),
            '└' => sides("ru"),
            '┘' => sides("lu"),
            '├' => sides("rud"),
            '┤' => sides("lud"),
            '┬' => sides("lrd"),
            '┴' => sides("lru"),
            '┼' => sides("lrud"),
            block @ '▁'..='█' => Self::Block(8, u32::from(block) - u32::from('▁') + 1),
            block @ '▉'..='▏' => Self::Block(7 - (u32::from(block) - u32::from('▉')), 8),
            '░' => Self::Shade,
            _ => return None,
        })
    }

    fn draw(&self, x: u32, y: u32, cells: u32, style: &str, svg: &mut String) {
        let mut rect = |x: f64, y: f64, wide: f64, high: f64, more: &str| {
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{high}\"{style}{more}/>"
            );
        };
        let (x, y) = (f64::from(x), f64::from(y));
        let (cell, high) = (f64::from(CELL.0), f64::from(CELL.1));
        let wide = cell * f64::from(cells);
        match self {
            Self::Lines([left, right, up, down]) => {
                let (middle, half) = (y + high / 2.0 - 0.5, (cell - 1.0) / 2.0);
                if *left || *right {
                    let from = if *left { 0.0 } else { half };
                    let to = if *right { wide } else { wide - half };
                    rect(x + from, middle, to - from, 1.0, "");
                }
                for at in 0..cells {
                    let x = x + f64::from(at) * cell + half;
                    if *up || *down {
                        let from = if *up { 0.0 } else { high / 2.0 };
                        let to = if *down { high } else { high / 2.0 };
                        rect(x, y + from, 1.0, to - from, "");
                    }
                }
            }
            Self::Block(across, up) if *across == 8 => {
                let part = high * f64::from(*up) / 8.0;
                rect(x, y + high - part, wide, part, "");
            }
            Self::Block(across, _) => {
                for at in 0..cells {
                    let x = x + f64::from(at) * cell;
                    rect(x, y, cell * f64::from(*across) / 8.0, high, "");
                }
            }
            Self::Shade => rect(x, y, wide, high, " fill-opacity=\"0.25\""),
        }
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn drawn(text: &str) -> String {
        let size = |count| NonZeroU16::new(count).unwrap();
        let mut terminal = vt100::Parser::new(size(2), size(10), 0);
        terminal.process(text.as_bytes());
        draw(terminal.screen(), "a test")
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let svg = drawn(text);
        for expected in expected {
            assert!(svg.contains(expected), "{expected} is not in\n{svg}");
        }
    }

    #[test]
    fn every_cell_has_its_place() {
        check(
            "a <b>",
            &[
                "<text x=\"12\" y=\"27\" textLength=\"45\" lengthAdjust=\"spacingAndGlyphs\">a &lt;b&gt;</text>",
            ],
        );
        check(
            "a  b",
            &["textLength=\"36\" lengthAdjust=\"spacingAndGlyphs\">a \u{a0}b</text>"],
        );
        // Wide characters take two cells, and what follows stands behind them.
        check(
            "\u{6f22}x",
            &[
                "<text x=\"12\" y=\"27\" textLength=\"18\" lengthAdjust=\"spacingAndGlyphs\">\u{6f22}</text>",
                "<text x=\"30\" y=\"27\" textLength=\"9\" lengthAdjust=\"spacingAndGlyphs\">x</text>",
            ],
        );
        check(
            "\r\n\u{2713} ok",
            &[
                "<text x=\"12\" y=\"47\" textLength=\"9\"",
                "<text x=\"30\" y=\"47\" textLength=\"18\" lengthAdjust=\"spacingAndGlyphs\">ok</text>",
            ],
        );
    }

    #[test]
    fn colours_are_those_of_the_cells() {
        check(
            "\x1b[1;31mred",
            &["fill=\"#ff7b72\" font-weight=\"bold\">red<"],
        );
        check(
            "\x1b[7mback",
            &[
                "<rect x=\"12\" y=\"12\" width=\"36\" height=\"20\" fill=\"#d1d7e0\"/>",
                "fill=\"#161b22\">back<",
            ],
        );
        check("\x1b[38;5;196mcube", &["fill=\"#ff0000\">cube<"]);
        check("\x1b[38;5;244mgrey", &["fill=\"#808080\">grey<"]);
        check("\x1b[38;2;1;2;3mown", &["fill=\"#010203\">own<"]);
    }

    #[test]
    fn lines_and_blocks_are_shapes() {
        check(
            "\u{2500}\u{2500}\u{2510}",
            &[
                "<rect x=\"12\" y=\"21.5\" width=\"18\" height=\"1\"/>",
                "<rect x=\"34\" y=\"22\" width=\"1\" height=\"10\"/>",
            ],
        );
        check(
            "\u{2588}\u{2588}\u{2584}\u{258c}",
            &[
                "<rect x=\"12\" y=\"12\" width=\"18\" height=\"20\"/>",
                "<rect x=\"30\" y=\"22\" width=\"9\" height=\"10\"/>",
                "<rect x=\"39\" y=\"12\" width=\"4.5\" height=\"20\"/>",
            ],
        );
    }
}
