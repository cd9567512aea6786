//! Signs that are drawn, in Unicode or, where the terminal has none, in ASCII.

/// Signs that are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Glyphs {
    pub(crate) unicode: bool,
    pub(crate) ok: &'static str,
    pub(crate) failed: &'static str,
    pub(crate) cached: &'static str,
    pub(crate) waiting: &'static str,
    pub(crate) cancelled: &'static str,
    pub(crate) queued: &'static str,
    pub(crate) mark: &'static str,
    pub(crate) dot: &'static str,
    pub(crate) hollow: &'static str,
    pub(crate) crumb: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) ellipsis: &'static str,
    pub(crate) vertical: &'static str,
    pub(crate) horizontal: &'static str,
    pub(crate) branch: &'static str,
    pub(crate) last: &'static str,
    /// Of a box, by row.
    pub(crate) corners: [[&'static str; 2]; 2],
    pub(crate) full: &'static str,
    pub(crate) empty: &'static str,
    pub(crate) pin: &'static str,
    pub(crate) between: &'static str,
    /// One picture after the other while something runs.
    pub(crate) spinner: &'static [&'static str],
    /// Rising levels of a sparkline.
    pub(crate) levels: &'static [&'static str],
}

pub(crate) const UNICODE: Glyphs = Glyphs {
    unicode: true,
    ok: "✓",
    failed: "✗",
    cached: "=",
    waiting: "·",
    cancelled: "⊘",
    queued: "◌",
    mark: "▌",
    dot: "●",
    hollow: "○",
    crumb: "›",
    up: "↑",
    down: "↓",
    ellipsis: "…",
    vertical: "│",
    horizontal: "─",
    branch: "├",
    last: "└",
    corners: [["┌", "┐"], ["└", "┘"]],
    full: "█",
    empty: "░",
    pin: "◆",
    between: "·",
    spinner: &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"],
    levels: &["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
};

pub(crate) const ASCII: Glyphs = Glyphs {
    unicode: false,
    ok: "+",
    failed: "x",
    cached: "=",
    waiting: ".",
    cancelled: "/",
    queued: "~",
    mark: "*",
    dot: "*",
    hollow: "o",
    crumb: ">",
    up: "^",
    down: "v",
    ellipsis: "~",
    vertical: "|",
    horizontal: "-",
    branch: "|",
    last: "`",
    corners: [["+", "+"], ["+", "+"]],
    full: "#",
    empty: ".",
    pin: "!",
    between: "-",
    spinner: &["|", "/", "-", "\\"],
    levels: &["_", ".", "-", "=", "+", "*", "#", "@"],
};

impl Glyphs {
    /// The signs for a locale: the first of `LC_ALL`, `LC_CTYPE` and `LANG` that is set counts.
    pub(crate) fn of_locale(variable: impl Fn(&str) -> Option<String>) -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| variable(name).filter(|value| !value.is_empty()))
            .unwrap_or_default()
            .to_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") {
            UNICODE
        } else {
            ASCII
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr as _;

    #[test]
    fn every_sign_is_one_column_wide() {
        for glyphs in [UNICODE, ASCII] {
            let singles = [
                glyphs.ok,
                glyphs.failed,
                glyphs.cached,
                glyphs.waiting,
                glyphs.cancelled,
                glyphs.queued,
                glyphs.mark,
                glyphs.dot,
                glyphs.hollow,
                glyphs.crumb,
                glyphs.up,
                glyphs.down,
                glyphs.ellipsis,
                glyphs.vertical,
                glyphs.horizontal,
                glyphs.branch,
                glyphs.last,
                glyphs.full,
                glyphs.empty,
                glyphs.pin,
                glyphs.between,
            ];
            let corners = glyphs.corners.concat();
            let many = glyphs.spinner.iter().chain(glyphs.levels).chain(&corners);
            for sign in singles.iter().chain(many) {
                assert_eq!(sign.width(), 1, "{sign}");
                assert!(glyphs.unicode || sign.is_ascii());
            }
        }
    }

    #[test]
    fn the_locale_decides() {
        let of = |value: &'static str| {
            Glyphs::of_locale(move |name| (name == "LANG").then(|| value.to_owned()))
        };
        assert!(of("de_DE.UTF-8").unicode);
        assert!(of("C.utf8").unicode);
        assert!(!of("C").unicode);
        assert!(!of("").unicode);
    }
}
