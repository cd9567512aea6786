//! What a trial of a node does: all of it drawn from the seed.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::chance;
use crate::plan;
use crate::recipe::Recipe;

/// Images of a trial; those with an even number are the first client's, the others the second's.
pub(super) const IMAGES: usize = 3;
const CLIENTS: usize = 2;

/// One call of a client.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// Brings an image to the node, and waits until it is there.
    Warm { image: usize, pin: bool },
    /// Removes an image from the node's cache, when its sandboxes are gone.
    Evict { image: usize },
    /// Starts a sandbox, and waits until it runs.
    Start { image: usize, mounts: bool },
    /// Ends the newest sandbox of this client.
    Stop,
}

/// A trial of a node.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    pub(super) recipes: Vec<Recipe>,
    /// What each client does, one after the other; clients work at the same time.
    pub(super) clients: Vec<Vec<Order>>,
    /// Whether layers lie in directories, instead of whatever the kernel can mount.
    pub(super) directories: bool,
    /// Milliseconds from the start of the node on.
    pub(super) after: u64,
    /// Failpoint and pass, if it happens there.
    pub(super) point: Option<(String, u64)>,
    /// Whether service and node lose power.
    pub(super) power: bool,
}

impl NodePlan {
    /// The trial of that number.
    pub(crate) fn draw(seed: u64, number: usize, points: &[String]) -> Self {
        let mut rng = chance::of(seed, format!("trial {number} of a node"));
        let point = rng.random_bool(0.6).then(|| {
            // All points in turn, in an order of the seed's.
            let mut order: Vec<&String> = points.iter().collect();
            order.shuffle(&mut chance::of(seed, "order of the failpoints of nodes"));
            let nth = *[1, 1, 2, 4].get(rng.random_range(0..4)).unwrap_or(&1);
            // Two of sixteen trials are of a node.
            let turn = number / 16 * 2 + usize::from(number % 16 > 9);
            let point = order[turn % order.len()].clone();
            match is_of_mounts(&point) {
                true => (point, 1),
                false => (point, nth),
            }
        });
        let recipes = (0..IMAGES).map(|image| plan::recipe(&mut rng, number, image, 0));
        let recipes = recipes.collect();
        let clients = (0..CLIENTS).map(|client| {
            let count = rng.random_range(3..7);
            let mut orders = vec![Order::Warm {
                image: client,
                pin: rng.random_bool(0.3),
            }];
            if point.as_ref().is_some_and(|(point, _)| is_of_mounts(point)) {
                orders.push(Order::Start {
                    image: client,
                    mounts: true,
                });
            }
            orders.extend((0..count).map(|_| order(&mut rng, client)));
            orders
        });
        Self {
            clients: clients.collect(),
            recipes,
            directories: rng.random_bool(0.3),
            after: chance::spread(&mut rng, 30.0, 3000.0) as u64,
            point,
            power: rng.random_bool(0.25),
        }
    }
}

/// Whether a failpoint is come to by sandboxes with mounts alone.
fn is_of_mounts(point: &str) -> bool {
    ["node.file.", "node.tree."]
        .iter()
        .any(|step| point.starts_with(step))
}

fn order(rng: &mut StdRng, client: usize) -> Order {
    let own: Vec<usize> = (client..IMAGES).step_by(CLIENTS).collect();
    let image = own[rng.random_range(0..own.len())];
    match rng.random_range(0..10) {
        0..3 => Order::Warm {
            image,
            pin: rng.random_bool(0.3),
        },
        3..5 => Order::Evict { image },
        5..9 => Order::Start {
            image,
            mounts: rng.random_bool(0.6),
        },
        _ => Order::Stop,
    }
}
