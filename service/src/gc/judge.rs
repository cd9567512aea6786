//! Which tags stay and which go: what is in use, what the policy says, and what there is room for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use chalk_core::wire::CollectArea;
use chalk_core::{AnyDigest, Digest};

use super::graph::Graph;
use super::plan::Input;
use super::words::{bytes, length};
use crate::catalog::NAME_NOTE;
use crate::places::{BUILD_CACHE, BUILDS, IMAGES, NAMES, STEPS};
use crate::registry::collect::Holding;

/// First word of the tags of images that are kept ready.
const PREWARM: &str = "prewarm-";

/// Annotation of an image with the digest of its base (OCI image specification, `annotations.md`).
const BASE_NOTE: &str = "org.opencontainers.image.base.digest";

/// What becomes of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays, whatever room is needed.
    Stays(String),
    /// It stays while there is room.
    May(String),
    Goes(String),
}

/// A tag that is judged.
pub(super) struct Judged<'a> {
    pub(super) repository: &'a str,
    pub(super) tag: &'a str,
    pub(super) digest: &'a AnyDigest,
    pub(super) area: Option<CollectArea>,
    pub(super) used: SystemTime,
    pub(super) set: SystemTime,
    pub(super) verdict: Verdict,
}

fn area(repository: &str) -> Option<CollectArea> {
    match repository {
        IMAGES => Some(CollectArea::Images),
        STEPS | BUILDS | BUILD_CACHE => Some(CollectArea::Steps),
        // Entries of the directory of names are nothing of their own.
        NAMES => None,
        other if other.starts_with("imports/") => Some(CollectArea::Imports),
        _ => Some(CollectArea::Names),
    }
}

pub(super) fn shown(repository: &str, tag: &str) -> String {
    match repository {
        IMAGES | STEPS => tag.to_owned(),
        _ => format!("{repository}:{tag}"),
    }
}

/// Judges all tags but those of the directory of names, by use and age.
pub(super) fn judge<'a>(input: &Input<'a>) -> Vec<Judged<'a>> {
    let mut judged = Vec::new();
    for (repository, holding) in &input.survey.repositories {
        let area = area(repository);
        let mut newest: Vec<(&String, SystemTime)> =
            holding.tags.iter().map(|(tag, to)| (tag, to.set)).collect();
        newest.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| b.0.cmp(a.0)));
        newest.truncate(input.policy.keep);
        let newest: HashSet<&String> = newest.into_iter().map(|(tag, _)| tag).collect();
        for (tag, to) in &holding.tags {
            let listed = holding.manifests.get(&to.digest);
            let mut used = listed.map_or(to.set, |listed| listed.used.max(to.set));
            if area == Some(CollectArea::Steps)
                && let Some(at) = key_of(tag).and_then(|key| input.in_use.steps.get(&key))
            {
                used = used.max(*at);
            }
            let verdict = match hard(input, area, repository, tag, &to.digest, holding, used) {
                Some(verdict) => verdict,
                None => by_policy(input, area, tag, used, newest.contains(tag)),
            };
            judged.push(Judged {
                repository,
                tag,
                digest: &to.digest,
                area,
                used,
                set: to.set,
                verdict,
            });
        }
    }
    let named: HashMap<&AnyDigest, String> = judged
        .iter()
        .filter(|tag| tag.area == Some(CollectArea::Names))
        .filter(|tag| !matches!(tag.verdict, Verdict::Goes(_)))
        .map(|tag| (tag.digest, format!("{}:{}", tag.repository, tag.tag)))
        .collect();
    for tag in &mut judged {
        if tag.area == Some(CollectArea::Images)
            && let Some(name) = named.get(tag.digest)
            && !matches!(tag.verdict, Verdict::Stays(_))
        {
            tag.verdict = Verdict::May(format!("it has the name {name}"));
        }
    }
    let bases = bases(input, &judged);
    for tag in &mut judged {
        if tag.area == Some(CollectArea::Imports)
            && matches!(tag.verdict, Verdict::Goes(_))
            && bases.contains(&tag.digest.to_string())
        {
            tag.verdict = Verdict::May("an image that stays was built on it".to_owned());
        }
    }
    judged
}

