//! Whether a control holds, by what is known: flags, files and the kubelet's settings. What is special to one control is
//! in the modules beside this one.

use serde_json::Value;

use super::control::{Component, Control, Files, Flag, Setting, Test, Want};
use super::facts::{Facts, FileFact, NodeFacts};
use super::flags;
use super::verdict::Verdict;

/// What is found for a control: once for each node that it is about, or once for the cluster.
pub(super) fn judge<'f>(control: &Control, facts: &'f Facts) -> Vec<(Option<&'f NodeFacts>, Verdict)> {
    let on = |nodes: &mut dyn Iterator<Item = &'f NodeFacts>, look: &dyn Fn(&'f NodeFacts) -> Verdict| {
        nodes.map(|node| (Some(node), look(node))).collect()
    };
    let control_planes = || facts.nodes.iter().filter(|node| node.control_plane);
    // Those of the first four sections that are not about kubelets are about control planes.
    let everywhere = control.places.iter().any(|place| place.id.starts_with("4."));
    let files = |look: &dyn Fn(&'f NodeFacts) -> Verdict| match everywhere {
        true => on(&mut facts.nodes.iter(), look),
        false => on(&mut control_planes(), look),
    };
    match &control.test {
        Test::Flags(component, wanted) => on(&mut control_planes(), &|node| flags_of(node, *component, wanted)),
        Test::Mode(which, most) => files(&|node| modes(node, *which, *most)),
        Test::Owner(which, owner) => files(&|node| owners(node, *which, owner)),
        Test::Kubelet(settings) => on(&mut facts.nodes.iter(), &|node| kubelet(node, settings)),
        Test::ControlPlane(look) => on(&mut control_planes(), &|node| look(node, facts)),
        Test::Node(look) => on(&mut facts.nodes.iter(), &|node| look(node, facts)),
        Test::Cluster(look) => vec![(None, look(facts))],
    }
}

/// Whether a value is as wanted; `None` stands for no value.
fn meets(want: Want, default_holds: bool, value: Option<&str>) -> bool {
    let Some(value) = value else { return default_holds };
    let mut items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    match want {
        Want::Present => !value.is_empty(),
        Want::Absent => false,
        Want::Is(wanted) => same(value, wanted),
        Want::IsNot(unwanted) => !same(value, unwanted),
        Want::AtLeast(least) => value.trim().parse::<i64>().is_ok_and(|number| number >= least),
        Want::Has(item) => items.any(|other| other == item),
        Want::HasAny(any) => items.any(|other| any.contains(&other)),
        Want::Lacks(item) => !items.any(|other| other == item),
        Want::Among(known) => !value.trim().is_empty() && items.all(|item| known.contains(&item)),
    }
}

/// Whether two values mean the same: `false`, `False`, `f` and `0` are one to Go, and `0s` is no time.
pub(super) fn same(value: &str, other: &str) -> bool {
    let truth = |text: &str| match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    };
    value == other
        || (matches!(other, "true" | "false") && truth(value) == truth(other))
        || (other == "0" && is_no_time(value))
}

/// Whether a duration is none: every digit of it is zero.
fn is_no_time(value: &str) -> bool {
    value.contains('0') && value.chars().all(|c| matches!(c, '0' | 'h' | 'm' | 's' | '.' | 'n' | 'u' | 'µ'))
}

fn wanted(want: Want) -> String {
    match want {
        Want::Present => "any value".to_owned(),
        Want::Absent => "none".to_owned(),
        Want::Is(value) => value.to_owned(),
        Want::IsNot(value) => format!("not {value}"),
        Want::AtLeast(least) => format!("{least} or more"),
        Want::Has(item) => format!("a list with {item}"),
        Want::HasAny(items) => format!("a list with {}", items.join(" or ")),
        Want::Lacks(item) => format!("a list without {item}"),
        Want::Among(_) => "nothing but strong suites".to_owned(),
    }
}

