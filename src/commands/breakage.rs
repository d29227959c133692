//! `kprov break`.

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::adapters::kubernetes;
use crate::commands::grammar::{self, Global};
use crate::documents::breakage::Break;
use crate::operations::breakage::{self, Choice};
use crate::operations::{cis, cluster};

use super::{Result, context, present, target};

/// Why nothing was broken.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum Unfit {
    /// Nobody could put it right.
    #[error("nothing is broken in {cluster}: kprov did not make it, and could not put it right again")]
    #[diagnostic(code(kprov::breakage::not_ours), help("`kprov up` makes a cluster that `kprov reset` can put right"))]
    NotOurs {
        /// The cluster.
        cluster: String,
    },
    /// The answers cannot be written.
    #[error("the answers cannot be written to {}: {reason}", path.display())]
    #[diagnostic(
        code(kprov::breakage::answers),
        help("name a file that is not there yet; what was chosen by then is in it, and is broken")
    )]
    Answers {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Writes a document in place of what a file holds.
fn put(file: &mut std::fs::File, document: &Value) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", serde_json::to_string_pretty(document).unwrap_or_default())?;
    file.sync_all()
}

pub(super) async fn break_controls(global: &Global, arguments: &grammar::Break) -> Result<ExitCode> {
    let context = context(global).await?;
    let name = target::name(&context, arguments.cluster.as_ref()).await?;
    let _lock = cluster::lock(&context, &name).await?;
    // Only now: whoever held the lock may have made other nodes.
    let opened = target::open(&context, Some(&name)).await?;
    if opened.record.is_none() {
        return Err(Unfit::NotOurs { cluster: opened.found.name.to_string() }.into());
    }
    let control_planes = opened.found.all_control_planes(&context.engine, opened.record.as_ref())?;
    let client = opened.client().await?;
    let fail = |path: &PathBuf, error: std::io::Error| Unfit::Answers { path: path.clone(), reason: error.to_string() };
    // Made before anything is broken: answers that cannot be written are lost.
    let mut file = match &arguments.answers {
        Some(path) => {
            let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Some((path, made.map_err(|error| fail(path, error))?))
        }
        None => None,
    };
    let choice = match arguments.random {
        Some(count) => Choice::Random(usize::from(count)),
        None => Choice::Named(arguments.what.clone()),
    };
    let looked_at = cis::Target {
        cluster: opened.found.name.as_str(),
        client: &client,
        nodes: &opened.nodes,
        admin_groups: kubernetes::client_groups(&opened.kubeconfig),
    };
    let mut is_chosen = false;
    let keep = |chosen: &[&'static Break]| {
        is_chosen = true;
        let all: Vec<_> = chosen.iter().map(|one| json!({"name": one.name, "done": one.describe()})).collect();
        file.as_mut().map_or(Ok(()), |(_, file)| put(file, &json!({"cluster": opened.found.name, "chosen": all})))
    };
    let broken = breakage::run(&context.reporter, &looked_at, &control_planes, &choice, keep).await;
    context.reporter.close();
    let answers = match broken {
        Ok(answers) => answers,
        Err(error) => {
            if let Some((path, _)) = &file {
                if is_chosen {
                    let path = path.display();
                    context
                        .reporter
                        .warn(&format!("some of what was chosen may be broken; what that was is in {path}"));
                } else {
                    // It holds nothing yet.
                    let _ = std::fs::remove_file(path);
                }
            }
            return Err(error.into());
        }
    };
    let key = json!({"cluster": opened.found.name, "answers": answers});
    if let Some((path, file)) = &mut file {
        put(file, &key).map_err(|error| fail(path, error))?;
    }
    // With a file for the teacher, the terminal tells nothing: a class may look on.
    let told = match &arguments.answers {
        Some(path) => json!({"cluster": opened.found.name, "broken": answers.len(), "answers": path}),
        None => key,
    };
    present::result(global.output, &told, || {
        let cluster = &opened.found.name;
        let end = format!("`kprov cis {cluster}` finds what is broken, `kprov reset {cluster}` ends the lesson.\n");
        match &arguments.answers {
            Some(path) => {
                format!("{} controls are broken; the answers are in {}.\n{end}", answers.len(), path.display())
            }
            None => {
                let rows: Vec<Vec<String>> = answers
                    .iter()
                    .map(|answer| {
                        let node = answer.node.clone().unwrap_or_else(|| "-".to_owned());
                        vec![answer.name.to_owned(), answer.control.clone(), node, answer.done.clone()]
                    })
                    .collect();
                format!("{}\n{end}", present::table(&["BROKEN", "CONTROL", "NODE", "HOW"], &rows))
            }
        }
    });
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_take_the_place_of_what_was_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers");
        let mut file = std::fs::File::create(&path).unwrap();
        put(&mut file, &json!({"chosen": ["something long, to be followed by something short"]})).unwrap();
        put(&mut file, &json!({"answers": []})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"answers": []}));
    }
}
