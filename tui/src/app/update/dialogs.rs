//! Keys and pasted text while something lies over the view.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tui_input::{Input, InputRequest};

use super::{act, prompt};
use crate::app::action::Action;
use crate::app::effect::{Effect, Source};
use crate::app::model::overlay::{
    self, Choice, Files, Overlay, Prompt, Purpose, WARM_FIELDS, WarmForm,
};
use crate::app::model::{List, State, View};

/// Longest text that is pasted into a field.
const PASTE: usize = 4096;

/// Takes a key.
pub(super) fn key(state: &mut State, key: &KeyEvent) -> Vec<Effect> {
    let Some(mut overlay) = state.overlay.take() else {
        return Vec::new();
    };
    if key.code == KeyCode::Esc || (is_ctrl(key, 'c') && !matches!(overlay, Overlay::Help { .. })) {
        if let Overlay::Prompt(Prompt {
            purpose: Purpose::Filter { before },
            ..
        }) = overlay
        {
            set_filter(state, &before);
        }
        return Vec::new();
    }
    match &mut overlay {
        Overlay::Help { top, .. } => {
            match key.code {
                KeyCode::Up | KeyCode::Char('k') => *top = top.saturating_sub(1),
                KeyCode::Down | KeyCode::Char('j') => *top += 1,
                KeyCode::PageUp => *top = top.saturating_sub(10),
                KeyCode::PageDown | KeyCode::Char(' ') => *top += 10,
                _ => return Vec::new(),
            }
            state.overlay = Some(overlay);
            Vec::new()
        }
        Overlay::Question(question) => match key.code {
            KeyCode::Char('y' | 'Y') => std::mem::take(&mut question.effects),
            KeyCode::Char('n' | 'N' | 'q') => Vec::new(),
            // Enter is pressed by habit, and what is asked here cannot be undone.
            _ => {
                state.overlay = Some(overlay);
                Vec::new()
            }
        },
        Overlay::Palette(palette) => {
            if key.code == KeyCode::Enter {
                let action = palette.list.chosen().and_then(Action::of);
                return action.map_or_else(Vec::new, |action| act(state, action));
            }
            if !through(&mut palette.list, key) && edit(&mut palette.input, key) {
                palette.arrange();
            }
            state.overlay = Some(overlay);
            Vec::new()
        }
        Overlay::Files(files) => {
            if key.code == KeyCode::Enter {
                return choose(state, overlay);
            }
            if !through(&mut files.list, key) && edit(&mut files.input, key) {
                files.arrange();
            }
            state.overlay = Some(overlay);
            Vec::new()
        }
        Overlay::Prompt(prompt) => {
            if key.code == KeyCode::Enter {
                return answer(state, overlay);
            }
            let changed = edit(&mut prompt.input, key);
            typed(state, overlay, changed);
            Vec::new()
        }
        Overlay::Warm(form) => {
            if key.code == KeyCode::Enter {
                return match form.request() {
                    Ok(request) => vec![Effect::Warm(request)],
                    Err(why) => {
                        state.complain(why);
                        state.overlay = Some(overlay);
                        Vec::new()
                    }
                };
            }
            fill(form, key);
            state.overlay = Some(overlay);
            Vec::new()
        }
    }
}

/// Takes pasted text: into the field that is open, else a hash is opened as what is worked on.
pub(super) fn paste(state: &mut State, text: &str) -> Vec<Effect> {
    let text: String = text
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(PASTE)
        .collect();
    let Some(mut overlay) = state.overlay.take() else {
        let is_path = text.contains('/') || text.ends_with(".toml");
        return if overlay::is_hash(&text) {
            work_on(state, Source::Image(text))
        } else if is_path {
            work_on(state, Source::File(text.into()))
        } else {
            Vec::new()
        };
    };
    let input = match &mut overlay {
        Overlay::Palette(palette) => Some(&mut palette.input),
        Overlay::Files(files) => Some(&mut files.input),
        Overlay::Prompt(prompt) => Some(&mut prompt.input),
        Overlay::Warm(form) => form.input(),
        Overlay::Help { .. } | Overlay::Question(_) => None,
    };
    if let Some(input) = input {
        for c in text.chars() {
            input.handle(InputRequest::InsertChar(c));
        }
    }
    match &mut overlay {
        Overlay::Palette(palette) => palette.arrange(),
        Overlay::Files(files) => files.arrange(),
        _ => {}
    }
    typed(state, overlay, true);
    Vec::new()
}

/// Puts a dialog back; a filter shows its rows, and a search its matches, as they are typed.
fn typed(state: &mut State, overlay: Overlay, changed: bool) {
    if let (true, Overlay::Prompt(Prompt { purpose, input, .. })) = (changed, &overlay) {
        let text = input.value().to_owned();
        match purpose {
            Purpose::Filter { .. } => set_filter(state, &text),
            Purpose::Search => {
                find(state, &text);
            }
            _ => {}
        }
    }
    state.overlay = Some(overlay);
}

fn set_filter(state: &mut State, text: &str) {
    if let Some(list) = state.list() {
        list.filter = text.to_owned();
    }
    state.arrange();
}

/// The click on, or Enter on, the chosen row of an open dialog.
pub(super) fn enter(state: &mut State) -> Vec<Effect> {
    key(state, &KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE))
}

