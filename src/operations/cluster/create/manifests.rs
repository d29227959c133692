//! Applying the profile's own manifests.

use crate::adapters::kubernetes::{self, ApiError};
use crate::documents::named_file::read_named;
use crate::documents::record::Record;

use super::super::bootstrap::Up;
use super::super::{ClusterError, Context};

/// Applies the manifests of a cluster's profile, in order.
///
/// # Errors
/// [`ApiError::Manifest`] if one cannot be read, [`ApiError::Request`] if the API server refuses one.
pub(super) async fn apply(context: &Context, up: &Up, record: &Record) -> Result<(), ClusterError> {
    for manifest in &record.profile.spec.manifests {
        let step = context.reporter.stage(&format!("Applying {}", manifest.name));
        let text = match (&manifest.inline, &manifest.file) {
            (Some(text), _) => zeroize::Zeroizing::new(text.clone()),
            (None, Some(file)) => {
                let path = record.base.join(file);
                read_named(&path).map_err(|error| ApiError::Manifest {
                    name: manifest.name.clone(),
                    reason: format!("{}: {error}", path.display()),
                })?
            }
            (None, None) => zeroize::Zeroizing::default(),
        };
        kubernetes::apply(&up.client, &manifest.name, &text).await?;
        step.done();
    }
    Ok(())
}
