//! What each action does.

use std::path::PathBuf;

use super::available::available;
use super::building::building;
use super::open::{close, open, show};
use super::subjects::{ask, subjects};
use super::{prompt, subject};
use crate::app::action::Action;
use crate::app::effect::{Effect, Text};
use crate::app::model::overlay::{Files, Overlay, Palette, Purpose};
use crate::app::model::{State, View};

/// Cells that a log moves sideways at once.
const SIDEWAYS: usize = 8;

/// Does an action, or says why not.
pub(crate) fn act(state: &mut State, action: Action) -> Vec<Effect> {
    state.dirty = true;
    if let Err(why) = available(state, action) {
        // A key that goes nowhere is no news worth a word, unless it would change something.
        if !matches!(action, Action::Back | Action::Open | Action::ClearMarks) {
            state.complain(format!("{}: {why}", action.label()));
        }
        return Vec::new();
    }
    match action {
        Action::Up
        | Action::Down
        | Action::PageUp
        | Action::PageDown
        | Action::Top
        | Action::Bottom
        | Action::Left
        | Action::Right
        | Action::NextPane => movement(state, action),
        Action::ShowSpec => show(state, View::Spec),
        Action::ShowBuilds => show(state, View::Builds),
        Action::ShowImages => show(state, View::Images),
        Action::ShowCache => {
            state.fleet.region = None;
            show(state, View::Cache)
        }
        Action::ShowWarms => show(state, View::Warms),
        Action::ShowPrewarm => {
            state.views = vec![View::Warms];
            open(state, View::Prewarm)
        }
        Action::Open | Action::Details => opened(state, action),
        Action::Back => back(state),
        Action::Filter
        | Action::Search
        | Action::NextMatch
        | Action::PreviousMatch
        | Action::Sort
        | Action::SortReverse
        | Action::Mark
        | Action::ClearMarks => rows(state, action),
        Action::Follow | Action::Wrap | Action::Times | Action::SaveLog | Action::Zoom => {
            log(state, action)
        }
        Action::Build
        | Action::BuildForced
        | Action::BuildFrom
        | Action::Watch
        | Action::Cancel
        | Action::Retry
        | Action::JumpToFailure => building(state, action),
        Action::OpenFile => {
            let directory = state.spec.file().and_then(|path| path.parent());
            let directory = directory.map_or_else(|| PathBuf::from("."), PathBuf::from);
            let recent = state.spec.recent.clone();
            state.overlay = Some(Overlay::Files(Files::new(directory.clone(), recent)));
            vec![Effect::ListDirectory(directory)]
        }
        Action::Edit => state
            .spec
            .file()
            .cloned()
            .map(Effect::Edit)
            .into_iter()
            .collect(),
        Action::Lock => state
            .spec
            .file()
            .cloned()
            .map(Effect::Lock)
            .into_iter()
            .collect(),
        Action::Diff
        | Action::Why
        | Action::Manifest
        | Action::Tag
        | Action::Delete
        | Action::Warm
        | Action::Add
        | Action::Drain
        | Action::Collect => subjects(state, action),
        Action::CopyHash => copy(state, subject::copied(state)),
        Action::CopyReference => copy(state, subject::reference(state)),
        Action::Matrix => matrix(state),
        Action::Group => {
            state.fleet.grouped = !state.fleet.grouped;
            state.fleet.region = None;
            state.fleet.list.clear_marks();
            state.fleet.list.first();
            state.fleet.arrange();
            Vec::new()
        }
        Action::ToggleMouse => {
            state.mouse = !state.mouse;
            state.say(if state.mouse {
                "the app has the mouse"
            } else {
                "the terminal has the mouse, to select text its own way"
            });
            vec![Effect::Mouse(state.mouse)]
        }
        Action::ToggleTheme => {
            state.other_tone = !state.other_tone;
            vec![Effect::Redraw]
        }
        Action::Refresh => vec![Effect::Refresh, Effect::Redraw],
        Action::Palette => {
            let wanted = |a: &Action| !a.is_movement() && available(state, *a).is_ok();
            let all = Action::ALL.iter().copied().filter(wanted);
            let all = all.filter(|a| *a != Action::Palette).collect();
            state.overlay = Some(Overlay::Palette(Palette::new(all)));
            Vec::new()
        }
        Action::Help => {
            let place = state.place();
            state.overlay = Some(Overlay::Help { place, top: 0 });
            Vec::new()
        }
        Action::Suspend => vec![Effect::Suspend],
        Action::Quit => quit(state),
    }
}

