//! The templates and the engine that fills them in.
//!
//! Owns the built-in templates, a user's overrides of them, the filters, and
//! errors that name a template's file and line. Leaves to the other modules what
//! values a template gets. Nothing is printed as it is: a value goes through a filter that
//! makes it safe where it stands, or rendering fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{NamedSource, SourceSpan};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;

use crate::documents::yaml;
use crate::progress::{printable, printable_in_place, printable_json};

/// The ending of a template's file name.
const EXTENSION: &str = "j2";

macro_rules! built_in {
    ($($($constant:ident = )? $name:literal;)*) => {
        $($(pub(super) const $constant: &str = $name;)?)*
        const BUILT_IN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../../templates/", $name)))),*];
    };
}

built_in! {
    KIND_CLUSTER = "kind-cluster.yaml.j2";
    KUBEADM = "kubeadm.yaml.j2";
    "kubelet.yaml.j2";
    "kube-proxy.yaml.j2";
    ADMISSION = "admission.yaml.j2";
    AUDIT_POLICY = "audit-policy.yaml.j2";
    AUTHENTICATION = "authentication.yaml.j2";
    API_SERVER_PATCH = "kube-apiserver-patch.yaml.j2";
    CONTROLLER_MANAGER_PATCH = "kube-controller-manager-patch.yaml.j2";
    HAPROXY = "haproxy.cfg.j2";
    ENVOY = "envoy.yaml.j2";
    STARTUP_PROBE = "startup-probe.yaml.j2";
    KINDNET = "kindnet.conflist.j2";
    REPORT = "report.html.j2";
    JOINING = "joining.yaml.j2";
}

/// A template that is wrong, or that does not fit its values.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{file}:{line}: {message}")]
#[diagnostic(code(kprov::template))]
pub struct TemplateError {
    /// The template's file; of a built-in one, its path in kprov's sources.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    #[source_code]
    excerpt: NamedSource<Arc<str>>,
    #[label("here")]
    span: SourceSpan,
}

/// Why a folder of overrides cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum OverridesError {
    /// The folder, or a file in it, cannot be read.
    #[error("cannot read the templates in {path}: {error}", path = path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file overrides nothing.
    #[error("{path} overrides no template of kprov", path = path.display())]
    #[diagnostic(help("the templates are {known}"))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The names that there are.
        known: String,
    },
}

/// One template's text and where it is from.
#[derive(Debug, Clone)]
struct Source {
    file: String,
    text: Arc<str>,
}

/// The templates that documents are made with.
pub struct Templates {
    sources: Arc<BTreeMap<String, Source>>,
    environment: Environment<'static>,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Templates").field("overrides", &self.sources.keys()).finish_non_exhaustive()
    }
}

impl Templates {
    /// kprov's own templates.
    #[must_use]
    pub fn built_in() -> Self {
        Self::new(BTreeMap::new())
    }