fn flags_of(node: &NodeFacts, component: Component, wanted_flags: &[Flag]) -> Verdict {
    let Some(arguments) = node.arguments(component.name()) else {
        return Verdict::fail(node.absence(component.name()));
    };
    let (mut seen, mut wrong) = (Vec::new(), Vec::new());
    for wanted_flag in wanted_flags {
        let Flag { name, want, default_holds } = wanted_flag;
        if flags::is_doubtful(arguments, name) {
            wrong.push(format!("--{name} may be the value of the flag before it: nothing is proven"));
            continue;
        }
        if let Some(file) = overruled(node, component, arguments, name) {
            wrong.push(format!("--{name} does not count, since {} reads {file}: nothing is proven", component.name()));
            continue;
        }
        let mut value = flags::value(arguments, name, is_list(*want));
        if value.is_none() && component == Component::Etcd {
            let variable = format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_"));
            value = node.etcd_environment.get(&variable).cloned();
        }
        let shown = match &value {
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name} is not set"),
        };
        if meets(*want, *default_holds, value.as_deref()) {
            seen.push(shown);
        } else {
            wrong.push(format!("{shown}, wanted is {}", wanted(*want)));
        }
    }
    if wrong.is_empty() { Verdict::pass(seen.join(", ")) } else { Verdict::fail(wrong.join("; ")) }
}

/// The file that a process reads its settings from, if a flag does not count beside it.
fn overruled(node: &NodeFacts, component: Component, arguments: &[String], flag: &str) -> Option<String> {
    let file = |name| flags::value(arguments, name, false);
    let named = match (component, flag) {
        (Component::Etcd, _) => file("config-file")
            .filter(|file| !file.is_empty())
            .or_else(|| node.etcd_environment.get("ETCD_CONFIG_FILE").cloned()),
        (Component::Scheduler, "profiling") => file("config"),
        _ => None,
    };
    named.filter(|file| !file.is_empty())
}

/// Whether a flag of that kind may be given several times, each adding to it.
fn is_list(want: Want) -> bool {
    matches!(want, Want::Has(_) | Want::HasAny(_) | Want::Lacks(_) | Want::Among(_))
}

/// The files that are meant, as far as they are there.
fn chosen(node: &NodeFacts, which: Files) -> Vec<&FileFact> {
    let find = |path: &str| node.files.iter().find(|file| file.path == path);
    let below = |folder: &str| {
        let prefix = format!("{}/", folder.trim_end_matches('/'));
        let folder = folder.trim_end_matches('/').to_owned();
        node.files.iter().filter(move |file| file.path == folder || file.path.starts_with(&prefix))
    };
    match which {
        Files::One(path) => find(path).into_iter().collect(),
        Files::Some(paths) => paths.iter().filter_map(|path| find(path)).collect(),
        Files::Below(folder, "") => below(folder).collect(),
        Files::Below(folder, ending) => {
            below(folder).filter(|file| !file.folder && file.path.ends_with(ending)).collect()
        }
        Files::Network => {
            below("/etc/cni/net.d").chain(below("/var/lib/cni/networks")).filter(|file| !file.folder).collect()
        }
        Files::EtcdData => {
            let path = node.arguments("etcd").and_then(|arguments| flags::value(arguments, "data-dir", false));
            path.and_then(|path| find(path.trim_end_matches('/'))).into_iter().collect()
        }
        Files::KubeletUnit => {
            let drop_ins = ["/etc/systemd/system/kubelet.service.d", "/usr/lib/systemd/system/kubelet.service.d"];
            let found: Vec<_> = drop_ins.iter().flat_map(|folder| below(folder)).filter(|file| !file.folder).collect();
            let units = ["/etc/systemd/system/kubelet.service", "/usr/lib/systemd/system/kubelet.service"];
            if found.is_empty() { units.iter().filter_map(|path| find(path)).take(1).collect() } else { found }
        }
        Files::KubeletConfiguration => {
            let path = node.arguments("kubelet").and_then(|arguments| flags::value(arguments, "config", false));
            path.and_then(|path| find(&path)).into_iter().collect()
        }
        Files::ClientAuthority => client_authority(node).and_then(|path| find(&path)).into_iter().collect(),
        Files::ProxyKubeconfig => ["/etc/kubernetes/proxy.conf", "/etc/kubernetes/kube-proxy.conf"]
            .iter()
            .filter_map(|path| find(path))
            .collect(),
    }
}

/// The CA file that the kubelet trusts.
fn client_authority(node: &NodeFacts) -> Option<String> {
    let flag = node.arguments("kubelet").and_then(|arguments| flags::value(arguments, "client-ca-file", false));
    let of = |value: Option<&Value>| Some(value?.pointer("/authentication/x509/clientCAFile")?.as_str()?.to_owned());
    let running = node.kubelet_running.as_ref().and_then(|running| running.as_ref().ok());
    flag.or_else(|| of(running)).or_else(|| of(node.kubelet_file.as_ref()))
}

