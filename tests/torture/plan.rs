//! What a trial does: all of it drawn from the seed.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::chance;
use crate::nodes::NodePlan;
use crate::payload::Noise;
use crate::recipe::{Recipe, Step};
use crate::setting::Points;
use crate::volumes::Way;

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// `kill -9` at some moment.
    Kill,
    /// `kill -9` at a failpoint.
    Failpoint,
    /// Power loss at some moment or failpoint: what was not synced is gone.
    Power,
    /// The disk is full for a while, then `kill -9`.
    Full,
    /// Bytes of stored blobs flip.
    Rot,
    /// Connections tear and stall, then `kill -9`.
    Network,
    /// A node at work is killed at some moment or failpoint, or all lose power.
    Node,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Kill,
        Self::Failpoint,
        Self::Power,
        Self::Full,
        Self::Rot,
        Self::Network,
        Self::Node,
    ];

    /// For the table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 at a random moment",
            Self::Failpoint => "kill -9 at a failpoint",
            Self::Power => "power loss",
            Self::Full => "full disk",
            Self::Rot => "flipped bytes",
            Self::Network => "torn and slow network",
            Self::Node => "a node dies",
        }
    }
}

/// What happens in the middle.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Milliseconds from the start of the work on.
    pub(crate) after: u64,
    /// Failpoint and pass, if it happens there; in the work, or when blobs have rotted.
    pub(crate) point: Option<(String, u64)>,
    /// Bytes that a full disk has left.
    pub(crate) room: u64,
    /// Blobs that rot, as numbers into the sorted list of all.
    pub(crate) rotten: Vec<u64>,
}

/// One call of a client.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Pushes an image under a tag.
    Push {
        tag: String,
        layers: Vec<Noise>,
        /// Layers go up in pieces of this many bytes; 0 is in one.
        piece: usize,
    },
    /// Pushes a blob that no manifest names.
    Blob { noise: Noise, piece: usize },
    /// Begins the upload of a blob, and cancels it.
    Cancel { noise: Noise },
    /// Pulls a tag with all that it names.
    Pull { tag: String },
    /// Deletes the manifest that a tag points to.
    DeleteManifest { tag: String },
    /// Deletes a tag alone.
    DeleteTag { tag: String },
    /// Deletes the blobs that no manifest names.
    DeleteBlob { noise: Noise },
    /// Builds an image, under a name or none.
    Build {
        recipe: Recipe,
        name: Option<String>,
    },
    /// Gives the newest image of this client a name.
    Name { name: String },
    /// Takes a name away.
    Unname { name: String },
    /// Deletes the newest image of this client.
    DeleteImage,
    /// Collects garbage.
    Collect,
    /// Makes a token.
    Token { name: String },
    /// Revokes the newest token of this client.
    Revoke,
    /// Makes a join token.
    JoinToken,
    /// Replaces the list of images that nodes keep ready.
    Prewarm { images: Vec<String> },
    /// Puts a file into the volume of this client.
    PutFile {
        path: String,
        noise: Noise,
        way: Way,
    },
    /// Takes a file out of the volume of this client.
    RemoveFile { path: String },
    /// Deletes the volume of this client.
    DeleteVolume,
}

impl Act {
    /// Whether any registry can do it.
    pub(crate) fn is_of_registry(&self) -> bool {
        matches!(
            self,
            Self::Push { .. }
                | Self::Blob { .. }
                | Self::Cancel { .. }
                | Self::Pull { .. }
                | Self::DeleteManifest { .. }
                | Self::DeleteBlob { .. }
        )
    }
}

/// A trial.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) number: usize,
    pub(crate) fault: Fault,
    /// What each client does, one after the other; clients work at the same time.
    pub(crate) clients: Vec<Vec<Act>>,
    /// What is done once all is well again.
    pub(crate) after: Vec<Act>,
    /// Faults of connections come from here.
    pub(crate) network: u64,
    /// Whether it ends with a polite stop.
    pub(crate) stops: bool,
    /// What happens instead of all that, if a node is what dies.
    pub(crate) node: Option<NodePlan>,
}

