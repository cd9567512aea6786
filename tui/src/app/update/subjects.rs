//! What is done with the chosen or marked images, nodes and base images.

use super::open::open;
use super::{prompt, subject};
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::model::overlay::{Overlay, Purpose, Question, WarmForm};
use crate::app::model::{State, View};

/// Does one of these actions.
pub(super) fn subjects(state: &mut State, action: Action) -> Vec<Effect> {
    let images = subject::images(state);
    match action {
        Action::Diff => {
            let marked: Vec<String> = state.images.list.marked().iter().cloned().collect();
            let view = match (state.view(), marked.as_slice()) {
                (View::Images, [a, b]) => {
                    // The older one is what the newer is compared with.
                    let created = |hash: &String| state.images.get(hash).map(|i| i.created.clone());
                    let (a, b) = if created(a) <= created(b) {
                        (a, b)
                    } else {
                        (b, a)
                    };
                    View::Diff(a.clone(), Some(b.clone()))
                }
                _ => match images.into_iter().next() {
                    Some(hash) => View::Diff(hash, None),
                    None => return Vec::new(),
                },
            };
            open(state, view)
        }
        Action::Why if *state.view() == View::Spec => open(state, View::WhySpec),
        Action::Why => match images.into_iter().next() {
            Some(hash) => open(state, View::Why(hash)),
            None => Vec::new(),
        },
        Action::Manifest => match images.into_iter().next() {
            Some(hash) => open(state, View::Manifest(hash)),
            None => Vec::new(),
        },
        Action::Tag => {
            if let Some(image) = images.into_iter().next() {
                prompt(state, "name, repository[:tag]", "", Purpose::Tag { image });
            }
            Vec::new()
        }
        Action::Delete => delete(state, &images),
        Action::Warm => {
            let nodes: Vec<String> = match state.view() {
                View::Cache if !state.fleet.grouped => {
                    state.fleet.list.marked().iter().cloned().collect()
                }
                View::Node(name) => vec![name.clone()],
                _ => Vec::new(),
            };
            let region = match state.view() {
                View::Cache if state.fleet.grouped => state.fleet.list.chosen().unwrap_or(""),
                View::Cache => state.fleet.region.as_deref().unwrap_or(""),
                View::Matrix => state.matrix.region.as_deref().unwrap_or(""),
                _ => "",
            };
            let form = WarmForm::new(&images, &nodes, region);
            state.overlay = Some(Overlay::Warm(form));
            Vec::new()
        }
        Action::Add => {
            prompt(state, "image", "", Purpose::Prewarm);
            Vec::new()
        }
        Action::Drain => {
            let Some(node) = subject::node(state).map(str::to_owned) else {
                return Vec::new();
            };
            let draining = state.fleet.nodes.get(&node).map(|n| n.state);
            let drain = draining != Some(chalk_core::wire::NodeState::Draining);
            vec![Effect::Drain { node, drain }]
        }
        Action::Collect => {
            let Some(node) = subject::node(state).map(str::to_owned) else {
                return Vec::new();
            };
            ask(
                state,
                format!("Free all room on {node} that may be freed?"),
                vec!["What is pinned or in use stays.".to_owned()],
                vec![Effect::CollectCache(node)],
            );
            Vec::new()
        }
        _ => Vec::new(),
    }
}

fn delete(state: &mut State, images: &[String]) -> Vec<Effect> {
    match state.view().clone() {
        View::Images => {
            let lines = subject::names(state, images);
            let title = match lines.len() {
                1 => "Delete this image with all its names?".to_owned(),
                count => format!("Delete these {count} images with all their names?"),
            };
            let effects = vec![Effect::DeleteImages(images.to_vec())];
            ask(state, title, lines, effects);
        }
        View::Node(node) => {
            if let Some(image) = state.fleet.contents.chosen().map(str::to_owned) {
                let title = format!("Remove this image from the cache of {node}?");
                let effect = Effect::RemoveFromCache {
                    node,
                    image: image.clone(),
                };
                ask(state, title, vec![image], vec![effect]);
            }
        }
        View::Prewarm => {
            if let Some(image) = state.warms.prewarm_list.chosen().map(str::to_owned) {
                let mut images = state.warms.prewarm.images.clone();
                images.retain(|other| *other != image);
                let title = "Take this image off the pre-warm list?".to_owned();
                ask(state, title, vec![image], vec![Effect::SetPrewarm(images)]);
            }
        }
        _ => {}
    }
    Vec::new()
}

/// Asks before something that cannot be undone.
pub(super) fn ask(state: &mut State, title: String, lines: Vec<String>, effects: Vec<Effect>) {
    state.overlay = Some(Overlay::Question(Question {
        title,
        lines,
        effects,
    }));
}