/// Leaves, unless builds would end by that: then it asks.
fn quit(state: &mut State) -> Vec<Effect> {
    let own = state.connection.link.as_ref().is_some_and(|link| link.own);
    let active = state.builds.active();
    if own && active > 0 && !state.readonly {
        let title = match active {
            1 => "A build runs in this process. End it and leave?".to_owned(),
            count => format!("{count} builds run in this process. End them and leave?"),
        };
        let hint = "With `chalk serve` running, builds go on without the app.".to_owned();
        ask(state, title, vec![hint], vec![Effect::Quit]);
        return Vec::new();
    }
    vec![Effect::Quit]
}

fn copy(state: &mut State, text: Option<String>) -> Vec<Effect> {
    let Some(text) = text else {
        return Vec::new();
    };
    state.say(format!("copied {text}"));
    vec![Effect::Copy(text)]
}

fn movement(state: &mut State, action: Action) -> Vec<Effect> {
    let page = isize::try_from(state.page.max(2) - 1).unwrap_or(1);
    let rows = match action {
        Action::Up => -1,
        Action::Down => 1,
        Action::PageUp => -page,
        Action::PageDown => page,
        _ => 0,
    };
    let view = state.view().clone();
    if let View::Build(id) = &view
        && let Some(followed) = state.builds.followed.get_mut(id)
    {
        match action {
            Action::NextPane => followed.log_focused = !followed.log_focused,
            Action::Left if followed.log_focused && !followed.pane().is_wrapped() => {
                followed.pane().scroll_left(SIDEWAYS);
            }
            Action::Right if followed.log_focused && !followed.pane().is_wrapped() => {
                followed.pane().scroll_right(SIDEWAYS);
            }
            Action::Left if followed.log_focused => followed.log_focused = false,
            Action::Right => followed.log_focused = true,
            _ if followed.log_focused => match action {
                Action::Top => followed.pane().to_top(),
                Action::Bottom => followed.pane().to_bottom(),
                Action::PageUp => followed.pane().page_by(-1),
                Action::PageDown => followed.pane().page_by(1),
                _ => followed.pane().scroll_by(rows),
            },
            _ => {
                followed.auto = false;
                match action {
                    Action::Top => followed.tree.first(),
                    Action::Bottom => followed.tree.last(),
                    _ => followed.tree.move_by(rows),
                }
            }
        }
        return Vec::new();
    }
    if let Some(document) = state.document() {
        match action {
            Action::Top => document.top = 0,
            Action::Bottom => {
                document.scroll_by(isize::MAX);
                document.scroll_by(-page);
            }
            _ => document.scroll_by(rows),
        }
        return Vec::new();
    }
    if view == View::Matrix && matches!(action, Action::Left | Action::Right) {
        let by = if action == Action::Left { -1 } else { 1 };
        state.matrix.move_by(by, &state.fleet);
        return Vec::new();
    }
    if action == Action::Right {
        return act(state, Action::Open);
    }
    if action == Action::Left {
        return close(state);
    }
    if let Some(list) = state.list() {
        match action {
            Action::Top => list.first(),
            Action::Bottom => list.last(),
            _ => list.move_by(rows),
        }
    }
    Vec::new()
}

fn opened(state: &mut State, action: Action) -> Vec<Effect> {
    match (state.view().clone(), action) {
        (View::Build(id), Action::Open) => {
            if let Some(followed) = state.builds.followed.get_mut(&id) {
                followed.log_focused = true;
            }
            Vec::new()
        }
        (View::Cache, Action::Open) if state.fleet.grouped => {
            state.fleet.region = state.fleet.list.chosen().map(str::to_owned);
            state.fleet.grouped = false;
            state.fleet.list.first();
            state.fleet.arrange();
            Vec::new()
        }
        (View::Matrix, Action::Open) if state.matrix.region.is_none() => {
            state.matrix.drill(true, &state.fleet);
            state.arrange();
            Vec::new()
        }
        _ => match subject::opened(state, action) {
            Some(view) => open(state, view),
            None => Vec::new(),
        },
    }
}

