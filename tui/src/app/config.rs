//! The app's own configuration: a TOML file with look, keys and colours.
//!
//! ```toml
//! theme = "auto"          # auto, dark, light or none
//! glyphs = "auto"         # auto, unicode or ascii
//! mouse = true
//! readonly = false
//! notify = "bell"         # bell, osc9 or off
//! notify-after = 10       # seconds that a build took at least
//! log-lines = 1000000     # lines kept of a log
//!
//! [colors]                # by role: modifiers, colour, `on` and the colour of the ground
//! failed = "bold red"
//!
//! [keys.everywhere]       # by view and action: one chord or several
//! quit = ["q", "ctrl-q"]
//! ```

use std::path::PathBuf;

use ratatui::style::Style;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::action::Action;
use super::keymap::{Chord, Keymap, Place};
use super::theme::{self, Role};

/// Fewest lines that a log may be limited to.
const LOG_LINES_MIN: i64 = 1_000;
const LOG_LINES_MAX: i64 = 10_000_000;

/// What the file says, over the defaults.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) theme: ThemeChoice,
    pub(crate) glyphs: GlyphChoice,
    pub(crate) mouse: bool,
    pub(crate) readonly: bool,
    pub(crate) notify: Notify,
    /// Seconds that a build took at least to be told of.
    pub(crate) notify_after: f64,
    pub(crate) log_lines: usize,
    pub(crate) colors: Vec<(Role, Style)>,
    pub(crate) keys: Keymap,
}

/// Which theme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThemeChoice {
    /// What the terminal says.
    Auto,
    Dark,
    Light,
    /// No colours, as with `NO_COLOR`.
    None,
}

/// Which signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GlyphChoice {
    /// What the locale says.
    Auto,
    Unicode,
    Ascii,
}

/// How the end of a long build is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notify {
    Bell,
    Osc9,
    Off,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            theme: ThemeChoice::Auto,
            glyphs: GlyphChoice::Auto,
            mouse: true,
            readonly: false,
            notify: Notify::Bell,
            notify_after: 10.0,
            log_lines: 1_000_000,
            colors: Vec::new(),
            keys: Keymap::default(),
        }
    }
}

/// Something in the file that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Line, counted from 1.
    pub(crate) line: usize,
    /// Field, as `keys.builds.cancel`; empty when the file is no TOML at all.
    pub(crate) field: String,
    pub(crate) what: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.what)
    }
}

/// Where the file lies: `CHALK_APP_CONFIG`, else `chalk/app.toml` in the XDG configuration directory.
pub(crate) fn path(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(path) = set("CHALK_APP_CONFIG") {
        return Some(path.into());
    }
    let directory = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(directory.join("chalk/app.toml"))
}

/// Reads a file's text. What is wrong is left at its default.
pub(crate) fn read(text: &str) -> (Config, Vec<Mistake>) {
    let mut reader = Reader {
        text,
        config: Config::default(),
        keys_set: Vec::new(),
        mistakes: Vec::new(),
    };
    match DeTable::parse(text) {
        Ok(table) => reader.top(table.get_ref()),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let line = reader.line(at);
            reader.mistakes.push(Mistake {
                line,
                field: String::new(),
                what: error.message().to_owned(),
            });
        }
    }
    // A table is gone through by name.
    reader.mistakes.sort_by_key(|mistake| mistake.line);
    (reader.config, reader.mistakes)
}

struct Reader<'t> {
    text: &'t str,
    config: Config,
    keys_set: Vec<(Place, Action)>,
    mistakes: Vec<Mistake>,
}

