//! Reading a cluster's state out of its running nodes.
//!
//! Consistent because etcd stands still while it is copied: what is read is what a power failure would have left at that
//! moment, which etcd is made to start from. Of several control planes, all stand still before any is read: so each is as a
//! power failure of all would have left it, and none remembers less than what it has told the others.

use std::time::Duration;

use futures_util::future::join_all;
use zeroize::Zeroizing;

use crate::adapters::node::{Node, NodeError, STATIC_POD};
use crate::adapters::states::SnapshotError;
use crate::documents::keys::{KeyRing, StoredKeys};
use crate::documents::profile::Role;
use crate::documents::record::Record;
use crate::documents::snapshot::{
    Blob, Draft, FILES, LARGEST, NodeState, StateManifest, VOLUMES, pack, pack_canonical,
};

use super::{ClusterError, Context};

/// How long reading a node's files or images may take: they may be many gigabytes.
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// For how many seconds etcd may stand still before it goes on by itself, should kprov be gone. A copy that
/// takes longer is torn, and tried again with more time: the kubelet ends an etcd that is silent for 80 s.
const STANDSTILL: [u32; 2] = [8, 40];

/// What the script exits with if the copy is torn.
const TORN: i64 = 75;

/// Reads a node's state; the functions that it is made of are its arguments.
const SCRIPT: &str = include_str!("scripts/capture.sh");

/// Reads the whole state of a cluster. The caller holds its lock.
///
/// # Errors
/// [`ClusterError`]; the cluster then runs as before.
pub(super) async fn capture(
    context: &Context,
    record: &Record,
    keys: Option<&KeyRing>,
    nodes: &[Node],
) -> Result<Draft, ClusterError> {
    let network = context.engine.network(record.network()).await?;
    let archives = read_nodes(nodes).await?;
    let mut blobs = Vec::new();
    let mut states = Vec::new();
    for (node, raw) in nodes.iter().zip(archives) {
        let name = node.name.clone();
        let packed = tokio::task::spawn_blocking(move || pack_canonical(&raw))
            .await
            .map_err(|error| error.to_string())
            .and_then(|packed| packed)
            .map_err(|reason| SnapshotError::Archive { node: name.clone(), reason })?;
        let archive = Blob::of(&packed);
        blobs.push((archive.clone(), packed));
        states.push(NodeState { name, archive, images: None });
    }
    let keys = keys.map(|keys| {
        let bytes = Zeroizing::new(serde_json::to_vec(&StoredKeys::from(keys)).expect("plain data with text keys"));
        let blob = Blob::of(&bytes);
        blobs.push((blob.clone(), bytes));
        blob
    });
    let manifest = StateManifest {
        format: StateManifest::FORMAT,
        kprov: env!("CARGO_PKG_VERSION").to_owned(),
        created: k8s_openapi::jiff::Timestamp::now().as_second(),
        record: record.clone(),
        subnets: network.into_iter().flat_map(|network| network.subnets).map(|subnet| subnet.to_string()).collect(),
        keys,
        nodes: states,
        held: None,
    };
    Ok(Draft { manifest, blobs })
}

/// The most bytes that a node may send: those of the largest state, and what else tar says.
const MOST: usize = LARGEST as usize + (1 << 20);

/// The script's parts on a control plane. Of several, all do the first one before any goes on.
const IN_CONTROL_PLANE: [&str; 6] = ["halt", "copy", "prove", "resume", "volumes", "hand_out"];

/// Runs parts of the script on a node.
async fn run(node: &Node, standstill: u32, parts: &[&str]) -> Result<Zeroizing<Vec<u8>>, NodeError> {
    let (files, volumes) = (FILES.join(" "), VOLUMES.join(" "));
    let script = format!(
        "FILES='{files}' VOLUMES='{volumes}' STANDSTILL={standstill} LARGEST={LARGEST}\n{STATIC_POD}\n{SCRIPT}"
    );
    let words: Vec<&str> = ["sh", "-euc", &script, "capture"].into_iter().chain(parts.iter().copied()).collect();
    match node.patient(LONG).large_output(&words, MOST).await {
        Ok(archive) => Ok(archive),
        // The script itself says nothing to a reader.
        Err(NodeError::Command { node, code, last_lines, .. }) => {
            Err(NodeError::Command { node, command: "reading its state".to_owned(), code, last_lines })
        }
        Err(error) => Err(error),
    }
}

/// The archives of all nodes. A torn copy is never one of them.
async fn read_nodes(nodes: &[Node]) -> Result<Vec<Zeroizing<Vec<u8>>>, NodeError> {
    let [first, last] = STANDSTILL;
    match try_read_nodes(nodes, first).await {
        Err(NodeError::Command { code: TORN, .. }) => try_read_nodes(nodes, last).await,
        other => other,
    }
}

