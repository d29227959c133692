//! What a control of the benchmark is: its numbers, what is tested, and what closes it. The controls themselves are in
//! `table`.

use super::benchmark::Benchmark;
use super::facts::{Facts, NodeFacts};
use super::verdict::Verdict;

/// How the benchmark judges a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By a test; what does not pass has failed.
    Scored,
    /// By a test whose result is only a hint.
    Automated,
    /// By a person; what is found is only a hint.
    Manual,
}

impl Kind {
    /// How the benchmark says that a control is assessed: `automated` or `manual`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Scored | Self::Automated => "automated",
            Self::Manual => "manual",
        }
    }
}

/// The number of a control in a range of versions.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The oldest version.
    pub from: Benchmark,
    /// The newest version.
    pub to: Benchmark,
    /// The number, such as `1.2.16`.
    pub id: &'static str,
    /// How it is judged.
    pub kind: Kind,
}

/// A place of a control that is scored.
pub(super) const fn scored(from: Benchmark, to: Benchmark, id: &'static str) -> Place {
    Place { from, to, id, kind: Kind::Scored }
}

/// A place of a control that has a test, but is not scored.
pub(super) const fn automated(from: Benchmark, to: Benchmark, id: &'static str) -> Place {
    Place { from, to, id, kind: Kind::Automated }
}

/// A place of a control that a person judges.
pub(super) const fn manual(from: Benchmark, to: Benchmark, id: &'static str) -> Place {
    Place { from, to, id, kind: Kind::Manual }
}

/// A control.
#[derive(Debug)]
pub struct Control {
    /// Its number in each version of the benchmark that has it.
    pub places: &'static [Place],
    /// The profile of the benchmark that it belongs to: 1, or 2 for what costs something.
    pub level: u8,
    /// What holds where it passes.
    pub title: &'static str,
    /// How that is seen.
    pub test: Test,
    /// What closes it.
    pub remedy: Remedy,
}

impl Control {
    /// Its place in a version of the benchmark, if that has it.
    #[must_use]
    pub fn place(&self, benchmark: Benchmark) -> Option<&Place> {
        self.places.iter().find(|place| (place.from..=place.to).contains(&benchmark))
    }
}

/// How a control is looked at.
#[derive(Debug)]
pub enum Test {
    /// Flags of a static pod's process: all of them have to be as wanted.
    Flags(Component, &'static [Flag]),
    /// The mode of files.
    Mode(Files, u32),
    /// The owner of files, as `USER:GROUP`.
    Owner(Files, &'static str),
    /// The kubelet's configuration: all settings have to be as wanted.
    Kubelet(&'static [Setting]),
    /// Something else on each control plane.
    ControlPlane(fn(&NodeFacts, &Facts) -> Verdict),
    /// Something else on each node.
    Node(fn(&NodeFacts, &Facts) -> Verdict),
    /// Something else of the whole cluster.
    Cluster(fn(&Facts) -> Verdict),
}

/// A static pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// kube-apiserver
    ApiServer,
    /// kube-controller-manager
    ControllerManager,
    /// kube-scheduler
    Scheduler,
    /// etcd
    Etcd,
}

impl Component {
    /// The program's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Etcd => "etcd",
        }
    }
}

/// What is wanted of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Any value.
    Present,
    /// No value.
    Absent,
    /// This one.
    Is(&'static str),
    /// Any but this one.
    IsNot(&'static str),
    /// A number that is not less.
    AtLeast(i64),
    /// A list that names this.
    Has(&'static str),
    /// A list that names one of these.
    HasAny(&'static [&'static str]),
    /// A list that does not name this.
    Lacks(&'static str),
    /// A list of nothing but these.
    Among(&'static [&'static str]),
}

/// A flag, without dashes, and what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name.
    pub name: &'static str,
    /// What is wanted.
    pub want: Want,
    /// Whether its default will do.
    pub default_holds: bool,
}

/// A flag that has to be set so.
pub(super) const fn flag(name: &'static str, want: Want) -> Flag {
    Flag { name, want, default_holds: matches!(want, Want::Absent) }
}

/// A flag that has to be so if it is set.
pub(super) const fn if_set(name: &'static str, want: Want) -> Flag {
    Flag { name, want, default_holds: true }
}

/// A setting of the kubelet.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The flag that sets it, without dashes.
    pub flag: &'static str,
    /// Its place in the configuration, such as `authentication.anonymous.enabled`; none if it is a flag only.
    pub path: &'static str,
    /// What is wanted.
    pub want: Want,
    /// Whether its default will do.
    pub default_holds: bool,
}

/// A setting that has to be so.
pub(super) const fn setting(flag: &'static str, path: &'static str, want: Want) -> Setting {
    Setting { flag, path, want, default_holds: matches!(want, Want::Absent) }
}

/// A setting that has to be so if it is set.
pub(super) const fn setting_if_set(flag: &'static str, path: &'static str, want: Want) -> Setting {
    Setting { flag, path, want, default_holds: true }
}

/// Which files of a node a control looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// One that has to be there.
    One(&'static str),
    /// Those of these that are there, and one is.
    Some(&'static [&'static str]),
    /// Everything in a folder, and the folder, whose name ends so; of the folder only if nothing is named.
    Below(&'static str, &'static str),
    /// Those of the container network: none is no harm.
    Network,
    /// etcd's data folder, as its process names it.
    EtcdData,
    /// The kubelet's unit: the drop-ins, or the unit itself if there are none.
    KubeletUnit,
    /// The kubelet's configuration, as its process names it.
    KubeletConfiguration,
    /// The CA that the kubelet trusts, as its configuration names it.
    ClientAuthority,
    /// kube-proxy's kubeconfig, if it is a file of the node: none is no harm.
    ProxyKubeconfig,
}

impl Files {
    /// Whether a node without such files passes.
    #[must_use]
    pub fn may_be_absent(self) -> bool {
        matches!(self, Self::Network | Self::ProxyKubeconfig)
    }
}

/// What closes a control.
#[derive(Debug, Clone, Copy)]
pub enum Remedy {
    /// Fields of a profile, as `--set` takes them.
    Set(&'static [&'static str]),
    /// An admission plugin that is switched on beside those that are on, and fields of a profile that it needs.
    Plugin(&'static str, &'static [&'static str]),
    /// Something that a person has to do.
    Do(&'static str),
}
