//! Roles of what is shown, and the styles that they have. The terminal's own 16 colours are all that
//! is used unless the configuration says otherwise.

use std::str::FromStr as _;

use ratatui::style::{Color, Modifier, Style};
use serde::{Deserialize, Serialize};

macro_rules! roles {
    ($($role:ident $word:literal $dark:literal $light:literal;)*) => {
        /// What a piece of the screen means.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) enum Role { $($role,)* }

        impl Role {
            pub(crate) const ALL: &[Self] = &[$(Self::$role,)*];

            /// The word of the configuration.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$role => $word,)* }
            }

            fn default_style(self, tone: Tone) -> &'static str {
                match (self, tone) {
                    $((Self::$role, Tone::Dark) => $dark, (Self::$role, Tone::Light) => $light,)*
                }
            }
        }
    };
}

// No state is told by colour alone: each has a mark or a word beside it.
roles! {
    Text "text" "" "";
    Dim "dim" "dark-gray" "dark-gray";
    Strong "strong" "bold" "bold";
    Title "title" "bold cyan" "bold blue";
    Heading "heading" "dark-gray bold" "dark-gray bold";
    Tab "tab" "" "";
    TabChosen "tab-chosen" "bold reverse" "bold reverse";
    Border "border" "dark-gray" "dark-gray";
    BorderFocused "border-focused" "cyan" "blue";
    Selected "selected" "reverse" "reverse";
    SelectedElsewhere "selected-elsewhere" "bold underline" "bold underline";
    Marked "marked" "bold magenta" "bold magenta";
    Key "key" "bold cyan" "bold blue";
    Ok "ok" "green" "green";
    Running "running" "cyan" "blue";
    Cached "cached" "blue" "cyan";
    Queued "queued" "dark-gray" "dark-gray";
    Warning "warning" "yellow" "bold magenta";
    Failed "failed" "bold red" "bold red";
    Cancelled "cancelled" "magenta" "magenta";
    Hash "hash" "yellow" "magenta";
    Added "added" "green" "green";
    Removed "removed" "red" "red";
    Bar "bar" "green" "green";
    BarEmpty "bar-empty" "dark-gray" "gray";
    Source "source" "magenta" "magenta";
    Match "match" "black on yellow" "black on yellow";
    MatchCurrent "match-current" "black on green bold" "white on red bold";
    Selection "selection" "reverse" "reverse";
}

/// Which way round a terminal's colours are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tone {
    /// Light text on a dark ground.
    Dark,
    /// Dark text on a light ground.
    Light,
}

impl Tone {
    /// What the variable `COLORFGBG` of some terminals says; dark where it says nothing.
    pub(crate) fn of_terminal(colorfgbg: Option<&str>) -> Self {
        let ground = colorfgbg.and_then(|text| text.rsplit(';').next()?.parse::<u8>().ok());
        match ground {
            Some(7 | 9..=15) => Self::Light,
            _ => Self::Dark,
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Dark => Self::Light,
            Self::Light => Self::Dark,
        }
    }
}

/// A style for every role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Theme {
    styles: Vec<Style>,
    /// Whether colours may be used at all.
    pub(crate) colors: bool,
    pub(crate) tone: Tone,
}

impl Theme {
    /// The theme of a tone with changes of the configuration; without `colors` only bold, underline
    /// and reverse are left.
    pub(crate) fn new(tone: Tone, colors: bool, changes: &[(Role, Style)]) -> Self {
        let style = |role: &Role| {
            let changed = changes.iter().rev().find(|(r, _)| r == role);
            let style = match changed {
                Some((_, style)) => *style,
                None => style(role.default_style(tone)).unwrap_or_default(),
            };
            if colors { style } else { without_color(style) }
        };
        Self {
            styles: Role::ALL.iter().map(style).collect(),
            colors,
            tone,
        }
    }

    pub(crate) fn style(&self, role: Role) -> Style {
        self.styles.get(role as usize).copied().unwrap_or_default()
    }
}

fn without_color(style: Style) -> Style {
    let mut plain = Style::new().add_modifier(style.add_modifier);
    // A ground of its own must stay visible.
    if style.bg.is_some() {
        plain = plain.add_modifier(Modifier::REVERSED);
    }
    plain
}

/// A style as text: modifiers and a colour, then `on` and the colour of the ground.
///
/// # Errors
/// With the word that is not understood.
pub(crate) fn style(text: &str) -> Result<Style, String> {
    let mut style = Style::new();
    let mut ground = false;
    for word in text.split_whitespace() {
        let modifier = match word {
            "bold" => Some(Modifier::BOLD),
            "dim" => Some(Modifier::DIM),
            "italic" => Some(Modifier::ITALIC),
            "underline" => Some(Modifier::UNDERLINED),
            "reverse" => Some(Modifier::REVERSED),
            "crossed-out" => Some(Modifier::CROSSED_OUT),
            _ => None,
        };
        if let Some(modifier) = modifier {
            style = style.add_modifier(modifier);
        } else if word == "on" {
            ground = true;
        } else {
            let color = Color::from_str(word).map_err(|_| {
                format!(
                    "`{word}` is no colour; write such as red, light-blue, dark-gray, 208 or #ff8800, and bold, dim, italic, underline or reverse"
                )
            })?;
            style = if ground {
                style.bg(color)
            } else {
                style.fg(color)
            };
        }
    }
    Ok(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_understood() {
        for role in Role::ALL {
            for tone in [Tone::Dark, Tone::Light] {
                assert!(style(role.default_style(tone)).is_ok(), "{role:?} {tone:?}");
            }
            let json = serde_json::to_string(role).unwrap();
            assert_eq!(json, format!("\"{}\"", role.word()));
        }
    }

    #[test]
    fn styles_are_read() {
        assert_eq!(style("").unwrap(), Style::new());
        let expect = Style::new()
            .fg(Color::Red)
            .bg(Color::Black)
            .add_modifier(Modifier::BOLD);
        assert_eq!(style("bold red on black").unwrap(), expect);
        assert!(style("#ff8800").is_ok() && style("208").is_ok());
        assert!(style("rde").unwrap_err().contains("`rde`"));
    }

    #[test]
    fn without_colors_nothing_has_one() {
        let theme = Theme::new(Tone::Dark, false, &[]);
        for role in Role::ALL {
            let style = theme.style(*role);
            assert_eq!((style.fg, style.bg), (None, None), "{role:?}");
        }
        let matched = theme.style(Role::Match);
        assert!(matched.add_modifier.contains(Modifier::REVERSED));
    }

    #[test]
    fn the_terminal_tells_its_tone() {
        assert_eq!(Tone::of_terminal(Some("0;15")), Tone::Light);
        assert_eq!(Tone::of_terminal(Some("15;0")), Tone::Dark);
        assert_eq!(Tone::of_terminal(Some("15;default;0")), Tone::Dark);
        assert_eq!(Tone::of_terminal(None), Tone::Dark);
    }
}
