//! `image warms`: warms of the past, and those that run.

use chalk_core::wire::{Warm, WarmState, WarmStatus};

use super::warm;
use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::quantity;

pub(crate) async fn warms(
    server: &Server,
    id: Option<&str>,
    limit: usize,
    image: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let client = server.client();
    if let Some(id) = id {
        let warm: Warm = client.get(&format!("/v1/warms/{}", segment(id))).await?;
        return warm::report(&warm, json, false);
    }
    let image = image.map(|image| format!("&image={}", segment(image)));
    let path = format!("/v1/warms?limit={limit}{}", image.unwrap_or_default());
    let warms: Vec<Warm> = client.get(&path).await?;
    if json {
        let documents: Vec<_> = warms.iter().map(warm::document).collect();
        return output::json(&documents);
    }
    let rows: Vec<Vec<String>> = warms
        .iter()
        .map(|warm| {
            let count = |state| warm.nodes.iter().filter(|t| t.state == state).count();
            let images: Vec<String> = warm.images.iter().map(|i| output::short(*i)).collect();
            vec![
                warm.id.clone(),
                word(warm.status).to_owned(),
                images.join(" "),
                format!("{} of {}", count(WarmState::Ready), warm.nodes.len()),
                count(WarmState::Failed).to_string(),
                quantity::ago(&warm.created),
            ]
        })
        .collect();
    output::table(
        &["WARM", "STATUS", "IMAGES", "READY", "FAILED", "AGE"],
        &rows,
    )
}

fn word(status: WarmStatus) -> &'static str {
    match status {
        WarmStatus::Running => "running",
        WarmStatus::Ready => "ready",
        WarmStatus::Partly => "partly",
        WarmStatus::Failed => "failed",
        WarmStatus::Cancelled => "cancelled",
    }
}
