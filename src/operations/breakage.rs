//! Breaking controls of the CIS benchmark on purpose, for a class to find: what is broken is seen to be caught before the
//! answers are given out. `reset` ends the lesson.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Client;
use serde::Serialize;
use serde_json::Value;

use crate::adapters::kubernetes::{self, ApiError};
use crate::adapters::node::{Node, NodeError};
use crate::documents::bounds::check_stream;
use crate::documents::breakage::{Action, BREAKS, Break};
use crate::documents::cis::facts::{Facts, Metadata};
use crate::documents::cis::{self as cis_document, Benchmark, Finding, Selection, Status, assess};
use crate::documents::encryption::Config;
use crate::documents::static_pod::{Change, StaticPod};
use crate::documents::yaml;
use crate::operations::api_server::{self, ApiServer, ApiServerError};
use crate::operations::cis::{self, CisError, Target};
use crate::operations::cluster::ControlPlanes;
use crate::progress::Reporter;

/// How long a kubelet may take until it runs with another configuration.
const KUBELET: Duration = Duration::from_secs(60);

/// How long a kubelet may take until it runs a changed static pod: it looks at its files every 20 s at the latest.
const COMPONENT: Duration = Duration::from_secs(90);

/// The flag that names the encryption configuration.
const ENCRYPTION: &str = "encryption-provider-config";

/// The configuration of a lesson, beside the one that it replaces.
const LESSON_FILE: &str = "lesson.yaml";

/// The kubelet's configuration on a node.
const KUBELET_FILE: &str = "/var/lib/kubelet/config.yaml";

/// Why nothing, or not everything, was broken.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum BreakageError {
    /// There is no such break.
    #[error("there is no break {name:?}")]
    #[diagnostic(code(kprov::breakage::unknown), help("there are {}", BREAKS.iter().map(|one| one.name).collect::<Vec<_>>().join(", ")))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// What is broken already teaches nothing.
    #[error("{}", if names.is_empty() { format!("only {left} of {} controls hold: {wanted} cannot be broken", BREAKS.len()) } else { format!("these do not hold as it is: {}", names.join(", ")) })]
    #[diagnostic(
        code(kprov::breakage::nothing_left),
        help("`kprov reset` puts the cluster right; the profile hardened has most to break")
    )]
    NothingLeft {
        /// Those that were asked for.
        names: Vec<String>,
        /// How many were asked for.
        wanted: usize,
        /// How many there are.
        left: usize,
    },
    /// A break that the check does not see.
    #[error("{name} was broken, and `kprov cis` does not see it: {seen}")]
    #[diagnostic(
        code(kprov::breakage::unseen),
        help("`kprov reset` puts the cluster right; this is a defect of kprov")
    )]
    Unseen {
        /// The break.
        name: &'static str,
        /// What was seen.
        seen: String,
    },
    /// The kubelet did not come up with its new configuration.
    #[error("{node}: the kubelet does not run with its new configuration after {} s: {reason}", KUBELET.as_secs())]
    #[diagnostic(
        code(kprov::breakage::kubelet),
        help("`kprov exec {node} -- journalctl -u kubelet` shows its log, `kprov reset` puts the cluster right")
    )]
    Kubelet {
        /// The node.
        node: String,
        /// What was seen last.
        reason: String,
    },
    /// A static pod did not come up with its new flag.
    #[error("{node}: after {} s it is not so that {done}", COMPONENT.as_secs())]
    #[diagnostic(
        code(kprov::breakage::component),
        help("`kprov exec {node} -- journalctl -u kubelet` shows why, `kprov reset` puts the cluster right")
    )]
    Component {
        /// The node.
        node: String,
        /// What was to be.
        done: String,
    },
    /// Secrets are not encrypted, so that nothing can be broken.
    #[error("{node}: Secrets cannot be made to be stored as plain text: {reason}")]
    #[diagnostic(code(kprov::breakage::encryption), help("`kprov encryption status` shows how they are stored"))]
    Encryption {
        /// The node.
        node: String,
        /// What is wrong.
        reason: String,
    },
    /// What would be made is there.
    #[error("{name} would make the {object}, which the cluster has already: nothing was broken")]
    #[diagnostic(
        code(kprov::breakage::taken),
        help("rename or remove it, choose something else, or `kprov reset` if it is from a lesson before")
    )]
    Taken {
        /// The break.
        name: &'static str,
        /// The object.
        object: String,
    },
    /// What is chosen cannot be written down.
    #[error("what is to be broken cannot be written down ({0}): nothing was broken")]
    #[diagnostic(code(kprov::breakage::answers))]
    Kept(String),
    /// The random source failed.
    #[error("the operating system's random source failed: {0}")]
    #[diagnostic(code(kprov::breakage::random))]
    Random(String),
    /// A node could not be changed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Node(#[from] NodeError),
    /// The API server could not be changed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    ApiServer(#[from] ApiServerError),
    /// An object could not be made.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Api(#[from] ApiError),
    /// The cluster could not be looked at.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Cis(#[from] CisError),
}

