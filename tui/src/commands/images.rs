//! `ls`, `show`, `tag`, `rm`, `builds` and `cancel`.

use chalk_core::wire::{Build, Image, ImageDetail};

use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::{bytes, seconds};

pub(crate) async fn ls(server: &Server, name: Option<&str>, json: bool) -> Result<(), Failure> {
    let query = name
        .map(|n| format!("?name={}", segment(n)))
        .unwrap_or_default();
    let images: Vec<Image> = server.client().get(&format!("/v1/images{query}")).await?;
    if json {
        return output::json(&images);
    }
    let rows: Vec<Vec<String>> = images
        .iter()
        .map(|image| {
            vec![
                output::short(image.image_hash),
                if image.names.is_empty() {
                    "-".to_owned()
                } else {
                    image.names.join(" ")
                },
                bytes(image.size),
                image.layers.to_string(),
                image.platform.to_string(),
                image.created.clone(),
            ]
        })
        .collect();
    output::table(
        &["HASH", "NAMES", "SIZE", "LAYERS", "PLATFORM", "CREATED"],
        &rows,
    )
}

/// The image that a hash prefix or name means.
pub(crate) async fn find(server: &Server, id: &str) -> Result<ImageDetail, Failure> {
    server
        .client()
        .get(&format!("/v1/images/{}", segment(id)))
        .await
}

pub(crate) async fn show(server: &Server, id: &str, json: bool) -> Result<(), Failure> {
    let detail = find(server, id).await?;
    if json {
        return output::json(&detail);
    }
    let image = &detail.image;
    output::line(&format!("hash      {}", image.image_hash))?;
    if !image.names.is_empty() {
        output::line(&format!("names     {}", image.names.join(" ")))?;
    }
    output::line(&format!("image     {}", image.image))?;
    output::line(&format!("digest    {}", image.digest))?;
    output::line(&format!("platform  {}", image.platform))?;
    output::line(&format!("created   {}", image.created))?;
    output::line(&format!(
        "size      {} in {} layer{}",
        bytes(image.size),
        image.layers,
        if image.layers == 1 { "" } else { "s" }
    ))?;
    let config = &detail.config;
    for (word, value) in [("user", &config.user), ("workdir", &config.working_dir)] {
        if !value.is_empty() {
            output::line(&format!("{word:<9} {value}"))?;
        }
    }
    for (word, value) in [("entrypoint", &config.entrypoint), ("cmd", &config.cmd)] {
        if let Some(value) = value {
            output::line(&format!("{word:<9} {value:?}"))?;
        }
    }
    for variable in &config.env {
        output::line(&format!("env       {variable}"))?;
    }
    output::line("")?;
    let rows: Vec<Vec<String>> = detail
        .steps
        .iter()
        .map(|s| {
            vec![
                output::short(s.key),
                s.kind.clone(),
                s.title.replace('\n', " "),
            ]
        })
        .collect();
    output::table(&["STEP KEY", "KIND", "STEP"], &rows)?;
    output::line("")?;
    let rows: Vec<Vec<String>> = detail
        .layer_list
        .iter()
        .map(|l| {
            vec![
                output::short(l.digest),
                bytes(l.size),
                l.created_by.replace('\n', " "),
            ]
        })
        .collect();
    output::table(&["LAYER", "SIZE", "MADE BY"], &rows)
}

pub(crate) async fn tag(server: &Server, id: &str, name: &str, json: bool) -> Result<(), Failure> {
    let path = format!("/v1/images/{}/names/{}", segment(id), segment(name));
    let image: Image = server.client().put(&path).await?;
    if json {
        return output::json(&image);
    }
    output::line(&image.names.join("\n"))
}

pub(crate) async fn rm(server: &Server, ids: &[String], json: bool) -> Result<(), Failure> {
    for id in ids {
        server
            .client()
            .delete(&format!("/v1/images/{}", segment(id)))
            .await?;
        if json {
            output::json(&serde_json::json!({ "removed": id }))?;
        } else {
            output::line(&format!("removed {id}"))?;
        }
    }
    Ok(())
}

pub(crate) async fn builds(
    server: &Server,
    limit: usize,
    name: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let name = name
        .map(|n| format!("&name={}", segment(n)))
        .unwrap_or_default();
    let builds: Vec<Build> = server
        .client()
        .get(&format!("/v1/builds?limit={limit}{name}"))
        .await?;
    if json {
        return output::json(&builds);
    }
    let rows: Vec<Vec<String>> = builds
        .iter()
        .map(|build| {
            vec![
                build.id.clone(),
                format!("{:?}", build.status).to_lowercase(),
                output::short(build.image_hash),
                build.name.clone().unwrap_or_else(|| "-".to_owned()),
                seconds(build.seconds),
                build.created.clone(),
            ]
        })
        .collect();
    output::table(
        &["BUILD", "STATUS", "HASH", "NAME", "TOOK", "CREATED"],
        &rows,
    )
}

pub(crate) async fn cancel(server: &Server, id: &str, json: bool) -> Result<(), Failure> {
    server
        .client()
        .delete(&format!("/v1/builds/{}", segment(id)))
        .await?;
    if json {
        return output::json(&serde_json::json!({ "cancelled": id }));
    }
    output::line(&format!("cancelled {id}"))
}
