//! The JSON Schema of profiles, for editors (`# yaml-language-server: $schema=…`) and for `shape`.
//!
//! Owns the schema document, and the schemas of parts that the types hold as plain values. It is made from the types
//! and their comments, so that there is no second description to keep in step.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

/// Where the schema says that it lives.
pub const ID: &str = "https://kprov.dev/schemas/v1alpha1/profile.json";

/// The schema (JSON Schema, draft 2020-12).
#[must_use]
pub fn json_schema() -> Json {
    let mut schema = of::<super::Profile>();
    if let Some(root) = schema.as_object_mut() {
        root.insert("$id".to_owned(), ID.into());
        root.insert("title".to_owned(), "kprov profile".into());
    }
    schema
}

/// The schema of a document.
pub(super) fn of<T: JsonSchema>() -> Json {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
    let definitions = schema.get_mut("$defs").and_then(Json::as_object_mut).map(std::mem::take).unwrap_or_default();
    allow_nulls(&mut schema);
    schema["$defs"] = definitions
        .into_iter()
        .map(|(name, mut schema)| {
            allow_nulls(&mut schema);
            (name, schema)
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    schema
}

/// Lets everything be null that may be missing: in a layer, null removes what the base has.
fn allow_nulls(object: &mut Json) {
    let required = object.get("required").cloned().unwrap_or_default();
    let is_required = |name: &str| required.as_array().is_some_and(|all| all.iter().any(|field| field == name));
    for (name, field) in object.get_mut("properties").and_then(Json::as_object_mut).into_iter().flatten() {
        if !is_required(name) {
            allow_null(field);
        }
        // Free mappings are written in place, and have entries to remove as well.
        if let Some(values) = field.get_mut("additionalProperties") {
            allow_null(values);
        }
    }
}

fn allow_null(schema: &mut Json) {
    let Some(fields) = schema.as_object_mut() else { return };
    match fields.get_mut("type") {
        Some(Json::String(kind)) => {
            let kinds = serde_json::json!([kind, "null"]);
            fields.insert("type".to_owned(), kinds);
        }
        Some(_) => {}
        None => {
            if let Some(reference) = fields.remove("$ref") {
                fields.insert("anyOf".to_owned(), serde_json::json!([{"$ref": reference}, {"type": "null"}]));
            }
        }
    }
}

/// A rule of an audit policy: the first one that matches a request decides.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used: kprov hands rules on as they are")]
pub(super) struct AuditRule {
    /// How much is written.
    level: AuditLevel,
    /// Users that it applies to. Default: all.
    users: Option<Vec<String>>,
    /// Groups that it applies to. Default: all.
    user_groups: Option<Vec<String>>,
    /// Verbs that it applies to. Default: all.
    verbs: Option<Vec<String>>,
    /// Resources that it applies to.
    resources: Option<Vec<AuditResources>>,
    /// Namespaces that it applies to; `""` is for resources without one. Default: all.
    namespaces: Option<Vec<String>>,
    /// Paths that are no resources, such as `/healthz*`.
    #[schemars(rename = "nonResourceURLs")]
    non_resource_urls: Option<Vec<String>>,
    /// Stages that are left out for this rule.
    omit_stages: Option<Vec<AuditStage>>,
    /// Whether managed fields are left out (from Kubernetes 1.23).
    omit_managed_fields: Option<bool>,
}

/// Resources of an API group.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct AuditResources {
    /// The API group; `""` is the core one.
    group: Option<String>,
    /// Names of resources, such as `pods` or `pods/log`. Default: all of the group.
    resources: Option<Vec<String>>,
    /// Names of objects. Default: all.
    resource_names: Option<Vec<String>>,
}

/// How much of a request is written.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
enum AuditLevel {
    /// Nothing.
    None,
    /// Who, what, when; no bodies.
    Metadata,
    /// Also the request's body.
    Request,
    /// Also the response's body.
    RequestResponse,
}

/// A moment in a request's life.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum AuditStage {
    /// Before it is handled.
    RequestReceived,
    /// Headers are sent, the body is not (watches).
    ResponseStarted,
    /// Done.
    ResponseComplete,
    /// The API server panicked.
    Panic,
}
