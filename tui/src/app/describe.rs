//! Texts about an image, a difference, a manifest.

use chalk_core::diff::Diff;
use chalk_core::jcs::Json;
use chalk_core::wire::ImageDetail;
use jiff::Timestamp;

use super::model::{Document, Fleet, ago, moment};
use super::theme::Role;
use crate::output::short;
use crate::progress::{bytes, harmless};

/// Nodes that are named before the rest is only counted.
const NODES: usize = 12;

/// All that is known of an image.
pub(crate) fn image(detail: &ImageDetail, fleet: &Fleet, now: Timestamp) -> Document {
    let image = &detail.image;
    let mut text = Document::new();
    text.field("hash", Role::Hash, &image.image_hash.to_string());
    if !image.names.is_empty() {
        text.field("names", Role::Strong, &image.names.join(" "));
    }
    text.field("reference", Role::Text, &image.image);
    text.field("manifest", Role::Text, &image.digest.to_string());
    text.field("platform", Role::Text, &image.platform.to_string());
    let created = format!(
        "{} ({} ago)",
        moment(&image.created),
        ago(now, &image.created)
    );
    text.field("created", Role::Text, &created);
    let layers = if image.layers == 1 { "layer" } else { "layers" };
    let size = format!("{} in {} {layers}", bytes(image.size), image.layers);
    text.field("size", Role::Text, &size);
    let holders: Vec<&str> = fleet
        .nodes
        .keys()
        .filter(|node| fleet.has(node, &image.digest))
        .map(String::as_str)
        .collect();
    let shown = holders[..holders.len().min(NODES)].join(" ");
    let warm = match holders.len() {
        0 => "on no node".to_owned(),
        count if count > NODES => format!("on {count} nodes: {shown} and {} more", count - NODES),
        _ => shown,
    };
    text.field("warm", Role::Text, &warm);
    if let Some(used) = fleet.last_used(&image.digest) {
        text.field("used", Role::Text, &format!("{} ago", ago(now, used)));
    }

    text.heading("Steps and their keys");
    for (at, step) in detail.steps.iter().enumerate() {
        text.line(vec![
            (Role::Dim, format!("{:>3} ", at + 1)),
            (Role::Hash, short(step.key)),
            (
                Role::Text,
                format!(" {}", harmless(&step.title.replace('\n', " "))),
            ),
        ]);
    }
    if detail.steps.is_empty() {
        text.text(Role::Dim, "    ", "none: the image is its base");
    }

    text.heading("Layers, the base's first");
    for layer in &detail.layer_list {
        text.line(vec![
            (Role::Hash, format!("    {}", short(layer.digest))),
            (Role::Text, format!(" {:>10} ", bytes(layer.size))),
            (Role::Dim, harmless(&layer.created_by.replace('\n', " "))),
        ]);
    }

    let config = &detail.config;
    text.heading("OCI config");
    for (word, value) in [("user", &config.user), ("workdir", &config.working_dir)] {
        if !value.is_empty() {
            text.field(word, Role::Text, value);
        }
    }
    for (word, value) in [("entrypoint", &config.entrypoint), ("cmd", &config.cmd)] {
        if let Some(value) = value {
            text.field(word, Role::Text, &format!("{value:?}"));
        }
    }
    for variable in &config.env {
        text.field("env", Role::Text, &harmless(variable));
    }

    text.heading("Provenance");
    let base = chalk_core::wire::PlanBase::of(&detail.spec);
    match base {
        Some(base) => {
            text.field("base", Role::Text, &base.reference.to_string());
            if let Some(digest) = base.digest {
                text.field("pinned to", Role::Hash, &digest.to_string());
            }
        }
        None => text.field("base", Role::Text, "scratch"),
    }
    text.field("recipe", Role::Hash, &detail.spec.recipe_hash().to_string());
    text.field(
        "rebuild",
        Role::Text,
        "the spec below is all that the image was built from; it is attached to it in the registry",
    );

    text.heading("Spec");
    text.text(
        Role::Text,
        "    ",
        &harmless_lines(&detail.spec.to_json().pretty()),
    );
    text
}

/// What differs between two specs, and what that makes run again.
pub(crate) fn diff(heading: &str, diff: &Diff<'_>) -> Document {
    let mut text = Document::new();
    text.text(Role::Strong, "", heading);
    text.blank();
    if diff.equal {
        text.text(Role::Ok, "", "The same image: nothing would run.");
        return text;
    }
    for change in &diff.changes {
        text.text(Role::Title, "", &change.path);
        side(&mut text, Role::Removed, "  - ", change.before.as_ref());
        side(&mut text, Role::Added, "  + ", change.after.as_ref());
    }
    text.blank();
    if diff.reruns.is_empty() {
        text.text(
            Role::Ok,
            "",
            "No step runs again; only the image's config changes.",
        );
        return text;
    }
    text.text(Role::Strong, "", "Steps that run for it:");
    for step in &diff.reruns {
        text.line(vec![
            (Role::Dim, format!("{:>3} ", step.step + 1)),
            (Role::Hash, short(step.key)),
            (
                Role::Text,
                format!(" {}", harmless(&step.title.replace('\n', " "))),
            ),
        ]);
    }
    text
}

fn side(text: &mut Document, role: Role, mark: &str, value: Option<&Json<'_>>) {
    let shown = match value {
        None => return,
        Some(Json::Text(words)) => words.clone().into_owned(),
        Some(other) => other.canonical(),
    };
    for (at, line) in shown.lines().enumerate() {
        let mark = if at == 0 { mark } else { "    " };
        text.text(role, mark, &harmless(line));
    }
}

/// A JSON document.
pub(crate) fn json(source: &str) -> Document {
    let mut text = Document::new();
    text.text(Role::Text, "", &harmless_lines(source));
    text
}

fn harmless_lines(source: &str) -> String {
    // The indentation of JSON is of blanks, which stay.
    source.lines().map(harmless).collect::<Vec<_>>().join("\n")
}
