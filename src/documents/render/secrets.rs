//! The EncryptionConfiguration of a new cluster. No template makes it: what passes through the template engine is not wiped.

use zeroize::Zeroizing;

use crate::documents::encryption::{Config, KeyId};
use crate::documents::keys::KeyRing;
use crate::documents::profile::{Encryption, KeySource};

use super::{Inputs, RenderError, kms};

/// The EncryptionConfiguration of `encryption` with the keys of `ring`.
pub(super) fn encryption_config(
    inputs: &Inputs<'_>,
    encryption: &Encryption,
    ring: &KeyRing,
) -> Result<Zeroizing<String>, RenderError> {
    Ok(Config::of(&encryption.resources, ring, kms::provider(inputs)?.as_ref()).to_yaml())
}

/// The EncryptionConfiguration with each key's origin in place of the key.
pub(super) fn redacted(inputs: &Inputs<'_>, encryption: &Encryption) -> Result<String, RenderError> {
    let config = Config::of(&encryption.resources, &encryption.placeholder(), kms::provider(inputs)?.as_ref());
    Ok(config.redacted(|id| origin(encryption, id)))
}

fn origin(encryption: &Encryption, id: &KeyId) -> String {
    let mut keys = encryption.providers.iter().filter(|asked| asked.kind == id.provider).flat_map(|asked| &asked.keys);
    match keys.find(|key| key.name == id.key).map(|key| &key.source) {
        None | Some(KeySource::Generate) => "<generated per cluster>".to_owned(),
        Some(KeySource::Env(name)) => format!("<from the environment variable {name}>"),
        Some(KeySource::File(path)) => format!("<from the file {path}>"),
        Some(KeySource::Literal(_)) => "<from the profile>".to_owned(),
    }
}
