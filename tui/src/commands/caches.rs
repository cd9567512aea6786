//! `node cache ls|rm|unpin|gc`: what the caches of nodes hold, and why.

use chalk_core::wire::{
    CacheItem, CacheItemKind, CacheListing, GcReport, GcRequest, NodeState, exit,
};
use reqwest::Method;

use super::nodes;
use crate::cli::Cache;
use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::{bytes, harmless};
use crate::quantity;

pub(super) async fn caches(verb: Cache, server: &Server, json: bool) -> Result<(), Failure> {
    let client = server.client();
    match verb {
        Cache::Ls { node, all } => {
            let mut listings: Vec<CacheListing> = Vec::new();
            let mut failures = Vec::new();
            for node in chosen(server, node).await? {
                let path = format!("/v1/nodes/{}/cache", segment(&node));
                match client.get(&path).await {
                    Ok(listing) => listings.push(listing),
                    Err(failure) => failures.push((node, failure)),
                }
            }
            if !listings.is_empty() || failures.is_empty() {
                if json {
                    output::json(&listings)?;
                } else if all {
                    items(&listings)?;
                } else {
                    images(&listings)?;
                }
            }
            together(failures, listings.len(), json)
        }
        Cache::Rm { node, image } => {
            let path = format!("/v1/nodes/{}/cache/{}", segment(&node), segment(&image));
            let report: GcReport = client.call(Method::DELETE, &path).await?;
            if json {
                return output::json(&report);
            }
            tell(&report)
        }
        Cache::Unpin { node, image } => {
            let cache = format!("/v1/nodes/{}/cache", segment(&node));
            let path = format!("{cache}/{}/unpin", segment(&image));
            client.tell(&path, &serde_json::json!({})).await
        }
        Cache::Gc {
            node,
            dry_run,
            target,
        } => {
            let target = target.map(|text| quantity::size("--target", &text));
            let request = GcRequest {
                dry_run,
                target_bytes: target.transpose()?,
            };
            let mut reports: Vec<GcReport> = Vec::new();
            let mut failures = Vec::new();
            for node in chosen(server, node).await? {
                let path = format!("/v1/nodes/{}/cache/gc", segment(&node));
                match client.post(&path, &request).await {
                    Ok(report) => reports.push(report),
                    Err(failure) => failures.push((node, failure)),
                }
            }
            if json && (!reports.is_empty() || failures.is_empty()) {
                output::json(&reports)?;
            } else {
                reports.iter().try_for_each(tell)?;
            }
            together(failures, reports.len(), json)
        }
    }
}

/// What failed on some nodes, when it went well on `well` others and that was printed.
fn together(mut failures: Vec<(String, Failure)>, well: usize, json: bool) -> Result<(), Failure> {
    if well == 0 && failures.len() == 1 {
        return failures.pop().map_or(Ok(()), |(_, failure)| Err(failure));
    }
    let Some((_, first)) = failures.first() else {
        return Ok(());
    };
    let code = if well > 0 { exit::PARTLY } else { first.code };
    let why = failures.iter().map(|(node, failure)| {
        let line = format!("{node}: {}: {}", failure.what, failure.why);
        harmless(line.trim_end_matches([':', ' ']))
    });
    let what = format!(
        "{} of {} nodes did not do it",
        failures.len(),
        failures.len() + well
    );
    let why: Vec<String> = why.collect();
    let failure = Failure::new(code, what).why(why.join("\n"));
    Err(if json && well > 0 {
        failure.printed()
    } else {
        failure
    })
}

/// The node that was named, else every connected one.
async fn chosen(server: &Server, node: Option<String>) -> Result<Vec<String>, Failure> {
    if let Some(node) = node {
        return Ok(vec![node]);
    }
    let mut nodes = nodes::list(server).await?;
    nodes.retain(|node| node.state != NodeState::Lost);
    if nodes.is_empty() {
        return Err(Failure::new(exit::NOT_FOUND, "no node is connected")
            .hint("start one with `chalk node`; `chalk compute node ls` lists them"));
    }
    Ok(nodes.into_iter().map(|node| node.name).collect())
}

