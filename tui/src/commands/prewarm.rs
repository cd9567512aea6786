//! `node prewarm ls|add|rm|set`: base images that every node keeps ready.

use chalk_core::{Reference, wire};

use crate::cli::Prewarm;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::harmless;
use crate::quantity;

const PATH: &str = "/v1/prewarm";

pub(super) async fn prewarm(verb: Prewarm, server: &Server, json: bool) -> Result<(), Failure> {
    let client = server.client();
    let images = match verb {
        Prewarm::Ls => return show(&client.get(PATH).await?, json),
        Prewarm::Set { images } => images,
        Prewarm::Add { images } => {
            let mut list = client.get::<wire::Prewarm>(PATH).await?.images;
            for image in images {
                if !list.iter().any(|known| same(known, &image)) {
                    list.push(image);
                }
            }
            list
        }
        Prewarm::Rm { images } => {
            let mut list = client.get::<wire::Prewarm>(PATH).await?.images;
            for image in &images {
                let before = list.len();
                list.retain(|known| !same(known, image));
                if list.len() == before {
                    return Err(Failure::new(
                        wire::exit::NOT_FOUND,
                        format!("`{image}` is not on the list"),
                    )
                    .hint("`chalk compute node prewarm ls` shows the list"));
                }
            }
            list
        }
    };
    let request = wire::Prewarm {
        images,
        states: Vec::new(),
    };
    show(&client.put_json(PATH, &request).await?, json)
}

/// Whether two references mean the same: `python:3` and `docker.io/library/python:3`.
fn same(a: &str, b: &str) -> bool {
    let parse = |text: &str| text.parse::<Reference>().ok();
    a == b || parse(a).is_some_and(|a| parse(b) == Some(a))
}

fn show(prewarm: &wire::Prewarm, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(prewarm);
    }
    let rows: Vec<Vec<String>> = prewarm
        .images
        .iter()
        .map(|image| {
            let state = prewarm.states.iter().find(|state| state.image == *image);
            let digest = state.and_then(|state| state.digest);
            let checked = state.and_then(|state| state.checked.as_deref());
            let error = state.and_then(|state| state.error.as_deref());
            vec![
                image.clone(),
                digest.map_or("-".to_owned(), output::short),
                state.map_or("-".to_owned(), |state| state.nodes_ready.to_string()),
                checked.map_or("-".to_owned(), quantity::ago),
                error.map_or("-".to_owned(), harmless),
            ]
        })
        .collect();
    output::table(&["IMAGE", "DIGEST", "NODES", "CHECKED", "ERROR"], &rows)
}
