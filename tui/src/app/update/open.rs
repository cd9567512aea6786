//! Going from view to view.

use crate::app::effect::Effect;
use crate::app::model::{State, View};

/// Shows a view that has a tab, with nothing else open.
pub(super) fn show(state: &mut State, view: View) -> Vec<Effect> {
    state.views = vec![view];
    entered(state)
}

/// Opens a view over those that are open.
pub(super) fn open(state: &mut State, view: View) -> Vec<Effect> {
    // A view that is open already is gone back to.
    if let Some(at) = state.views.iter().position(|v| *v == view) {
        state.views.truncate(at + 1);
    } else {
        state.views.push(view);
    }
    entered(state)
}

/// Closes the shown view, if it is not the only one.
pub(super) fn close(state: &mut State) -> Vec<Effect> {
    if state.views.len() > 1 {
        state.views.pop();
    }
    entered(state)
}

/// What a view needs when it comes up.
fn entered(state: &mut State) -> Vec<Effect> {
    state.dirty = true;
    state.drag = None;
    let open = state.views.clone();
    state.documents.retain(|view, _| open.contains(view));
    let view = state.view().clone();
    let mut effects = vec![Effect::Attend(view.clone())];
    match &view {
        View::Build(id) => {
            state.count += 1;
            let lines = state.config.log_lines;
            let count = state.count;
            match state.builds.followed.get_mut(id) {
                Some(followed) => followed.looked = count,
                None => {
                    for gone in state.builds.follow(id, lines, count) {
                        effects.push(Effect::LeaveBuild(gone));
                    }
                    effects.push(Effect::FollowBuild(id.clone()));
                }
            }
        }
        View::Warm(id) if state.warms.followed.as_ref() != Some(id) => {
            state.warms.followed = Some(id.clone());
            effects.push(Effect::FollowWarm(id.clone()));
        }
        View::Node(name) => effects.push(Effect::LoadListing(name.clone())),
        text if text.is_text() && !state.documents.contains_key(text) => {
            effects.extend(load(state, text));
        }
        _ => {}
    }
    state.arrange();
    effects
}

/// What brings the text of a view.
fn load(state: &State, view: &View) -> Option<Effect> {
    Some(match view {
        View::Image(hash) => Effect::LoadImage(hash.clone()),
        View::Manifest(hash) => Effect::LoadManifest(hash.clone()),
        View::Diff(before, after) => Effect::Diff {
            before: before.clone(),
            after: after.clone(),
        },
        View::Why(image) => {
            let image: chalk_core::Digest = image.parse().ok()?;
            let known = state.images.all.get(&image);
            // The newest build that gave it.
            let build = state
                .builds
                .all
                .values()
                .rev()
                .find(|b| b.image_hash == image);
            Effect::Why {
                image: image.to_string(),
                name: build
                    .and_then(|b| b.name.clone())
                    .or_else(|| known?.names.first().cloned()),
                created: build
                    .map(|b| b.created.clone())
                    .or_else(|| Some(known?.created.clone()))
                    .unwrap_or_default(),
            }
        }
        View::WhySpec => Effect::WhySpec,
        _ => return None,
    })
}
