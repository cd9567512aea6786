//! `config show`: every setting, its value and where it came from; `config check`: what is wrong in
//! the configuration of the terminal app.

use std::path::Path;

use serde_json::json;

use crate::app::config as app;
use crate::error::Failure;
use crate::output;
use crate::settings::Loaded;

pub(crate) fn show(loaded: &Loaded, json: bool) -> Result<(), Failure> {
    let mut rows: Vec<[String; 4]> = Vec::new();
    let server = loaded.server.as_ref();
    rows.push([
        "server".into(),
        server.map(|(url, _)| url.clone()).unwrap_or_default(),
        server.map_or("default".into(), |(_, origin)| origin.to_string()),
        "Address of a running service; unset, the one on the state directory or in this process."
            .into(),
    ]);
    let token = loaded.token.as_ref();
    rows.push([
        "token".into(),
        token.map(|_| "(set)".to_owned()).unwrap_or_default(),
        token.map_or("default".into(), |(_, origin)| origin.to_string()),
        "Bearer token of that service; unset, the file `token` of the state directory.".into(),
    ]);
    for row in loaded.rows() {
        rows.push([
            row.setting.path.to_owned(),
            row.value.clone(),
            row.origin.to_string(),
            row.setting.doc.to_owned(),
        ]);
    }
    if json {
        let list: Vec<_> = rows
            .iter()
            .map(|[name, value, origin, doc]| {
                json!({ "name": name, "value": value, "origin": origin, "doc": doc })
            })
            .collect();
        return output::json(&list);
    }
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|[name, value, origin, _]| {
            vec![
                name,
                if value.is_empty() { "-".into() } else { value },
                origin,
            ]
        })
        .collect();
    output::table(&["SETTING", "VALUE", "FROM"], &cells)
}

/// Checks the app's configuration. The settings were checked when they were read.
pub(crate) fn check(file: Option<&Path>, json: bool) -> Result<(), Failure> {
    let default = || app::path(|name| std::env::var(name).ok());
    let named = file.is_some();
    let Some(path) = file.map(Path::to_owned).or_else(default) else {
        return Err(Failure::usage("no configuration file is known")
            .hint("set HOME or XDG_CONFIG_HOME, or name the file"));
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => String::new(),
        Err(error) => {
            return Err(Failure::usage(format!("cannot read {}", path.display())).why(error));
        }
    };
    let (_, mistakes) = app::read(&text);
    let shown = path.display();
    if json {
        let list: Vec<_> = mistakes
            .iter()
            .map(|m| json!({ "line": m.line, "field": m.field, "what": m.what }))
            .collect();
        output::json(&json!({ "file": path, "mistakes": list }))?;
    } else if mistakes.is_empty() {
        return output::line(&format!("{shown} is right"));
    }
    if mistakes.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = mistakes.iter().map(|m| format!("{shown}: {m}")).collect();
    let what = match lines.len() {
        1 => "bad configuration".to_owned(),
        count => format!("bad configuration: {count} mistakes"),
    };
    let failure = Failure::usage(what).why(lines.join("\n"));
    Err(if json { failure.printed() } else { failure })
}
