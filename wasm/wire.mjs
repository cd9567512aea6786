// Makes TypeScript of the JSON Schemas of the wire types.

import { readFileSync, writeFileSync } from "node:fs";

import { compile } from "json-schema-to-typescript";

/** Writes one interface for each definition of the schema. */
export async function writeWireTypes(schemaFile, typesFile) {
  const schema = JSON.parse(readFileSync(schemaFile, "utf8"));
  const text = await compile(schema, "Wire", {
    additionalProperties: false,
    bannerComment: "/** Types of the HTTP API and of specs, made from those of Rust. */",
    unreachableDefinitions: true,
    format: true,
  });
  writeFileSync(typesFile, text);
}