/// How many files evidence names.
const NAMED: usize = 4;

/// Judges files: `right` tells whether one is as wanted, and `show` how it is.
fn judged(
    node: &NodeFacts,
    which: Files,
    right: impl Fn(&FileFact) -> bool,
    show: impl Fn(&FileFact) -> String,
    wanted: &str,
) -> Verdict {
    let files = chosen(node, which);
    if files.is_empty() {
        return match which.may_be_absent() {
            true => Verdict::pass("there is no such file"),
            false => Verdict::fail("there is no such file: nothing is proven"),
        };
    }
    let wrong: Vec<&&FileFact> = files.iter().filter(|file| !right(file)).collect();
    let list = |files: &mut dyn Iterator<Item = String>, count: usize| {
        let mut named: Vec<String> = files.take(NAMED).collect();
        if count > NAMED {
            named.push(format!("and {} more", count - NAMED));
        }
        named.join(", ")
    };
    if wrong.is_empty() {
        let text = match &files[..] {
            [only] => show(only),
            _ => format!("all {} files: {wanted}", files.len()),
        };
        return Verdict::pass(text);
    }
    let named = list(&mut wrong.iter().map(|file| show(file)), wrong.len());
    Verdict::fail(format!("{named}; wanted is {wanted}"))
}

fn modes(node: &NodeFacts, which: Files, most: u32) -> Verdict {
    let wanted = format!("{most:o} or less");
    judged(node, which, |file| file.mode & !most == 0, |file| format!("{} has {:o}", file.path, file.mode), &wanted)
}

fn owners(node: &NodeFacts, which: Files, owner: &str) -> Verdict {
    judged(node, which, |file| file.owner == owner, |file| format!("{} is {}", file.path, file.owner), owner)
}

/// A value of a configuration by its path, as text: lists are joined by commas.
fn at(configuration: &Value, path: &str) -> Option<String> {
    let value = path.split('.').try_fold(configuration, |value, key| value.get(key))?;
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let words: Vec<String> =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect();
            Some(words.join(","))
        }
        other => Some(other.to_string()),
    }
}

/// Judges the kubelet by the configuration that it runs with, and by what it would start with next time.
pub(super) fn kubelet(node: &NodeFacts, settings: &[Setting]) -> Verdict {
    let Some(arguments) = node.arguments("kubelet") else { return Verdict::fail(node.absence("kubelet")) };
    let (mut seen, mut wrong) = (Vec::new(), Vec::new());
    for setting in settings {
        let Setting { flag, path, want, default_holds } = *setting;
        let name = if path.is_empty() { flag } else { path };
        if flags::is_doubtful(arguments, flag) {
            wrong.push(format!("--{flag} may be the value of the flag before it: nothing is proven"));
            continue;
        }
        let flag_value = flags::value(arguments, flag, false);
        let file_value = node.kubelet_file.as_ref().filter(|_| !path.is_empty()).and_then(|file| at(file, path));
        let show = |value: &Option<String>| match value {
            Some(value) => format!("{name} is {value}"),
            None => format!("{name} is not set"),
        };
        let (value, source) = match &node.kubelet_running {
            Some(Ok(running)) if !path.is_empty() => (at(running, path), ""),
            Some(Err(_)) if !path.is_empty() => {
                (flag_value.clone().or_else(|| file_value.clone()), " (by its file: it does not answer)")
            }
            _ => (flag_value.clone().or_else(|| file_value.clone()), ""),
        };
        let unknown = matches!(node.kubelet_running, Some(Err(_))) && node.kubelet_file.is_none();
        if unknown && value.is_none() && !path.is_empty() {
            wrong.push(format!("{name} is not known: the kubelet does not answer, and has no file"));
            continue;
        }
        if !meets(want, default_holds, value.as_deref()) {
            wrong.push(format!("{}{source}, wanted is {}", show(&value), wanted(want)));
            continue;
        }
        // Text of the file counts from the next start on; a time of zero there stands for the default.
        let next =
            flag_value.or(file_value).filter(|next| !(next.is_empty() || is_no_time(next) && next.ends_with('s')));
        match &next {
            Some(text) if !meets(want, default_holds, Some(text)) => {
                wrong.push(format!("{} now, but its file says {text}, from its next start on", show(&value)));
            }
            _ => seen.push(format!("{}{source}", show(&value))),
        }
    }
    if wrong.is_empty() { Verdict::pass(seen.join(", ")) } else { Verdict::fail(wrong.join("; ")) }
}
