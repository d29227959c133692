//! What an audit policy writes down, decided as the API server does: the first rule that matches counts.

use serde_json::Value;

use super::verdict::Verdict;

/// A request, as rules see it.
struct Request {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
}

/// How much is written of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    fn of(text: Option<&str>) -> Self {
        match text {
            Some("Metadata") => Self::Metadata,
            Some("Request") => Self::Request,
            Some("RequestResponse") => Self::RequestResponse,
            _ => Self::None,
        }
    }
}

/// What the benchmark wants to be written, each with whether a body may be.
const WANTED: [(Request, bool); 12] = [
    (Request { verb: "get", group: "", resource: "secrets" }, false),
    (Request { verb: "create", group: "", resource: "secrets" }, false),
    (Request { verb: "get", group: "", resource: "configmaps" }, false),
    (Request { verb: "update", group: "", resource: "configmaps" }, false),
    (Request { verb: "create", group: "authentication.k8s.io", resource: "tokenreviews" }, false),
    (Request { verb: "create", group: "", resource: "pods" }, true),
    (Request { verb: "delete", group: "", resource: "pods" }, true),
    (Request { verb: "patch", group: "apps", resource: "deployments" }, true),
    (Request { verb: "create", group: "", resource: "pods/exec" }, true),
    (Request { verb: "create", group: "", resource: "pods/portforward" }, true),
    (Request { verb: "get", group: "", resource: "pods/proxy" }, true),
    (Request { verb: "get", group: "", resource: "services/proxy" }, true),
];

/// Whether a rule is about a request of somebody: rules for certain users, groups or namespaces are not.
fn matches(rule: &Value, request: &Request) -> bool {
    let words = |value: &Value, key: &str| -> Vec<String> {
        value
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    if !words(rule, "users").is_empty()
        || !words(rule, "userGroups").iter().all(|group| group == "system:authenticated")
    {
        return false;
    }
    if !words(rule, "namespaces").is_empty() {
        return false;
    }
    let verbs = words(rule, "verbs");
    if !verbs.is_empty() && !verbs.iter().any(|verb| verb == request.verb || verb == "*") {
        return false;
    }
    let groups = rule.get("resources").and_then(Value::as_array).filter(|groups| !groups.is_empty());
    let Some(groups) = groups else {
        // A rule about paths that are no resources is about none.
        return words(rule, "nonResourceURLs").is_empty();
    };
    groups.iter().any(|group| {
        let resources = words(group, "resources");
        let named = |name: &String| {
            name == request.resource
                || name == "*"
                || name
                    .strip_suffix("/*")
                    .is_some_and(|parent| request.resource.split_once('/').is_some_and(|(of, _)| of == parent))
                || name
                    .strip_prefix("*/")
                    .is_some_and(|sub| request.resource.split_once('/').is_some_and(|(_, of)| of == sub))
        };
        group.get("group").and_then(Value::as_str).unwrap_or_default() == request.group
            && words(group, "resourceNames").is_empty()
            && (resources.is_empty() || resources.iter().any(named))
    })
}

/// Whether what comes of a request is written at all: a policy can leave out its stages, everywhere or by a rule.
fn tells_outcome(policy: &Value, rule: &Value, request: &Request) -> bool {
    let omits = |value: &Value, stage: &str| {
        let stages = value.get("omitStages").and_then(Value::as_array);
        stages.into_iter().flatten().any(|omitted| omitted.as_str() == Some(stage))
    };
    let left = |stage: &str| !omits(policy, stage) && !omits(rule, stage);
    // A connection that stays open is answered long before it is complete.
    left("ResponseComplete") || (request.resource.contains('/') && left("ResponseStarted"))
}

fn level(policy: &Value, request: &Request) -> Level {
    let rules = policy.get("rules").and_then(Value::as_array);
    let rule = rules.into_iter().flatten().find(|rule| matches(rule, request));
    let rule = rule.filter(|rule| tells_outcome(policy, rule, request));
    rule.map_or(Level::None, |rule| Level::of(rule.get("level").and_then(Value::as_str)))
}

pub(super) fn judge(policy: &Value) -> Verdict {
    let (mut missing, mut too_much) = (Vec::new(), Vec::new());
    for (request, body) in &WANTED {
        let text = format!("{} {}", request.verb, request.resource);
        match level(policy, request) {
            Level::None => missing.push(text),
            level if level > Level::Metadata && !body => too_much.push(text),
            _ => {}
        }
    }
    let mut wrong = Vec::new();
    if !missing.is_empty() {
        wrong.push(format!("not written: {}", missing.join(", ")));
    }
    if !too_much.is_empty() {
        wrong.push(format!("written with what is in it: {}", too_much.join(", ")));
    }
    match wrong.is_empty() {
        true => Verdict::pass(format!(
            "all {} kinds of request that the benchmark names are written, secrets without content",
            WANTED.len()
        )),
        false => Verdict::fail(wrong.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(rules: &str) -> Verdict {
        judge(&serde_yaml::from_str(&format!("rules: {rules}")).unwrap())
    }

    #[test]
    fn metadata_of_everything_covers_all() {
        assert_eq!(judged("[{level: Metadata}]").holds, Some(true));
        assert_eq!(judged("[]").holds, Some(false));
        assert_eq!(judged("[{level: None}, {level: Metadata}]").holds, Some(false));
    }

    #[test]
    fn bodies_of_secrets_are_too_much() {
        let verdict = judged("[{level: RequestResponse}]");
        assert!(verdict.evidence.contains("get secrets") && !verdict.evidence.contains("pods"), "{}", verdict.evidence);
    }

    #[test]
    fn what_leaves_out_how_it_ended_is_not_written() {
        let all = "[{level: Metadata}]";
        let policy =
            |stages: &str| judge(&serde_yaml::from_str(&format!("{{omitStages: {stages}, rules: {all}}}")).unwrap());
        assert_eq!(policy("[RequestReceived]").holds, Some(true));
        let verdict = policy("[ResponseComplete]");
        assert!(
            verdict.evidence.contains("get secrets") && !verdict.evidence.contains("pods/exec"),
            "{}",
            verdict.evidence
        );
        assert!(policy("[ResponseStarted, ResponseComplete]").evidence.contains("create pods/exec"));
        let verdict = judged(
            "[{level: Metadata, omitStages: [ResponseComplete], resources: [{group: '', resources: [secrets]}]}, {level: Metadata}]",
        );
        assert!(
            verdict.evidence.contains("get secrets") && !verdict.evidence.contains("configmaps"),
            "{}",
            verdict.evidence
        );
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let hidden = "[{level: None, resources: [{group: '', resources: ['pods/*']}]}, {level: Metadata}]";
        let verdict = judged(hidden);
        assert!(
            verdict.evidence.contains("create pods/exec") && !verdict.evidence.contains("create pods,"),
            "{}",
            verdict.evidence
        );
        for harmless in [
            "{level: None, users: ['system:kube-proxy']}",
            "{level: None, nonResourceURLs: ['/healthz*']}",
            "{level: None, resources: [{group: '', resources: [events]}]}",
        ] {
            assert_eq!(judged(&format!("[{harmless}, {{level: Metadata}}]")).holds, Some(true), "{harmless}");
        }
    }
}
