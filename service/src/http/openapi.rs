//! The OpenAPI document, made from the same table as the router and from the types of
//! [`chalk_core::wire`].

use axum::http::Method;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Route;
use super::guard::OPEN_PATHS;
use crate::volumes::addresses;

/// What one call takes and gives.
pub(super) struct Call {
    /// One line for people.
    summary: &'static str,
    request: Option<Content>,
    status: u16,
    response: Option<Content>,
    query: &'static [Parameter],
}

/// A parameter behind the `?`: name, kind of its value, and what for.
pub(super) type Parameter = (&'static str, Of, &'static str);

/// Kinds of values of parameters.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of {
    Text,
    /// From 0 on.
    Number,
    /// `true` or `false`.
    Flag,
}

/// A body.
enum Content {
    Json(fn(&mut SchemaGenerator) -> schemars::Schema),
    Other(&'static str),
}

impl Call {
    /// A call that answers 200 without a body.
    pub(super) fn new(summary: &'static str) -> Self {
        Self {
            summary,
            request: None,
            status: 200,
            response: None,
            query: &[],
        }
    }

    pub(super) fn takes<T: JsonSchema>(mut self) -> Self {
        self.request = Some(Content::Json(SchemaGenerator::subschema_for::<T>));
        self
    }

    pub(super) fn takes_bytes(self) -> Self {
        self.takes_other("application/octet-stream")
    }

    pub(super) fn takes_other(mut self, media_type: &'static str) -> Self {
        self.request = Some(Content::Other(media_type));
        self
    }

    pub(super) fn gives<T: JsonSchema>(mut self) -> Self {
        self.response = Some(Content::Json(SchemaGenerator::subschema_for::<T>));
        self
    }

    pub(super) fn gives_other(mut self, media_type: &'static str) -> Self {
        self.response = Some(Content::Other(media_type));
        self
    }

    pub(super) fn answers(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Parameters behind the `?`.
    pub(super) fn query(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }
}

impl Content {
    fn document(&self, generator: &mut SchemaGenerator) -> Value {
        match self {
            Self::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
            Self::Other(media_type) => json!({ *media_type: {} }),
        }
    }
}

/// The document.
pub(super) fn document(routes: &[Route]) -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<chalk_core::wire::Problem>();
    let error = json!({
        "description": "What failed, why, and what to do.",
        "content": { "application/problem+json": { "schema": problem } },
    });
    // Not part of any answer, but of the streams that some calls give and take.
    generator.subschema_for::<chalk_core::wire::Event>();
    generator.subschema_for::<chalk_core::wire::WarmEvent>();
    generator.subschema_for::<chalk_core::wire::OutputEvent>();
    generator.subschema_for::<chalk_core::wire::CollectEvent>();
    generator.subschema_for::<chalk_core::wire::agent::Order>();
    generator.subschema_for::<chalk_core::wire::agent::Report>();
    let mut paths = Map::new();
    for route in routes {
        let call = &route.call;
        let mut operation = json!({
            "summary": call.summary,
            "operationId": operation_id(&route.method, route.path),
            "parameters": parameters(route),
        });
        if let Some(request) = &call.request {
            let content = request.document(&mut generator);
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
        let mut answer = json!({ "description": call.summary });
        if let Some(response) = &call.response {
            answer["content"] = response.document(&mut generator);
        }
        operation["responses"] = json!({ call.status.to_string(): answer, "default": error });
        // The addresses of objects carry a signature instead.
        if OPEN_PATHS.contains(&route.path) || route.path.starts_with(addresses::PREFIX) {
            operation["security"] = json!([]);
        }
        let method = route.method.as_str().to_lowercase();
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "chalkcompute build service",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Builds container images, once. Below /v2 the service answers the OCI distribution specification 1.1.",
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": generator.take_definitions(true),
        },
    })
}

fn parameters(route: &Route) -> Vec<Value> {
    let text = json!({ "type": "string" });
    let in_path = route.path.split('/').filter_map(|word| {
        let name = word.strip_prefix('{')?.strip_suffix('}')?;
        Some(json!({ "name": name, "in": "path", "required": true, "schema": text }))
    });
    let in_query = route.call.query.iter().map(|(name, of, what)| {
        let schema = match of {
            Of::Text => text.clone(),
            Of::Number => json!({ "type": "integer", "minimum": 0 }),
            Of::Flag => json!({ "type": "boolean" }),
        };
        json!({ "name": name, "in": "query", "description": what, "schema": schema })
    });
    in_path.chain(in_query).collect()
}

/// `getBuildsIdEvents`.
fn operation_id(method: &Method, path: &str) -> String {
    let mut id = method.as_str().to_lowercase();
    let words = path.trim_start_matches("/v1").split(['/', '.']);
    for word in words.map(|word| word.trim_matches(['{', '}'])) {
        let mut letters = word.chars();
        if let Some(first) = letters.next() {
            id.extend(first.to_uppercase());
            id.push_str(letters.as_str());
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_every_reference_leads_somewhere() {
        let routes = super::super::routes();
        let document = document(&routes);
        let mut ids = std::collections::BTreeSet::new();
        for route in &routes {
            let method = route.method.as_str().to_lowercase();
            let operation = &document["paths"][route.path][&method];
            assert!(operation.is_object(), "{method} {}", route.path);
            assert!(ids.insert(operation["operationId"].as_str().unwrap()));
            assert!(!route.call.summary.is_empty());
        }
        assert_eq!(ids.len(), routes.len());
        assert_eq!(
            operation_id(&Method::GET, "/v1/builds/{id}/events"),
            "getBuildsIdEvents"
        );

        let kind = |path: &str, name: &str| {
            let parameters = document["paths"][path]["get"]["parameters"].as_array();
            let found = parameters.unwrap().iter().find(|p| p["name"] == name);
            found.unwrap()["schema"]["type"].clone()
        };
        assert_eq!(kind("/v1/sandboxes", "all"), "boolean");
        assert_eq!(kind("/v1/sandboxes", "node"), "string");
        assert_eq!(kind("/v1/warms", "limit"), "integer");
        assert_eq!(kind("/v1/warms/{id}/events", "id"), "string");

        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    for (key, value) in map {
                        match value.as_str() {
                            Some(to) if key == "$ref" => found.push(to),
                            _ => references(value, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for name in ["Spec", "Event", "BuildReply", "ImageDetail", "Problem"] {
            assert!(
                document["components"]["schemas"][name].is_object(),
                "{name}"
            );
        }
    }
}
