//! What lies over a view: the palette, questions, forms, the file picker and the help.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use tui_input::Input;

use super::filter::Filter;
use super::list::List;
use crate::app::action::Action;
use crate::app::effect::{Effect, Source, Text};
use crate::app::event::Entry as Listed;
use crate::app::keymap::Place;

/// What lies over a view and takes the keys.
pub(crate) enum Overlay {
    /// The keys that work here.
    Help {
        place: Place,
        top: usize,
    },
    Palette(Palette),
    /// Text for something.
    Prompt(Prompt),
    /// A yes or no.
    Question(Question),
    Files(Files),
    Warm(WarmForm),
}

/// Any command by its name.
pub(crate) struct Palette {
    pub(crate) input: Input,
    pub(crate) all: Vec<Action>,
    pub(crate) list: List,
}

impl Palette {
    pub(crate) fn new(all: Vec<Action>) -> Self {
        let mut palette = Self {
            input: Input::default(),
            all,
            list: List::default(),
        };
        palette.arrange();
        palette
    }

    /// Best matches first.
    pub(crate) fn arrange(&mut self) {
        let mut filter = Filter::new(self.input.value());
        let mut found: Vec<(u32, &Action)> = self
            .all
            .iter()
            .filter_map(|action| {
                let by_word = filter.score(action.word()).map(|score| score + 10);
                let by_text = filter.score(action.about());
                Some((by_word.max(by_text)?, action))
            })
            .collect();
        found.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
        let keys = found.iter().map(|(_, a)| a.word().to_owned()).collect();
        self.list = List::default();
        self.list.arrange(keys);
    }
}

/// Text for something.
pub(crate) struct Prompt {
    pub(crate) title: &'static str,
    pub(crate) input: Input,
    pub(crate) purpose: Purpose,
}

/// What a text is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Rows that match, as it is typed; with what the filter was before.
    Filter { before: String },
    /// The open log or text.
    Search,
    /// A name for an image.
    Tag { image: String },
    /// One more image of the pre-warm list.
    Prewarm,
    /// File that a text is saved to.
    Save { text: Text },
}

/// A yes or no.
pub(crate) struct Question {
    pub(crate) title: String,
    pub(crate) lines: Vec<String>,
    pub(crate) effects: Vec<Effect>,
}

/// The file picker: a directory's declarations, recent ones, and hashes of images.
pub(crate) struct Files {
    pub(crate) input: Input,
    pub(crate) directory: PathBuf,
    pub(crate) entries: Vec<Listed>,
    pub(crate) recent: Vec<PathBuf>,
    pub(crate) list: List,
    /// By key of the list: what is opened.
    pub(crate) choices: BTreeMap<String, Choice>,
}

/// What a row of the file picker opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    Directory(PathBuf),
    Declaration(Source),
}

/// Names and endings of declarations.
fn is_declaration(name: &str) -> bool {
    name.ends_with(".toml")
        || name.ends_with(".json")
        || name.contains("ockerfile")
        || name.contains("ontainerfile")
}

/// Fewest digits of a hash.
const DIGITS: usize = 8;

/// Whether a text can be the hash of an image, whole or its first digits.
pub(crate) fn is_hash(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (DIGITS..=64).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Files {
    pub(crate) fn new(directory: PathBuf, recent: Vec<PathBuf>) -> Self {
        let mut files = Self {
            input: Input::default(),
            directory,
            entries: Vec::new(),
            recent,
            list: List::default(),
            choices: BTreeMap::new(),
        };
        files.arrange();
        files
    }

    /// What fits what was typed: a hash or path first, then recent files, then the directory.
    pub(crate) fn arrange(&mut self) {
        let typed = self.input.value().trim().to_owned();
        let mut keys = Vec::new();
        let mut choices = BTreeMap::new();
        let mut add = |key: String, choice: Choice| {
            if let Entry::Vacant(free) = choices.entry(key) {
                keys.push(free.key().clone());
                free.insert(choice);
            }
        };
        if is_hash(&typed) {
            let source = Source::Image(typed.clone());
            add(format!("image {typed}"), Choice::Declaration(source));
        } else if typed.contains('/') {
            let path = self.directory.join(&typed);
            add(typed.clone(), Choice::Declaration(Source::File(path)));
        }
        let mut filter = Filter::new(&typed);
        for path in &self.recent {
            let name = path.display().to_string();
            if filter.lets(&name) {
                let source = Source::File(path.clone());
                add(format!("recent {name}"), Choice::Declaration(source));
            }
        }
        if typed.is_empty()
            && let Some(parent) = self.directory.parent()
        {
            add("../".to_owned(), Choice::Directory(parent.to_owned()));
        }
        for entry in &self.entries {
            let path = self.directory.join(&entry.name);
            if entry.directory {
                if filter.lets(&entry.name) {
                    add(format!("{}/", entry.name), Choice::Directory(path));
                }
            } else if is_declaration(&entry.name) && filter.lets(&entry.name) {
                let source = Source::File(path);
                add(entry.name.clone(), Choice::Declaration(source));
            }
        }
        let chosen = self.list.at();
        self.list.arrange(keys);
        if self.list.chosen().is_none() {
            self.list.choose_at(chosen);
        }
        self.choices = choices;
    }

    pub(crate) fn chosen(&self) -> Option<&Choice> {
        self.choices.get(self.list.chosen()?)
    }
}

/// Images and nodes of a warm to begin.
pub(crate) struct WarmForm {
    pub(crate) images: Input,
    pub(crate) nodes: Input,
    pub(crate) region: Input,
    pub(crate) labels: Input,
    pub(crate) pin: bool,
    /// Field that takes the keys, in the order above.
    pub(crate) field: usize,
}

/// Number of fields of a [`WarmForm`].
pub(crate) const WARM_FIELDS: usize = 5;

impl WarmForm {
    pub(crate) fn new(images: &[String], nodes: &[String], region: &str) -> Self {
        Self {
            images: Input::new(images.join(" ")),
            nodes: Input::new(nodes.join(" ")),
            region: Input::new(region.to_owned()),
            labels: Input::default(),
            pin: false,
            field: usize::from(!images.is_empty()),
        }
    }

    /// The text field that takes the keys.
    pub(crate) fn input(&mut self) -> Option<&mut Input> {
        match self.field {
            0 => Some(&mut self.images),
            1 => Some(&mut self.nodes),
            2 => Some(&mut self.region),
            3 => Some(&mut self.labels),
            _ => None,
        }
    }

    /// What is asked for.
    ///
    /// # Errors
    /// With what is wrong, for the person.
    pub(crate) fn request(&self) -> Result<chalk_core::wire::WarmRequest, String> {
        let words = |input: &Input| -> Vec<String> {
            input
                .value()
                .split([' ', ','])
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let images = words(&self.images);
        if images.is_empty() {
            return Err("name an image, by hash or name".to_owned());
        }
        let labels = crate::quantity::labels("labels", &words(&self.labels));
        let nodes = words(&self.nodes);
        let region = self.region.value().trim();
        Ok(chalk_core::wire::WarmRequest {
            images,
            nodes,
            labels: labels.map_err(|failure| failure.what)?,
            region: (!region.is_empty()).then(|| region.to_owned()),
            all: false,
            pin: self.pin,
            timeout_seconds: None,
        })
    }
}
