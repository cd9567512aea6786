//! The mouse: a click chooses, a click on what is chosen opens, the wheel scrolls what lies under it,
//! and a drag selects text and copies it.

use super::{act, dialogs};
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::event::{Pointer, PointerKind, Target};
use crate::app::model::{Drag, Overlay, State, View};

/// Rows that one notch of the wheel moves.
const NOTCH: isize = 3;

/// Takes what the mouse did.
pub(super) fn point(state: &mut State, pointer: &Pointer) -> Vec<Effect> {
    match pointer.kind {
        PointerKind::Press => {
            state.dirty = true;
            state.drag = None;
            if let View::Build(id) = state.view().clone()
                && let Some(followed) = state.builds.followed.get_mut(&id)
            {
                followed.pane().clear_selection();
            }
            press(state, pointer)
        }
        PointerKind::Drag => {
            state.dirty = true;
            drag(state, pointer);
            Vec::new()
        }
        PointerKind::Release => release(state),
        PointerKind::WheelUp => wheel(state, pointer, -NOTCH),
        PointerKind::WheelDown => wheel(state, pointer, NOTCH),
    }
}

fn press(state: &mut State, pointer: &Pointer) -> Vec<Effect> {
    let in_log = pointer.target == Some(Target::Log);
    state.drag = Some(Drag {
        from: (pointer.column, pointer.row),
        to: (pointer.column, pointer.row),
        log: in_log,
        text: String::new(),
    });
    if state.overlay.is_some() {
        return over(state, pointer.target.as_ref());
    }
    match &pointer.target {
        Some(Target::Row(at)) => {
            let Some(list) = state.list() else {
                return Vec::new();
            };
            if list.at() == *at && !list.is_empty() {
                return act(state, Action::Open);
            }
            list.choose_at(*at);
        }
        Some(Target::Step(at)) => {
            if let View::Build(id) = state.view().clone()
                && let Some(followed) = state.builds.followed.get_mut(&id)
            {
                followed.log_focused = false;
                followed.auto = false;
                followed.tree.choose_at(*at);
            }
        }
        Some(Target::Log) => {
            if let View::Build(id) = state.view().clone()
                && let Some(followed) = state.builds.followed.get_mut(&id)
            {
                followed.log_focused = true;
                followed.pane().select_from(pointer.column, pointer.row);
            }
        }
        Some(Target::Column(at)) => {
            if let Some(list) = state.list() {
                if list.sort == *at {
                    list.reverse = !list.reverse;
                } else {
                    list.sort = *at;
                    list.reverse = false;
                }
            }
            state.arrange();
        }
        Some(Target::Action(action)) => {
            state.drag = None;
            return act(state, *action);
        }
        Some(Target::Crumb(depth)) => {
            state.drag = None;
            let view = state.views.get(*depth).cloned();
            return view.map_or_else(Vec::new, |view| super::open::open(state, view));
        }
        Some(Target::Text | Target::Choice(_)) | None => {}
    }
    Vec::new()
}

/// A click while a dialog is open: on a row of it, or beside it, which closes it.
fn over(state: &mut State, target: Option<&Target>) -> Vec<Effect> {
    let Some(Target::Choice(at)) = target else {
        return Vec::new();
    };
    match &mut state.overlay {
        Some(Overlay::Palette(palette)) => palette.list.choose_at(*at),
        Some(Overlay::Files(files)) => files.list.choose_at(*at),
        Some(Overlay::Warm(form)) => {
            form.field = *at;
            return Vec::new();
        }
        _ => return Vec::new(),
    }
    dialogs::enter(state)
}

fn drag(state: &mut State, pointer: &Pointer) {
    let Some(drag) = &mut state.drag else {
        return;
    };
    drag.to = (pointer.column, pointer.row);
    if drag.log
        && let View::Build(id) = state.view().clone()
        && let Some(followed) = state.builds.followed.get_mut(&id)
    {
        followed.pane().select_to(pointer.column, pointer.row);
    }
}

fn release(state: &mut State) -> Vec<Effect> {
    let Some(drag) = state.drag.take() else {
        return Vec::new();
    };
    state.dirty = true;
    if drag.from == drag.to {
        return Vec::new();
    }
    let text = match &state.view().clone() {
        View::Build(id) if drag.log => state
            .builds
            .followed
            .get_mut(id)
            .and_then(|followed| followed.pane().selected_text()),
        _ => Some(drag.text),
    };
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
        return Vec::new();
    };
    let lines = text.lines().count();
    state.say(match lines {
        1 => "copied what was selected".to_owned(),
        lines => format!("copied {lines} lines"),
    });
    vec![Effect::Copy(text)]
}

fn wheel(state: &mut State, pointer: &Pointer, rows: isize) -> Vec<Effect> {
    state.dirty = true;
    match &mut state.overlay {
        Some(Overlay::Help { top, .. }) => {
            *top = top.saturating_add_signed(rows);
            return Vec::new();
        }
        Some(Overlay::Palette(palette)) => {
            palette.list.move_by(rows);
            return Vec::new();
        }
        Some(Overlay::Files(files)) => {
            files.list.move_by(rows);
            return Vec::new();
        }
        Some(_) => return Vec::new(),
        None => {}
    }
    if let View::Build(id) = state.view().clone() {
        if let Some(followed) = state.builds.followed.get_mut(&id) {
            if pointer.target == Some(Target::Log) {
                followed.pane().scroll_by(rows);
            } else {
                followed.auto = false;
                followed.tree.move_by(rows.signum());
            }
        }
    } else if let Some(document) = state.document() {
        document.scroll_by(rows);
    } else if let Some(list) = state.list() {
        list.move_by(rows.signum());
    }
    Vec::new()
}
