//! `image warm`: images into the caches of nodes, ahead of any sandbox.

use chalk_core::wire::{Warm, WarmEvent, WarmEventKind, WarmRequest, WarmState, WarmStatus, exit};
use reqwest::Method;
use serde_json::json;

use super::subject;
use crate::cli;
use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::{WarmProgress, bytes, harmless, seconds};
use crate::quantity;
use crate::settings::Loaded;

/// Failed nodes of which the reason is printed.
const REASONS: usize = 10;

pub(crate) async fn warm(loaded: &Loaded, args: &cli::Warm, json: bool) -> Result<(), Failure> {
    let server = Server::connect_with_node(loaded).await?;
    let result = run(&server, args, json).await;
    server.close().await;
    result
}

async fn run(server: &Server, args: &cli::Warm, json: bool) -> Result<(), Failure> {
    let client = server.client();
    if let Some(id) = &args.cancel {
        let path = format!("/v1/warms/{}", segment(id));
        let warm: Warm = client.call(Method::DELETE, &path).await?;
        return report(&warm, json, false);
    }
    let warm: Warm = if let Some(id) = &args.follow {
        client.get(&format!("/v1/warms/{}", segment(id))).await?
    } else if let Some(id) = &args.retry {
        let path = format!("/v1/warms/{}/retry", segment(id));
        client.call(Method::POST, &path).await?
    } else {
        let request = request(server, args).await?;
        client.post("/v1/warms", &request).await?
    };
    // A node inside this command pulls only as long as the command lives.
    if !args.wait && args.follow.is_none() && !server.has_own_node() {
        report(&warm, json, false)?;
        if !json && warm.status == WarmStatus::Running {
            output::aside(&format!(
                "warm {id} goes on; `chalk compute image warm --follow {id}` shows it",
                id = warm.id
            ));
        }
        return Ok(());
    }
    let mut progress = WarmProgress::start(args.progress, &warm)?;
    let ended = tokio::select! {
        ended = follow(server, &warm.id, &mut progress) => ended,
        _ = tokio::signal::ctrl_c() => {
            progress.finish();
            return Err(interrupt(server, &warm.id).await);
        }
    };
    progress.finish();
    report(&ended?, json, true)
}

async fn request(server: &Server, args: &cli::Warm) -> Result<WarmRequest, Failure> {
    let timeout = args.timeout.as_deref();
    let timeout = timeout.map(|text| quantity::time("--timeout", text));
    let timeout = timeout.transpose()?;
    let labels = quantity::labels("--label", &args.labels)?;
    let mut images = Vec::new();
    for word in &args.images {
        images.push(subject::image(server, word, &args.dockerfile).await?.id);
    }
    Ok(WarmRequest {
        images,
        nodes: args.nodes.clone(),
        labels,
        region: args.region.clone(),
        all: args.all,
        pin: args.pin,
        timeout_seconds: timeout.map(|time| time.as_secs().max(1)),
    })
}

/// Follows a warm to its end.
async fn follow(server: &Server, id: &str, progress: &mut WarmProgress) -> Result<Warm, Failure> {
    let path = format!("/v1/warms/{}/events", segment(id));
    let mut events = server.client().events::<WarmEvent>(path, 0);
    let mut frames = tokio::time::interval(WarmProgress::pace());
    loop {
        let next = events.next();
        tokio::pin!(next);
        let event = loop {
            tokio::select! {
                event = &mut next => break event?,
                _ = frames.tick() => progress.frame(),
            }
        };
        progress.event(&event);
        if let WarmEventKind::Finished { .. } = event.kind {
            // A warm that was retried or whose lost node came back has more than one end.
            let path = format!("/v1/warms/{}", segment(id));
            let warm: Warm = server.client().get(&path).await?;
            if warm.status != WarmStatus::Running {
                return Ok(warm);
            }
        }
    }
}

async fn interrupt(server: &Server, id: &str) -> Failure {
    if server.has_own_node() {
        let path = format!("/v1/warms/{}", segment(id));
        tokio::select! {
            _ = server.client().call::<Warm>(Method::DELETE, &path) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        return Failure::interrupted().why(format!("warm {id} was cancelled"));
    }
    Failure::interrupted()
        .why(format!("warm {id} goes on without this command"))
        .hint(format!(
            "`chalk compute image warm --follow {id}` shows it, `--cancel {id}` ends it"
        ))
}

/// Prints what became of each node; with `ended`, what is not ready is a failure.
pub(super) fn report(warm: &Warm, json: bool, ended: bool) -> Result<(), Failure> {
    if json {
        output::json(&document(warm))?;
    } else {
        table(warm)?;
    }
    let ready = warm.nodes.iter().filter(|t| t.state == WarmState::Ready);
    let (ready, all) = (ready.count(), warm.nodes.len());
    if !ended || warm.status == WarmStatus::Ready {
        return Ok(());
    }
    let failed = warm.nodes.iter().filter(|t| t.state != WarmState::Ready);
    let reasons = failed.filter_map(|target| {
        let problem = target.error.as_ref()?;
        let why = format!("{}: {}: {}", target.node, problem.title, problem.detail);
        Some(harmless(why.trim_end_matches([':', ' '])))
    });
    let reasons: Vec<String> = reasons.take(REASONS).collect();
    let what = match warm.status {
        WarmStatus::Cancelled => format!("the warm was cancelled; {ready} of {all} are ready"),
        _ => format!("{} of {all} are not ready", all - ready),
    };
    let code = if ready > 0 {
        exit::PARTLY
    } else {
        exit::FAILED
    };
    let failure = Failure::new(code, what)
        .why(reasons.join("\n"))
        .hint(format!(
            "`chalk compute image warm --retry {}` begins again where it failed",
            warm.id
        ));
    Err(if json { failure.printed() } else { failure })
}

/// The JSON document of a warm, every key of every node written out.
pub(super) fn document(warm: &Warm) -> serde_json::Value {
    let nodes: Vec<_> = warm
        .nodes
        .iter()
        .map(|target| {
            json!({
                "node": target.node, "region": target.region, "image_hash": target.image_hash,
                "state": target.state, "done": target.done, "total": target.total,
                "bytes_fetched": target.bytes_fetched, "bytes_present": target.bytes_present,
                "bytes_from_mirrors": target.bytes_from_mirrors,
                "digests_verified": target.digests_verified,
                "verified": target.verified, "seconds": target.seconds, "error": target.error,
                "retries_left": target.retries_left,
            })
        })
        .collect();
    json!({
        "id": warm.id, "status": warm.status, "images": warm.images, "created": warm.created,
        "finished": warm.finished, "nodes": nodes,
    })
}

fn table(warm: &Warm) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = warm
        .nodes
        .iter()
        .map(|target| {
            vec![
                target.node.clone(),
                target.region.clone(),
                output::short(target.image_hash),
                word(target.state).to_owned(),
                bytes(target.bytes_fetched),
                bytes(target.bytes_from_mirrors),
                bytes(target.bytes_present),
                if target.verified { "yes" } else { "no" }.to_owned(),
                seconds(target.seconds),
            ]
        })
        .collect();
    output::table(
        &[
            "NODE", "REGION", "IMAGE", "STATE", "FETCHED", "MIRRORS", "PRESENT", "VERIFIED", "TOOK",
        ],
        &rows,
    )
}

fn word(state: WarmState) -> &'static str {
    match state {
        WarmState::Queued => "queued",
        WarmState::Pulling => "pulling",
        WarmState::Ready => "ready",
        WarmState::Failed => "failed",
    }
}
