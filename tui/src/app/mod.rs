//! The terminal app: `chalk` without a command.
//!
//! [`model`] is all that it knows, without a terminal; [`update`] is the one place where that
//! changes, from [`event`]s to [`effect`]s; [`view`] draws it; [`feed`] speaks with the service;
//! [`run`] turns the wheel. Keys, mouse, palette, help and configuration share the words of
//! [`action`].

mod action;
mod background;
pub(crate) mod config;
mod describe;
mod editor;
mod effect;
mod event;
mod feed;
mod frames;
mod glyphs;
mod keymap;
mod log;
mod model;
mod run;
#[cfg(test)]
mod samples;
mod terminal;
mod theme;
mod update;
mod view;

use std::io::IsTerminal as _;

use jiff::Timestamp;

use crate::cli;
use crate::error::Failure;
use crate::settings::Loaded;
use config::{Config, GlyphChoice, Mistake, ThemeChoice};
use effect::Effect;
use event::{Event, Feed, Trouble};
use feed::Runner;
use glyphs::Glyphs;
use model::State;
use run::Loop;
use theme::{Theme, Tone};

/// News that wait to be taken in. Each may be hundreds of lines of a log, so that many would take more
/// room than the log itself.
const QUEUE: usize = 64;

/// How the app looks.
pub(crate) struct Look {
    theme: Theme,
    other: Theme,
    glyphs: Glyphs,
    /// Whether the terminal is to be asked which theme it needs.
    ask: bool,
}

impl Look {
    fn new(config: &Config, variable: impl Fn(&str) -> Option<String>) -> Self {
        let no_color = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colors = !no_color && config.theme != ThemeChoice::None;
        let tone = match config.theme {
            ThemeChoice::Dark => Tone::Dark,
            ThemeChoice::Light => Tone::Light,
            ThemeChoice::Auto | ThemeChoice::None => {
                Tone::of_terminal(variable("COLORFGBG").as_deref())
            }
        };
        let auto = config.theme == ThemeChoice::Auto;
        Self {
            ask: auto && colors && background::can_answer(variable("TERM").as_deref()),
            theme: Theme::new(tone, colors, &config.colors),
            other: Theme::new(tone.other(), colors, &config.colors),
            glyphs: match config.glyphs {
                GlyphChoice::Unicode => glyphs::UNICODE,
                GlyphChoice::Ascii => glyphs::ASCII,
                GlyphChoice::Auto => Glyphs::of_locale(variable),
            },
        }
    }

    /// The terminal said what it is.
    fn set_tone(&mut self, tone: Tone) {
        if self.theme.tone != tone {
            std::mem::swap(&mut self.theme, &mut self.other);
        }
    }

    fn theme(&self, other: bool) -> &Theme {
        if other { &self.other } else { &self.theme }
    }
}

/// Opens the app and runs it to its end.
///
/// # Errors
/// Without a terminal, when the terminal is lost, and by a signal.
pub(crate) async fn open(loaded: &Loaded, args: &cli::App) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Failure::usage("`chalk` without a command is an app for a terminal").hint(
            "without one, `chalk compute image build FILE` builds, `chalk compute image ls` and `chalk compute image builds` list, `chalk compute image logs BUILD --follow` follows, `chalk compute image warm` warms; `chalk --help` lists all",
        ));
    }
    let secrets = crate::commands::build::secrets(&args.secrets)?;
    let variable = |name: &str| std::env::var(name).ok();
    let (mut config, mistakes) = load(variable)?;
    config.readonly |= args.readonly;
    let look = Look::new(&config, variable);
    let size = crossterm::terminal::size().unwrap_or((80, 24));
    let mut state = State::new(config, Timestamp::now(), size);
    if let Some(mistake) = mistakes.first() {
        let text = format!("app.toml, {mistake}; `chalk config check` lists all");
        state.complain(text);
    }
    let (told, feed) = tokio::sync::mpsc::channel(QUEUE);
    let runner = Runner::new(loaded.clone(), secrets, told);
    terminal::catch_panics();
    let mut effects = vec![Effect::Attend(state.view().clone())];
    effects.extend(opening(&mut state, args));
    let (state, runner, result) = Loop::new(state, look, runner, feed)?.run(effects).await;
    for line in state.farewell() {
        crate::output::aside(&line);
    }
    tokio::select! {
        () = runner.close() => {}
        // Builds that others wait for may take long; whoever is in a hurry ends them.
        () = run::signalled() => {}
    }
    result
}

/// What is worked on at first: what was named, else what lies in this directory, else the example of
/// a checkout, else what was worked on last.
fn opening(state: &mut State, args: &cli::App) -> Vec<Effect> {
    let recent = feed::recent::load();
    let named = args.open.clone().map(|path| {
        // A directory stands for the declaration in it.
        crate::declaration::find(&path).unwrap_or(path)
    });
    let here = || crate::declaration::find(std::path::Path::new(".")).ok();
    let example = || {
        let path = std::path::PathBuf::from("examples/quickstart/image.toml");
        path.is_file().then_some(path)
    };
    let last = || recent.iter().find(|path| path.is_file()).cloned();
    let first = named.or_else(here).or_else(example).or_else(last);
    let mut effects = update::update(state, Event::Feed(Feed::Recent(recent.clone())));
    if let Some(path) = first {
        effects.extend(update::work_on(state, effect::Source::File(path)));
    }
    effects
}

/// The configuration with what is wrong in it; the default where there is no file.
fn load(variable: impl Fn(&str) -> Option<String>) -> Result<(Config, Vec<Mistake>), Failure> {
    let Some(path) = config::path(variable) else {
        return Ok((Config::default(), Vec::new()));
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(config::read(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok((Config::default(), Vec::new()))
        }
        Err(error) => Err(Failure::usage(format!("cannot read {}", path.display())).why(error)),
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}