/// What is to be broken.
#[derive(Debug, Clone)]
pub enum Choice {
    /// These, by their names.
    Named(Vec<String>),
    /// So many of those that hold.
    Random(usize),
}

/// An answer to the lesson.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What was broken.
    pub name: &'static str,
    /// The control, as the cluster's version of the benchmark numbers it.
    pub control: String,
    /// The node; none if it is in the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What was done.
    pub done: String,
    /// What `kprov cis` says of it.
    pub seen: String,
    /// What puts it right.
    pub remedy: String,
}

/// What came of the control that a break is against; permissions may be asked for by another control in another version,
/// of the same title.
fn findings<'f>(findings: &'f [Finding], one: &Break) -> Vec<&'f Finding> {
    findings.iter().filter(|finding| cis_document::is(finding.control, Benchmark::NEWEST, one.control)).collect()
}

/// Whether a finding is of what was broken. A control that objects are against may not hold for other reasons, too, of which the
/// evidence names but some.
fn catches(finding: &Finding, one: &Break) -> bool {
    let shown = match one.action {
        Action::Objects { shows, .. } => finding.found.iter().any(|name| name == shows),
        _ => true,
    };
    finding.status != Status::Pass && shown
}

/// Whether a control is there to be broken.
fn holds(all: &[Finding], one: &Break) -> bool {
    let found = findings(all, one);
    !found.is_empty() && !found.iter().any(|finding| catches(finding, one))
}