fn back(state: &mut State) -> Vec<Effect> {
    if subject::filter(state).is_some_and(|filter| !filter.is_empty()) {
        if let Some(list) = state.list() {
            list.filter.clear();
        }
        state.arrange();
        return Vec::new();
    }
    match state.view().clone() {
        View::Build(id) => {
            if let Some(followed) = state.builds.followed.get_mut(&id)
                && (followed.zoomed || followed.log_focused)
            {
                followed.zoomed = false;
                followed.log_focused = false;
                return Vec::new();
            }
        }
        View::Matrix if state.matrix.region.is_some() => {
            state.matrix.drill(false, &state.fleet);
            state.arrange();
            return Vec::new();
        }
        _ => {}
    }
    close(state)
}

fn rows(state: &mut State, action: Action) -> Vec<Effect> {
    let columns = state.columns();
    match action {
        Action::Filter => {
            if let Some(before) = subject::filter(state).map(str::to_owned) {
                let purpose = Purpose::Filter {
                    before: before.clone(),
                };
                prompt(state, "filter", &before, purpose);
            }
        }
        Action::Search => {
            let before = state.searched.clone();
            prompt(state, "search", &before, Purpose::Search);
        }
        Action::NextMatch | Action::PreviousMatch => {
            let forward = action == Action::NextMatch;
            if let View::Build(id) = state.view().clone() {
                if let Some(followed) = state.builds.followed.get_mut(&id) {
                    if forward {
                        followed.pane().next_match();
                    } else {
                        followed.pane().previous_match();
                    }
                }
            } else if let Some(document) = state.document() {
                document.step(forward);
            }
        }
        Action::Sort if columns > 0 => {
            if let Some(list) = state.list() {
                list.sort = (list.sort + 1) % columns;
                list.reverse = false;
            }
            state.arrange();
        }
        Action::SortReverse => {
            if let Some(list) = state.list() {
                list.reverse = !list.reverse;
            }
            state.arrange();
        }
        Action::Mark => {
            if let Some(list) = state.list() {
                list.toggle_mark();
            }
        }
        Action::ClearMarks => {
            if let Some(list) = state.list() {
                list.clear_marks();
            }
        }
        _ => {}
    }
    Vec::new()
}

fn log(state: &mut State, action: Action) -> Vec<Effect> {
    if let View::Build(id) = state.view().clone() {
        let Some(followed) = state.builds.followed.get_mut(&id) else {
            return Vec::new();
        };
        match action {
            Action::Follow => {
                let follow = !followed.pane().is_following();
                followed.pane().set_follow(follow);
                followed.auto = follow && !followed.log_focused;
                if let (true, Some(step)) = (followed.auto, followed.state.running()) {
                    followed.tree.choose(&step.to_string());
                }
            }
            Action::Wrap => followed.toggle_wrap(),
            Action::Times => followed.toggle_times(),
            Action::Zoom => {
                followed.zoomed = !followed.zoomed;
                followed.log_focused = followed.zoomed || followed.log_focused;
            }
            _ => {
                let text = Text::Log(followed.pane().copy());
                let name = format!("{id}.log");
                prompt(state, "save to", &name, Purpose::Save { text });
            }
        }
        return Vec::new();
    }
    let Some(document) = state.document() else {
        return Vec::new();
    };
    match action {
        Action::Wrap => document.wrap = !document.wrap,
        Action::SaveLog => {
            let text = Text::Lines(document.plain());
            prompt(state, "save to", "chalk.txt", Purpose::Save { text });
        }
        _ => {}
    }
    Vec::new()
}

fn matrix(state: &mut State) -> Vec<Effect> {
    match state.view() {
        View::Matrix => show(state, View::Cache),
        _ => {
            let effects = show(state, View::Cache);
            state.matrix.region = None;
            effects
                .into_iter()
                .chain(open(state, View::Matrix))
                .collect()
        }
    }
}