/// Digests of the bases of images that stay, without which they cannot be built anew.
fn bases(input: &Input<'_>, judged: &[Judged<'_>]) -> HashSet<String> {
    let images = judged
        .iter()
        .filter(|tag| tag.area == Some(CollectArea::Images))
        .filter(|tag| !matches!(tag.verdict, Verdict::Goes(_)));
    let listed = images.filter_map(|tag| {
        let holding = &input.survey.repositories[tag.repository];
        holding.manifests.get(tag.digest)?.parts.as_ref()
    });
    let bases = listed.filter_map(|parts| parts.annotations.get(BASE_NOTE));
    bases.cloned().collect()
}

fn key_of(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

/// What no policy decides.
fn hard(
    input: &Input<'_>,
    area: Option<CollectArea>,
    repository: &str,
    tag: &str,
    digest: &AnyDigest,
    holding: &Holding,
    used: SystemTime,
) -> Option<Verdict> {
    let Some(listed) = holding.manifests.get(digest) else {
        // The tag is younger than what was read, or its manifest was deleted.
        return Some(match used >= input.horizon {
            true => Verdict::Stays("it was pushed just now".to_owned()),
            false => Verdict::Goes("its manifest is gone".to_owned()),
        });
    };
    if listed.parts.is_none() {
        let why = "its manifest is damaged: push it again, or delete it";
        return Some(Verdict::Stays(why.to_owned()));
    }
    let by_hash = (area == Some(CollectArea::Images))
        .then(|| key_of(tag).and_then(|hash| input.in_use.hashes.get(&hash)))
        .flatten();
    let by_digest = listed
        .blob
        .and_then(|blob| input.in_use.manifests.get(&blob));
    if let Some(why) = by_hash.or(by_digest) {
        return Some(Verdict::Stays(why.clone()));
    }
    if used >= input.horizon {
        let ago = input.ago(used);
        return Some(Verdict::Stays(format!("it was used {ago} ago")));
    }
    if repository == BUILDS {
        return Some(Verdict::Goes(
            "the build that it was for has ended".to_owned(),
        ));
    }
    let prewarm = repository.starts_with("imports/") && tag.starts_with(PREWARM);
    prewarm.then(|| Verdict::Goes("it is not kept ready any more".to_owned()))
}

fn by_policy(
    input: &Input<'_>,
    area: Option<CollectArea>,
    tag: &str,
    used: SystemTime,
    is_new: bool,
) -> Verdict {
    let policy = input.policy;
    let keep = policy.keep;
    let (limit, setting) = match area {
        // Judged by the name that it files.
        None => return Verdict::Stays(String::new()),
        Some(CollectArea::Names) if is_new => {
            return Verdict::Stays(match keep {
                1 => "it is the newest tag of its name".to_owned(),
                _ => format!("it is one of the {keep} newest tags of its name"),
            });
        }
        Some(CollectArea::Steps) if key_of(tag).is_none() => {
            return Verdict::Stays("it is no step of ours".to_owned());
        }
        Some(CollectArea::Steps) => (policy.steps_age, "gc.steps_age"),
        Some(_) => (policy.age, "gc.age"),
    };
    let ago = input.ago(used);
    match limit {
        Some(limit) if input.is_older(used, limit) => Verdict::Goes(format!(
            "it was not used for {ago} ({setting} is {})",
            length(limit)
        )),
        Some(limit) => Verdict::May(format!(
            "it was used {ago} ago ({setting} is {})",
            length(limit)
        )),
        None => Verdict::May(format!("no age is set ({setting}); it was used {ago} ago")),
    }
}

/// Lets go what was not used for longest until the rest is small enough.
pub(super) fn make_room(
    input: &Input<'_>,
    graphs: &BTreeMap<&str, Graph<'_>>,
    tags: &mut [Judged<'_>],
) {
    let images = |area: Option<CollectArea>| {
        matches!(
            area,
            Some(CollectArea::Images | CollectArea::Names | CollectArea::Imports)
        )
    };
    let steps = |area: Option<CollectArea>| area == Some(CollectArea::Steps);
    let policy = input.policy;
    if let Some(limit) = policy.size {
        room_for(input, graphs, tags, images, limit.as_u64(), "gc.size");
    }
    if let Some(limit) = policy.steps_size {
        room_for(input, graphs, tags, steps, limit.as_u64(), "gc.steps_size");
    }
}

/// Tags that point to one manifest.
#[derive(Default)]
struct Group {
    tags: Vec<usize>,
    blobs: BTreeMap<Digest, u64>,
    used: Option<SystemTime>,
    stays: bool,
}

fn room_for(
    input: &Input<'_>,
    graphs: &BTreeMap<&str, Graph<'_>>,
    tags: &mut [Judged<'_>],
    counts: impl Fn(Option<CollectArea>) -> bool,
    limit: u64,
    setting: &str,
) {
    let mut groups: BTreeMap<&AnyDigest, Group> = BTreeMap::new();
    for (place, tag) in tags.iter().enumerate() {
        if !counts(tag.area) || matches!(tag.verdict, Verdict::Goes(_)) {
            continue;
        }
        let group = groups.entry(tag.digest).or_default();
        group.tags.push(place);
        group.stays |= matches!(tag.verdict, Verdict::Stays(_));
        group.used = group.used.max(Some(tag.used));
        let closure = graphs[tag.repository].closure(tag.digest, true);
        group.blobs.extend(closure.blobs);
    }
    let mut shared: HashMap<Digest, usize> = HashMap::new();
    let mut total = 0_u64;
    for (digest, size) in groups.values().flat_map(|group| &group.blobs) {
        let count = shared.entry(*digest).or_default();
        total += if *count == 0 { *size } else { 0 };
        *count += 1;
    }
    let mut may: Vec<&Group> = groups.values().filter(|group| !group.stays).collect();
    may.sort_by_key(|group| group.used);
    let mut gone: Vec<(Vec<usize>, String)> = Vec::new();
    for group in may {
        if total <= limit {
            break;
        }
        let why = format!(
            "{} are kept, {setting} is {}, and others were used later ({} ago)",
            bytes(total),
            bytes(limit),
            group.used.map(|used| input.ago(used)).unwrap_or_default(),
        );
        for (digest, size) in &group.blobs {
            if let Some(count) = shared.get_mut(digest) {
                *count -= 1;
                total -= if *count == 0 { *size } else { 0 };
            }
        }
        gone.push((group.tags.clone(), why));
    }
    for (places, why) in gone {
        for place in places {
            tags[place].verdict = Verdict::Goes(why.clone());
        }
    }
}

/// Entries of the directory of names go with the names that they file.
pub(super) fn follow_names(input: &Input<'_>, tags: &mut [Judged<'_>]) {
    let names: HashSet<String> = tags
        .iter()
        .filter(|tag| tag.area == Some(CollectArea::Names))
        .filter(|tag| !matches!(tag.verdict, Verdict::Goes(_)))
        .map(|tag| format!("{}:{}", tag.repository, tag.tag))
        .collect();
    let Some(holding) = input.survey.repositories.get(NAMES) else {
        return;
    };
    for tag in tags.iter_mut().filter(|tag| tag.area.is_none()) {
        let listed = holding.manifests.get(tag.digest);
        let parts = listed.and_then(|listed| listed.parts.as_ref());
        let name = parts.and_then(|parts| parts.annotations.get(NAME_NOTE));
        // All entries of one name are equal, so that use says nothing; a new one was set just now.
        if tag.set < input.horizon && name.is_some_and(|name| !names.contains(name)) {
            tag.verdict = Verdict::Goes(String::new());
        }
    }
}