const CLIENTS: usize = 3;
const TAGS: [&str; 2] = ["one", "two"];
/// A durable step that only rotten blobs come to.
const QUARANTINE: &str = "blob.quarantine";

impl Plan {
    /// The trial of that number.
    pub(crate) fn draw(seed: u64, number: usize, points: &Points) -> Self {
        let mut rng = chance::of(seed, format!("trial {number}"));
        let kind = match number % 8 {
            0 | 2 | 4 => Kind::Failpoint,
            3 | 7 => Kind::Power,
            1 if number % 16 == 1 => Kind::Kill,
            5 if number % 16 == 5 => Kind::Network,
            1 | 5 => Kind::Node,
            _ if number % 16 == 6 => Kind::Full,
            _ => Kind::Rot,
        };
        let at_point = kind == Kind::Failpoint || kind == Kind::Power && rng.random_bool(0.5);
        let point = at_point.then(|| {
            // All points in turn, in an order of the seed's.
            let of_work = |point: &&String| !point.starts_with(QUARANTINE);
            let mut order: Vec<&String> = points.service.iter().filter(of_work).collect();
            order.shuffle(&mut chance::of(seed, "order of the failpoints"));
            let turn = number / 8 * 4 + [0, 0, 1, 0, 2, 0, 0, 3][number % 8];
            let nth = match rng.random_range(0..4) {
                0 | 1 => 1,
                2 => rng.random_range(2..5),
                _ => rng.random_range(5..30),
            };
            let point = order[turn % order.len()].clone();
            match leading_to(&point, number).is_empty() {
                true => (point, nth),
                false => (point, 1),
            }
        });
        let quarantine = (kind == Kind::Rot && rng.random_bool(0.3)).then(|| {
            let side = chance::one(&mut rng, &["before", "after"]);
            (format!("{QUARANTINE}.{side}"), 1)
        });
        let point = point.or(quarantine);
        let fault = Fault {
            kind,
            after: rng.random_range(5..450),
            point,
            room: chance::spread(&mut rng, 4096.0, 3e6) as u64,
            rotten: (0..rng.random_range(1..5)).map(|_| rng.random()).collect(),
        };
        let clients = (0..CLIENTS).map(|client| {
            let count = rng.random_range(2..6);
            let mut acts = Vec::new();
            // One builds for sure: most of what is to survive is made by builds.
            if client == 0 {
                acts.push(build(&mut rng, number, client, 0));
            }
            for at in 1..=count {
                acts.push(act(&mut rng, number, client, at));
            }
            acts
        });
        let mut clients: Vec<Vec<Act>> = clients.collect();
        if let (Some((point, _)), Some(last)) = (&fault.point, clients.last_mut()) {
            last.splice(0..0, leading_to(point, number));
        }
        let after = (0..2).map(|at| act(&mut rng, number, CLIENTS, at));
        Self {
            number,
            fault,
            clients,
            after: after.collect(),
            network: rng.random(),
            stops: rng.random_bool(0.2),
            node: (kind == Kind::Node).then(|| NodePlan::draw(seed, number, &points.node)),
        }
    }

    /// The kind of its fault.
    pub(crate) fn kind(&self) -> Kind {
        self.fault.kind
    }

    /// The failpoint that is armed while the clients work.
    pub(crate) fn point_at_work(&self) -> Option<&(String, u64)> {
        self.fault
            .point
            .as_ref()
            .filter(|_| self.kind() != Kind::Rot)
    }

    /// The failpoint that is armed when blobs have rotted.
    pub(crate) fn point_after_rot(&self) -> Option<&(String, u64)> {
        self.fault
            .point
            .as_ref()
            .filter(|_| self.kind() == Kind::Rot)
    }
}

/// What surely comes to failpoints that few trials come to by chance; nothing for all others.
fn leading_to(point: &str, number: usize) -> Vec<Act> {
    let noise = Noise {
        // Nobody else has it.
        seed: 1000 + number as u64,
        length: 4096,
    };
    let tag = || "rare".to_owned();
    if point.starts_with("upload.cancel.") {
        return vec![Act::Cancel { noise }];
    }
    if point.starts_with("link.remove.") {
        let layers = vec![noise];
        let push = Act::Push {
            tag: tag(),
            layers,
            piece: 0,
        };
        return vec![push, Act::DeleteTag { tag: tag() }];
    }
    if point.starts_with("gc.") {
        return vec![Act::Collect];
    }
    Vec::new()
}

