//! Progress of a warm on standard error.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use chalk_core::wire::{Warm, WarmEvent, WarmEventKind, WarmState, WarmTarget};
use crossterm::style::{Attribute, Color, ContentStyle, Stylize as _};

use super::region::{Line, Region};
use super::{FRAME, Style, bytes, harmless, seconds, style};
use crate::cli;
use crate::error::Failure;
use crate::warm_state::Warming;

/// Columns of a bar.
const BAR: usize = 20;

enum FrontEnd {
    Tty(Region),
    Plain,
    Rawjson,
    Quiet,
}

/// Shows the progress of one warm.
pub(crate) struct WarmProgress {
    model: Warming,
    front_end: FrontEnd,
    began: Instant,
    drawn: Option<Instant>,
}

impl WarmProgress {
    /// Begins to show a warm.
    ///
    /// # Errors
    /// When `tty` is asked for and standard error is no terminal.
    pub(crate) fn start(mode: cli::Progress, warm: &Warm) -> Result<Self, Failure> {
        let front_end = match style(mode)? {
            Style::Tty => FrontEnd::Tty(Region::new()),
            Style::Plain => FrontEnd::Plain,
            Style::Rawjson => FrontEnd::Rawjson,
            Style::Quiet => FrontEnd::Quiet,
        };
        let mut progress = Self {
            model: Warming::new(warm.clone()),
            front_end,
            began: Instant::now(),
            drawn: None,
        };
        progress.frame();
        Ok(progress)
    }

    /// Time between two frames.
    pub(crate) fn pace() -> Duration {
        FRAME
    }

    /// Takes an event.
    pub(crate) fn event(&mut self, event: &WarmEvent) {
        match &self.front_end {
            FrontEnd::Plain => {
                if let Some(line) = self.line(&event.kind) {
                    let _ = writeln!(io::stderr(), "{line}");
                }
            }
            FrontEnd::Rawjson => {
                if let Ok(line) = serde_json::to_string(event) {
                    let _ = writeln!(io::stderr(), "{line}");
                }
            }
            FrontEnd::Tty(_) | FrontEnd::Quiet => {}
        }
        self.model.update(&event.kind);
        if self.drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME) {
            self.frame();
        }
    }

    /// Draws the state as it is now.
    pub(crate) fn frame(&mut self) {
        let FrontEnd::Tty(region) = &mut self.front_end else {
            return;
        };
        let (room, columns) = (region.room(), region.columns());
        let lines = lines(&self.model, self.began, room, columns);
        region.draw(&lines);
        self.drawn = Some(Instant::now());
    }

    /// Takes the live lines off the screen: the result follows on standard output.
    pub(crate) fn finish(mut self) {
        if let FrontEnd::Tty(region) = &mut self.front_end {
            region.draw(&[]);
        }
    }

    /// What an event is in words; nothing for those that only count bytes.
    fn line(&self, event: &WarmEventKind) -> Option<String> {
        match event {
            WarmEventKind::Copying {
                image_hash,
                region,
                done,
                total,
            } => {
                let known = self.model.copies.get(&(*image_hash, region.clone()));
                let short = crate::output::short(*image_hash);
                match known {
                    None => Some(format!("copying {short} to region {region}")),
                    Some((before, _)) if before < total && done >= total => Some(format!(
                        "copied {short} to region {region} ({})",
                        bytes(*total)
                    )),
                    Some(_) => None,
                }
            }
            WarmEventKind::Target { target } => {
                let place = format!("{} ({})", target.node, target.region);
                let image = match self.model.warm.images.len() {
                    1 => String::new(),
                    _ => format!(" {}", crate::output::short(target.image_hash)),
                };
                let what = match target.state {
                    WarmState::Queued => return None,
                    WarmState::Pulling => "pulling".to_owned(),
                    WarmState::Ready => format!("ready: {}", receipt(target)),
                    WarmState::Failed => format!("failed: {}", why(target)),
                };
                Some(format!("{place}{image} {what}"))
            }
            WarmEventKind::Pulling { .. } | WarmEventKind::Finished { .. } => None,
        }
    }
}

fn receipt(target: &WarmTarget) -> String {
    format!(
        "{} fetched, {} there before, {}",
        bytes(target.bytes_fetched),
        bytes(target.bytes_present),
        seconds(target.seconds)
    )
}

fn why(target: &WarmTarget) -> String {
    let why = match &target.error {
        Some(problem) if problem.detail.is_empty() => harmless(&problem.title),
        Some(problem) => harmless(&format!("{}: {}", problem.title, problem.detail)),
        None => "no reason was given".to_owned(),
    };
    match target.retries_left {
        0 => why,
        left => format!("{why} (tries again, {left} left)"),
    }
}