async fn try_read_nodes(nodes: &[Node], standstill: u32) -> Result<Vec<Zeroizing<Vec<u8>>>, NodeError> {
    let control_planes: Vec<&Node> = nodes.iter().filter(|node| node.role == Role::ControlPlane).collect();
    let several = control_planes.len() > 1;
    if several {
        let each = async |part| join_all(control_planes.iter().map(|node| run(node, standstill, part))).await;
        if let Some(error) = each(&["halt"]).await.into_iter().find_map(Result::err) {
            // Where even that fails, etcd goes on by itself.
            each(&["resume"]).await;
            return Err(error);
        }
    }
    // All come to their end, also if one fails: no script runs on beside those of another try.
    let read = join_all(nodes.iter().map(|node| {
        let parts: &[&str] = match node.role {
            Role::ControlPlane if several => &IN_CONTROL_PLANE[1..],
            Role::ControlPlane => &IN_CONTROL_PLANE,
            Role::Worker => &["copy", "volumes", "hand_out"],
        };
        run(node, standstill, parts)
    }));
    read.await.into_iter().collect()
}

/// The images that were loaded into a node since it was made, packed; `None` if there are none. `built_in` is
/// containerd's database in the node's own image.
pub(super) async fn loaded_images(node: &Node, built_in: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, ClusterError> {
    let list = node.run(&["ctr", "--namespace", "k8s.io", "images", "ls"]).await?;
    let loaded = loaded(&list, built_in);
    if loaded.is_empty() {
        return Ok(None);
    }
    let mut command = vec!["ctr", "--namespace", "k8s.io", "images", "export", "-"];
    command.extend(loaded);
    let tar = node.patient(LONG).large_output(&command, MOST).await?;
    let packed = tokio::task::spawn_blocking(move || pack(&tar)).await.map_err(|error| error.to_string());
    let packed = packed
        .and_then(|packed| packed)
        .map_err(|reason| SnapshotError::Archive { node: node.name.clone(), reason })?;
    Ok(Some(packed))
}

/// Of the lines of `ctr images ls` (name, type, digest, ...), the names of those images whose name or digest
/// `built_in` does not hold. Names by digest alone are left out: they come with the image that they belong to.
fn loaded<'a>(list: &'a str, built_in: &[u8]) -> Vec<&'a str> {
    let holds = |text: &str| built_in.windows(text.len()).any(|window| window == text.as_bytes());
    list.lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, digest) = (words.next()?, words.nth(1)?);
            let by_tag = !name.starts_with("sha256:") && !name.contains('@');
            (by_tag && !(holds(name) && holds(digest))).then_some(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Child, Command, Output};

    use crate::documents::snapshot::file;

    use super::*;

    /// A process in etcd's place, which ends with the test.
    struct Etcd(Child);

    impl Drop for Etcd {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Runs the script on this host, below a folder, with a process that always runs in etcd's place and a tar that
    /// first does `before`.
    fn capture(folder: &Path, standstill: u32, before: &str) -> Output {
        let [output] = in_turn(folder, standstill, before, [&IN_CONTROL_PLANE]);
        let left: Vec<_> = fs::read_dir(folder.join("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".keep"]);
        output
    }

    /// The same, by as many scripts as there are lists of parts: the next one begins when the one before has ended.
    fn in_turn<const N: usize>(folder: &Path, standstill: u32, before: &str, scripts: [&[&str]; N]) -> [Output; N] {
        let write = |path: &str, text: &str| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let etcd = Etcd(Command::new("sh").args(["-c", "while :; do sleep 0.02; done"]).spawn().unwrap());
        let id = etcd.0.id();
        write("root/etc/kubernetes/admin.conf", "admin");
        write("root/var/lib/etcd/member/snap/db", "db");
        write("run/.keep", "");
        write(
            "bin/ctr",
            &format!(
                "#!/bin/sh\ncase \"$*\" in\n*'containers ls'*==etcd,*) echo c1;;\n\
                 *'tasks ls') echo 'c1 {id} RUNNING';;\nesac\n"
            ),
        );
        write("bin/tar", &format!("#!/bin/sh\netcd={id}\n{before}\nexec /bin/tar \"$@\"\n"));
        let script = format!("{STATIC_POD}\n{SCRIPT}");
        let outputs = scripts.map(|parts| {
            Command::new("sh")
                .args(["-euc", &script, "capture"])
                .args(parts)
                .env("PATH", format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap()))
                .env("FILES", FILES.join(" "))
                .env("VOLUMES", VOLUMES.join(" "))
                .env("LARGEST", "50000")
                .env("STANDSTILL", standstill.to_string())
                .env("ROOT", folder.join("root"))
                .env("RUN", folder.join("run"))
                .output()
                .unwrap()
        });
        // Somebody lets it go on, at the latest the watchdog.
        assert!(is_gone(&folder.join("run/kprov-standstill.over")), "a watchdog would let the next one's etcd go on");
        let stat = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        assert!(!stat.contains("T (stopped)"), "etcd goes on: {stat}");
        outputs
    }

    /// Whether no process is about to write the mark of a watchdog, at the latest in some moments.
    fn is_gone(mark: &Path) -> bool {
        let mark = mark.to_str().unwrap();
        let waits = || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            let command = |process: fs::DirEntry| fs::read(process.path().join("cmdline")).unwrap_or_default();
            processes.map(command).any(|words| String::from_utf8_lossy(&words).contains(mark))
        };
        (0..250).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            !waits()
        })
    }

    #[test]
    fn a_copy_made_at_a_standstill_is_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let output = capture(folder.path(), 60, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(file(&output.stdout, "/var/lib/etcd/member/snap/db").unwrap().as_slice(), b"db");
    }

    #[test]
    fn of_several_each_is_halted_by_one_script_and_read_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let [halted, read] = in_turn(folder.path(), 60, "", [&["halt"], &IN_CONTROL_PLANE[1..]]);
        assert!(halted.status.success() && halted.stdout.is_empty(), "{}", String::from_utf8_lossy(&halted.stderr));
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        assert_eq!(file(&read.stdout, "/var/lib/etcd/member/snap/db").unwrap().as_slice(), b"db");
        // Somebody was let go before all were read.
        let [_, resumed, torn] = in_turn(folder.path(), 60, "", [&["halt"], &["resume"], &IN_CONTROL_PLANE[1..]]);
        assert!(resumed.status.success() && !torn.status.success() && torn.stdout.is_empty());
    }

    #[test]
    fn one_whose_reader_was_killed_goes_on_by_itself_and_is_read_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let [halted] = in_turn(folder.path(), 1, "", [&["halt"]]);
        assert!(halted.status.success(), "{}", String::from_utf8_lossy(&halted.stderr));
        assert!(folder.path().join("run/kprov-standstill.over").exists());
        // A copy that comes too late: of one that is no more, and of one that goes on.
        let [late] = in_turn(folder.path(), 1, "", [&IN_CONTROL_PLANE[1..]]);
        assert_eq!(late.status.code(), Some(75), "{}", String::from_utf8_lossy(&late.stderr));
        let mark = folder.path().join("run/kprov-standstill.over");
        let slow = format!("until [ -e '{}' ]; do sleep 0.02; done", mark.display());
        let [_, late] = in_turn(folder.path(), 1, &slow, [&["halt"], &IN_CONTROL_PLANE[1..]]);
        assert_eq!(late.status.code(), Some(75), "{}", String::from_utf8_lossy(&late.stderr));
        let output = capture(folder.path(), 60, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn volumes_that_no_snapshot_can_hold_are_refused_with_their_size() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("root/var/local-path-provisioner/pvc");
        fs::create_dir_all(&volume).unwrap();
        fs::write(volume.join("small"), [1; 100]).unwrap();
        let output = capture(folder.path(), 60, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(file(&output.stdout, "/var/local-path-provisioner/pvc/small").is_some());
        fs::write(volume.join("large"), [1; 60_000]).unwrap();
        let output = capture(folder.path(), 60, "");
        assert_eq!(output.status.code(), Some(73));
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(says.contains("with what pods keep in /var/local-path-provisioner"), "{says}");
    }

    #[test]
    fn a_copy_that_takes_longer_than_etcd_stands_still_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        // A slow disk: it waits until etcd has been let go, so that this test is not a matter of time.
        let slow = format!(
            "until [ -e '{}' ]; do sleep 0.02; done",
            folder.path().join("run/kprov-standstill.over").display()
        );
        let output = capture(folder.path(), 1, &slow);
        assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty());
    }

    #[test]
    fn an_etcd_that_somebody_let_go_for_a_moment_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let output = capture(folder.path(), 60, "kill -CONT $etcd; sleep 0.2; kill -STOP $etcd; sleep 0.1");
        assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn a_file_that_changed_while_it_was_read_makes_a_copy_torn() {
        let folder = tempfile::tempdir().unwrap();
        let output = capture(folder.path(), 60, "/bin/tar \"$@\"; exit 1");
        assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn images_of_the_nodes_own_image_do_not_count() {
        let list = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
            docker.io/a:1 application/x sha256:11 1MiB linux/amd64 -\n\
            docker.io/b:1 application/x sha256:22 1MiB linux/amd64 -\n\
            docker.io/c:1 application/x sha256:33 1MiB linux/amd64 -\n\
            sha256:44 application/x sha256:33 1MiB linux/amd64 -\n";
        assert_eq!(
            loaded(list, b"..docker.io/a:1..sha256:11..docker.io/b:1..sha256:99"),
            ["docker.io/b:1", "docker.io/c:1"]
        );
    }
}
