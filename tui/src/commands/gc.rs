//! `gc`: frees what the service keeps and nobody needs, or says what that would be and why.

use chalk_core::wire::{
    CollectArea, CollectEvent, CollectItem, CollectRequest, CollectSummary, exit,
};
use serde_json::json;

use crate::cli::Gc;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::{bytes, harmless};
use crate::settings::Loaded;

pub(crate) async fn gc(loaded: &Loaded, flags: &Gc, json: bool) -> Result<(), Failure> {
    let server = Server::connect(loaded).await?;
    let result = collect(&server, flags, json).await;
    server.close().await;
    result
}

async fn collect(server: &Server, flags: &Gc, json: bool) -> Result<(), Failure> {
    let request = CollectRequest {
        dry_run: flags.dry_run,
    };
    let mut lines = server.client().lines("/v1/gc", &request).await?;
    let mut items = Vec::new();
    let summary = loop {
        match lines.next::<CollectEvent>().await? {
            Some(CollectEvent::Item(item)) => items.push(item),
            Some(CollectEvent::Done(summary)) => break summary,
            Some(CollectEvent::Failed { problem }) => return Err(problem.into()),
            None => {
                let what = "the service ended its answer before garbage was collected";
                return Err(Failure::new(exit::UNREACHABLE, what)
                    .hint("the service's log says how it went on; ask again"));
            }
        }
    };
    if json {
        return output::json(&json!({ "items": items, "summary": summary }));
    }
    tell(&items, &summary, flags.dry_run || flags.all)
}

fn tell(items: &[CollectItem], summary: &CollectSummary, all: bool) -> Result<(), Failure> {
    let [goes, went] = match summary.dry_run {
        true => ["would go", "would free"],
        false => ["gone", "freed"],
    };
    let shown = items.iter().filter(|item| all || item.freed);
    let rows: Vec<Vec<String>> = shown
        .map(|item| {
            vec![
                if item.freed { goes } else { "stays" }.to_owned(),
                item.area.word().to_owned(),
                name(item),
                bytes(item.bytes),
                if item.freed {
                    bytes(item.frees)
                } else {
                    "-".to_owned()
                },
                harmless(&item.why),
            ]
        })
        .collect();
    if !rows.is_empty() {
        output::table(&["", "KIND", "NAME", "SIZE", "FREES", "WHY"], &rows)?;
    }
    for area in CollectArea::ALL {
        let Some(total) = summary.areas.get(&area) else {
            continue;
        };
        output::line(&format!(
            "{}: {} {goes} ({}), {} {}",
            area.word(),
            total.freed,
            bytes(total.freed_bytes),
            total.kept,
            if total.kept == 1 { "stays" } else { "stay" },
        ))?;
    }
    output::line(&format!("{went} {}", bytes(summary.freed_bytes)))
}

/// A name that fits into a line: hashes by their first digits.
fn name(item: &CollectItem) -> String {
    let words = item.name.split_inclusive([' ', ':', '@']);
    let short = words.map(|word| {
        let hex = word.len() >= 64 && word.bytes().take(64).all(|b| b.is_ascii_hexdigit());
        if hex { &word[..12] } else { word }
    });
    harmless(&short.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_short() {
        let check = |text: &str, expect: &str| {
            let item = CollectItem {
                area: CollectArea::Blobs,
                name: text.to_owned(),
                digest: None,
                freed: false,
                why: String::new(),
                bytes: 0,
                frees: 0,
            };
            assert_eq!(name(&item), expect);
        };
        let hex = "0123456789abcdef".repeat(4);
        check(&hex, "0123456789ab");
        check(&format!("sha256:{hex}"), "sha256:0123456789ab");
        check(&format!("app@sha256:{hex}"), "app@sha256:0123456789ab");
        check("team/app:v1", "team/app:v1");
        check("3 uploaded objects", "3 uploaded objects");
        check("a\u{1b}[1m", &harmless("a\u{1b}[1m"));
    }
}