    /// kprov's own templates, but for those that the folder has a file of the same name for.
    /// Files that do not end in `.j2` are left alone.
    ///
    /// # Errors
    /// [`OverridesError::Unreadable`] if the folder or a file cannot be read, [`OverridesError::Unknown`] if a file overrides
    /// no template.
    pub fn with_overrides(folder: &Path) -> Result<Self, OverridesError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            |error| OverridesError::Unreadable { path, error }
        };
        let mut sources = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
            let path = entry.map_err(unreadable(folder))?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !BUILT_IN.iter().any(|(known, _)| *known == name) {
                let known = BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                return Err(OverridesError::Unknown { path, known });
            }
            let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            sources.insert(name, Source { file: path.display().to_string(), text: text.into() });
        }
        Ok(Self::new(sources))
    }

    fn new(sources: BTreeMap<String, Source>) -> Self {
        let sources = Arc::new(sources);
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Errors are to know where in the template they arose.
        environment.set_debug(true);
        environment.set_syntax(whitespace());
        environment.set_formatter(|out, _, value| {
            if value.is_undefined() {
                return Err(ErrorKind::UndefinedError.into());
            }
            if let Some(text) = value.as_str().filter(|_| value.is_safe()) {
                return out.write_str(text).map_err(Error::from);
            }
            Err(Error::new(ErrorKind::InvalidOperation, "a value must go through a filter, such as `| yaml`"))
        });
        environment.add_filter("yaml", |value: &Value| {
            Ok::<_, Error>(Value::from_safe_string(yaml::inline(&yaml::value(&to_json(value)?))))
        });
        environment.add_filter("block", |value: &Value, indent: Option<usize>| {
            Ok::<_, Error>(Value::from_safe_string(yaml::block(
                &yaml::value(&to_json(value)?),
                indent.unwrap_or_default(),
            )))
        });
        environment.add_filter("word", word);
        environment.add_filter("html", |value: &Value| Ok::<_, Error>(Value::from_safe_string(html(&text_of(value)?))));
        environment.add_filter("script", |value: &Value| {
            let json = to_json(value)?.to_string();
            // Nothing in it ends the script or begins another one.
            Ok::<_, Error>(Value::from_safe_string(printable_json(
                &json.replace('<', "\\u003c").replace('>', "\\u003e"),
            )))
        });
        environment.add_filter("merge", |base: &Value, over: &Value| {
            let mut merged = to_json(base)?;
            merge(&mut merged, to_json(over)?);
            Ok::<_, Error>(Value::from(Serde(merged)))
        });
        environment.add_filter("arguments", |arguments: &Value, as_list: bool| {
            let arguments = to_json(arguments)?;
            Ok::<_, Error>(Value::from(Serde(if as_list { listed(&arguments) } else { arguments })))
        });
        // Only what is used is parsed: a command that renders one document must not pay for ten.
        let overrides = Arc::clone(&sources);
        environment.set_loader(move |name| Ok(source(&overrides, name).map(|source| source.text.to_string())));
        Self { sources, environment }
    }

    /// Fills in the page of a report.
    ///
    /// # Errors
    /// [`RenderError::Template`](super::RenderError::Template) if the template does not fit.
    pub(crate) fn report(&self, values: impl Serialize) -> Result<String, super::RenderError> {
        Ok(self.render(REPORT, values)?)
    }

    /// Fills in the template `name`.
    pub(super) fn render(&self, name: &str, values: impl Serialize) -> Result<String, Box<TemplateError>> {
        self.environment
            .get_template(name)
            .and_then(|template| template.render(Value::from(Serde(values))))
            .map_err(|error| Box::new(self.explain(name, &error)))
    }

    /// Where in which file, for an error that may come out of an included template.
    fn explain(&self, name: &str, error: &Error) -> TemplateError {
        let mut innermost = error;
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            if let Some(inner) = inner.downcast_ref::<Error>().filter(|inner| inner.line().is_some()) {
                innermost = inner;
            }
            cause = inner.source();
        }
        let name = innermost.name().unwrap_or(name);
        let Source { file, text } =
            source(&self.sources, name).unwrap_or_else(|| Source { file: name.to_owned(), text: "".into() });
        let line = innermost.line().unwrap_or(1);
        let range = innermost.range().filter(|range| range.end <= text.len()).unwrap_or_else(|| {
            let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
            start..start + text[start..].lines().next().unwrap_or_default().len()
        });
        let mut message = innermost.kind().to_string();
        if let Some(detail) = innermost.detail() {
            // Writing to a String does not fail.
            let _ = write!(message, ": {detail}");
        }
        let excerpt = NamedSource::new(printable(&file), printable_in_place(&text).into());
        TemplateError { excerpt, file, line, message, span: range.into() }
    }
}

fn source(overrides: &BTreeMap<String, Source>, name: &str) -> Option<Source> {
    overrides.get(name).cloned().or_else(|| {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
        Some(Source { file: format!("templates/{name}"), text: Arc::from(*text) })
    })
}

fn to_json(value: &Value) -> Result<serde_json::Value, Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    serde_json::to_value(value).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// A value that is text, a number or a truth, as text.
fn text_of(value: &Value) -> Result<String, Error> {
    match to_json(value)? {
        serde_json::Value::String(text) => Ok(text),
        scalar @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => Ok(scalar.to_string()),
        _ => Err(Error::new(ErrorKind::InvalidOperation, "`html` is for text")),
    }
}

