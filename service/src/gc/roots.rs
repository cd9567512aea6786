//! What is in use, whatever nobody asked for lately: on nodes, in builds, by warms and sandboxes, on
//! the list of what is kept ready, in volumes.

use std::collections::HashMap;
use std::sync::Arc;

use chalk_core::{Digest, Reference};

use super::plan::InUse;
use crate::builds::Builds;
use crate::fleet::Fleet;

/// What fleet and builds use.
pub(super) fn in_use(fleet: &Fleet, builds: &Arc<Builds>) -> InUse {
    let mut in_use = InUse::default();
    let manifests = &mut in_use.manifests;
    for image in fleet.prewarms().get().states {
        if let Some(digest) = image.digest {
            note(manifests, digest, format!("{} is kept ready", image.image));
        }
    }
    for (digest, nodes) in fleet.nodes().holders() {
        let why = match nodes.as_slice() {
            [node] => format!("it is warm on node {node}"),
            nodes => format!("it is warm on {} nodes", nodes.len()),
        };
        note(manifests, digest, why);
    }
    for digest in fleet.warms().wanted() {
        note(manifests, digest, "a warm brings it to nodes".to_owned());
    }
    for sandbox in fleet.sandboxes().living() {
        let why = format!("sandbox {} runs on it", sandbox.id);
        if let Some(hash) = sandbox.image_hash {
            note(&mut in_use.hashes, hash, why);
        } else if let Some(digest) = sandbox
            .image
            .parse::<Reference>()
            .ok()
            .and_then(|image| image.digest())
        {
            note(manifests, digest, why);
        }
    }
    for (id, hash) in builds.live() {
        note(&mut in_use.hashes, hash, format!("build {id} makes it"));
    }
    in_use
}

/// The first reason is told.
fn note(reasons: &mut HashMap<Digest, String>, of: Digest, why: String) {
    reasons.entry(of).or_insert(why);
}
