//! The EncryptionConfiguration.
//!
//! Owns how keys get into the document without ever passing through the template
//! engine, whose memory is not wiped: it fills in marks, which are replaced by the keys in a buffer that is.

use serde::Serialize;
use zeroize::Zeroizing;

use crate::documents::keys::KeyRing;
use crate::documents::profile::{Encryption, KeySource};

use super::{Inputs, RenderError, templates};

#[derive(Serialize)]
struct Values<'a> {
    resources: &'a [String],
    providers: Vec<Provider<'a>>,
}

#[derive(Serialize)]
struct Provider<'a> {
    name: &'static str,
    keys: Vec<Key<'a>>,
}

#[derive(Serialize)]
struct Key<'a> {
    name: &'a str,
    secret: String,
}

/// The EncryptionConfiguration of `resources` with the keys of `ring`.
///
/// Besides new clusters this serves changes on living ones: the ring need not be the profile's.
///
/// # Errors
/// [`RenderError::Template`] if the template fails, [`RenderError::KeysMisplaced`] if it does not print each key once.
pub fn encryption_config(
    templates: &super::Templates,
    resources: &[String],
    ring: &KeyRing,
) -> Result<Zeroizing<String>, RenderError> {
    const MARK: &str = "<kprov key ";
    let mark = |provider: usize, key: usize| format!("{MARK}{provider} {key}>");
    let providers = ring.providers.iter().enumerate().map(|(p, provider)| Provider {
        name: provider.kind.name(),
        keys: provider.keys.iter().enumerate().map(|(k, (name, _))| Key { name, secret: mark(p, k) }).collect(),
    });
    let text = templates.render(templates::ENCRYPTION, Values { resources, providers: providers.collect() })?;
    // Room for every key from the start: a buffer that grows leaves copies behind.
    let keys: usize = ring.providers.iter().map(|provider| provider.keys.len()).sum();
    if text.matches(MARK).count() != keys {
        return Err(RenderError::KeysMisplaced);
    }
    let mut document = Zeroizing::new(String::with_capacity(text.len() + keys * 64));
    let mut rest = text.as_str();
    for (p, provider) in ring.providers.iter().enumerate() {
        for (k, (_, material)) in provider.keys.iter().enumerate() {
            let mark = mark(p, k);
            let (before, after) = rest.split_once(&mark).ok_or(RenderError::KeysMisplaced)?;
            document.push_str(before);
            document.push_str(&material.to_base64());
            rest = after;
        }
    }
    document.push_str(rest);
    Ok(document)
}

/// The EncryptionConfiguration with each key's origin in place of the key.
pub(super) fn redacted(inputs: &Inputs<'_>, encryption: &Encryption) -> Result<String, RenderError> {
    let ring = KeyRing::placeholder(encryption);
    let providers = ring.providers.iter().zip(&encryption.providers).map(|(filled, asked)| Provider {
        name: filled.kind.name(),
        keys: filled
            .keys
            .iter()
            .enumerate()
            .map(|(k, (name, _))| Key { name, secret: origin(asked.keys.get(k).map(|key| &key.source)) })
            .collect(),
    });
    let values = Values { resources: &encryption.resources, providers: providers.collect() };
    Ok(inputs.templates.render(templates::ENCRYPTION, values)?)
}

fn origin(source: Option<&KeySource>) -> String {
    match source {
        None | Some(KeySource::Generate) => "<generated per cluster>".to_owned(),
        Some(KeySource::Env(name)) => format!("<from the environment variable {name}>"),
        Some(KeySource::File(path)) => format!("<from the file {path}>"),
        Some(KeySource::Literal(_)) => "<from the profile>".to_owned(),
    }
}
