//! `kprov profiles`, `kprov schema` and `kprov render`: all that needs no engine.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::adapters::bundle::{self, BundleError};
use crate::adapters::paths::Paths;
use crate::adapters::program;
use crate::commands::grammar::{self, Global, Output, SchemaOf};
use crate::documents::names::ClusterName;
use crate::documents::profile::{self, Loaded, SearchPath};
use crate::documents::render::{self, Inputs, KubernetesVersion, PLUGIN_IN_BUNDLE};
use crate::documents::report;

use super::target::chosen;
use super::{Result, present, reporter, templates};

/// What is wrong with the arguments of a rendering.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum ArgumentError {
    /// The image's reference cannot be one.
    #[error("{0}")]
    #[diagnostic(code(kprov::image), help("images are written NAME[:TAG][@sha256:DIGEST]"))]
    Image(String),
}

pub(super) fn schema(of: SchemaOf) -> Result<ExitCode> {
    let schema = match of {
        SchemaOf::Profile => profile::json_schema(),
        SchemaOf::Report => report::json_schema(),
    };
    present::result(Output::Json, &schema, String::new);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn profiles(global: &Global, name: Option<&str>) -> Result<ExitCode> {
    let search = SearchPath::of_this_process();
    let Some(name) = name else {
        let listed = profile::list(&search);
        let value: Vec<Value> = listed
            .iter()
            .map(|one| json!({"name": one.name, "description": one.description, "origin": one.origin.to_string()}))
            .collect();
        present::result(global.output, &value, || {
            let row = |one: &profile::Listed| vec![one.name.clone(), one.description.clone(), one.origin.to_string()];
            present::table(&["PROFILE", "DESCRIPTION", "FROM"], &listed.iter().map(row).collect::<Vec<_>>())
        });
        return Ok(ExitCode::SUCCESS);
    };
    let loaded = profile::load(name, &[], &search)?;
    let shown = loaded.profile.redacted();
    present::result(global.output, &shown, || profile::to_yaml(&shown));
    Ok(ExitCode::SUCCESS)
}

/// The cluster's name: what was typed, or kind's variable says, or the profile's.
pub(super) fn cluster_name(source: &grammar::Source, loaded: &Loaded) -> Result<ClusterName> {
    let chosen = chosen(source.name.as_ref())?;
    let name = chosen.as_deref().unwrap_or_else(|| loaded.profile.cluster_name());
    let name = profile::check_cluster_name(name, &loaded.profile.spec)?;
    if let Some(image) = &source.image {
        profile::check_image(image).map_err(ArgumentError::Image)?;
    }
    Ok(name)
}

pub(super) fn render(global: &Global, arguments: &grammar::Render) -> Result<ExitCode> {
    let source = &arguments.source;
    let loaded = profile::load_layers(&source.profile, &source.set, &SearchPath::of_this_process())?;
    let cluster = cluster_name(source, &loaded)?;
    let image = source.image.as_deref().unwrap_or_else(|| loaded.profile.spec.image());
    let version: KubernetesVersion = match &arguments.kubernetes_version {
        Some(version) => version.parse()?,
        // A tag that tells no version is most often one of one's own making, and new.
        None => KubernetesVersion::from_image(image)
            .or_else(|| KubernetesVersion::from_image(profile::DEFAULT_IMAGE))
            .ok_or_else(|| render::VersionError::Malformed(image.to_owned()))?,
    };
    let templates = templates(global, &Paths::from_process()?)?;
    let mut inputs = Inputs {
        profile: &loaded.profile,
        cluster: &cluster,
        image,
        version: &version,
        keys: None,
        templates: &templates,
        cgroup_v1: false,
    };
    let reporter = reporter(global);
    for warning in loaded.warnings.iter().map(ToString::to_string).chain(render::warnings(&inputs)) {
        reporter.warn(&warning);
    }
    let spec = &loaded.profile.spec;
    let limited = spec.nodes.iter().any(|group| !group.limits.is_none());
    let left_out = [
        ("registry", spec.registry.is_some()),
        ("caCertificates", !spec.ca_certificates.is_empty()),
        ("networking.proxy", spec.networking.proxy.is_some()),
        ("nodes.limits", limited),
    ];
    for (field, _) in left_out.iter().filter(|(_, asked)| *asked) {
        reporter.warn(&format!("kind's configuration has no word for {field}: left out"));
    }
    let digest = render::documents_digest(&inputs)?.to_string();
    let Some(out) = &arguments.out else {
        let bundle = render::bundle(&inputs, Path::new("/path/to/bundle"))?;
        let value: Value =
            bundle.documents.iter().map(|one| (one.name.clone(), Value::from(one.content.as_str()))).collect();
        present::result(global.output, &json!({"digest": digest, "documents": value}), || {
            bundle.documents.iter().map(|one| format!("# --- {}\n{}\n", one.name, one.content.as_str())).collect()
        });
        return Ok(ExitCode::SUCCESS);
    };
    let keys = match &loaded.profile.spec.encryption {
        Some(encryption) => Some(encryption.resolve(&loaded.base)?),
        None => None,
    };
    inputs.keys = keys.as_ref();
    let out = std::path::absolute(out).map_err(|error| BundleError::Write { path: out.clone(), error })?;
    let bundle = render::bundle(&inputs, &out)?;
    let mut files = Vec::new();
    // The plugin runs in nodes of this host's engine.
    let programs = match bundle.documents.iter().any(|one| one.name.starts_with(&format!("{PLUGIN_IN_BUNDLE}/"))) {
        true => program::files(std::env::consts::ARCH, PLUGIN_IN_BUNDLE)?,
        false => Vec::new(),
    };
    for written in bundle::write(&out, &bundle, &programs)? {
        if written.kept {
            reporter.warn(&format!("{} is kept as it is: it holds the keys", written.path.display()));
        }
        files.push(written.path);
    }
    present::result(global.output, &json!({"digest": digest, "files": files}), || {
        let list: String = files.iter().map(|path| format!("{}\n", path.display())).collect();
        format!("{list}\nkind create cluster --config {}\n", out.join("cluster.yaml").display())
    });
    Ok(ExitCode::SUCCESS)
}
