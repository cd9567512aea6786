//! Which keys ask for what, in which view.

mod chord;
mod defaults;

use std::collections::BTreeMap;

use crossterm::event::KeyEvent;
use serde::{Deserialize, Serialize};

use super::action::Action;

pub(crate) use chord::Chord;

/// A part of the app with keys of its own. Keys of [`Place::Everywhere`] work in every other place
/// that has no other use for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// Every view.
    Everywhere,
    /// The declaration.
    Spec,
    /// The list of builds.
    Builds,
    /// The steps of a build.
    Steps,
    /// A log.
    Log,
    /// The list of images.
    Images,
    /// An image, a difference or another text.
    Text,
    /// The nodes.
    Cache,
    /// Nodes against images.
    Matrix,
    /// One node.
    Node,
    /// The list of warms.
    Warms,
    /// One warm.
    Warm,
    /// The pre-warm list.
    Prewarm,
}

impl Place {
    pub(crate) const ALL: [Self; 13] = [
        Self::Everywhere,
        Self::Spec,
        Self::Builds,
        Self::Steps,
        Self::Log,
        Self::Images,
        Self::Text,
        Self::Cache,
        Self::Matrix,
        Self::Node,
        Self::Warms,
        Self::Warm,
        Self::Prewarm,
    ];

    /// The word of the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::Spec => "spec",
            Self::Builds => "builds",
            Self::Steps => "steps",
            Self::Log => "log",
            Self::Images => "images",
            Self::Text => "text",
            Self::Cache => "cache",
            Self::Matrix => "matrix",
            Self::Node => "node",
            Self::Warms => "warms",
            Self::Warm => "warm",
            Self::Prewarm => "prewarm",
        }
    }

    /// The place of a word.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.word() == word)
    }
}

/// Chords of all places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keymap {
    places: BTreeMap<Place, Vec<(Chord, Action)>>,
}

impl Default for Keymap {
    fn default() -> Self {
        let mut places: BTreeMap<Place, Vec<(Chord, Action)>> = BTreeMap::new();
        for (place, text) in defaults::KEYS {
            let keys = places.entry(*place).or_default();
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let mut words = line.split_whitespace();
                let Some(action) = words.next().and_then(Action::of) else {
                    continue;
                };
                keys.extend(
                    words
                        .filter_map(|word| word.parse().ok())
                        .map(|chord| (chord, action)),
                );
            }
        }
        Self { places }
    }
}

impl Keymap {
    /// What a key asks for in a place.
    pub(crate) fn action(&self, place: Place, key: &KeyEvent) -> Option<Action> {
        let chord = Chord::of(key);
        let find = |place| {
            let keys = self.places.get(&place)?;
            keys.iter().find(|(c, _)| *c == chord).map(|(_, a)| *a)
        };
        find(place).or_else(|| find(Place::Everywhere))
    }

    /// Gives an action new chords in a place, in place of those that it had there.
    ///
    /// # Errors
    /// With the action that has one of the chords in that place already by the same configuration.
    pub(crate) fn set(
        &mut self,
        place: Place,
        action: Action,
        chords: &[Chord],
        set_before: &[(Place, Action)],
    ) -> Result<(), (Chord, Action)> {
        let keys = self.places.entry(place).or_default();
        for chord in chords {
            let taken = keys.iter().find(|(c, a)| c == chord && *a != action);
            if let Some((chord, other)) = taken
                && set_before.contains(&(place, *other))
            {
                return Err((*chord, *other));
            }
        }
        // A default that stands in the way goes: the person has said what the key is for.
        keys.retain(|(chord, a)| *a != action && !chords.contains(chord));
        keys.extend(chords.iter().map(|chord| (*chord, action)));
        Ok(())
    }

    /// The actions of a place with their chords, its own before those of every place; an action
    /// whose chords are all used for something else is not there.
    pub(crate) fn of_place(&self, place: Place) -> Vec<(Action, Vec<Chord>)> {
        let mut listed: Vec<(Action, Vec<Chord>)> = Vec::new();
        let own = self.places.get(&place).map_or(&[][..], Vec::as_slice);
        let all = self
            .places
            .get(&Place::Everywhere)
            .map_or(&[][..], Vec::as_slice);
        let hidden = |chord: &Chord| own.iter().any(|(c, _)| c == chord);
        let rest = all
            .iter()
            .filter(|(chord, _)| place == Place::Everywhere || !hidden(chord));
        let own: &[_] = if place == Place::Everywhere { &[] } else { own };
        for (chord, action) in own.iter().chain(rest) {
            match listed.iter_mut().find(|(a, _)| a == action) {
                Some((_, chords)) => chords.push(*chord),
                None => listed.push((*action, vec![*chord])),
            }
        }
        listed
    }

    /// The first chord of an action in a place.
    pub(crate) fn chord(&self, place: Place, action: Action) -> Option<Chord> {
        self.of_place(place)
            .into_iter()
            .find(|(a, _)| *a == action)
            .and_then(|(_, chords)| chords.first().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::{KeyCode, KeyModifiers};

    #[test]
    fn every_default_is_understood_and_says_one_thing() {
        for (place, text) in defaults::KEYS {
            let mut seen: Vec<Chord> = Vec::new();
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let mut words = line.split_whitespace();
                let word = words.next().unwrap();
                assert!(Action::of(word).is_some(), "{place:?}: no action `{word}`");
                for chord in words {
                    let chord: Chord = chord.parse().unwrap();
                    assert!(!seen.contains(&chord), "{place:?}: `{chord}` twice");
                    seen.push(chord);
                }
            }
        }
        for place in Place::ALL {
            assert_eq!(Place::of(place.word()), Some(place));
        }
    }

    #[test]
    fn every_action_has_a_key_somewhere() {
        let map = Keymap::default();
        for action in Action::ALL {
            let has = |place: &Place| map.chord(*place, *action).is_some();
            assert!(Place::ALL.iter().any(has), "{action:?}");
        }
    }

    #[test]
    fn a_place_comes_before_everywhere() {
        let map = Keymap::default();
        let slash = KeyEvent::new(KeyCode::Char('/'), KeyModifiers::NONE);
        assert_eq!(map.action(Place::Log, &slash), Some(Action::Search));
        assert_eq!(map.action(Place::Images, &slash), Some(Action::Filter));
        let listed = map.of_place(Place::Log);
        assert!(listed.iter().all(|(action, _)| *action != Action::Filter));
    }

    #[test]
    fn a_chord_that_is_given_twice_is_refused() {
        let mut map = Keymap::default();
        let x: Chord = "ctrl-x".parse().unwrap();
        map.set(Place::Builds, Action::Cancel, &[x], &[]).unwrap();
        let set = [(Place::Builds, Action::Cancel)];
        assert_eq!(
            map.set(Place::Builds, Action::Retry, &[x], &set),
            Err((x, Action::Cancel))
        );
        assert_eq!(map.chord(Place::Builds, Action::Cancel), Some(x));
        // A default gives way.
        let quit: Chord = "q".parse().unwrap();
        map.set(Place::Everywhere, Action::Help, &[quit], &set)
            .unwrap();
        assert_ne!(map.chord(Place::Everywhere, Action::Quit), Some(quit));
    }
}
