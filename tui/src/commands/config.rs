//! `config show`: every setting, its value and where it came from.

use serde_json::json;

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
    for row in &loaded.rows {
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
