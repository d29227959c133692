//! Where the API server keeps what in etcd, and which rule of an EncryptionConfiguration decides on it.
//!
//! Pure: computed from what the API serves (`adapters::kubernetes` asks for that). Whether a group's resources are
//! built in or custom cannot be told by its name; the CustomResourceDefinitions tell.

use std::collections::BTreeSet;
use std::fmt;

/// A resource by plural name and group; `""` is the core group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupResource {
    /// The plural name, or `*` in a rule.
    pub plural: String,
    /// The group, or `*` in a rule.
    pub group: String,
}

/// How exactly a rule names a resource; the API server takes the most exact ones and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// `*.*`
    Everything,
    /// `*.GROUP`; `*.` is the core group.
    Group,
    /// The resource itself.
    Exact,
}

impl GroupResource {
    /// Reads `secrets`, `deployments.apps`, `*.apps`, `*.` or `*.*`, as the API server does: the first dot parts them.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (plural, group) = text.split_once('.').unwrap_or((text, ""));
        Self { plural: plural.to_owned(), group: group.to_owned() }
    }

    /// How exactly this rule names `resource`; `None` if it does not.
    #[must_use]
    pub fn names(&self, resource: &Self) -> Option<Precision> {
        match (self.plural.as_str(), self.group.as_str()) {
            ("*", "*") => Some(Precision::Everything),
            ("*", group) => (group == resource.group).then_some(Precision::Group),
            _ => (self == resource).then_some(Precision::Exact),
        }
    }

    /// Whether it is a rule for several resources.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.plural == "*"
    }

    fn new(plural: &str, group: &str) -> Self {
        Self { plural: plural.to_owned(), group: group.to_owned() }
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.plural.as_str(), self.group.as_str()) {
            ("*", "") => f.write_str("*."),
            (plural, "") => f.write_str(plural),
            (plural, group) => write!(f, "{plural}.{group}"),
        }
    }
}

/// A resource as the API serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Its name.
    pub name: GroupResource,
    /// A version that it is served in.
    pub version: String,
    /// Its kind.
    pub kind: String,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
}

/// A resource and where it lies in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its name.
    pub name: GroupResource,
    /// What all of its keys start with.
    pub prefix: String,
    /// How to get at its objects; `None` for a CustomResourceDefinition of which no version is served.
    pub served: Option<Served>,
    /// Whether a CustomResourceDefinition defines it.
    pub custom: bool,
}

/// Where all resources lie. What the API server keeps for itself besides them (ranges of addresses and ports, its own
/// lease) is in the clear whatever a configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    root: String,
    resources: Vec<Located>,
}

/// What is served in two groups, and kept under the name of another one
/// (pkg/kubeapiserver/default_storage_factory_builder.go, `AddCohabitatingResources`).
fn kept_as(name: &GroupResource) -> Option<GroupResource> {
    let group = match (name.plural.as_str(), name.group.as_str()) {
        ("events", "events.k8s.io") => "",
        ("ingresses" | "networkpolicies", "extensions") => "networking.k8s.io",
        ("podsecuritypolicies", "extensions") => "policy",
        (_, "extensions") => "apps",
        _ => return None,
    };
    Some(GroupResource::new(&name.plural, group))
}

/// Built-in resources lie under their plural name, with a few exceptions from the time before API groups
/// (the same file, `SpecialDefaultResourcePrefixes`). The two servers that are built into the API server, for
/// CustomResourceDefinitions and for APIServices, put the group first, as they do for custom resources.
fn path(name: &GroupResource, custom: bool) -> String {
    match (name.plural.as_str(), name.group.as_str()) {
        (plural, group) if custom || matches!(group, "apiextensions.k8s.io" | "apiregistration.k8s.io") => {
            format!("{group}/{plural}/")
        }
        ("replicationcontrollers", "") => "controllers/".to_owned(),
        ("endpoints", "") => "services/endpoints/".to_owned(),
        ("services", "") => "services/specs/".to_owned(),
        ("nodes", "") => "minions/".to_owned(),
        ("podsecuritypolicies", "policy") => "podsecuritypolicy/".to_owned(),
        ("ingresses", "networking.k8s.io") => "ingress/".to_owned(),
        (plural, _) => format!("{plural}/"),
    }
}