type Value<'t> = Spanned<DeValue<'t>>;

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }

    fn wrong(&mut self, value: &Value<'_>, field: &str, what: impl Into<String>) {
        let line = self.line(value.span().start);
        self.mistakes.push(Mistake {
            line,
            field: field.to_owned(),
            what: what.into(),
        });
    }

    fn top(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            match name {
                "theme" => {
                    let words = [
                        ("auto", ThemeChoice::Auto),
                        ("dark", ThemeChoice::Dark),
                        ("light", ThemeChoice::Light),
                        ("none", ThemeChoice::None),
                    ];
                    if let Some(choice) = self.word(value, name, &words) {
                        self.config.theme = choice;
                    }
                }
                "glyphs" => {
                    let words = [
                        ("auto", GlyphChoice::Auto),
                        ("unicode", GlyphChoice::Unicode),
                        ("ascii", GlyphChoice::Ascii),
                    ];
                    if let Some(choice) = self.word(value, name, &words) {
                        self.config.glyphs = choice;
                    }
                }
                "notify" => {
                    let words = [
                        ("bell", Notify::Bell),
                        ("osc9", Notify::Osc9),
                        ("off", Notify::Off),
                    ];
                    if let Some(choice) = self.word(value, name, &words) {
                        self.config.notify = choice;
                    }
                }
                "mouse" => self.config.mouse = self.truth(value, name, self.config.mouse),
                "readonly" => self.config.readonly = self.truth(value, name, self.config.readonly),
                "notify-after" => {
                    if let Some(seconds) = self.whole(value, name, 0, 86_400) {
                        self.config.notify_after = seconds as f64;
                    }
                }
                "log-lines" => {
                    if let Some(lines) = self.whole(value, name, LOG_LINES_MIN, LOG_LINES_MAX) {
                        self.config.log_lines = usize::try_from(lines).unwrap_or(usize::MAX);
                    }
                }
                "colors" => self.colors(value),
                "keys" => self.keys(value),
                _ => self.wrong(value, name, "there is no such setting"),
            }
        }
    }

    fn word<T: Copy>(&mut self, value: &Value<'_>, field: &str, words: &[(&str, T)]) -> Option<T> {
        let given = value.get_ref().as_str();
        let found = words.iter().find(|(word, _)| Some(*word) == given);
        if found.is_none() {
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.wrong(value, field, format!("must be one of {}", list.join(", ")));
        }
        found.map(|(_, choice)| *choice)
    }

    fn truth(&mut self, value: &Value<'_>, field: &str, known: bool) -> bool {
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong(value, field, "must be true or false");
            known
        })
    }

    fn whole(&mut self, value: &Value<'_>, field: &str, least: i64, most: i64) -> Option<i64> {
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok())
            .filter(|n| (least..=most).contains(n));
        if number.is_none() {
            self.wrong(
                value,
                field,
                format!("must be a whole number from {least} to {most}"),
            );
        }
        number
    }

    fn colors(&mut self, value: &Value<'_>) {
        let Some(table) = value.get_ref().as_table() else {
            return self.wrong(value, "colors", "must be a table");
        };
        for (key, value) in table {
            let name: &str = key.get_ref();
            let field = format!("colors.{name}");
            let Some(role) = Role::ALL.iter().find(|role| role.word() == name) else {
                let roles: Vec<&str> = Role::ALL.iter().map(|role| role.word()).collect();
                let what = format!("there is no such role; there are {}", roles.join(", "));
                self.wrong(value, &field, what);
                continue;
            };
            match value.get_ref().as_str().map(theme::style) {
                Some(Ok(style)) => self.config.colors.push((*role, style)),
                Some(Err(what)) => self.wrong(value, &field, what),
                None => self.wrong(value, &field, "must be text such as \"bold red\""),
            }
        }
    }

    fn keys(&mut self, value: &Value<'_>) {
        let Some(places) = value.get_ref().as_table() else {
            return self.wrong(value, "keys", "must be a table");
        };
        for (key, value) in places {
            let name: &str = key.get_ref();
            let field = format!("keys.{name}");
            let Some(place) = Place::of(name) else {
                let places: Vec<&str> = Place::ALL.iter().map(|place| place.word()).collect();
                let what = format!("there is no such view; there are {}", places.join(", "));
                self.wrong(value, &field, what);
                continue;
            };
            let Some(actions) = value.get_ref().as_table() else {
                self.wrong(value, &field, "must be a table");
                continue;
            };
            for (key, value) in actions {
                let name: &str = key.get_ref();
                self.key(place, name, value, &format!("{field}.{name}"));
            }
        }
    }

    fn key(&mut self, place: Place, name: &str, value: &Value<'_>, field: &str) {
        let Some(action) = Action::of(name) else {
            return self.wrong(
                value,
                field,
                "there is no such action; `chalk` lists them with `?`",
            );
        };
        let texts: Option<Vec<&str>> = match value.get_ref() {
            DeValue::String(text) => Some(vec![text]),
            DeValue::Array(list) => list.iter().map(|item| item.get_ref().as_str()).collect(),
            _ => None,
        };
        let Some(texts) = texts else {
            return self.wrong(
                value,
                field,
                "must be a key such as \"x\", or a list of keys",
            );
        };
        let mut chords: Vec<Chord> = Vec::new();
        for text in texts {
            match text.parse() {
                Ok(chord) => chords.push(chord),
                Err(what) => {
                    let what: String = what;
                    self.wrong(value, field, what);
                }
            }
        }
        match self.config.keys.set(place, action, &chords, &self.keys_set) {
            Ok(()) => self.keys_set.push((place, action)),
            Err((chord, other)) => {
                let what = format!("`{chord}` is set for `{}` already", other.word());
                self.wrong(value, field, what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(read(""), (Config::default(), Vec::new()));
    }

    #[test]
    fn everything_can_be_set() {
        let text = r#"
            theme = "light"
            glyphs = "ascii"
            mouse = false
            readonly = true
            notify = "osc9"
            notify-after = 60
            log-lines = 5000
            [colors]
            failed = "bold white on red"
            [keys.everywhere]
            quit = ["q", "ctrl-q"]
            [keys.builds]
            cancel = "X"
        "#;
        let (config, mistakes) = read(text);
        assert_eq!(mistakes, []);
        assert_eq!(config.theme, ThemeChoice::Light);
        assert_eq!(config.glyphs, GlyphChoice::Ascii);
        assert!(!config.mouse && config.readonly);
        assert_eq!((config.notify, config.notify_after), (Notify::Osc9, 60.0));
        assert_eq!(config.log_lines, 5000);
        assert_eq!(config.colors.len(), 1);
        let chord = config.keys.chord(Place::Builds, Action::Cancel);
        assert_eq!(chord.map(|c| c.to_string()).as_deref(), Some("X"));
    }

    #[test]
    fn mistakes_have_their_line_and_field() {
        let check = |text: &str, line: usize, field: &str, part: &str| {
            let (config, mistakes) = read(text);
            assert_eq!(mistakes.len(), 1, "{text}: {mistakes:?}");
            let mistake = &mistakes[0];
            assert_eq!(
                (mistake.line, mistake.field.as_str()),
                (line, field),
                "{text}"
            );
            assert!(mistake.what.contains(part), "{mistake}");
            assert_eq!(config.theme, ThemeChoice::Auto);
        };
        check("theme = \"blue\"", 1, "theme", "dark");
        check("\n\nmouse = 1", 3, "mouse", "true or false");
        check("colour = 1", 1, "colour", "no such setting");
        check("[colors]\nfailed = \"rde\"", 2, "colors.failed", "`rde`");
        check("[colors]\nfial = \"red\"", 2, "colors.fial", "failed");
        check("[keys.bulds]\ncancel = \"x\"", 1, "keys.bulds", "builds");
        check(
            "[keys.builds]\ncancl = \"x\"",
            2,
            "keys.builds.cancl",
            "no such action",
        );
        check(
            "[keys.builds]\ncancel = \"shift-x\"",
            2,
            "keys.builds.cancel",
            "`X`",
        );
        check(
            "[keys.builds]\ncancel = \"p\"\nretry = \"p\"",
            3,
            "keys.builds.retry",
            "`cancel` already",
        );
        check("log-lines = 3", 1, "log-lines", "1000");
        check("a = = b", 1, "", "");
    }

    #[test]
    fn the_file_is_looked_for_where_xdg_says() {
        let of = |pairs: &'static [(&str, &str)]| {
            path(move |name| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_owned())
            })
        };
        assert_eq!(
            of(&[("HOME", "/h")]),
            Some("/h/.config/chalk/app.toml".into())
        );
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]),
            Some("/c/chalk/app.toml".into())
        );
        assert_eq!(
            of(&[("CHALK_APP_CONFIG", "/a.toml")]),
            Some("/a.toml".into())
        );
        assert_eq!(of(&[]), None);
    }
}
