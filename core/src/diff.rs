//! What differs between two specs, and which steps that costs.

use serde::Serialize;

use crate::Digest;
use crate::jcs::Json;
use crate::spec::document::Form;
use crate::spec::{Base, Spec};

/// Longest lists, as the product of their lengths, whose items are matched; longer ones are
/// compared place by place.
const MATCH_LIMIT: usize = 4_000_000;

/// Differences that count in the hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Diff<'s> {
    /// Whether both have the same hash.
    pub equal: bool,
    /// Index in the second spec's steps (see [`Spec::steps_with_keys`]) of the first that the first
    /// spec has no result for; null when there is none.
    pub first_step: Option<usize>,
    /// Every leaf that differs.
    pub changes: Vec<Change<'s>>,
    /// The second spec's steps that the first spec has no result for.
    pub reruns: Vec<Rerun>,
}

/// A leaf that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change<'s> {
    /// Field, such as `env.PROJECT_ROOT` or `steps[0].packages[1]`. An index is that in the second
    /// spec, or in the first where something went away.
    pub path: String,
    /// Value in the first spec; null when it is not there.
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Value"))]
    pub before: Option<Json<'s>>,
    /// Value in the second spec; null when it is not there.
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Value"))]
    pub after: Option<Json<'s>>,
}

/// A step that has to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rerun {
    /// Index in the second spec's steps.
    pub step: usize,
    /// Kind word.
    pub kind: String,
    /// Step key.
    pub key: Digest,
    /// One line for people.
    pub title: String,
}

/// Compares two specs.
pub fn diff<'s>(before: &'s Spec, after: &'s Spec) -> Diff<'s> {
    let mut changes = Vec::new();
    let equal = before.canonical().canonical() == after.canonical().canonical();
    if !equal {
        compare(
            "",
            &shown(before, after),
            &shown(after, before),
            &mut changes,
        );
    }
    let known = before.steps_with_keys().into_iter().map(|step| step.key);
    let mut known: Vec<Digest> = known.collect();
    known.sort_unstable();
    let steps = after.steps_with_keys().into_iter().enumerate();
    let reruns: Vec<Rerun> = steps
        .filter(|(_, step)| known.binary_search(&step.key).is_err())
        .map(|(step, keyed)| Rerun {
            step,
            kind: keyed.kind.to_owned(),
            key: keyed.key,
            title: keyed.title,
        })
        .collect();
    Diff {
        equal,
        first_step: reruns.first().map(|rerun| rerun.step),
        changes,
        reruns,
    }
}

/// The canonical document, save that a base that differs from the other spec's is shown with its
/// reference: two digests alone say little.
fn shown<'s>(spec: &'s Spec, other: &Spec) -> Json<'s> {
    let mut document = spec.canonical();
    if let (Base::Image(own), Base::Image(others), Json::Map(fields)) =
        (&spec.base, &other.base, &mut document)
        && own.document(Form::Canonical) != others.document(Form::Canonical)
        && let Some((_, base)) = fields.iter_mut().find(|(name, _)| *name == "base")
    {
        *base = own.document(Form::Full);
    }
    document
}

/// Lists the leaves that differ.
fn compare<'s>(path: &str, before: &Json<'s>, after: &Json<'s>, changes: &mut Vec<Change<'s>>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Json::Map(old), Json::Map(new)) => {
            let mut names: Vec<&str> = old.iter().chain(new).map(|(name, _)| *name).collect();
            names.sort_unstable();
            names.dedup();
            let find = |fields: &[(&str, Json<'_>)], name: &str| {
                fields.iter().position(|(other, _)| *other == name)
            };
            for name in names {
                let path = field_path(path, name);
                match (find(old, name), find(new, name)) {
                    (Some(i), Some(j)) => compare(&path, &old[i].1, &new[j].1, changes),
                    (Some(i), None) => leaf(&path, Some(&old[i].1), None, changes),
                    (None, Some(j)) => leaf(&path, None, Some(&new[j].1), changes),
                    (None, None) => {}
                }
            }
        }
        (Json::List(old), Json::List(new)) => compare_lists(path, old, new, changes),
        _ => leaf(path, Some(before), Some(after), changes),
    }
}

/// A value that came, went or changed; maps and lists that came or went are told leaf by leaf, save
/// for items of lists.
fn leaf<'s>(
    path: &str,
    before: Option<&Json<'s>>,
    after: Option<&Json<'s>>,
    out: &mut Vec<Change<'s>>,
) {
    let empty_map = Json::Map(Vec::new());
    let empty_list = Json::List(Vec::new());
    match (before, after) {
        (Some(Json::Map(_)), None) if !path.ends_with(']') => {
            compare(path, before.unwrap_or(&empty_map), &empty_map, out);
        }
        (None, Some(Json::Map(_))) if !path.ends_with(']') => {
            compare(path, &empty_map, after.unwrap_or(&empty_map), out);
        }
        (Some(Json::List(_)), None) => {
            compare(path, before.unwrap_or(&empty_list), &empty_list, out);
        }
        (None, Some(Json::List(_))) => {
            compare(path, &empty_list, after.unwrap_or(&empty_list), out);
        }
        _ => out.push(Change {
            path: path.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        }),
    }
}