fn lines(model: &Warming, began: Instant, room: usize, columns: usize) -> Vec<Line> {
    let plain = ContentStyle::new();
    let elapsed = seconds(began.elapsed().as_secs_f64());
    let counts: Vec<String> = [
        (WarmState::Ready, "ready"),
        (WarmState::Pulling, "pulling"),
        (WarmState::Queued, "queued"),
        (WarmState::Failed, "failed"),
    ]
    .iter()
    .map(|(state, word)| (model.count(*state), word))
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    let heading = format!("Warming {elapsed}  {}", counts.join(", "));
    let mut lines = vec![Line::new(heading, plain.bold())];
    for ((image, region), (done, total)) in model.copying() {
        let short = crate::output::short(*image);
        let (done, total) = (bytes(done), bytes(total));
        let text = format!(" > copy {short} to {region}  {done} of {total}");
        lines.push(Line::new(text, plain.with(Color::Cyan)));
    }
    // What moves and what failed matters; what is done or waits is counted above.
    let mut targets: Vec<&WarmTarget> = model.warm.nodes.iter().collect();
    targets.sort_by_key(|target| match target.state {
        WarmState::Failed => 0,
        WarmState::Pulling => 1,
        WarmState::Ready => 2,
        WarmState::Queued => 3,
    });
    let wide = targets.iter().map(|t| t.node.len()).max().unwrap_or(0);
    let left = room.saturating_sub(lines.len());
    let shown = if targets.len() > left {
        left.saturating_sub(1)
    } else {
        targets.len()
    };
    for target in &targets[..shown] {
        lines.push(row(model, target, wide.min(30), columns));
    }
    if shown < targets.len() {
        let text = format!("   … and {} more", targets.len() - shown);
        lines.push(Line::new(text, plain.attribute(Attribute::Dim)));
    }
    lines
}

fn row(model: &Warming, target: &WarmTarget, wide: usize, columns: usize) -> Line {
    let plain = ContentStyle::new();
    let (mark, style, note) = match target.state {
        WarmState::Queued => (" ", plain.attribute(Attribute::Dim), "queued".to_owned()),
        WarmState::Pulling => (">", plain.with(Color::Cyan), bar(target, columns)),
        WarmState::Ready => ("+", plain.with(Color::Green), receipt(target)),
        WarmState::Failed => ("x", plain.with(Color::Red), why(target)),
    };
    let image = match model.warm.images.len() {
        1 => String::new(),
        _ => format!("{}  ", crate::output::short(target.image_hash)),
    };
    let text = format!(
        " {mark} {:<wide$}  {:<8}  {image}{note}",
        target.node, target.region
    );
    Line::new(text, style)
}

fn bar(target: &WarmTarget, columns: usize) -> String {
    if target.total == 0 {
        return "pulling".to_owned();
    }
    let done = target.done.min(target.total);
    let share = done as f64 / target.total as f64;
    let numbers = format!(
        "{:>3.0}%  {} of {}",
        share * 100.0,
        bytes(done),
        bytes(target.total)
    );
    if columns < 70 {
        return numbers;
    }
    let full = (share * BAR as f64) as usize;
    format!(
        "[{}{}] {numbers}",
        "#".repeat(full),
        " ".repeat(BAR - full.min(BAR))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use chalk_core::Digest;
    use chalk_core::wire::WarmStatus;

    fn target(node: &str, state: WarmState) -> WarmTarget {
        WarmTarget {
            node: node.into(),
            region: "eu".into(),
            image_hash: Digest::of(b"image"),
            state,
            done: 30,
            total: 120,
            bytes_fetched: 120,
            bytes_present: 7,
            bytes_from_mirrors: 0,
            digests_verified: 4,
            verified: true,
            seconds: 1.5,
            error: None,
            retries_left: 0,
        }
    }

    fn warm(nodes: Vec<WarmTarget>) -> Warm {
        Warm {
            id: "w1".into(),
            status: WarmStatus::Running,
            images: vec![Digest::of(b"image")],
            created: String::new(),
            finished: None,
            nodes,
        }
    }

    fn texts(model: &Warming, room: usize, columns: usize) -> Vec<String> {
        let lines = lines(model, Instant::now(), room, columns);
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn many_nodes_fit_into_any_room() {
        let queued = (0..1000).map(|n| target(&format!("n{n:03}"), WarmState::Queued));
        let mut model = Warming::new(warm(queued.collect()));
        let mut failed = target("n998", WarmState::Failed);
        failed.retries_left = 3;
        model.update(&WarmEventKind::Target { target: failed });
        model.update(&WarmEventKind::Pulling {
            node: "n999".into(),
            image_hash: Digest::of(b"image"),
            done: 60,
            total: 120,
            layers: Vec::new(),
        });
        for room in [1, 2, 5, 23] {
            assert!(texts(&model, room, 80).len() <= room.max(2), "{room}");
        }
        let shown = texts(&model, 5, 80);
        assert!(
            shown[0].ends_with("1 pulling, 998 queued, 1 failed"),
            "{}",
            shown[0]
        );
        assert!(shown[1].contains("x n998") && shown[1].ends_with("3 left)"));
        assert!(
            shown[2].contains("[##########          ]  50%"),
            "{}",
            shown[2]
        );
        assert!(shown[4].contains("997 more"), "{}", shown[4]);
        assert!(!texts(&model, 5, 60)[2].contains('['));
    }
}
