//! `node ls|show|drain|undrain|rm|token`: the nodes of a service.

use chalk_core::wire::{JoinToken, JoinTokenRequest, Node, NodeRuntime, NodeState};
use serde_json::json;

use super::{caches, prewarm, tokens};
use crate::cli::{self, Token};
use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::{bytes, harmless};
use crate::quantity;
use crate::settings::Loaded;

pub(crate) async fn nodes(verb: cli::Node, loaded: &Loaded, json: bool) -> Result<(), Failure> {
    // What a cache holds is known only to its node.
    let server = match &verb {
        cli::Node::Cache(_) => Server::connect_with_node(loaded).await?,
        _ => Server::connect(loaded).await?,
    };
    let result = with_server(verb, &server, json).await;
    server.close().await;
    result
}

async fn with_server(verb: cli::Node, server: &Server, json: bool) -> Result<(), Failure> {
    match verb {
        cli::Node::Ls => ls(server, json).await,
        cli::Node::Show { node } => {
            let path = format!("/v1/nodes/{}", segment(&node));
            show(&server.client().get(&path).await?, json)
        }
        cli::Node::Drain { node } => drain(server, &node, "drain", json).await,
        cli::Node::Undrain { node } => drain(server, &node, "undrain", json).await,
        cli::Node::Rm { nodes } => rm(server, &nodes, json).await,
        cli::Node::Token(verb) => token(verb, server, json).await,
        cli::Node::Cache(verb) => caches::caches(verb, server, json).await,
        cli::Node::Prewarm(verb) => prewarm::prewarm(verb, server, json).await,
    }
}

/// The nodes that the service knows.
pub(super) async fn list(server: &Server) -> Result<Vec<Node>, Failure> {
    server.client().get("/v1/nodes").await
}

async fn ls(server: &Server, json: bool) -> Result<(), Failure> {
    let nodes = list(server).await?;
    if json {
        return output::json(&nodes);
    }
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            vec![
                node.name.clone(),
                node.region.clone(),
                word(node.state).to_owned(),
                node.cache.images.to_string(),
                format!(
                    "{} of {}",
                    bytes(node.cache.used),
                    bytes(node.cache.size_limit)
                ),
                node.sandboxes.to_string(),
                quantity::ago(&node.last_seen),
                labels(node),
            ]
        })
        .collect();
    output::table(
        &[
            "NAME",
            "REGION",
            "STATE",
            "IMAGES",
            "CACHE",
            "SANDBOXES",
            "SEEN",
            "LABELS",
        ],
        &rows,
    )
}

fn show(node: &Node, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(node);
    }
    let cache = &node.cache;
    let lines = [
        ("name", node.name.clone()),
        ("region", node.region.clone()),
        ("state", word(node.state).to_owned()),
        (
            "runtime",
            match node.runtime {
                NodeRuntime::Chalk => "chalk".to_owned(),
                NodeRuntime::Containerd => "containerd, which runs no sandboxes".to_owned(),
            },
        ),
        ("labels", labels(node)),
        ("version", harmless(&node.version)),
        ("joined", node.joined.clone()),
        ("seen", node.last_seen.clone()),
        ("mirror", harmless(node.mirror.as_deref().unwrap_or("-"))),
        (
            "cache",
            format!(
                "{} of {}, {} pinned or in use",
                bytes(cache.used),
                bytes(cache.size_limit),
                bytes(cache.held)
            ),
        ),
        (
            "holds",
            format!("{} images, {} layers", cache.images, cache.layers),
        ),
        (
            "since start",
            format!(
                "{} hits, {} misses, {} evictions",
                cache.hits, cache.misses, cache.evictions
            ),
        ),
        ("sandboxes", node.sandboxes.to_string()),
    ];
    lines
        .iter()
        .try_for_each(|(word, value)| output::line(&format!("{word:<12} {value}")))
}

async fn drain(server: &Server, name: &str, verb: &str, json: bool) -> Result<(), Failure> {
    let path = format!("/v1/nodes/{}/{verb}", segment(name));
    let node: Node = server.client().call(reqwest::Method::POST, &path).await?;
    if json {
        return output::json(&node);
    }
    output::line(&match node.state {
        NodeState::Draining => format!(
            "{} takes no new work; {} sandboxes still run there",
            node.name, node.sandboxes
        ),
        state => format!("{} is {}", node.name, word(state)),
    })
}

async fn rm(server: &Server, names: &[String], json: bool) -> Result<(), Failure> {
    for name in names {
        let path = format!("/v1/nodes/{}", segment(name));
        server.client().delete(&path).await?;
        if json {
            output::json(&json!({ "removed": name }))?;
        } else {
            output::line(&format!("removed {name}"))?;
        }
    }
    Ok(())
}

async fn token(verb: Token, server: &Server, json: bool) -> Result<(), Failure> {
    let client = server.client();
    match verb {
        Token::Create { region, ttl, uses } => {
            let ttl = ttl.map(|ttl| quantity::time("--ttl", &ttl)).transpose()?;
            let request = JoinTokenRequest {
                region,
                ttl_seconds: ttl.map(|ttl| ttl.as_secs().max(1)),
                uses,
            };
            let made: JoinToken = client.post("/v1/join-tokens", &request).await?;
            if json {
                return output::json(&made);
            }
            // Alone on standard output, so that it can be put where a node finds it.
            output::aside(&format!("token {} is good until {}", made.id, made.expires));
            output::line(made.token.as_deref().unwrap_or_default())
        }
        Token::Ls => {
            let tokens: Vec<JoinToken> = client.get("/v1/join-tokens").await?;
            if json {
                return output::json(&tokens);
            }
            let rows: Vec<Vec<String>> = tokens
                .iter()
                .map(|token| {
                    let uses = token.uses_left.map_or("any".into(), |n| n.to_string());
                    let region = token.region.clone().unwrap_or_else(|| "any".into());
                    vec![token.id.clone(), region, uses, token.expires.clone()]
                })
                .collect();
            output::table(&["ID", "REGION", "USES LEFT", "EXPIRES"], &rows)
        }
        Token::Revoke { ids } => tokens::revoke(server, "/v1/join-tokens", &ids, json).await,
    }
}

pub(super) fn word(state: NodeState) -> &'static str {
    match state {
        NodeState::Ready => "ready",
        NodeState::Draining => "draining",
        NodeState::Lost => "lost",
    }
}

fn labels(node: &Node) -> String {
    let pairs: Vec<String> = node
        .labels
        .iter()
        .map(|(key, value)| harmless(&format!("{key}={value}")))
        .collect();
    if pairs.is_empty() {
        "-".to_owned()
    } else {
        pairs.join(",")
    }
}