/// Matches the items that both lists have in the same order; what stands between two matches is
/// compared item by item, and what is left over came or went.
fn compare_lists<'s>(
    path: &str,
    old: &[Json<'s>],
    new: &[Json<'s>],
    changes: &mut Vec<Change<'s>>,
) {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old[start..].iter().rev().zip(new[start..].iter().rev());
    let end = rest.take_while(|(a, b)| a == b).count();
    let (old_end, new_end) = (old.len() - end, new.len() - end);
    let mut matches = common(&old[start..old_end], &new[start..new_end]);
    matches.push((old_end - start, new_end - start));
    let (mut i, mut j) = (start, start);
    for (next_i, next_j) in matches {
        let (next_i, next_j) = (start + next_i, start + next_j);
        while i < next_i || j < next_j {
            if i < next_i && j < next_j {
                compare(&format!("{path}[{j}]"), &old[i], &new[j], changes);
                i += 1;
                j += 1;
            } else if i < next_i {
                leaf(&format!("{path}[{i}]"), Some(&old[i]), None, changes);
                i += 1;
            } else {
                leaf(&format!("{path}[{j}]"), None, Some(&new[j]), changes);
                j += 1;
            }
        }
        (i, j) = (next_i + 1, next_j + 1);
    }
}

/// A longest common subsequence, as pairs of indexes.
fn common(old: &[Json<'_>], new: &[Json<'_>]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    if old.is_empty() || new.is_empty() || old.len() * new.len() > MATCH_LIMIT {
        return Vec::new();
    }
    // lengths[i * width + j]: of the longest common subsequence of old[i..] and new[j..].
    let mut lengths = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * width + j] = if old[i] == new[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            pairs.push((i, j));
            i += 1;
            j += 1;
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

fn field_path(path: &str, name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || !name.bytes().all(plain) {
        return format!("{path}[{}]", Json::text(name).canonical());
    }
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use crate::image::{StepOptions, Strategy};
    use crate::source::MemoryFiles;

    fn spec(image: &Image) -> Spec {
        let files = MemoryFiles::new().file("a", "a");
        image.resolve(&files).unwrap().spec
    }

    #[test]
    fn names_leaves_and_reruns() {
        let base = Image::debian_slim("3.12").pip_install(["b", "d"]);
        let built = base.run_commands(["one", "two"]).env([("A", "1")]);
        let check = |image: &Image, changes: &[(&str, &str, &str)], reruns: &[usize]| {
            let (before, after) = (spec(&built), spec(image));
            let diff = diff(&before, &after);
            let show =
                |side: &Option<Json<'_>>| side.as_ref().map_or("null".into(), Json::canonical);
            let got: Vec<_> = diff
                .changes
                .iter()
                .map(|c| (c.path.clone(), show(&c.before), show(&c.after)))
                .collect();
            let got: Vec<_> = got
                .iter()
                .map(|(p, b, a)| (p.as_str(), b.as_str(), a.as_str()))
                .collect();
            assert_eq!(got, changes);
            let got: Vec<usize> = diff.reruns.iter().map(|rerun| rerun.step).collect();
            assert_eq!(got, reruns);
            assert_eq!(diff.first_step, reruns.first().copied());
            assert_eq!(diff.equal, changes.is_empty());
        };
        check(&built, &[], &[]);
        check(
            &built.name("x").add_local_file("a", "/a", Strategy::Mount),
            &[],
            &[],
        );
        check(
            &built.runtime_env([("R", "1")]),
            &[("runtime_env.R", "null", r#""1""#)],
            &[],
        );
        check(
            &built.env([("A", "2")]),
            &[("env.A", r#""1""#, r#""2""#)],
            &[0, 1, 2],
        );
        check(
            &built.label("a.b", "c"),
            &[(r#"labels["a.b"]"#, "null", r#""c""#)],
            &[],
        );
        check(&built.cmd(["x"]), &[("cmd[0]", "null", r#""x""#)], &[]);
        let other = Image::debian_slim("3.12").pip_install(["b", "c", "d"]);
        check(
            &other.run_commands(["one", "two"]).env([("A", "1")]),
            &[("steps[0].packages[1]", "null", r#""c""#)],
            &[0, 1, 2],
        );
        check(
            &base
                .run_commands(["one", "between", "two"])
                .env([("A", "1")]),
            &[("steps[2]", "null", r#"{"command":"between","kind":"run"}"#)],
            &[2, 3],
        );
        check(
            &base.run_commands("two").env([("A", "1")]),
            &[("steps[1]", r#"{"command":"one","kind":"run"}"#, "null")],
            &[1],
        );
        let secret = StepOptions::new().secret("S").force();
        check(
            &base
                .run_commands("one")
                .run_commands_with("two", secret)
                .env([("A", "1")]),
            &[("steps[2].secrets[0]", "null", r#""S""#)],
            &[2],
        );
        let other = Image::debian_slim("3.13").pip_install(["b", "d"]);
        check(
            &other.run_commands(["one", "two"]).env([("A", "1")]),
            &[(
                "base.ref",
                r#""docker.io/library/python:3.12-slim-bookworm""#,
                r#""docker.io/library/python:3.13-slim-bookworm""#,
            )],
            &[0, 1, 2],
        );
    }
}
