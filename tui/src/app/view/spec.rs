//! The declaration with its hash and plan, and its text beside it where there is room.

use chalk_core::wire::PlanState;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr as _;

use super::build::status_role;
use super::screen::{Screen, cells, fixed, share};
use super::text::trouble_lines;
use crate::app::event::Trouble;
use crate::app::model::{Span, State, builds};
use crate::app::theme::Role;
use crate::output::short;
use crate::progress::{bytes, harmless};

/// Least width at which the text stands beside the plan.
const BESIDE: u16 = 130;

/// Draws the view.
pub(super) fn draw(state: &mut State, screen: &mut Screen<'_>, area: Rect) {
    if state.spec.source.is_none() {
        let lines = [
            (Role::Strong, "No declaration here".to_owned()),
            (Role::Text, String::new()),
            (
                Role::Text,
                "o opens a file, a recent one, or an image by its hash".to_owned(),
            ),
            (
                Role::Text,
                "An image.toml or Dockerfile in this directory is opened by itself".to_owned(),
            ),
        ];
        screen.nothing(area, &lines);
        return;
    }
    let (plan, source) = if area.width >= BESIDE {
        let wide = area.width / 2;
        screen.divide(area.x + wide, area, false);
        (
            Rect::new(area.x, area.y, wide, area.height),
            Some(Rect::new(
                area.x + wide + 2,
                area.y,
                area.width - wide - 2,
                area.height,
            )),
        )
    } else {
        (area, None)
    };
    let below = head(state, screen, plan);
    steps(state, screen, below);
    if let Some(area) = source {
        text(state, screen, area);
    }
}

fn field(screen: &mut Screen<'_>, area: &mut Rect, name: &str, value: &[Span]) {
    if area.height == 0 {
        return;
    }
    screen.text(area.x + 1, area.y, 9, Role::Dim, name);
    screen.spans(area.x + 10, area.y, area.width.saturating_sub(10), value);
    area.y += 1;
    area.height -= 1;
}

/// Facts of the declaration; gives the area below them.
fn head(state: &State, screen: &mut Screen<'_>, mut area: Rect) -> Rect {
    let spec = &state.spec;
    let mut file: Vec<Span> = vec![(Role::Strong, spec.called())];
    if spec.watch {
        file.push((Role::Running, format!("  {} watching", screen.glyphs.dot)));
    }
    if spec.reading {
        file.push((
            Role::Running,
            format!("  {} reading", spinner(state, screen)),
        ));
    } else if spec.planning {
        file.push((
            Role::Running,
            format!("  {} planning", spinner(state, screen)),
        ));
    }
    field(screen, &mut area, "file", &file);
    if let Some(trouble) = &spec.trouble {
        trouble_below(screen, &mut area, trouble);
    }
    let Some(declared) = &spec.declared else {
        return area;
    };
    if spec.trouble.is_some() {
        let note = [(Role::Dim, "as it was before that:".to_owned())];
        field(screen, &mut area, "", &note);
    }
    let recipe = vec![(Role::Hash, declared.local.recipe_hash.to_string())];
    let hash = match (spec.image_hash(), &spec.plan_trouble) {
        (Some(hash), _) => vec![(Role::Hash, hash.to_string())],
        (None, Some(_)) => vec![(Role::Dim, "not known: the base is not pinned".to_owned())],
        (None, None) => vec![(Role::Dim, "known when the base is pinned".to_owned())],
    };
    field(screen, &mut area, "image", &hash);
    field(screen, &mut area, "recipe", &recipe);
    let plan_base = spec.plan.as_ref().and_then(|plan| plan.base.as_ref());
    let base = match plan_base.or(declared.local.base.as_ref()) {
        Some(base) => {
            let mut spans = vec![(Role::Text, base.reference.to_string())];
            if let Some(digest) = base.digest {
                spans.push((Role::Hash, format!(" {}", short(digest))));
            }
            spans
        }
        None => vec![(Role::Text, "scratch".to_owned())],
    };
    let mut base = base;
    base.push((Role::Dim, format!("  {}", declared.local.platform)));
    field(screen, &mut area, "base", &base);
    field(screen, &mut area, "plan", &plan(state, screen));
    if let Some(build) = last_build(state) {
        let sign = super::build::status_sign(state, screen, build.status);
        let spans = vec![
            (
                status_role(build.status),
                format!("{sign} {}", builds::word(build.status)),
            ),
            (
                Role::Dim,
                format!(" {} ago", crate::app::model::ago(state.now, &build.created)),
            ),
        ];
        field(screen, &mut area, "build", &spans);
    }
    let local = &declared.local.warnings;
    let planned = spec.plan.as_ref().map_or(&[][..], |plan| &plan.warnings);
    let mut warnings: Vec<&String> = local.iter().chain(planned).collect();
    warnings.dedup();
    for warning in warnings.into_iter().take(3) {
        let wide = usize::from(area.width.saturating_sub(11));
        for (at, line) in broken(&harmless(warning), wide).into_iter().enumerate() {
            let name = if at == 0 { "note" } else { "" };
            field(screen, &mut area, name, &[(Role::Warning, line)]);
        }
    }
    if let Some(trouble) = spec
        .plan_trouble
        .as_ref()
        .filter(|_| state.connection.is_up())
    {
        trouble_below(screen, &mut area, trouble);
    }
    if area.height > 1 {
        area.y += 1;
        area.height -= 1;
    }
    area
}

