//! What an audit policy writes down, decided as the API server does: the first rule that matches counts.

use serde_json::Value;

use super::rbac::{is_own_group, is_own_user};
use super::verdict::Verdict;

/// A request, as rules see it, and whether what is in it may be written.
struct Request {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    body: bool,
}

const fn request(verb: &'static str, group: &'static str, resource: &'static str, body: bool) -> Request {
    Request { verb, group, resource, body }
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

/// What the benchmark wants to be written. Who comes by a WebSocket gets what others create.
const WANTED: [Request; 14] = [
    request("get", "", "secrets", false),
    request("create", "", "secrets", false),
    request("get", "", "configmaps", false),
    request("update", "", "configmaps", false),
    request("create", "authentication.k8s.io", "tokenreviews", false),
    request("create", "", "pods", true),
    request("delete", "", "pods", true),
    request("patch", "apps", "deployments", true),
    request("create", "", "pods/exec", true),
    request("get", "", "pods/exec", true),
    request("create", "", "pods/portforward", true),
    request("get", "", "pods/portforward", true),
    request("get", "", "pods/proxy", true),
    request("get", "", "services/proxy", true),
];

/// What its version 2.0 wants besides: how new credentials come into being.
const CREDENTIALS: [Request; 2] = [
    request("create", "certificates.k8s.io", "certificatesigningrequests", true),
    request("create", "", "serviceaccounts/token", false),
];

/// Who asks, for what that is called so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Asker<'p> {
    user: &'p str,
    groups: Vec<&'p str>,
    namespace: &'p str,
    name: &'p str,
}

impl Asker<'_> {
    /// In words; nothing if it is anybody.
    fn describe(&self) -> String {
        let groups: Vec<&str> = self.groups.iter().copied().filter(|group| *group != AUTHENTICATED).collect();
        let parts = [
            (" by user ", self.user),
            (" by group ", if self.user.is_empty() { groups.first().copied().unwrap_or_default() } else { "" }),
            (" in the namespace ", self.namespace),
            (" of what is called ", self.name),
        ];
        parts.iter().filter(|(_, value)| !value.is_empty()).map(|(word, value)| format!("{word}{value}")).collect()
    }
}

/// The group of all that have a name.
const AUTHENTICATED: &str = "system:authenticated";

/// Those who may do everything.
const ADMINISTRATORS: [&str; 2] = ["system:masters", "kubeadm:cluster-admins"];

/// How many askers a policy is held against at most.
const ASKERS: usize = 500;

fn words<'p>(value: &'p Value, key: &str) -> Vec<&'p str> {
    value.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn rules(policy: &Value) -> impl Iterator<Item = &Value> {
    policy.get("rules").and_then(Value::as_array).into_iter().flatten()
}

/// A list, or one entry that stands for anybody or anything.
fn or_any(list: Vec<&str>) -> Vec<&str> {
    if list.is_empty() { vec![""] } else { list }
}

/// Anybody, those who may do everything, and everybody whom a rule is about, but for Kubernetes itself: what the cluster does by
/// itself need not be written. `None` if they are too many to be looked at.
fn askers(policy: &Value) -> Option<Vec<Asker<'_>>> {
    let mut askers = vec![Asker { groups: vec![AUTHENTICATED], ..Asker::default() }];
    askers.extend(ADMINISTRATORS.iter().map(|group| Asker { groups: vec![group, AUTHENTICATED], ..Asker::default() }));
    for rule in rules(policy) {
        let names = rule.get("resources").and_then(Value::as_array).into_iter().flatten();
        let names = or_any(names.flat_map(|group| words(group, "resourceNames")).collect());
        for user in or_any(words(rule, "users")).into_iter().filter(|user| user.is_empty() || !is_own_user(user)) {
            for group in or_any(words(rule, "userGroups")).into_iter().filter(|group| !is_own_group(group)) {
                for namespace in or_any(words(rule, "namespaces")) {
                    for name in &names {
                        let groups: Vec<&str> =
                            [group, AUTHENTICATED].into_iter().filter(|one| !one.is_empty()).collect();
                        let asker = Asker { user, groups, namespace, name };
                        if !askers.contains(&asker) {
                            askers.push(asker);
                        }
                        if askers.len() > ASKERS {
                            return None;
                        }
                    }
                }
            }
        }
    }
    Some(askers)
}

/// Whether a rule is about what somebody asks for (k8s.io/apiserver, pkg/audit/policy/checker.go).
fn matches(rule: &Value, request: &Request, asker: &Asker<'_>) -> bool {
    let named = |key: &str, is: &dyn Fn(&str) -> bool| {
        let list = words(rule, key);
        list.is_empty() || list.into_iter().any(is)
    };
    if !named("users", &|user| user == asker.user)
        || !named("userGroups", &|group| asker.groups.contains(&group))
        || !named("verbs", &|verb| verb == request.verb)
        || !named("namespaces", &|namespace| namespace == asker.namespace)
    {
        return false;
    }
    let groups = rule.get("resources").and_then(Value::as_array).filter(|groups| !groups.is_empty());
    let Some(groups) = groups else {
        // A rule about paths that are no resources is about none.
        return !words(rule, "namespaces").is_empty() || words(rule, "nonResourceURLs").is_empty();
    };
    let (parent, sub) = request.resource.split_once('/').unwrap_or((request.resource, ""));
    groups.iter().any(|group| {
        let (resources, names) = (words(group, "resources"), words(group, "resourceNames"));
        let is_it = |name: &&str| {
            *name == request.resource
                || *name == "*"
                || name.strip_suffix("/*") == Some(parent)
                || (!sub.is_empty() && name.strip_prefix("*/") == Some(sub))
        };
        group.get("group").and_then(Value::as_str).unwrap_or_default() == request.group
            && (resources.is_empty()
                || (names.is_empty() || names.contains(&asker.name)) && resources.iter().any(is_it))
    })
}

