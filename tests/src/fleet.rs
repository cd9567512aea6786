//! Services with nodes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::command::{Chalk, Ran};
use crate::made_up::{MadeUp, noise};
use crate::node::Node;
use crate::service::Service;
use crate::world::World;

/// Settings of a service that pre-warms nothing, and that no busy machine makes believe that a node
/// is lost. One whose process ends is noticed all the same, by its connection.
pub const STEADY: [(&str, &str); 2] = [("nodes.lost_after", "10m"), ("prewarm.images", "")];

/// Settings of a service that pre-warms nothing, for tests that wait until a node that is silent is
/// lost.
pub const QUICK: [(&str, &str); 3] = [
    ("nodes.heartbeat", "1s"),
    ("nodes.lost_after", "15s"),
    ("prewarm.images", ""),
];

/// A service with two nodes that have an image. Dropping it stops all.
#[derive(Debug)]
pub struct Fleet {
    // Before the service, which they talk to.
    /// A node, with the label `disk=ssd`.
    pub first: Node,
    /// Another.
    pub second: Node,
    /// The service.
    pub service: Service,
    /// The small base; both nodes have it.
    pub base: MadeUp,
}

impl Fleet {
    /// Starts all.
    #[track_caller]
    pub(crate) fn start(world: &World) -> Self {
        let service = world.start("fleet", &STEADY);
        let base = MadeUp::new(world, &service, &[noise("marked", 1000)]);
        let node = |name: &str, words: &[&str]| {
            Node::start(&service, name, "local", &world.folder(name), words)
        };
        let fleet = Self {
            first: node("first", &["--labels", "disk=ssd"]),
            second: node("second", &[]),
            service,
            base,
        };
        let words = ["--image", &fleet.base.hash, "--all", "--wait"];
        fleet.service.warm(&words).ok();
        fleet
    }

    /// `chalk compute sandbox run` of the base with further words.
    pub fn sandbox(&self, words: &[&str]) -> Chalk {
        self.service.sandbox(&self.base.hash, words)
    }
}

impl Service {
    /// Runs `chalk compute image warm`, with JSON.
    #[track_caller]
    pub fn warm(&self, words: &[&str]) -> Ran {
        self.image(&[&["warm", "--json"], words].concat())
    }

    /// Runs `chalk compute node`, with JSON.
    #[track_caller]
    pub fn nodes(&self, words: &[&str]) -> Ran {
        let node = ["compute", "node", "--json"];
        self.chalk().args(node).args(words).run()
    }

    /// `chalk compute sandbox run` of an image; in `words`, what comes after `--` is the command.
    pub fn sandbox(&self, image: &str, words: &[&str]) -> Chalk {
        let run = ["compute", "sandbox", "run", "--image", image];
        self.chalk().args(run).args(words)
    }

    /// Runs a verb of `chalk compute sandbox`.
    #[track_caller]
    pub fn sandboxes(&self, words: &[&str]) -> Ran {
        self.chalk().args(["compute", "sandbox"]).args(words).run()
    }

    /// Starts a sandbox in the background; its identifier.
    #[track_caller]
    pub fn detach(&self, image: &str, words: &[&str]) -> String {
        let ran = self.sandbox(image, &[&["--detach"], words].concat()).run();
        ran.ok().stdout.trim().to_owned()
    }
}

/// The targets of a warm, by node.
#[track_caller]
pub fn targets(warm: &Value) -> BTreeMap<String, Value> {
    let targets = warm["nodes"].as_array().expect("targets").iter();
    let named = targets.map(|target| {
        let node = target["node"].as_str().expect("a name");
        (node.to_owned(), target.clone())
    });
    named.collect()
}
