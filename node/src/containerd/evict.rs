//! What may go of the images in containerd, and why the rest stays.
//!
//! Only records of the node's own are ever removed; what nothing names any more, containerd collects
//! by itself. Images that others brought (the kubelet, `ctr`), that a container uses or a pin holds
//! stay.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_core::wire::{CacheItem, CacheItemKind};

use super::client::Containerd;
use super::records::Record;
use super::view::{Held, Part, View};
use crate::cache::Result;

impl View {
    /// Images to remove, longest unused first, until `enough` bytes are freed; and how many that
    /// frees. `but` stays.
    pub(super) fn victims(&self, enough: u64, but: Option<&Digest>) -> (Vec<Digest>, u64) {
        let mut users: BTreeMap<Part, usize> = BTreeMap::new();
        for held in self.images.values() {
            for part in held.parts.iter().collect::<BTreeSet<_>>() {
                *users.entry(*part).or_default() += 1;
            }
        }
        let free = self.images.iter();
        let mut free: Vec<_> = free
            .filter(|(digest, held)| !held.is_held() && Some(*digest) != but)
            .collect();
        free.sort_by_key(|(digest, held)| (held.used.unwrap_or(SystemTime::UNIX_EPOCH), **digest));
        let (mut victims, mut freed) = (Vec::new(), 0);
        for (digest, held) in free {
            if freed >= enough {
                break;
            }
            victims.push(*digest);
            for part in held.parts.iter().collect::<BTreeSet<_>>() {
                let left = users.entry(*part).or_default();
                *left = left.saturating_sub(1);
                // What others name, stays with them.
                if *left == 0 && held.records.iter().all(Record::is_ours) {
                    freed += self.bytes.get(part).copied().unwrap_or(0);
                }
            }
        }
        (victims, freed)
    }

    /// Layers, each with the reason why it is there.
    pub(super) fn items(&self) -> Vec<CacheItem> {
        let mut users: BTreeMap<Part, Vec<&Held>> = BTreeMap::new();
        for held in self.images.values() {
            for part in held.parts.iter().collect::<BTreeSet<_>>() {
                users.entry(*part).or_default().push(held);
            }
        }
        let item = |(part, of): (Part, Vec<&Held>)| CacheItem {
            kind: CacheItemKind::Layer,
            digest: part.blob,
            bytes: self.bytes.get(&part).copied().unwrap_or(0),
            why: why(&of),
            evictable: of.iter().all(|held| !held.is_held()),
        };
        users.into_iter().map(item).collect()
    }

    /// The layers that only these images have.
    pub(super) fn layers_of(&self, images: &[Digest]) -> BTreeSet<Part> {
        let parts = |wanted: bool| {
            let of = self.images.iter();
            let of = of.filter(move |(digest, _)| images.contains(digest) == wanted);
            of.flat_map(|(_, held)| held.parts.iter().copied())
        };
        let kept: BTreeSet<Part> = parts(false).collect();
        parts(true).filter(|part| !kept.contains(part)).collect()
    }
}

/// Why a layer is kept, the strongest reason first.
fn why(images: &[&Held]) -> String {
    let name = |held: &Held| held.shown.image.clone();
    if let Some(held) = images.iter().find(|held| held.shown.in_use > 0) {
        let who = containers(held.shown.in_use);
        return format!("{who} of {} use it", name(held));
    }
    if let Some(held) = images.iter().find(|held| !held.shown.pins.is_empty()) {
        return format!("{} is {}", name(held), pinned(&held.shown.pins));
    }
    if let Some(held) = images.iter().find(|held| !held.is_ours()) {
        return format!("part of {}, which others brought", name(held));
    }
    let last = images.iter().max_by_key(|held| held.used);
    let others = match images.len() {
        0 | 1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    last.map_or_else(String::new, |held| {
        format!(
            "part of {}{others}, last warmed {}",
            name(held),
            held.shown.last_used
        )
    })
}

/// Why an image may not be removed by hand, if so.
pub(super) fn kept(held: &Held, unpin: bool) -> Option<String> {
    if held.shown.in_use > 0 {
        let who = containers(held.shown.in_use);
        return Some(format!("{who} use it; remove them first"));
    }
    if !held.is_ours() {
        return Some(
            "others brought it to containerd; remove it with `ctr images rm` or `crictl rmi`"
                .to_owned(),
        );
    }
    if !unpin && !held.shown.pins.is_empty() {
        return Some(format!("{}; unpin it first", pinned(&held.shown.pins)));
    }
    None
}

fn containers(count: usize) -> String {
    match count {
        1 => "1 container".to_owned(),
        n => format!("{n} containers"),
    }
}

fn pinned(labels: &[String]) -> String {
    format!("pinned as `{}`", labels.join("`, `"))
}

impl Containerd {
    /// Removes the node's own records of an image. The kubelet's name of its config stays as long as
    /// others name the image.
    pub(super) async fn remove_image(&self, held: &Held) -> Result<()> {
        let shared = held.records.iter().any(|r| !r.is_ours() && !r.is_id());
        let (ids, names): (Vec<&Record>, Vec<&Record>) = held
            .records
            .iter()
            .filter(|record| record.is_ours())
            .partition(|record| record.is_id());
        let mut gone = names;
        if !shared {
            gone.extend(ids);
        }
        tracing::info!(image = held.shown.image, "evicted");
        self.remove_records(&gone).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::view::made_up;
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    /// Images by name, layers and second of their last warm.
    fn view(images: &[(&str, &[&str], u64)]) -> View {
        let mut view = View::default();
        for (name, layers, used) in images {
            let mut held = made_up(name, layers);
            held.used = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(*used));
            for part in &held.parts {
                view.bytes.insert(*part, 10);
            }
            view.images.insert(digest(name), held);
        }
        view
    }

    #[test]
    fn the_longest_unused_go_first_and_shared_layers_stay() {
        let all = view(&[
            ("new", &["base", "n"], 3),
            ("old", &["base", "o"], 1),
            ("middle", &["base", "m"], 2),
        ]);
        let check = |enough: u64, but: Option<&str>, names: &[&str], freed: u64| {
            let but = but.map(digest);
            let expect: Vec<Digest> = names.iter().map(|name| digest(name)).collect();
            assert_eq!(
                all.victims(enough, but.as_ref()),
                (expect, freed),
                "{enough}"
            );
        };
        check(0, None, &[], 0);
        check(1, None, &["old"], 10);
        check(11, None, &["old", "middle"], 20);
        check(11, Some("middle"), &["old", "new"], 20);
        // With the last, the base goes, too.
        check(u64::MAX, None, &["old", "middle", "new"], 40);
    }

    #[test]
    fn what_is_held_stays_and_says_why() {
        let check = |change: fn(&mut Held), words: &str| {
            let mut all = view(&[("a", &["base", "x"], 1)]);
            if let Some(held) = all.images.get_mut(&digest("a")) {
                change(held);
                assert!(kept(held, false).unwrap().contains(words));
            }
            assert_eq!(all.victims(u64::MAX, None), (vec![], 0), "{words}");
            for item in all.items() {
                assert!(!item.evictable && item.why.contains(words), "{}", item.why);
            }
        };
        check(|held| held.shown.in_use = 2, "2 containers");
        check(
            |held| held.shown.pins = vec!["warm".into()],
            "pinned as `warm`",
        );
        check(|held| held.records.clear(), "others brought");
        let all = view(&[("a", &["base", "x"], 1)]);
        assert!(all.items().iter().all(|item| item.evictable));
        assert_eq!(all.layers_of(&[digest("a")]).len(), 2);
    }
}
