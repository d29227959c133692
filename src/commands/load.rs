//! `kprov load`: images into nodes.

use std::process::ExitCode;

use serde_json::json;

use crate::commands::grammar::{Global, LoadCommand};
use crate::operations::load::{self, What};
use crate::progress::counted;

use super::target::chosen;
use super::{Result, context, present};

pub(super) async fn load(global: &Global, command: &LoadCommand) -> Result<ExitCode> {
    let (what, target) = match command {
        LoadCommand::DockerImage { images, target } => (What::Images(images), target),
        LoadCommand::ImageArchive { files, target } => (What::Archives(files), target),
    };
    let context = context(global).await?;
    let loaded = load::load(&context, chosen(target.cluster.as_ref())?.as_ref(), &target.nodes, what).await;
    context.reporter.close();
    let loaded = loaded?;
    let value = json!({"cluster": loaded.cluster, "images": loaded.images, "sentBytes": loaded.sent});
    present::result(global.output, &value, || {
        let images = loaded.images.join(", ");
        let takers = loaded.sent.values().filter(|&&bytes| bytes > 0).count();
        match takers {
            0 => format!("{images}: there already, on all of {}.\n", counted(loaded.sent.len(), "node")),
            _ => {
                let megabytes = loaded.sent.values().sum::<u64>() as f64 / 1e6;
                let (takers, all) = (counted(takers, "node"), loaded.sent.len());
                format!("{images}: loaded into {takers} of {all} ({megabytes:.1} MB in all).\n")
            }
        }
    });
    Ok(ExitCode::SUCCESS)
}