fn noise(rng: &mut StdRng) -> Noise {
    Noise {
        // Few seeds and lengths: clients push the same blobs at the same time.
        seed: rng.random_range(0..12),
        length: *[0, 1, 700, 4096, 65_536, 300_000]
            .get(rng.random_range(0..6))
            .unwrap_or(&1),
    }
}

fn piece(rng: &mut StdRng) -> usize {
    *[0, 0, 1000, 50_000]
        .get(rng.random_range(0..4))
        .unwrap_or(&0)
}

fn tag(rng: &mut StdRng) -> String {
    chance::one(rng, &TAGS).to_owned()
}

fn name(rng: &mut StdRng, client: usize) -> String {
    format!("team/app-{client}:v{}", rng.random_range(0..2))
}

fn build(rng: &mut StdRng, number: usize, client: usize, at: usize) -> Act {
    let recipe = recipe(rng, number, client, at);
    let name = rng.random_bool(0.4).then(|| name(rng, client));
    Act::Build { recipe, name }
}

/// The declaration that a client builds at that place of its list.
pub(crate) fn recipe(rng: &mut StdRng, number: usize, client: usize, at: usize) -> Recipe {
    let count = rng.random_range(1..4);
    let steps = (0..count).map(|step| {
        // The first steps are the same for many, so that they come from the cache; the last is new.
        let word = match step + 1 == count {
            true => format!("torture-{number}-{client}-{at}"),
            false => format!("shared-{}", rng.random_range(0..3)),
        };
        match rng.random_range(0..3) {
            0 => Step::Copy {
                text: format!("{word}\n"),
            },
            _ => Step::Run {
                word,
                pause: *[0, 0, 20, 60].get(rng.random_range(0..4)).unwrap_or(&0),
            },
        }
    });
    Recipe {
        steps: steps.collect(),
    }
}

fn act(rng: &mut StdRng, number: usize, client: usize, at: usize) -> Act {
    match rng.random_range(0..122) {
        0..25 => {
            let count = rng.random_range(1..4);
            Act::Push {
                tag: tag(rng),
                layers: (0..count).map(|_| noise(rng)).collect(),
                piece: piece(rng),
            }
        }
        25..35 => Act::Blob {
            noise: single(rng),
            piece: piece(rng),
        },
        35..43 => Act::Pull { tag: tag(rng) },
        43..49 => Act::DeleteManifest { tag: tag(rng) },
        49..53 => Act::DeleteTag { tag: tag(rng) },
        53..57 => Act::DeleteBlob { noise: single(rng) },
        57..77 => build(rng, number, client, at),
        77..82 => Act::Name {
            name: name(rng, client),
        },
        82..85 => Act::Unname {
            name: name(rng, client),
        },
        85..89 => Act::DeleteImage,
        89..93 => Act::Token {
            name: format!("token-{at}"),
        },
        93..95 => Act::Revoke,
        95..97 => Act::JoinToken,
        97..100 => Act::Prewarm {
            images: vec![format!("docker.io/library/prewarm-{number}:{at}")],
        },
        100..104 => Act::Cancel { noise: noise(rng) },
        104..112 => Act::PutFile {
            path: path(rng),
            noise: noise(rng),
            way: *[Way::Inline, Way::Packed, Way::Chunked]
                .get(rng.random_range(0..3))
                .unwrap_or(&Way::Inline),
        },
        112..115 => Act::RemoveFile { path: path(rng) },
        115 => Act::DeleteVolume,
        _ => Act::Collect,
    }
}

fn path(rng: &mut StdRng) -> String {
    chance::one(rng, &["a", "b/c", "b/d"]).to_owned()
}

/// A blob that no image has: those may be deleted.
fn single(rng: &mut StdRng) -> Noise {
    Noise {
        seed: 100 + rng.random_range(0..3),
        length: 10_000,
    }
}
