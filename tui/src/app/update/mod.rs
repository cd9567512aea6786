//! The one place where the model changes: an event goes in, effects come out. No I/O, no clock: time
//! comes as an event.

mod act;
mod available;
mod building;
mod dialogs;
mod feed;
mod open;
mod pointer;
mod subject;
mod subjects;
#[cfg(test)]
mod tests;

use super::action::Action;
use super::effect::Effect;
use super::event::{Event, PointerKind};
use super::model::overlay::{Overlay, Prompt, Purpose};
use super::model::{LinkState, State, View};

pub(crate) use available::{available, footer};
pub(crate) use dialogs::work_on;

/// Takes an event in.
pub(crate) fn update(state: &mut State, event: Event) -> Vec<Effect> {
    match event {
        Event::Key(key) => {
            state.dirty = true;
            state.went_on();
            if state.overlay.is_some() {
                return dialogs::key(state, &key);
            }
            state.drag = None;
            match state.config.keys.action(state.place(), &key) {
                Some(action) => act::act(state, action),
                None => Vec::new(),
            }
        }
        Event::Pointer(pointer) => {
            if pointer.kind == PointerKind::Press {
                state.went_on();
            }
            pointer::point(state, &pointer)
        }
        Event::Paste(text) => {
            state.dirty = true;
            state.went_on();
            dialogs::paste(state, &text)
        }
        Event::Resize(columns, rows) => {
            state.size = (columns, rows);
            state.drag = None;
            state.dirty = true;
            Vec::new()
        }
        Event::Tick(now) => tick(state, now),
        Event::Feed(feed) => feed::take(state, feed),
    }
}

/// Does what an action says, as a key, a click or the palette asks for it.
pub(crate) fn act(state: &mut State, action: Action) -> Vec<Effect> {
    act::act(state, action)
}

fn tick(state: &mut State, now: jiff::Timestamp) -> Vec<Effect> {
    let before = state.now;
    state.now = now;
    state.expire_notice();
    // Running times and the spinner move a few times a second, ages once a second.
    let moving = state.builds.active() > 0
        || state.spec.reading
        || state.spec.planning
        || state.spec.uploading.is_some()
        || matches!(
            state.connection.state,
            LinkState::Connecting | LinkState::Lost { .. }
        );
    if moving || before.as_second() != now.as_second() {
        state.dirty = true;
    }
    // Only where it is seen: what others do all day need not be planned for.
    if *state.view() == View::Spec && state.connection.is_up() && state.spec.replan(now) {
        let generation = state.spec.generation;
        return vec![Effect::Plan { generation }];
    }
    Vec::new()
}

/// Asks for a text.
fn prompt(state: &mut State, title: &'static str, text: &str, purpose: Purpose) {
    state.overlay = Some(Overlay::Prompt(Prompt {
        title,
        input: tui_input::Input::new(text.to_owned()),
        purpose,
    }));
}
