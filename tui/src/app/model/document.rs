//! A text that is read: an image with all that is known of it, a difference, a manifest, the help.

use super::super::theme::Role;

/// A piece of a line with what it means.
pub(crate) type Span = (Role, String);

/// A text with headings, scrolled and searched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Document {
    lines: Vec<Vec<Span>>,
    /// First line that is shown.
    pub(crate) top: usize,
    pub(crate) wrap: bool,
    search: String,
    /// Lines that match.
    matches: Vec<usize>,
    current: usize,
}

impl Document {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn lines(&self) -> &[Vec<Span>] {
        &self.lines
    }

    pub(crate) fn line(&mut self, spans: Vec<Span>) {
        self.lines.push(spans);
    }

    pub(crate) fn blank(&mut self) {
        if !self.lines.is_empty() {
            self.lines.push(Vec::new());
        }
    }

    pub(crate) fn heading(&mut self, text: impl Into<String>) {
        self.blank();
        self.lines.push(vec![(Role::Title, text.into())]);
    }

    /// A field with its value; a value of several lines goes on below.
    pub(crate) fn field(&mut self, name: &str, role: Role, value: &str) {
        for (at, part) in value.split('\n').enumerate() {
            let name = if at == 0 { name } else { "" };
            self.lines.push(vec![
                (Role::Dim, format!("{name:<12} ")),
                (role, part.to_owned()),
            ]);
        }
    }

    /// Text as it is, line by line.
    pub(crate) fn text(&mut self, role: Role, indent: &str, text: &str) {
        for part in text.lines() {
            self.lines.push(vec![(role, format!("{indent}{part}"))]);
        }
    }

    /// Plain text of all lines.
    pub(crate) fn plain(&self) -> Vec<String> {
        self.lines.iter().map(|line| plain(line)).collect()
    }

    pub(crate) fn scroll_by(&mut self, rows: isize) {
        self.top = self
            .top
            .saturating_add_signed(rows)
            .min(self.lines.len().saturating_sub(1));
    }

    /// Looks for a text in all lines, whatever its case, and goes to the first match below the top.
    pub(crate) fn search(&mut self, text: &str) {
        self.search = text.to_lowercase();
        self.matches.clear();
        self.current = 0;
        if self.search.is_empty() {
            return;
        }
        let found = self.lines.iter().enumerate();
        let found = found.filter(|(_, line)| plain(line).to_lowercase().contains(&self.search));
        self.matches = found.map(|(at, _)| at).collect();
        self.current = self
            .matches
            .iter()
            .position(|at| *at >= self.top)
            .unwrap_or(0);
        self.show_match();
    }

    /// Goes on to another match.
    pub(crate) fn step(&mut self, forward: bool) {
        let count = self.matches.len();
        if count > 0 {
            self.current = (self.current + if forward { 1 } else { count - 1 }) % count;
            self.show_match();
        }
    }

    fn show_match(&mut self) {
        if let Some(at) = self.matches.get(self.current) {
            self.top = at.saturating_sub(3);
        }
    }

    pub(crate) fn searched(&self) -> &str {
        &self.search
    }

    /// Number of the current match and of all.
    pub(crate) fn matches(&self) -> Option<(usize, usize)> {
        let sought = !self.search.is_empty();
        sought.then(|| match self.matches.len() {
            0 => (0, 0),
            count => (self.current + 1, count),
        })
    }

    /// Whether a line is the current match.
    pub(crate) fn is_current(&self, line: usize) -> bool {
        self.matches.get(self.current) == Some(&line)
    }

    /// Puts another text in the place of this one; who reads it stays where they are.
    pub(crate) fn replace(&mut self, other: Self) {
        let (top, wrap) = (self.top, self.wrap);
        let search = std::mem::take(&mut self.search);
        *self = other;
        if !search.is_empty() {
            self.search(&search);
        }
        self.wrap = wrap;
        self.top = top.min(self.lines.len().saturating_sub(1));
    }
}

fn plain(line: &[Span]) -> String {
    line.iter().map(|(_, text)| text.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_goes_over_the_whole_text() {
        let mut document = Document::new();
        for n in 0..100 {
            document.text(Role::Text, "", &format!("Line {n}"));
        }
        document.search("LINE 5");
        assert_eq!(document.matches(), Some((1, 11)));
        document.step(false);
        assert_eq!(document.matches(), Some((11, 11)));
        assert_eq!(document.top, 56);
        document.step(true);
        assert_eq!((document.matches(), document.top), (Some((1, 11)), 2));
        document.search("nowhere");
        assert_eq!(document.matches(), Some((0, 0)));
        document.search("");
        assert_eq!(document.matches(), None);
    }

    #[test]
    fn a_new_text_leaves_the_reader_in_place() {
        let mut document = Document::new();
        document.text(Role::Text, "", &"x\n".repeat(50));
        document.scroll_by(30);
        let mut other = Document::new();
        other.text(Role::Text, "", &"y\n".repeat(40));
        document.replace(other);
        assert_eq!(document.top, 30);
        document.replace(Document::new());
        assert_eq!(document.top, 0);
    }
}