/// Breaks what is chosen, and gives the answers once `cis` has caught every one of them. `keep` writes down what is chosen
/// before any of it is broken: whoever is left with half of it has to know.
///
/// # Errors
/// [`BreakageError`]; what was broken by then stays so.
pub async fn run(
    reporter: &Reporter,
    target: &Target<'_>,
    control_planes: &ControlPlanes,
    choice: &Choice,
    keep: impl FnOnce(&[&'static Break]) -> std::io::Result<()>,
) -> Result<Vec<Answer>, BreakageError> {
    let (facts, before) = look(target).await?;
    let chosen = choose(&facts, &before, choice)?;
    keep(&chosen).map_err(|error| BreakageError::Kept(error.to_string()))?;
    break_all(reporter, target, control_planes, &chosen).await?;
    let step = reporter.stage("Making sure that it is found");
    let (_, after) = look(target).await?;
    let mut answers = Vec::new();
    for one in chosen {
        let found = findings(&after, one);
        let Some(caught) = found.iter().find(|finding| catches(finding, one)) else {
            let seen = found.first().map_or_else(|| "no such control".to_owned(), |finding| finding.evidence.clone());
            return Err(BreakageError::Unseen { name: one.name, seen });
        };
        answers.push(Answer {
            name: one.name,
            control: caught.id.to_owned(),
            node: caught.node.clone(),
            done: one.describe(),
            seen: caught.evidence.clone(),
            remedy: caught.remedy.clone(),
        });
    }
    step.done();
    Ok(answers)
}

async fn look(target: &Target<'_>) -> Result<(Facts, Vec<Finding>), CisError> {
    let facts = cis::gather(target).await?;
    // Without exceptions: what is excepted was broken before.
    let findings = assess(&facts, facts.benchmark(), &[], &Selection::default());
    Ok((facts, findings))
}

/// What is there already of that which a break would make: it is somebody's, and would be written over.
fn taken(facts: &Facts, one: &Break) -> Option<String> {
    let of_cluster = |metadata: &Metadata, name: &str| metadata.namespace.is_none() && metadata.name == name;
    let objects = &facts.objects;
    let found = one.objects().into_iter().find(|(kind, name)| match kind.as_str() {
        "ClusterRole" => objects.roles.iter().any(|role| of_cluster(&role.metadata, name)),
        "ClusterRoleBinding" => objects.bindings.iter().any(|binding| of_cluster(&binding.metadata, name)),
        _ => objects.in_default.contains(&format!("{} {name}", kind.to_lowercase())),
    });
    found.map(|(kind, name)| format!("{kind} {name}"))
}

fn choose(facts: &Facts, before: &[Finding], choice: &Choice) -> Result<Vec<&'static Break>, BreakageError> {
    match choice {
        Choice::Named(names) => {
            let named = |name: &String| Break::named(name).ok_or_else(|| BreakageError::Unknown { name: name.clone() });
            let chosen = names.iter().map(named).collect::<Result<Vec<_>, _>>()?;
            for one in &chosen {
                if let Some(object) = taken(facts, one) {
                    return Err(BreakageError::Taken { name: one.name, object });
                }
            }
            let broken: Vec<String> =
                chosen.iter().filter(|one| !holds(before, one)).map(|one| one.name.to_owned()).collect();
            match broken.is_empty() {
                true => Ok(chosen),
                false => Err(BreakageError::NothingLeft { names: broken, wanted: chosen.len(), left: 0 }),
            }
        }
        Choice::Random(wanted) => {
            let mut left: Vec<&'static Break> =
                BREAKS.iter().filter(|one| holds(before, one) && taken(facts, one).is_none()).collect();
            if left.len() < *wanted {
                return Err(BreakageError::NothingLeft { names: Vec::new(), wanted: *wanted, left: left.len() });
            }
            let mut chosen = Vec::new();
            for _ in 0..*wanted {
                let number = getrandom::u64().map_err(|error| BreakageError::Random(error.to_string()))?;
                let at = usize::try_from(number % left.len() as u64).unwrap_or_default();
                chosen.push(left.swap_remove(at));
            }
            Ok(chosen)
        }
    }
}

/// Breaks all of it. Whatever is of one program is changed at once, so that none is started anew more than once.
async fn break_all(
    reporter: &Reporter,
    target: &Target<'_>,
    control_planes: &ControlPlanes,
    chosen: &[&'static Break],
) -> Result<(), BreakageError> {
    // The steps do not tell a class that looks on what is broken.
    let step = reporter.stage("Breaking something");
    let control_plane = control_planes.first();
    // The last node is a worker where there is one: a class that looks at the control plane alone misses it.
    let last = target.nodes.last().unwrap_or(control_plane);
    for one in chosen {
        if let Action::Objects { text, .. } = one.action {
            kubernetes::apply(target.client, one.name, text).await?;
        }
    }
    change_kubelet(target.client, last, &kubelet_fields(chosen)).await?;
    change_components(target, control_plane, chosen).await?;
    change_api_servers(reporter, target, control_planes, chosen).await?;
    // Files last: what a program runs with is changed by writing its file anew.
    for one in chosen {
        let node = if one.is_of_every_node() { last } else { control_plane };
        match one.action {
            Action::Mode { path, mode } => node.run(&["chmod", &format!("{mode:o}"), path]).await?,
            Action::Owner { path, owner } => node.run(&["chown", owner, path]).await?,
            _ => continue,
        };
    }
    step.done();
    Ok(())
}

/// The fields of the kubelet's configuration that are to be others.
fn kubelet_fields(chosen: &[&'static Break]) -> Vec<(&'static str, &'static str)> {
    let fields = chosen.iter().filter_map(|one| match one.action {
        Action::Kubelet { field, value } => Some((field, value)),
        _ => None,
    });
    fields.collect()
}

/// Changes the flags of all API servers that are to be others, and makes what is stored as plain text thereafter.
async fn change_api_servers(
    reporter: &Reporter,
    target: &Target<'_>,
    control_planes: &ControlPlanes,
    chosen: &[&'static Break],
) -> Result<(), BreakageError> {
    let plain = chosen.iter().find_map(|one| match one.action {
        Action::PlainText { secret } => Some((one.name, secret)),
        _ => None,
    });
    let manifest = ApiServer::on(control_planes.first().clone()).manifest().await?;
    let mut change = Change::default();
    for (flag, value) in api_server_flags(chosen, |flag| manifest.flag(flag)) {
        change = change.set(flag, &value);
    }
    if plain.is_some() {
        change = change.set(ENCRYPTION, &write_plain_text(control_planes).await?);
    }
    if change != Change::default() {
        api_server::change_all(reporter, target.client, control_planes, target.nodes, &change).await?;
    }
    if let Some((name, secret)) = plain {
        kubernetes::apply(target.client, name, secret).await?;
    }
    Ok(())
}

/// The flags of the API server that are to be others, by what they are now. What several breaks add to a list is added
/// to one another.
fn api_server_flags(chosen: &[&'static Break], now: impl Fn(&str) -> Option<String>) -> BTreeMap<&'static str, String> {
    let mut flags: BTreeMap<&'static str, String> = BTreeMap::new();
    for one in chosen {
        match one.action {
            Action::ApiServer { flag, value } => {
                flags.insert(flag, value.to_owned());
            }
            Action::Adds { flag, value } => {
                let list = flags.entry(flag).or_insert_with(|| now(flag).unwrap_or_default());
                *list = added(list, value);
            }
            _ => {}
        }
    }
    flags
}

/// What a flag's list is with another value in it.
fn added(list: &str, value: &str) -> String {
    match list.trim() {
        "" => value.to_owned(),
        list => format!("{list},{value}"),
    }
}

/// Changes the flags of other static pods that are to be others, and waits until they run so.
async fn change_components(target: &Target<'_>, node: &Node, chosen: &[&'static Break]) -> Result<(), BreakageError> {
    let mut components: BTreeMap<&'static str, Change> = BTreeMap::new();
    for one in chosen {
        if let Action::Component { name, flag, value } = one.action {
            let change = components.remove(name).unwrap_or_default().set(flag, value);
            components.insert(name, change);
        }
    }
    for (component, change) in &components {
        let path = format!("/etc/kubernetes/manifests/{component}.yaml");
        let text = node.read_text(&path).await?;
        let mut manifest = StaticPod::parse_of(component, &text).map_err(|reason| NodeError::File {
            node: node.name.clone(),
            path: path.clone(),
            reason,
        })?;
        manifest.apply(change);
        node.replace_file(&path, 0o600, manifest.to_yaml().as_bytes()).await?;
    }
    for one in chosen.iter().filter(|one| matches!(one.action, Action::Component { .. })) {
        comes_into_force(target, node, one).await?;
    }
    Ok(())
}

/// Waits until a static pod that was changed runs so on a node.
async fn comes_into_force(target: &Target<'_>, node: &Node, one: &Break) -> Result<(), BreakageError> {
    let seen = |all: &[Finding]| {
        let mut here = findings(all, one).into_iter().filter(|finding| finding.node.as_ref() == Some(&node.name));
        // A process that is not there yet is none that was broken.
        here.any(|finding| catches(finding, one) && !finding.evidence.contains("does not run"))
    };
    let watch = async {
        while !look(target).await.is_ok_and(|(_, all)| seen(&all)) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let came = tokio::time::timeout(COMPONENT, watch).await;
    came.map_err(|_| BreakageError::Component { node: node.name.clone(), done: one.describe() })
}

/// Puts a configuration on every control plane by which plain text is written, beside the one that holds and with the same
/// keys. Gives where it is.
async fn write_plain_text(control_planes: &ControlPlanes) -> Result<String, BreakageError> {
    let mut lesson = String::new();
    for node in control_planes.iter() {
        let fail = |reason: String| BreakageError::Encryption { node: node.name.clone(), reason };
        let file = ApiServer::on(node.clone()).manifest().await?.flag(ENCRYPTION);
        let file = file.ok_or_else(|| fail(format!("--{ENCRYPTION} is not set: they are already")))?;
        let text = node.read_text(&file).await?;
        let mut config = Config::parse(&text).map_err(|reason| fail(format!("{file}: {reason}")))?;
        config.write_plain_text();
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        lesson = format!("{folder}/{LESSON_FILE}");
        node.replace_file(&lesson, 0o600, config.to_yaml().as_bytes()).await?;
    }
    Ok(lesson)
}

/// Changes fields of a kubelet's configuration, and waits until it runs with them.
async fn change_kubelet(client: &Client, node: &Node, fields: &[(&str, &str)]) -> Result<(), BreakageError> {
    if fields.is_empty() {
        return Ok(());
    }
    let bad = |reason: String| NodeError::File { node: node.name.clone(), path: KUBELET_FILE.to_owned(), reason };
    let text = node.read_text(KUBELET_FILE).await?;
    check_stream(&text).map_err(bad)?;
    let mut configuration: Value = serde_yaml::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let mut wanted: Vec<(&str, Value)> = Vec::new();
    for (field, value) in fields {
        let value: Value = serde_yaml::from_str(value).map_err(|error| bad(error.to_string()))?;
        put(&mut configuration, field, value.clone());
        wanted.push((field, value));
    }
    node.replace_file(KUBELET_FILE, 0o600, yaml::document(&configuration).as_bytes()).await?;
    node.run(&["systemctl", "restart", "kubelet"]).await?;
    let mut reason = String::new();
    let watch = async {
        loop {
            match cis::running_configuration(client, &node.name).await {
                Ok(running) => {
                    // Of some fields, `false` is not shown.
                    let is_so = |field: &str, value| running.pointer(field).unwrap_or(&Value::Bool(false)) == value;
                    match wanted.iter().find(|(field, value)| !is_so(field, value)) {
                        None => return,
                        Some((field, _)) => reason = format!("it answers with the old {field}"),
                    }
                }
                Err(error) => reason = error,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let came = tokio::time::timeout(KUBELET, watch).await.is_ok();
    match came {
        true => Ok(()),
        false => Err(BreakageError::Kubelet { node: node.name.clone(), reason }),
    }
}

/// Puts a value at a JSON pointer, making the mappings on the way.
fn put(document: &mut Value, pointer: &str, value: Value) {
    let mut at = document;
    for key in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = Value::Object(serde_json::Map::new());
        }
        at = &mut at[key];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::documents::cis::facts::Binding;

    #[test]
    fn a_field_is_put_where_it_belongs() {
        let mut document = json!({"authentication": {"anonymous": {"enabled": false}, "x509": 1}});
        put(&mut document, "/authentication/anonymous/enabled", true.into());
        put(&mut document, "/a/b", 1.into());
        assert_eq!(document, json!({"authentication": {"anonymous": {"enabled": true}, "x509": 1}, "a": {"b": 1}}));
    }

    #[test]
    fn a_value_is_added_to_a_list_or_begins_it() {
        assert_eq!(added("", "ServiceAccount"), "ServiceAccount");
        assert_eq!(added("Node,RBAC", "AlwaysAllow"), "Node,RBAC,AlwaysAllow");
    }

    #[test]
    fn what_is_of_one_program_is_one_change() {
        let named = |names: &[&str]| names.iter().map(|name| Break::named(name).unwrap()).collect::<Vec<_>>();
        let chosen = named(&[
            "profiling",
            "no-service-account-admission",
            "no-namespace-lifecycle",
            "always-admit",
            "kubelet-anonymous",
            "key-mode",
            "kubelet-open-port",
        ]);
        let now = |flag: &str| (flag == "enable-admission-plugins").then(|| "NodeRestriction".to_owned());
        let flags = api_server_flags(&chosen, now);
        let seen: Vec<(&str, &str)> = flags.iter().map(|(flag, value)| (*flag, value.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("disable-admission-plugins", "ServiceAccount,NamespaceLifecycle"),
                ("enable-admission-plugins", "NodeRestriction,AlwaysAdmit"),
                ("profiling", "true"),
            ]
        );
        assert_eq!(
            kubelet_fields(&chosen),
            [("/authentication/anonymous/enabled", "true"), ("/readOnlyPort", "10255")]
        );
        assert!(api_server_flags(&named(&["key-mode"]), now).is_empty());
    }

    fn finding(id: &'static str, status: Status) -> Finding {
        let control = cis_document::find(Benchmark::NEWEST, id).unwrap();
        let kind = control.place(Benchmark::NEWEST).unwrap().kind;
        Finding {
            control,
            id,
            kind,
            node: None,
            status,
            evidence: String::new(),
            found: Vec::new(),
            remedy: String::new(),
            reason: None,
        }
    }

    #[test]
    fn only_what_holds_is_broken() {
        let nothing = Facts::default();
        let all: Vec<Finding> = BREAKS.iter().map(|one| finding(one.control, Status::Pass)).collect();
        let random = choose(&nothing, &all, &Choice::Random(BREAKS.len())).unwrap();
        let mut names: Vec<&str> = random.iter().map(|one| one.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BREAKS.len());
        let one = [finding("1.2.15", Status::Pass), finding("1.2.17", Status::Fail)];
        assert_eq!(choose(&nothing, &one, &Choice::Random(1)).unwrap()[0].name, "profiling");
        assert!(matches!(choose(&nothing, &one, &Choice::Random(2)), Err(BreakageError::NothingLeft { left: 1, .. })));
        let named = |name: &str| choose(&nothing, &one, &Choice::Named(vec![name.to_owned()]));
        assert!(named("profiling").is_ok());
        assert!(matches!(named("audit-age"), Err(BreakageError::NothingLeft { .. })));
        assert!(matches!(named("nonsense"), Err(BreakageError::Unknown { .. })));
    }

    #[test]
    fn what_is_somebodys_is_not_written_over_and_what_is_found_is_told_by_its_whole_name() {
        let all: Vec<Finding> = BREAKS.iter().map(|one| finding(one.control, Status::Pass)).collect();
        let mut facts = Facts::default();
        facts.objects.in_default = vec!["secret payroll".to_owned()];
        let role = |name: &str| serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        facts.objects.roles = vec![role("operator")];
        let mut binding: Binding = serde_json::from_value(json!({"metadata": {"name": "support"}})).unwrap();
        facts.objects.bindings = vec![binding.clone()];
        let named = |facts: &Facts, name: &str| choose(facts, &all, &Choice::Named(vec![name.to_owned()]));
        for name in ["plain-secret", "wildcard-role", "cluster-admin"] {
            assert!(matches!(named(&facts, name), Err(BreakageError::Taken { .. })), "{name}");
        }
        assert!(named(&facts, "secret-readers").is_ok());
        assert_eq!(choose(&facts, &all, &Choice::Random(BREAKS.len() - 3)).unwrap().len(), BREAKS.len() - 3);
        // One of a namespace is another.
        binding.metadata.namespace = Some("shop".to_owned());
        facts.objects.bindings = vec![binding];
        assert!(named(&facts, "cluster-admin").is_ok());

        let cluster_admin = Break::named("cluster-admin").unwrap();
        let mut seen = finding("5.1.1", Status::Warn);
        seen.evidence = "besides system:masters, supporters: user eve".to_owned();
        seen.found = vec!["supporters: user eve".to_owned()];
        assert!(!catches(&seen, cluster_admin));
        seen.found.extend((0..9).map(|number| format!("b{number}: user u")));
        seen.found.push("support: service account default/default".to_owned());
        assert!(catches(&seen, cluster_admin));
    }
}