fn images(listings: &[CacheListing]) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = listings
        .iter()
        .flat_map(|listing| listing.images.iter().map(|image| (&listing.node, image)))
        .map(|(node, image)| {
            let kept = match (image.in_use, image.pins.is_empty()) {
                (0, true) => "-".to_owned(),
                (0, false) => format!("pinned: {}", harmless(&image.pins.join(", "))),
                (n, true) => format!("in use by {n}"),
                (n, false) => format!(
                    "in use by {n}, pinned: {}",
                    harmless(&image.pins.join(", "))
                ),
            };
            vec![
                node.clone(),
                output::short(image.image_hash.unwrap_or(image.digest)),
                harmless(&image.image),
                bytes(image.bytes),
                image.layers.to_string(),
                quantity::ago(&image.last_used),
                kept,
            ]
        })
        .collect();
    output::table(
        &["NODE", "HASH", "IMAGE", "SIZE", "LAYERS", "USED", "KEPT"],
        &rows,
    )?;
    for listing in listings {
        let usage = &listing.usage;
        output::line(&format!(
            "{}: {} of {} used, {} pinned or in use",
            listing.node,
            bytes(usage.used),
            bytes(usage.size_limit),
            bytes(usage.held)
        ))?;
        left_out(&listing.node, listing.left_out)?;
    }
    Ok(())
}

/// Says that a list is not whole.
fn left_out(node: &str, count: u64) -> Result<(), Failure> {
    if count == 0 {
        return Ok(());
    }
    output::line(&format!("{node}: {count} more are too many to list"))
}

fn items(listings: &[CacheListing]) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = listings
        .iter()
        .flat_map(|listing| listing.items.iter().map(|item| (&listing.node, item)))
        .map(|(node, item)| {
            let mut row = vec![node.clone()];
            row.extend(cells(item));
            row.insert(
                4,
                if item.evictable { "may go" } else { "stays" }.to_owned(),
            );
            row
        })
        .collect();
    output::table(&["NODE", "KIND", "DIGEST", "SIZE", "", "WHY"], &rows)?;
    for listing in listings {
        left_out(&listing.node, listing.left_out)?;
    }
    Ok(())
}

fn cells(item: &CacheItem) -> Vec<String> {
    let kind = match item.kind {
        CacheItemKind::Layer => "layer",
        CacheItemKind::Blob => "blob",
        CacheItemKind::File => "file",
    };
    vec![
        kind.to_owned(),
        output::short(item.digest),
        bytes(item.bytes),
        harmless(&item.why),
    ]
}

fn tell(report: &GcReport) -> Result<(), Failure> {
    let [goes, went] = if report.dry_run {
        ["would go", "would free"]
    } else {
        ["gone", "freed"]
    };
    let row = |word: &str, item: &CacheItem| {
        let mut row = vec![word.to_owned()];
        row.extend(cells(item));
        row
    };
    let gone = report.freed.iter().map(|item| row(goes, item));
    let kept = report.kept.iter().map(|item| row("stays", item));
    let rows: Vec<_> = gone.chain(kept).collect();
    if !rows.is_empty() {
        output::table(&["", "KIND", "DIGEST", "SIZE", "WHY"], &rows)?;
    }
    left_out(&report.node, report.left_out)?;
    output::line(&format!(
        "{}: {went} {}, {} of {} used",
        report.node,
        bytes(report.freed_bytes),
        bytes(report.usage.used),
        bytes(report.usage.size_limit)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_that_fails_takes_nothing_from_the_others() {
        let lost = |node: &str| {
            let failure = Failure::new(exit::UNREACHABLE, "the node is not connected");
            (node.to_owned(), failure.why(format!("node `{node}`")))
        };
        let check = |failures: &[&str], well: usize, expect: Option<(u8, &str)>| {
            let failures = failures.iter().map(|node| lost(node)).collect();
            let ended = together(failures, well, false).err();
            let ended = ended.as_ref().map(|f| (f.code, f.what.as_str()));
            assert_eq!(ended, expect);
        };
        check(&[], 0, None);
        check(&[], 2, None);
        let alone = (exit::UNREACHABLE, "the node is not connected");
        check(&["a"], 0, Some(alone));
        let some = (exit::PARTLY, "1 of 3 nodes did not do it");
        check(&["a"], 2, Some(some));
        let all = (exit::UNREACHABLE, "2 of 2 nodes did not do it");
        check(&["a", "b"], 0, Some(all));
        let both = together(vec![lost("a"), lost("b")], 1, true).unwrap_err();
        assert!(both.reported && both.why.contains("a: the node is not connected: node `a`"));
    }
}