/// Whether what comes of a request is written at all: a policy can leave out its stages, everywhere or by a rule.
fn tells_outcome(policy: &Value, rule: &Value, request: &Request) -> bool {
    let left = |stage: &str| ![policy, rule].iter().any(|value| words(value, "omitStages").contains(&stage));
    // A connection that stays open is answered long before it is complete.
    left("ResponseComplete") || (request.resource.contains('/') && left("ResponseStarted"))
}

fn level(policy: &Value, request: &Request, asker: &Asker<'_>) -> Level {
    let rule = rules(policy).find(|rule| matches(rule, request, asker));
    let rule = rule.filter(|rule| tells_outcome(policy, rule, request));
    rule.map_or(Level::None, |rule| Level::of(rule.get("level").and_then(Value::as_str)))
}

/// Holds a policy against what the benchmark wants, up to its version 1.12.
pub(super) fn judge(policy: &Value) -> Verdict {
    judge_by(policy, WANTED.iter().collect())
}

/// The same, from its version 2.0 on.
pub(super) fn judge_credentials_too(policy: &Value) -> Verdict {
    judge_by(policy, WANTED.iter().chain(&CREDENTIALS).collect())
}

fn judge_by(policy: &Value, wanted: Vec<&Request>) -> Verdict {
    let Some(askers) = askers(policy) else {
        return Verdict::open("its rules are about so many users, groups and objects that only you can tell");
    };
    let (mut missing, mut too_much) = (Vec::new(), Vec::new());
    for request in &wanted {
        let text = format!("{} {}", request.verb, request.resource);
        // Of all who are not written, the first: whoever is anybody stands for the others.
        let find = |is: &dyn Fn(Level) -> bool| {
            let asker = askers.iter().find(|asker| is(level(policy, request, asker)));
            asker.map(|asker| format!("{text}{}", asker.describe()))
        };
        missing.extend(find(&|level| level == Level::None));
        too_much.extend(find(&|level| level > Level::Metadata && !request.body));
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
            wanted.len()
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
            verdict.evidence.contains("create pods/exec") && verdict.evidence.contains("create pods,"),
            "to the API server, `pods/*` are pods, too: {}",
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

    #[test]
    fn nobody_is_left_out_but_kubernetes_itself() {
        let hidden = |who: &str| judged(&format!("[{{level: None, {who}}}, {{level: Metadata}}]"));
        for (who, told) in [
            ("userGroups: ['system:masters']", "get secrets by group system:masters"),
            ("userGroups: ['kubeadm:cluster-admins']", "by group kubeadm:cluster-admins"),
            ("userGroups: ['system:nodes', staff]", "by group staff"),
            ("users: [eve]", "by user eve"),
            ("users: ['system:kube-proxy', 'system:eve']", "by user system:eve"),
            ("users: ['system:serviceaccount:shop:app']", "by user system:serviceaccount:shop:app"),
            ("namespaces: [shop]", "in the namespace shop"),
            ("namespaces: [kube-system]", "in the namespace kube-system"),
            ("resources: [{group: '', resources: [secrets], resourceNames: [payroll]}]", "of what is called payroll"),
            ("users: [eve], namespaces: [shop]", "by user eve in the namespace shop"),
        ] {
            let verdict = hidden(who);
            assert!(verdict.holds == Some(false) && verdict.evidence.contains(told), "{who}: {}", verdict.evidence);
        }
        for who in ["userGroups: ['system:nodes', 'system:serviceaccounts:kube-system']", "users: ['system:apiserver']"]
        {
            assert_eq!(hidden(who).holds, Some(true), "{who}");
        }
        // What is written of one group alone is not written of others.
        assert_eq!(judged("[{level: Metadata, userGroups: ['system:masters']}]").holds, Some(false));
        assert_eq!(judged("[{level: Metadata, userGroups: ['system:authenticated']}]").holds, Some(true));
        assert_eq!(judged("[{level: Metadata, verbs: ['*']}]").holds, Some(false), "there is no such verb");
        let many: Vec<String> = (0..1000).map(|number| format!("u{number}")).collect();
        assert_eq!(hidden(&format!("users: [{}]", many.join(", "))).holds, None);
    }

    #[test]
    fn new_credentials_are_written_from_the_version_2_0_on() {
        let rules = "{rules: [{level: None, resources: [{group: certificates.k8s.io}]}, \
                     {level: Request, resources: [{group: '', resources: ['serviceaccounts/token']}]}, {level: Metadata}]}";
        let policy: Value = serde_yaml::from_str(rules).unwrap();
        assert_eq!(judge(&policy).holds, Some(true));
        let evidence = judge_credentials_too(&policy).evidence;
        assert!(evidence.contains("not written: create certificatesigningrequests"), "{evidence}");
        assert!(evidence.contains("what is in it: create serviceaccounts/token"), "{evidence}");
    }
}
