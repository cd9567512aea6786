// Makes TypeScript of the JSON Schemas of the wire types.

import { readFileSync, writeFileSync } from "node:fs";

import { compile } from "json-schema-to-typescript";

/** Writes one type for each definition of the schema. */
export async function writeWireTypes(schemaFile, typesFile) {
  const schema = JSON.parse(readFileSync(schemaFile, "utf8"));
  const names = Object.keys(schema.$defs);
  // As the only property of a type that is thrown away, each definition is reached once, by its name.
  const all = { type: "object", properties: referred(names), $defs: mapped(schema.$defs, explicit) };
  const text = await compile(all, "Discarded", {
    additionalProperties: false,
    bannerComment: "/** Types of the HTTP API and of specs, made from those of Rust. */",
  });
  const types = text
    .replace(/(?:\/\*\*(?:(?!\*\/).)*\*\/\n)?export interface Discarded \{.*?\n\}\n/s, "")
    .replaceAll(/(?: \*\n)? \* This (?:interface|type) was referenced by .*?\n \* via .*?\n/gs, "");
  writeFileSync(typesFile, types);
}

function referred(names) {
  return Object.fromEntries(names.map((name) => [name, { $ref: `#/$defs/${name}` }]));
}

/**
 * The same schema with what stands beside a `$ref`, a `oneOf` or an `anyOf` said by `allOf`: the
 * compiler forgets one of the two otherwise.
 */
function explicit(schema) {
  if (Array.isArray(schema)) return schema.map(explicit);
  if (typeof schema !== "object" || schema === null) return schema;
  // A schema that allows anything.
  if (Object.keys(schema).every((name) => name === "description")) return { ...schema, tsType: "unknown" };
  const inner = mapped(schema, (value, name) =>
    name === "properties" ? mapped(value, explicit) : explicit(value),
  );
  // What stands for an absent value is no part of the type.
  const { description, default: _, $ref, oneOf, anyOf, ...rest } = inner;
  const about = description === undefined ? {} : { description };
  const choice = oneOf ?? anyOf;
  const beside = Object.keys(rest).length > 0;
  const parts = [
    ...($ref ? [{ $ref }] : []),
    ...(choice ? [{ anyOf: choice }] : []),
    ...(beside ? [rest] : []),
  ];
  return parts.length > 1 || $ref ? { ...about, allOf: parts } : inner;
}

function mapped(object, change) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value, name)]));
}
