//! Containers that were killed and do not end, since something in them stands still.
//!
//! For a moment, runc freezes a pod's cgroup to change it. If all processes of a node are killed in that moment, nobody thaws it, and
//! with cgroup v1 what is frozen cannot end, not even when it is killed. Then it is thawed from without.

use std::time::{Duration, Instant};

use crate::adapters::engine::{ContainerSpec, EngineError};

use super::image::passing_spec;
use super::{ClusterError, Context};

/// Thaws; its image is the node's.
const THAW: &str = include_str!("scripts/thaw.sh");

/// Where the host's cgroups are, there and where they are thawed.
const CGROUPS: &str = "/sys/fs/cgroup";
const CGROUPS_INSIDE: &str = "/kprov/cgroups";

/// How long that may take, and how often it is looked at.
const TIME: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// How many lines of groups are read at most.
const MOST_LINES: usize = 1000;

/// Ends a container in the way of `end`. One that does not end because something in it stands still is helped.
///
/// # Errors
/// Those of `end`.
pub(super) async fn end<F>(context: &Context, container: &str, end: impl Fn() -> F) -> Result<(), EngineError>
where
    F: Future<Output = Result<(), EngineError>>,
{
    match end().await {
        Err(stuck @ EngineError::DoesNotEnd { .. }) => match thaw(context, container).await {
            Ok(0) => Err(stuck),
            Ok(_) => {
                context.reporter.warn(
                    "something in a node stood still when it was killed, so that it could not end; it has been let go on (cgroup v1)",
                );
                end().await
            }
            // What `stuck` says to do is what would have been done.
            Err(error) => {
                context.reporter.warn(&format!("what may stand still in a container could not be let go on: {error}"));
                Err(stuck)
            }
        },
        ended => ended,
    }
}

/// Thaws what is frozen below a container; gives how many groups were.
async fn thaw(context: &Context, container: &str) -> Result<usize, ClusterError> {
    let engine = &context.engine;
    let made = engine.create_container(spec(container, &engine.image_of(container).await?)).await?;
    let thawed = async {
        engine.start_container(&made).await?;
        let begun = Instant::now();
        loop {
            match engine.exit_code(&made).await? {
                Some(0) => return Ok(engine.last_logs(&made, MOST_LINES).await?.lines().count()),
                None if begun.elapsed() < TIME => tokio::time::sleep(LOOK).await,
                code => {
                    let said = engine.last_logs(&made, 5).await.unwrap_or_default();
                    let reason =
                        code.map_or_else(|| "it takes too long".to_owned(), |code| format!("code {code}: {said}"));
                    return Err(EngineError::Failed { doing: format!("thawing {container}"), reason });
                }
            }
        }
    }
    .await;
    engine.remove_container(&made).await?;
    Ok(thawed?)
}

fn spec(container: &str, image: &str) -> ContainerSpec {
    let words = ["sh", "-euc", THAW, "thaw", CGROUPS_INSIDE, container];
    ContainerSpec {
        entrypoint: Some(words.map(str::to_owned).to_vec()),
        binds: vec![format!("{CGROUPS}:{CGROUPS_INSIDE}")],
        privileged: true,
        ..passing_spec("thaw", image)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_stands_still_below_the_container_is_let_go_on_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let group = |name: &str, state: &str| {
            let path = folder.path().join("freezer/docker").join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("freezer.state"), format!("{state}\n")).unwrap();
            path.join("freezer.state")
        };
        let pod = group("abc/kubelet/kubepods/pod 1", "FROZEN");
        let late = group("abc/kubelet/kubepods/pod2", "FREEZING");
        let awake = group("abc/kubelet", "THAWED");
        let foreign = group("abd/kubelet/kubepods/pod1", "FROZEN");
        let spec = spec("abc", "i");
        let mut words = spec.entrypoint.unwrap();
        words[4] = folder.path().display().to_string();
        let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2);
        let state = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(
            [state(&pod), state(&late), state(&awake), state(&foreign)],
            ["THAWED\n", "THAWED\n", "THAWED\n", "FROZEN\n"]
        );
    }
}
