//! JSON Schemas of all documents, from which the TypeScript types are made.

use std::collections::BTreeMap;

use chalk_core::{Spec, wire};
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::{errors, files, resolved};

/// Names that would be taken for something else in JavaScript, and what they are called there.
const RENAMED: [(&str, &str); 9] = [
    ("Event", "BuildEvent"),
    ("Image", "ImageSummary"),
    ("LocalPlan", "Plan"),
    ("Node", "NodeInfo"),
    ("Plan", "ServicePlan"),
    ("Resolved", "ResolvedSpec"),
    ("Sandbox", "SandboxInfo"),
    ("SandboxProcess", "ProcessName"),
    ("Storage", "StorageUse"),
];

/// A JSON Schema (draft 2020-12) that has every type under `$defs`.
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    macro_rules! add {
        ($($type:ty),* $(,)?) => { $( let _ = generator.subschema_for::<$type>(); )* };
    }
    add![
        Spec,
        chalk_core::diff::Diff<'static>,
        wire::Problem,
        wire::Info,
        wire::ResolveRequest,
        wire::Resolved,
        wire::Plan,
        wire::LocalPlan,
        wire::BlobList,
        wire::Storage,
        wire::BuildRequest,
        wire::BuildReply,
        wire::Build,
        wire::Event,
        wire::Image,
        wire::ImageDetail,
        wire::Imported,
        wire::Region,
        wire::Node,
        wire::CacheListing,
        wire::CacheMap,
        wire::GcRequest,
        wire::GcReport,
        wire::JoinTokenRequest,
        wire::JoinToken,
        wire::Prewarm,
        wire::WarmRequest,
        wire::Warm,
        wire::WarmEvent,
        wire::SandboxRequest,
        wire::SandboxReply,
        wire::Sandbox,
        wire::StopRequest,
        wire::ExecRequest,
        wire::SandboxProcess,
        wire::ProcessStatus,
        wire::FileWritten,
        wire::OutputEvent,
        wire::TerminalSize,
        wire::SignalRequest,
        errors::ErrorDocument,
        files::OpenFiles<'static>,
        resolved::UploadDocument<'static>,
        resolved::Warning<'static>,
    ];
    let types = generator.take_definitions(true);
    let renamed: BTreeMap<&str, &str> = RENAMED.into();
    let name = |name: &str| renamed.get(name).copied().unwrap_or(name).to_owned();
    let mut definitions = serde_json::Map::new();
    for (own, mut schema) in types {
        refer(&mut schema, &name);
        definitions.insert(name(&own), schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": definitions,
    })
}

/// Lets references follow the new names.
fn refer(schema: &mut Value, name: &impl Fn(&str) -> String) {
    match schema {
        Value::Object(fields) => {
            for (field, value) in fields {
                match value {
                    Value::String(text) if field == "$ref" => {
                        if let Some(own) = text.strip_prefix("#/$defs/") {
                            *text = format!("#/$defs/{}", name(own));
                        }
                    }
                    other => refer(other, name),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, name)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    let reference = fields.get("$ref").and_then(Value::as_str);
                    found.extend(reference.map(str::to_owned));
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            assert!(
                document.pointer(&reference[1..]).is_some(),
                "{reference} leads nowhere"
            );
        }
        assert!(document["$defs"]["BuildEvent"].is_object());
    }
}
