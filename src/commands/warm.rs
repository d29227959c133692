//! `kprov warm`: a node image whose own images are unpacked once.

use std::process::ExitCode;

use serde_json::json;

use crate::commands::grammar::Global;
use crate::operations::cluster;
use crate::progress::counted;

use super::{Result, context, present};

pub(super) async fn warm(global: &Global, image: &str, remove: bool) -> Result<ExitCode> {
    let context = context(global).await?;
    if remove {
        let removed = cluster::cool(&context).await?;
        context.reporter.close();
        present::result(global.output, &json!({"removed": removed}), || {
            format!("Removed {}.\n", counted(removed, "unpacked image"))
        });
        return Ok(ExitCode::SUCCESS);
    }
    let warmed = cluster::warm(&context, image).await;
    context.reporter.close();
    let warmed = warmed?;
    let value = json!({"image": warmed.of, "unpacked": warmed.id, "made": warmed.made});
    present::result(global.output, &value, || {
        let how = if warmed.made { "is unpacked" } else { "was unpacked already" };
        format!("{image} {how}: nodes of it are made of {}.\n", warmed.id)
    });
    Ok(ExitCode::SUCCESS)
}
