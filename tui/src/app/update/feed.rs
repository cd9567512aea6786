//! What comes from the service, from disk and from finished work.

use chalk_core::wire::{Build, BuildStatus, WarmEventKind};

use super::open::open;
use crate::app::effect::{Effect, Source};
use crate::app::event::{Declared, Feed, Trouble};
use crate::app::model::builds::{called, word};
use crate::app::model::{Overlay, State, View};

/// Takes it in.
pub(super) fn take(state: &mut State, feed: Feed) -> Vec<Effect> {
    state.dirty = true;
    match feed {
        Feed::Connected(link) => return connected(state, *link),
        Feed::Disconnected { trouble, retry } => {
            state.connection.lost(trouble, retry, state.now);
        }
        Feed::OwnNode(node) => {
            if let Err(trouble) = &node {
                state.complain(format!("no node in this process: {}", trouble.line()));
            }
            state.connection.own_node = Some(node);
        }
        Feed::Builds(builds) => {
            let ended = state.builds.take(builds);
            return ended.iter().flat_map(|build| told(state, build)).collect();
        }
        Feed::BuildEvents { id, events } => return build_events(state, &id, &events),
        Feed::BuildLost { id, trouble } => {
            if let Some(followed) = state.builds.followed.get_mut(&id) {
                followed.streaming = false;
                state.complain(trouble.line());
            }
        }
        Feed::Images(images) => {
            state.spec.outdated(state.now);
            state.images.take(images, &state.fleet);
            if *state.view() == View::Matrix {
                state.arrange();
            }
        }
        Feed::ImageDetail(detail) => {
            let view = View::Image(detail.image.image_hash.to_string());
            let document = crate::app::describe::image(&detail, &state.fleet, state.now);
            put_document(state, view, Ok(document));
            state.images.detail = Some(*detail);
        }
        Feed::Manifest { hash, text } => {
            let document = crate::app::describe::json(&text);
            put_document(state, View::Manifest(hash), Ok(document));
        }
        Feed::Document { view, result } => put_document(state, view, result),
        Feed::Nodes(nodes) => state.fleet.take(nodes),
        Feed::Regions(regions) => state.fleet.regions = regions,
        Feed::Caches(map) => {
            state.spec.outdated(state.now);
            state.fleet.take_caches(&map);
            if matches!(state.view(), View::Images | View::Matrix) {
                state.arrange();
            }
        }
        Feed::Storage(storage) => state.fleet.storage = Some(storage),
        Feed::Listing(listing) => {
            let node = listing.node.clone();
            state.fleet.listings.insert(node.clone(), *listing);
            if *state.view() == View::Node(node.clone()) {
                state.fleet.arrange_contents(&node);
            }
        }
        Feed::Warms(warms) => {
            state.spec.outdated(state.now);
            state.warms.take(warms);
        }
        Feed::WarmEvents { id, events } => {
            for event in events {
                if matches!(event.kind, WarmEventKind::Finished { .. }) {
                    state.spec.outdated(state.now);
                }
                state.warms.event(&id, &event);
            }
            state.warms.arrange();
            if *state.view() == View::Warm(id.clone()) {
                state.warms.arrange_targets(&id);
            }
        }
        Feed::Warm(warm) => {
            state.spec.outdated(state.now);
            let id = warm.id.clone();
            state.warms.put(*warm);
            if *state.view() == View::Warm(id.clone()) {
                state.warms.arrange_targets(&id);
            }
        }
        Feed::WarmStarted(warm) => {
            let id = warm.id.clone();
            state.warms.put(*warm);
            state.warms.list.choose(&id);
            state.views = vec![View::Warms];
            return open(state, View::Warm(id));
        }
        Feed::Prewarm(prewarm) => {
            state.warms.prewarm = prewarm;
            state.warms.arrange_prewarm();
        }
        Feed::Declared { generation, result } => return declared(state, generation, result),
        Feed::Planned { generation, result } => {
            state.spec.planned();
            if generation == state.spec.generation {
                state.spec.planning = false;
                match result {
                    Ok(plan) => {
                        state.spec.plan = Some(*plan);
                        state.spec.plan_trouble = None;
                    }
                    Err(trouble) => state.spec.plan_trouble = Some(trouble),
                }
            }
        }
        Feed::FilesChanged | Feed::Edited => return read_again(state),
        Feed::Directory { path, entries } => {
            if let Some(Overlay::Files(files)) = &mut state.overlay
                && files.directory == path
            {
                files.entries = entries;
                files.arrange();
            }
        }
        Feed::Recent(recent) => state.spec.recent = recent,
        Feed::BuildStarted { build, reused } => return started(state, *build, reused),
        Feed::Uploading { sent, total } => {
            state.spec.uploading = (sent < total).then_some((sent, total));
        }
        Feed::Done(text) => state.say(text),
        Feed::Failed(trouble) => {
            state.spec.uploading = None;
            state.complain(trouble.line());
        }
    }
    Vec::new()
}

