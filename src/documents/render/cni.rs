//! The manifest of an image's own CNI, completed as kind completes it.
//!
//! What is to be done with it, the manifest says itself, in words of comments that kind looks for
//! (pkg/cluster/internal/create/actions/installcni).

use serde_json::json;

use crate::documents::patches::{self, PatchError, Target};

/// Says that the manifest is a Go template. The pods' subnet is its only field, so that filling that in is all that rendering takes.
const TEMPLATE: &str = "would you kindly template this file";

/// Says that the CNI is to be told where the API server is, so that it does not have to wait for kube-proxy.
const PATCH: &str = "would you kindly patch this file";

/// The manifest for pods of `pod_subnet` in a cluster whose API server is at `endpoint`, `host:port`.
///
/// # Errors
/// [`PatchError::Yaml`] if a manifest that asks to be patched cannot be read, [`PatchError::Apply`] if a DaemonSet in it has no
/// container with an environment.
pub fn cni_manifest(text: &str, pod_subnet: &str, endpoint: &str) -> Result<String, PatchError> {
    let manifest = if text.contains(TEMPLATE) { filled_in(text, pod_subnet) } else { text.to_owned() };
    if !manifest.contains(PATCH) {
        return Ok(manifest);
    }
    let to = Target { kind: "DaemonSet".to_owned(), api_version: "apps/v1".to_owned() };
    let variable = json!({"name": "CONTROL_PLANE_ENDPOINT", "value": endpoint});
    let addition = json!([{"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": variable}]);
    let mut documents = patches::documents(&manifest)?;
    patches::apply(&mut documents, &[patches::json_6902(to, &addition.to_string())?])?;
    // JSON is YAML.
    Ok(documents.iter().map(|document| format!("---\n{document}\n")).collect())
}

fn filled_in(text: &str, pod_subnet: &str) -> String {
    let mut rendered = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((field, behind)) = after.split_once("}}") else { break };
        rendered.push_str(before);
        if field.trim_matches(|c: char| c.is_whitespace() || c == '-') == ".PodSubnet" {
            rendered.push_str(pod_subnet);
        }
        rest = behind;
    }
    rendered.push_str(rest);
    rendered
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn made(text: &str) -> Result<String, PatchError> {
        cni_manifest(text, "10.244.0.0/16", "c-control-plane:6443")
    }

    #[test]
    fn a_template_has_one_field() {
        let asks = format!("# {TEMPLATE}\n");
        let (field, filled) = (
            "subnet: {{ .PodSubnet }}\nother: \"{{.PodSubnet}}\"\n",
            "subnet: 10.244.0.0/16\nother: \"10.244.0.0/16\"\n",
        );
        assert_eq!(made(&format!("{asks}{field}")).unwrap(), format!("{asks}{filled}"));
        // One that does not say so is left alone.
        assert_eq!(made(field).unwrap(), field);
    }

    #[test]
    fn one_that_asks_for_it_is_told_where_the_api_server_is() {
        let container = "{name: cni, env: [{name: POD_SUBNET, value: {{ .PodSubnet }}}]}";
        let text = format!(
            "\n# {TEMPLATE}\n# {PATCH}\n---\nkind: ServiceAccount\napiVersion: v1\nmetadata: {{name: cni}}\n---\n\
             apiVersion: apps/v1\nkind: DaemonSet\nspec: {{template: {{spec: {{containers: [{container}]}}}}}}\n---\n"
        );
        let documents: Vec<Value> = patches::documents(&made(&text).unwrap()).unwrap();
        let environment = json!([
            {"name": "POD_SUBNET", "value": "10.244.0.0/16"},
            {"name": "CONTROL_PLANE_ENDPOINT", "value": "c-control-plane:6443"},
        ]);
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0], json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "cni"}}));
        assert_eq!(documents[1].pointer("/spec/template/spec/containers/0/env"), Some(&environment));
    }

    #[test]
    fn one_that_cannot_be_told_is_an_error() {
        let text = format!("# {PATCH}\napiVersion: apps/v1\nkind: DaemonSet\n");
        assert!(matches!(made(&text), Err(PatchError::Apply(_))));
        assert!(matches!(made(&format!("# {PATCH}\na: [")), Err(PatchError::Yaml(_))));
    }
}