/// Moves through the rows of a dialog; whether the key does that.
fn through(list: &mut List, key: &KeyEvent) -> bool {
    match key.code {
        KeyCode::Up | KeyCode::BackTab => list.move_by(-1),
        KeyCode::Down | KeyCode::Tab => list.move_by(1),
        KeyCode::PageUp => list.move_by(-10),
        KeyCode::PageDown => list.move_by(10),
        _ if is_ctrl(key, 'p') => list.move_by(-1),
        _ if is_ctrl(key, 'n') => list.move_by(1),
        _ => return false,
    }
    true
}

fn is_ctrl(key: &KeyEvent, c: char) -> bool {
    key.code == KeyCode::Char(c) && key.modifiers.contains(KeyModifiers::CONTROL)
}

/// Edits a field as a shell's line is edited; whether its text changed.
fn edit(input: &mut Input, key: &KeyEvent) -> bool {
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let request = match key.code {
        KeyCode::Char('a') if ctrl => InputRequest::GoToStart,
        KeyCode::Char('e') if ctrl => InputRequest::GoToEnd,
        KeyCode::Char('u') if ctrl => InputRequest::DeleteFromStart,
        KeyCode::Char('k') if ctrl => InputRequest::DeleteTillEnd,
        KeyCode::Char('w') if ctrl => InputRequest::DeletePrevWord,
        KeyCode::Char('y') if ctrl => InputRequest::Yank,
        KeyCode::Char('h') if ctrl => InputRequest::DeletePrevChar,
        KeyCode::Char(c) if !ctrl => InputRequest::InsertChar(c),
        KeyCode::Backspace => InputRequest::DeletePrevChar,
        KeyCode::Delete => InputRequest::DeleteNextChar,
        KeyCode::Left if ctrl => InputRequest::GoToPrevWord,
        KeyCode::Right if ctrl => InputRequest::GoToNextWord,
        KeyCode::Left => InputRequest::GoToPrevChar,
        KeyCode::Right => InputRequest::GoToNextChar,
        KeyCode::Home => InputRequest::GoToStart,
        KeyCode::End => InputRequest::GoToEnd,
        _ => return false,
    };
    input.handle(request).is_some_and(|change| change.value)
}

fn fill(form: &mut WarmForm, key: &KeyEvent) {
    match key.code {
        KeyCode::Up | KeyCode::BackTab => form.field = (form.field + WARM_FIELDS - 1) % WARM_FIELDS,
        KeyCode::Down | KeyCode::Tab => form.field = (form.field + 1) % WARM_FIELDS,
        KeyCode::Char(' ') if form.field == WARM_FIELDS - 1 => form.pin = !form.pin,
        _ => {
            if let Some(input) = form.input() {
                edit(input, key);
            }
        }
    }
}

/// Opens what is chosen in the file picker.
fn choose(state: &mut State, overlay: Overlay) -> Vec<Effect> {
    let Overlay::Files(files) = overlay else {
        return Vec::new();
    };
    match files.chosen().cloned() {
        Some(Choice::Directory(directory)) => {
            let recent = files.recent;
            state.overlay = Some(Overlay::Files(Files::new(directory.clone(), recent)));
            vec![Effect::ListDirectory(directory)]
        }
        Some(Choice::Declaration(source)) => work_on(state, source),
        None => {
            state.overlay = Some(Overlay::Files(files));
            Vec::new()
        }
    }
}

/// Makes something what is worked on.
pub(crate) fn work_on(state: &mut State, source: Source) -> Vec<Effect> {
    let spec = &mut state.spec;
    spec.generation += 1;
    spec.source = Some(source.clone());
    spec.declared = None;
    spec.plan = None;
    spec.trouble = None;
    spec.plan_trouble = None;
    spec.watch = false;
    spec.build_next = false;
    spec.reading = true;
    let generation = spec.generation;
    let mut effects = super::open::show(state, View::Spec);
    effects.push(Effect::ReadSpec { source, generation });
    effects
}

/// Does what a text was asked for.
fn answer(state: &mut State, overlay: Overlay) -> Vec<Effect> {
    let Overlay::Prompt(Prompt { input, purpose, .. }) = overlay else {
        return Vec::new();
    };
    let text = input.value().trim().to_owned();
    match purpose {
        Purpose::Filter { .. } => {
            set_filter(state, &text);
            Vec::new()
        }
        Purpose::Search => {
            search(state, &text);
            Vec::new()
        }
        Purpose::Tag { image } if !text.is_empty() => vec![Effect::Tag { image, name: text }],
        Purpose::Prewarm if !text.is_empty() => {
            let mut images = state.warms.prewarm.images.clone();
            if !images.contains(&text) {
                images.push(text);
            }
            vec![Effect::SetPrewarm(images)]
        }
        Purpose::Save { text: saved } if !text.is_empty() => vec![Effect::SaveText {
            path: text.into(),
            text: saved,
        }],
        purpose => {
            // Nothing was said yet.
            let title = match purpose {
                Purpose::Save { .. } => "save to",
                Purpose::Prewarm => "image",
                _ => "name, repository[:tag]",
            };
            prompt(state, title, "", purpose);
            Vec::new()
        }
    }
}

fn search(state: &mut State, text: &str) {
    let matches = find(state, text);
    if let (false, Some((_, 0))) = (text.is_empty(), matches) {
        state.complain(format!("`{text}` is not there"));
    }
}

/// Searches the shown log or text; gives the number of the current match and of all.
fn find(state: &mut State, text: &str) -> Option<(usize, usize)> {
    text.clone_into(&mut state.searched);
    if let View::Build(id) = state.view().clone() {
        let followed = state.builds.followed.get_mut(&id)?;
        followed.pane().search(text);
        return followed.pane().matches();
    }
    let document = state.document()?;
    document.search(text);
    document.matches()
}
