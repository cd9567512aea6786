//! What an action of the shown view is about.

use chalk_core::wire::{Build, Warm};

use crate::app::action::Action;
use crate::app::model::{State, View, images};

/// The build that is shown or chosen.
pub(super) fn build(state: &State) -> Option<&Build> {
    match state.view() {
        View::Builds => state.builds.chosen(),
        View::Build(id) => state.builds.all.get(id),
        _ => None,
    }
}

/// The warm that is shown or chosen.
pub(super) fn warm(state: &State) -> Option<&Warm> {
    match state.view() {
        View::Warms => state.warms.chosen(),
        View::Warm(id) => state.warms.get(id),
        _ => None,
    }
}

/// The node that is shown or chosen.
pub(super) fn node(state: &State) -> Option<&str> {
    match state.view() {
        View::Node(name) => Some(name),
        View::Cache if !state.fleet.grouped => state.fleet.list.chosen(),
        _ => None,
    }
}

/// Hashes of the images that are shown, chosen or marked.
pub(super) fn images(state: &State) -> Vec<String> {
    match state.view() {
        View::Images => state.images.list.subjects(),
        View::Matrix => state.matrix.list.subjects(),
        View::Image(hash) | View::Manifest(hash) | View::Diff(hash, None) => vec![hash.clone()],
        View::Spec => {
            let hash = state.spec.image_hash().map(|hash| hash.to_string());
            let exists = state.spec.plan.as_ref().is_some_and(|plan| plan.exists);
            hash.filter(|_| exists).into_iter().collect()
        }
        View::Builds | View::Build(_) => {
            let build = build(state).filter(|b| b.digest.is_some());
            build
                .map(|b| b.image_hash.to_string())
                .into_iter()
                .collect()
        }
        View::Node(name) => {
            let chosen = state.fleet.contents.chosen();
            let listing = state.fleet.listings.get(name);
            let image = listing
                .into_iter()
                .flat_map(|l| &l.images)
                .find(|image| Some(image.digest.to_string().as_str()) == chosen);
            let hash = image.and_then(|image| image.image_hash);
            hash.map(|hash| hash.to_string()).into_iter().collect()
        }
        View::Warms | View::Warm(_) => warm(state)
            .map(|warm| warm.images.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// What `copy-hash` copies.
pub(super) fn copied(state: &State) -> Option<String> {
    match state.view() {
        View::Spec => {
            let recipe = || Some(state.spec.declared.as_ref()?.local.recipe_hash);
            let hash = state.spec.image_hash().or_else(recipe)?;
            Some(hash.to_string())
        }
        View::Builds | View::Build(_) => Some(build(state)?.image_hash.to_string()),
        View::Cache => state.fleet.list.chosen().map(str::to_owned),
        View::Node(name) => state
            .fleet
            .contents
            .chosen()
            .map_or_else(|| Some(name.clone()), |digest| Some(digest.to_owned())),
        View::Warms | View::Warm(_) => Some(warm(state)?.id.clone()),
        View::Prewarm => state.warms.prewarm_list.chosen().map(str::to_owned),
        _ => images(state).into_iter().next(),
    }
}

/// What `copy-reference` copies: what the image is pulled by.
pub(super) fn reference(state: &State) -> Option<String> {
    match state.view() {
        View::Prewarm => state.warms.prewarm_list.chosen().map(str::to_owned),
        View::Builds | View::Build(_) => build(state)?.image.clone(),
        _ => {
            let hash = images(state).into_iter().next()?;
            Some(state.images.get(&hash)?.image.clone())
        }
    }
}

/// The view that `open` or `details` goes to.
pub(super) fn opened(state: &State, action: Action) -> Option<View> {
    let image = || Some(View::Image(images(state).into_iter().next()?));
    match (state.view(), action) {
        (View::Builds, Action::Open) => Some(View::Build(state.builds.chosen()?.id.clone())),
        (View::Images, Action::Open) => state
            .images
            .list
            .chosen()
            .map(|hash| View::Image(hash.to_owned())),
        (View::Cache, Action::Open) if !state.fleet.grouped => {
            state.fleet.list.chosen().map(|n| View::Node(n.to_owned()))
        }
        (View::Cache, Action::Open) => state.fleet.list.chosen().map(|_| View::Cache),
        (View::Warms, Action::Open) => Some(View::Warm(state.warms.chosen()?.id.clone())),
        (View::Warm(_), Action::Open) => {
            let key = state.warms.targets.chosen()?;
            Some(View::Node(key.split(' ').next()?.to_owned()))
        }
        (View::Builds | View::Build(_), Action::Details) | (View::Node(_), Action::Open) => image(),
        (View::Matrix, Action::Open) if state.matrix.region.is_none() => Some(View::Matrix),
        (View::Matrix, Action::Open) => {
            let columns = state.matrix.columns(&state.fleet);
            columns.get(state.matrix.column).cloned().map(View::Node)
        }
        _ => None,
    }
}

/// The filter of the shown list.
pub(super) fn filter(state: &State) -> Option<&str> {
    let list = match state.view() {
        View::Builds => &state.builds.list,
        View::Images => &state.images.list,
        View::Cache => &state.fleet.list,
        View::Matrix => &state.matrix.list,
        View::Node(_) => &state.fleet.contents,
        View::Warms => &state.warms.list,
        View::Warm(_) => &state.warms.targets,
        View::Prewarm => &state.warms.prewarm_list,
        _ => return None,
    };
    Some(&list.filter)
}

/// What the images of some hashes are called, for a question.
pub(super) fn names(state: &State, hashes: &[String]) -> Vec<String> {
    let name = |hash: &String| match state.images.get(hash) {
        Some(image) if image.names.is_empty() => images::called(image),
        Some(image) => format!(
            "{} ({})",
            image.names.join(" "),
            crate::output::short(image.image_hash)
        ),
        None => hash.clone(),
    };
    hashes.iter().map(name).collect()
}