/// What becomes of a name in an EncryptionConfiguration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// The API knows it, or it is a rule for several that fits some.
    Yes,
    /// It is kept under another name, which is the one that counts.
    KeptAs(GroupResource),
    /// The API does not know it; a name that may have been meant.
    No(Option<GroupResource>),
    /// The API does not even know its group: its CustomResourceDefinition may be to come.
    NoGroup,
}

impl Layout {
    /// Computes where things lie: under `root`, from what is served and the names of all CustomResourceDefinitions
    /// (`PLURAL.GROUP`).
    #[must_use]
    pub fn new(root: &str, served: Vec<Served>, definitions: &BTreeSet<String>) -> Self {
        let root = format!("/{}/", root.trim_matches('/')).replace("//", "/");
        let mut resources: Vec<Located> = Vec::new();
        let mut add = |name: GroupResource, path: String, served: Option<Served>, custom: bool| {
            if !resources.iter().any(|known| known.name == name) {
                resources.push(Located { prefix: format!("{root}{path}"), name, served, custom });
            }
        };
        for served in served {
            let custom = definitions.contains(&served.name.to_string());
            if custom || kept_as(&served.name).is_none() {
                add(served.name.clone(), path(&served.name, custom), Some(served), custom);
            }
        }
        for definition in definitions {
            let name = GroupResource::parse(definition);
            add(name.clone(), path(&name, true), None, true);
        }
        Self { root, resources }
    }

    /// What all keys start with.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Every resource.
    #[must_use]
    pub fn resources(&self) -> &[Located] {
        &self.resources
    }

    /// The resource that a key belongs to.
    #[must_use]
    pub fn owner(&self, key: &str) -> Option<&Located> {
        self.resources.iter().find(|resource| key.starts_with(&resource.prefix))
    }

    /// Whether a name of an EncryptionConfiguration means anything.
    #[must_use]
    pub fn knows(&self, rule: &GroupResource) -> Known {
        if self.resources.iter().any(|known| rule.names(&known.name).is_some()) {
            return Known::Yes;
        }
        if let Some(other) = kept_as(rule).filter(|other| self.resources.iter().any(|known| known.name == *other)) {
            return Known::KeptAs(other);
        }
        let custom = rule.group.contains('.') && !rule.is_wildcard();
        if custom && !self.resources.iter().any(|known| known.name.group == rule.group) {
            return Known::NoGroup;
        }
        Known::No(self.near(rule))
    }

