//! JSON Schemas of the types whose JSON form is written by hand.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::spec::{Mount, Step};
use crate::{Digest, Platform, Reference, Spec};

impl JsonSchema for Digest {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "SHA-256 digest of some bytes.",
            "type": "string",
            "pattern": "^sha256:[0-9a-f]{64}$",
        })
    }
}

impl JsonSchema for Platform {
    fn schema_name() -> Cow<'static, str> {
        "Platform".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Operating system, architecture and perhaps variant.",
            "type": "string",
            "examples": ["linux/amd64"],
        })
    }
}

impl JsonSchema for Reference {
    fn schema_name() -> Cow<'static, str> {
        "Reference".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Image reference in normal form.",
            "type": "string",
            "examples": ["docker.io/library/python:3.12-slim-bookworm"],
        })
    }
}

fn texts() -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string" } })
}

fn text_map() -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": "string" } })
}

/// An image of a registry.
fn image(generator: &mut SchemaGenerator) -> Schema {
    let digest = generator.subschema_for::<Digest>();
    let platform = generator.subschema_for::<Platform>();
    let reference = generator.subschema_for::<Reference>();
    json_schema!({
        "type": "object",
        "required": ["ref"],
        "properties": { "ref": reference, "digest": digest, "platform": platform },
        "additionalProperties": false,
    })
}

impl JsonSchema for Step {
    fn schema_name() -> Cow<'static, str> {
        "Step".into()
    }

    /// One form for each kind, so that what is made of it knows which fields a kind has.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let digest = generator.subschema_for::<Digest>();
        let image = image(generator);
        let text = json_schema!({ "type": "string" });
        let (texts, text_map) = (texts(), text_map());
        json_schema!({
            "description": "A build step (docs/hash-v1.md).",
            "oneOf": [
                {
                    "type": "object",
                    "required": ["kind", "packages"],
                    "properties": {
                        "kind": { "enum": ["pip_install", "uv_pip_install", "apt_install"] },
                        "packages": texts,
                        "env": text_map,
                        "secrets": texts,
                        "force": { "type": "boolean" },
                    },
                },
                {
                    "type": "object",
                    "required": ["kind", "pyproject", "lock"],
                    "properties": {
                        "kind": { "const": "uv_sync" },
                        "pyproject": digest,
                        "lock": digest,
                        "extras": texts,
                        "workdir": text,
                        "env": text_map,
                        "secrets": texts,
                        "force": { "type": "boolean" },
                    },
                },
                {
                    "type": "object",
                    "required": ["kind", "command"],
                    "properties": {
                        "kind": { "const": "run" },
                        "command": text,
                        "env": text_map,
                        "secrets": texts,
                        "force": { "type": "boolean" },
                    },
                },
                {
                    "type": "object",
                    "required": ["kind", "dest", "digest", "mode"],
                    "properties": {
                        "kind": { "const": "add_file" },
                        "dest": text,
                        "digest": digest,
                        "mode": { "type": "string", "pattern": "^[0-7]{4}$" },
                        "force": { "type": "boolean" },
                    },
                },
                {
                    "type": "object",
                    "required": ["kind", "dest", "digest"],
                    "properties": {
                        "kind": { "const": "add_dir" },
                        "dest": text,
                        "digest": digest,
                        "force": { "type": "boolean" },
                    },
                },
                {
                    "type": "object",
                    "required": ["kind", "text"],
                    "properties": {
                        "kind": { "const": "dockerfile" },
                        "text": text,
                        "context": digest,
                        "images": { "type": "array", "items": image },
                        "env": text_map,
                        "secrets": texts,
                        "force": { "type": "boolean" },
                    },
                },
            ],
        })
    }
}

impl JsonSchema for Mount {
    fn schema_name() -> Cow<'static, str> {
        "Mount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Local files that are mounted when a sandbox starts.",
            "type": "object",
            "required": ["src", "dest"],
            "properties": {
                "src": { "type": "string" },
                "dest": { "type": "string" },
                "dir": { "type": "boolean" },
                "exclude": texts(),
                "after": { "type": "integer", "minimum": 0 },
            },
        })
    }
}

impl JsonSchema for Spec {
    fn schema_name() -> Cow<'static, str> {
        "Spec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let digest = generator.subschema_for::<Digest>();
        let platform = generator.subschema_for::<Platform>();
        let (texts, text_map) = (texts(), text_map());
        let image = image(generator);
        let instruction = json_schema!({
            "type": "object",
            "required": ["text"],
            "properties": {
                "text": { "type": "string" },
                "context": digest,
                "images": { "type": "array", "items": image },
            },
        });
        let stage = json_schema!({
            "type": "object",
            "required": ["base"],
            "properties": {
                "base": {
                    "anyOf": [
                        { "const": "scratch" },
                        image,
                        {
                            "type": "object",
                            "required": ["stage"],
                            "properties": { "stage": { "type": "integer", "minimum": 0 } },
                        },
                    ],
                },
                "instructions": { "type": "array", "items": instruction },
            },
        });
        let step = generator.subschema_for::<Step>();
        let mount = generator.subschema_for::<Mount>();
        json_schema!({
            "description": "A whole declaration (docs/hash-v1.md). Absent means absent.",
            "type": "object",
            "required": ["schema", "base"],
            "additionalProperties": false,
            "properties": {
                "schema": { "const": crate::spec::SCHEMA },
                "platform": platform,
                "base": {
                    "anyOf": [
                        { "const": "scratch" },
                        image,
                        {
                            "type": "object",
                            "required": ["dockerfile"],
                            "properties": {
                                "dockerfile": {
                                    "type": "object",
                                    "required": ["stages"],
                                    "properties": {
                                        "stages": { "type": "array", "items": stage },
                                    },
                                },
                            },
                        },
                    ],
                },
                "name": { "type": "string" },
                "env": text_map,
                "workdir": { "type": "string" },
                "user": { "type": "string" },
                "steps": { "type": "array", "items": step },
                "runtime_env": text_map,
                "labels": text_map,
                "entrypoint": texts,
                "cmd": texts,
                "mounts": { "type": "array", "items": mount },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema and what is written have the same fields.
    #[test]
    fn names_every_field_of_the_document() {
        let text = include_str!("schema/everything.json");
        let spec: Spec = serde_json::from_str(text).unwrap();
        let written = serde_json::to_value(&spec).unwrap();
        let schema = schemars::schema_for!(Spec);
        let fields = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let mut known = fields(&schema.as_value()["properties"]);
        known.sort();
        assert_eq!(fields(&written), known);
    }
}