fn connected(state: &mut State, link: crate::app::event::Link) -> Vec<Effect> {
    let again = !state.connection.is_up();
    let before = state.connection.link.is_some();
    state.connection.connected(link, state.now);
    let mut effects = vec![Effect::Attend(state.view().clone())];
    if again {
        if before {
            state.mention("connected again");
        }
        if state.spec.declared.is_some() {
            state.spec.planning = true;
            effects.push(Effect::Plan {
                generation: state.spec.generation,
            });
        } else if let Some(source @ Source::Image(_)) = state.spec.source.clone() {
            let generation = state.spec.generation;
            effects.push(Effect::ReadSpec { source, generation });
        }
    }
    effects
}

/// A build ended that was seen to run. Of builds that others began and nobody here looks at, the list
/// tells.
fn told(state: &mut State, build: &Build) -> Vec<Effect> {
    let mut effects = Vec::new();
    let own =
        state.builds.started.contains(&build.id) || state.builds.followed.contains_key(&build.id);
    if own {
        let text = format!("{} {}", called(build), word(build.status));
        match build.status {
            BuildStatus::Failed => state.complain(text.clone()),
            _ => state.mention(text.clone()),
        }
        if build.seconds >= state.config.notify_after {
            effects.push(Effect::Notify(text));
        }
    }
    state.spec.outdated(state.now);
    effects
}

fn build_events(state: &mut State, id: &str, events: &[chalk_core::wire::Event]) -> Vec<Effect> {
    let mut effects = Vec::new();
    let Some(followed) = state.builds.followed.get_mut(id) else {
        return vec![Effect::LeaveBuild(id.to_owned())];
    };
    let mut finished = None;
    for event in events {
        followed.take(event);
        if let chalk_core::wire::EventKind::Finished { build } = &event.kind {
            finished = Some((**build).clone());
        }
    }
    if let Some(build) = finished {
        if let Some(ended) = state.builds.put(build) {
            effects = told(state, &ended);
        }
        state.builds.arrange();
    }
    effects
}

fn put_document(
    state: &mut State,
    view: View,
    result: Result<crate::app::model::Document, Trouble>,
) {
    if !state.views.contains(&view) {
        return;
    }
    match (state.documents.get_mut(&view), result) {
        (Some(Ok(known)), Ok(new)) => known.replace(new),
        (_, result) => {
            state.documents.insert(view, result);
        }
    }
}

fn declared(
    state: &mut State,
    generation: u64,
    result: Result<Box<Declared>, Trouble>,
) -> Vec<Effect> {
    if generation != state.spec.generation {
        return Vec::new();
    }
    state.spec.reading = false;
    match result {
        Ok(declared) => {
            let same = state
                .spec
                .declared
                .as_ref()
                .is_some_and(|old| old.spec == declared.spec);
            state.spec.declared = Some(*declared);
            state.spec.trouble = None;
            state.spec.arrange();
            let mut effects = Vec::new();
            if !same || state.spec.plan.is_none() {
                state.spec.planning = state.connection.is_up();
                if !same {
                    state.spec.plan = None;
                }
                effects.push(Effect::Plan { generation });
            }
            // A save that changes nothing that counts has nothing to build.
            if std::mem::take(&mut state.spec.build_next) && !same {
                effects.push(Effect::Build {
                    force: false,
                    from: None,
                });
            }
            effects
        }
        Err(trouble) => {
            state.spec.build_next = false;
            // What was read before stays to be seen, and is not built.
            state.spec.trouble = Some(trouble);
            Vec::new()
        }
    }
}

/// Reads the declaration again, since a file of it may have changed.
fn read_again(state: &mut State) -> Vec<Effect> {
    let Some(source) = state.spec.source.clone() else {
        return Vec::new();
    };
    state.spec.generation += 1;
    state.spec.reading = true;
    state.spec.build_next = state.spec.watch && state.connection.is_up() && !state.readonly;
    vec![Effect::ReadSpec {
        source,
        generation: state.spec.generation,
    }]
}

fn started(state: &mut State, build: Build, reused: bool) -> Vec<Effect> {
    state.spec.uploading = None;
    let id = build.id.clone();
    let text = format!("{} {}", called(&build), word(build.status));
    state.builds.put(build);
    state.builds.list.choose(&id);
    state.builds.arrange();
    if reused {
        state.say(format!("{text}: the image was there, nothing ran"));
        let generation = state.spec.generation;
        return vec![Effect::Plan { generation }];
    }
    if !state.builds.started.contains(&id) {
        state.builds.started.push(id.clone());
    }
    if state.spec.watch && !matches!(state.view(), View::Spec | View::Build(_)) {
        // Whoever reads something else while watching is not torn away from it.
        state.count += 1;
        let (lines, count) = (state.config.log_lines, state.count);
        let gone = state.builds.follow(&id, lines, count);
        let leave = gone.into_iter().map(Effect::LeaveBuild);
        return leave.chain([Effect::FollowBuild(id)]).collect();
    }
    if matches!(state.view(), View::Build(_)) {
        state.views.pop();
        if state.views.is_empty() {
            state.views.push(View::Builds);
        }
    }
    open(state, View::Build(id))
}