    /// A resource that may have been meant: its singular, its kind, another group's, or a slip of the finger.
    fn near(&self, rule: &GroupResource) -> Option<GroupResource> {
        let wanted = rule.plural.to_lowercase();
        let known = || self.resources.iter().map(|known| &known.name);
        let kind = |served: &Served| served.kind.to_lowercase() == wanted;
        let same_kind = self.resources.iter().find(|known| known.served.as_ref().is_some_and(kind));
        let by_kind = same_kind.map(|known| &known.name);
        let elsewhere = || known().find(|name| name.plural == wanted);
        let close = || {
            let distance = |name: &&GroupResource| strsim::damerau_levenshtein(&name.plural, &wanted);
            known().filter(|name| distance(name) <= 2).min_by_key(distance)
        };
        by_kind.or_else(elsewhere).or_else(close).cloned()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A resource that is served.
    pub(crate) fn served(plural: &str, group: &str, kind: &str, namespaced: bool) -> Served {
        Served { name: GroupResource::new(plural, group), version: "v1".to_owned(), kind: kind.to_owned(), namespaced }
    }

    fn layout() -> Layout {
        let all = [
            ("secrets", "", "Secret"),
            ("services", "", "Service"),
            ("events", "", "Event"),
            ("events", "events.k8s.io", "Event"),
            ("deployments", "apps", "Deployment"),
            ("leases", "coordination.k8s.io", "Lease"),
            ("gateways", "gateway.networking.k8s.io", "Gateway"),
            ("volumesnapshots", "snapshot.storage.k8s.io", "VolumeSnapshot"),
            ("customresourcedefinitions", "apiextensions.k8s.io", "CustomResourceDefinition"),
            ("apiservices", "apiregistration.k8s.io", "APIService"),
            ("widgets", "example.com", "Widget"),
        ];
        let served = all.map(|(plural, group, kind)| served(plural, group, kind, true)).to_vec();
        let definitions = [
            "gateways.gateway.networking.k8s.io",
            "volumesnapshots.snapshot.storage.k8s.io",
            "widgets.example.com",
            "olds.example.com",
        ];
        Layout::new("/registry", served, &definitions.map(str::to_owned).into())
    }

    fn prefix(name: &str) -> String {
        let name = GroupResource::parse(name);
        layout().resources().iter().find(|known| known.name == name).map(|known| known.prefix.clone()).unwrap()
    }

    #[test]
    fn resources_lie_where_the_api_server_puts_them() {
        for (name, expected) in [
            ("secrets", "secrets/"),
            ("services", "services/specs/"),
            ("deployments.apps", "deployments/"),
            ("leases.coordination.k8s.io", "leases/"),
            ("widgets.example.com", "example.com/widgets/"),
            ("olds.example.com", "example.com/olds/"),
            // Their groups look built in; the definitions tell that they are not.
            ("gateways.gateway.networking.k8s.io", "gateway.networking.k8s.io/gateways/"),
            ("volumesnapshots.snapshot.storage.k8s.io", "snapshot.storage.k8s.io/volumesnapshots/"),
            ("customresourcedefinitions.apiextensions.k8s.io", "apiextensions.k8s.io/customresourcedefinitions/"),
            ("apiservices.apiregistration.k8s.io", "apiregistration.k8s.io/apiservices/"),
        ] {
            assert_eq!(prefix(name), format!("/registry/{expected}"));
        }
    }

    #[test]
    fn the_root_is_the_api_servers() {
        for root in ["/kubernetes.io/a", "kubernetes.io/a/"] {
            let layout = Layout::new(root, vec![served("secrets", "", "Secret", true)], &BTreeSet::new());
            assert_eq!(layout.resources()[0].prefix, "/kubernetes.io/a/secrets/");
        }
    }

    #[test]
    fn keys_have_owners() {
        let layout = layout();
        let owner = |key: &str| layout.owner(key).map(|known| known.name.to_string());
        assert_eq!(owner("/registry/events/default/a").as_deref(), Some("events"));
        assert_eq!(
            owner("/registry/gateway.networking.k8s.io/gateways/default/a").as_deref(),
            Some("gateways.gateway.networking.k8s.io")
        );
        // What the API server keeps for itself is no resource: not even `*.*` encrypts it.
        assert_eq!(owner("/registry/ranges/servicenodeports"), None);
        assert_eq!(owner("/registry/masterleases/172.18.0.2"), None);
        assert_eq!(owner("/registry/gone.example.org/things/a"), None);
    }

    #[test]
    fn rules_name_resources_more_or_less_exactly() {
        let names = |rule: &str, name: &str| GroupResource::parse(rule).names(&GroupResource::parse(name));
        assert_eq!(names("secrets", "secrets"), Some(Precision::Exact));
        assert_eq!(names("*.", "secrets"), Some(Precision::Group));
        assert_eq!(names("*.apps", "deployments.apps"), Some(Precision::Group));
        assert_eq!(names("*.*", "deployments.apps"), Some(Precision::Everything));
        assert_eq!(names("*.apps", "secrets"), None);
        assert_eq!(names("deployments", "deployments.apps"), None);
        for text in ["secrets", "deployments.apps", "*.apps", "*.", "*.*"] {
            assert_eq!(GroupResource::parse(text).to_string(), text);
        }
    }

    #[test]
    fn what_the_api_does_not_know_is_told_with_what_was_meant() {
        let layout = layout();
        let known = |text: &str| layout.knows(&GroupResource::parse(text));
        for text in ["secrets", "*.apps", "*.", "*.*", "widgets.example.com", "olds.example.com"] {
            assert_eq!(known(text), Known::Yes, "{text}");
        }
        let meant = |name: &str| Known::No(Some(GroupResource::parse(name)));
        assert_eq!(known("secret"), meant("secrets"));
        assert_eq!(known("Secrets"), meant("secrets"));
        assert_eq!(known("deployments"), meant("deployments.apps"));
        assert_eq!(known("widget.example.com"), meant("widgets.example.com"));
        assert_eq!(known("*.app"), Known::No(None));
        assert_eq!(known("events.events.k8s.io"), Known::KeptAs(GroupResource::parse("events")));
        assert_eq!(known("things.example.org"), Known::NoGroup);
    }
}