/// What went wrong, in lines that fit.
fn trouble_below(screen: &mut Screen<'_>, area: &mut Rect, trouble: &Trouble) {
    let wide = usize::from(area.width.saturating_sub(2));
    for line in trouble_lines(trouble, screen.glyphs.failed) {
        let role = line.first().map_or(Role::Text, |(role, _)| *role);
        let text: String = line.into_iter().map(|(_, text)| text).collect();
        for line in broken(&text, wide) {
            if area.height == 0 {
                return;
            }
            screen.text(area.x + 1, area.y, area.width - 1, role, &line);
            area.y += 1;
            area.height -= 1;
        }
    }
}

/// A text in lines of so many cells at most, broken between words where that goes.
pub(super) fn broken(text: &str, wide: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let full = lines
            .last()
            .is_some_and(|line| !line.is_empty() && line.width() + 1 + word.width() > wide);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// The newest build of what is worked on.
fn last_build(state: &State) -> Option<&chalk_core::wire::Build> {
    let recipe = state.spec.declared.as_ref()?.local.recipe_hash;
    state
        .builds
        .all
        .values()
        .rev()
        .find(|build| build.recipe_hash == recipe)
}

fn plan(state: &State, screen: &Screen<'_>) -> Vec<Span> {
    let spec = &state.spec;
    if let Some((sent, total)) = spec.uploading {
        let text = format!("sending {} of {}", bytes(sent), bytes(total));
        return vec![(Role::Running, text)];
    }
    let Some(plan) = &spec.plan else {
        let text = if !state.connection.is_up() {
            "not known without the service"
        } else if spec.plan_trouble.is_some() {
            "none, see below"
        } else {
            "on its way"
        };
        return vec![(Role::Dim, text.to_owned())];
    };
    let run = plan
        .steps
        .iter()
        .filter(|s| s.state == PlanState::Run)
        .count();
    if plan.exists && run == 0 {
        let warm = match plan.nodes_warm.len() {
            0 => String::new(),
            1 => format!(", warm on {}", plan.nodes_warm[0]),
            count => format!(", warm on {count} nodes"),
        };
        return vec![
            (Role::Ok, format!("{} built", screen.glyphs.ok)),
            (Role::Dim, format!("; a build would run nothing{warm}")),
        ];
    }
    let cached = plan.steps.len() - run;
    vec![
        (Role::Running, format!("{run} to run")),
        (Role::Dim, ", ".to_owned()),
        (Role::Cached, format!("{cached} cached")),
        (
            Role::Dim,
            format!(", {} to upload", bytes(plan.upload_bytes)),
        ),
    ]
}

fn steps(state: &mut State, screen: &mut Screen<'_>, area: Rect) {
    let Some(declared) = &state.spec.declared else {
        return;
    };
    let plan = state.spec.plan.as_ref();
    let rows: Vec<(Span, Span, Span)> = declared
        .local
        .steps
        .iter()
        .enumerate()
        .map(|(at, step)| {
            let planned = plan.and_then(|plan| plan.steps.get(at));
            let key = planned.map_or(step.key, |p| p.key);
            let state = match planned.map(|p| p.state) {
                Some(PlanState::Cached) => {
                    (Role::Cached, format!("{} cached", screen.glyphs.cached))
                }
                Some(PlanState::Run) => (Role::Running, format!("{} run", screen.glyphs.crumb)),
                None => (Role::Dim, "?".to_owned()),
            };
            let title = harmless(&step.title.replace('\n', " "));
            (state, (Role::Hash, short(key)), (Role::Text, title))
        })
        .collect();
    let columns = [
        fixed("", 2).right(),
        fixed("PLAN", 8),
        share("STEP", 1, 20),
        fixed("KEY", 12).from(60),
    ];
    state.page = screen.table(area, &columns, &mut state.spec.steps, true, |_, key| {
        let Some((at, (plan, hash, title))) = key
            .parse()
            .ok()
            .and_then(|at: usize| Some((at, rows.get(at)?)))
        else {
            return Vec::new();
        };
        vec![
            vec![(Role::Dim, (at + 1).to_string())],
            vec![plan.clone()],
            vec![title.clone()],
            vec![hash.clone()],
        ]
    });
}

/// The text of the file, so that a save in an editor is seen here.
fn text(state: &State, screen: &mut Screen<'_>, area: Rect) {
    let Some(declared) = &state.spec.declared else {
        return;
    };
    let count = declared.text.lines().count().max(1);
    let wide = cells(&count.to_string());
    for (y, (at, line)) in (area.top()..area.bottom()).zip(declared.text.lines().enumerate()) {
        let number = format!("{:>1$}", at + 1, usize::from(wide));
        screen.text(area.x, y, wide, Role::Dim, &number);
        let line = line.replace('\t', "    ");
        let role = if line.trim_start().starts_with('#') {
            Role::Dim
        } else if line.trim_start().starts_with('[') {
            Role::Title
        } else {
            Role::Text
        };
        let x = area.x + wide + 1;
        screen.text(x, y, area.right().saturating_sub(x), role, &line);
    }
}

/// The picture of something that runs.
pub(super) fn spinner(state: &State, screen: &Screen<'_>) -> &'static str {
    let pictures = screen.glyphs.spinner;
    let at = state.now.as_millisecond().rem_euclid(1 << 30) / 100;
    usize::try_from(at)
        .ok()
        .and_then(|at| pictures.get(at % pictures.len()).copied())
        .unwrap_or(" ")
}