/// Text for a page, be it between tags or in a quoted attribute; nothing in it steers.
fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// For formats without quotes: names, addresses and numbers pass, anything else is refused.
fn word(value: &Value) -> Result<Value, Error> {
    let text = value.to_string();
    if !value.is_undefined()
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".:-_/[]".contains(c))
    {
        Ok(Value::from_safe_string(text))
    } else {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{text:?} is not a single word")))
    }
}

/// Lines that hold nothing but a tag leave no line behind. Everything else is minijinja's default.
fn whitespace() -> SyntaxConfig {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    // Building fails for clashing delimiters only.
    builder.build().unwrap_or_default()
}

/// A mapping as the list of its names and values, as kubeadm's v1beta4 has arguments.
fn listed(arguments: &serde_json::Value) -> serde_json::Value {
    let fields = arguments.as_object().into_iter().flatten();
    fields.map(|(name, value)| serde_json::json!({ "name": name, "value": value })).collect()
}

/// Lays `over` over `base`: mappings key by key, anything else replaces.
pub(super) fn merge(base: &mut serde_json::Value, over: serde_json::Value) {
    match (base, over) {
        (serde_json::Value::Object(base), serde_json::Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name).or_insert(serde_json::Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with_template(text: &str) -> (tempfile::TempDir, Templates) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(AUDIT_POLICY), text).unwrap();
        let templates = Templates::with_overrides(folder.path()).unwrap();
        (folder, templates)
    }

    #[test]
    fn every_built_in_template_parses() {
        let templates = Templates::built_in();
        for (name, _) in BUILT_IN {
            templates.environment.get_template(name).unwrap();
        }
    }

    #[test]
    fn an_error_names_the_file_and_the_line_and_shows_it() {
        for (text, line, message, shown) in [
            ("a: 1\n{% if %}\n", 2, "syntax error", "if"),
            ("a: 1\n\nb: {{ nothing | yaml }}\n", 3, "undefined value", "nothing"),
            ("a: 1\nb: {{ name }}\n", 2, "a value must go through a filter", "name"),
            ("a: {{ name | nope }}\n", 1, "unknown filter", "nope"),
            ("{{ name | word }}", 1, "is not a single word", "word"),
        ] {
            let (folder, templates) = with_template(text);
            let error = templates.render(AUDIT_POLICY, json!({"name": "x: #"})).unwrap_err();
            let file = folder.path().join(AUDIT_POLICY).display().to_string();
            assert_eq!((error.file.as_str(), error.line), (file.as_str(), line), "{error}");
            assert!(error.to_string().starts_with(&format!("{file}:{line}: ")), "{error}");
            assert!(error.message.contains(message), "{error}");
            let report = format!("{:?}", miette::Report::new(*error));
            assert!(report.contains(shown) && report.contains(&file), "{report}");
        }
    }

    #[test]
    fn an_error_in_an_included_template_names_that_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubelet.yaml.j2"), "\n\n{{ nothing | yaml }}").unwrap();
        std::fs::write(folder.path().join(AUDIT_POLICY), "{% include \"kubelet.yaml.j2\" %}").unwrap();
        let templates = Templates::with_overrides(folder.path()).unwrap();
        let error = templates.render(AUDIT_POLICY, json!({})).unwrap_err();
        assert_eq!((error.file, error.line), (folder.path().join("kubelet.yaml.j2").display().to_string(), 3));
    }

    #[test]
    fn a_file_that_overrides_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("README.md"), "").unwrap();
        assert!(Templates::with_overrides(folder.path()).is_ok());
        std::fs::write(folder.path().join("audit.yaml.j2"), "").unwrap();
        let error = Templates::with_overrides(folder.path()).unwrap_err();
        assert!(matches!(error, OverridesError::Unknown { .. }), "{error}");
        let gone = Templates::with_overrides(&folder.path().join("gone")).unwrap_err();
        assert!(matches!(gone, OverridesError::Unreadable { .. }), "{gone}");
    }

    #[test]
    fn merging_goes_into_mappings_and_replaces_the_rest() {
        let mut base = json!({"a": {"x": 1, "y": [1]}, "b": 1});
        merge(&mut base, json!({"a": {"y": [2], "z": null}, "c": {"d": 1}}));
        assert_eq!(base, json!({"a": {"x": 1, "y": [2], "z": null}, "b": 1, "c": {"d": 1}}));
    }
}
