//! The way of an archive into nodes: to each what it lacks, and large blobs past containerd's own import.
//!
//! That import takes every byte by gRPC and hashes it again, on each node. Large blobs are hashed here, once for all nodes, laid
//! where containerd keeps its own, and it is told of them by their digests; the rest of the archive, which says what the
//! images are, goes its way when they are there. Owns what goes where; leaves to its callers whether it has come.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{Stream, StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::adapters::node::{Node, NodeError};
use crate::documents::images::{ImageArchiveError, Piece, Splitter, blob_digest};
use crate::progress::{Reporter, Step};

use super::{LoadError, Taker};

const TAKE: &str = include_str!("scripts/take.sh");
const PLACE: &str = include_str!("scripts/place.sh");

/// Smaller blobs are sent whether a node has them or not: containerd reads them to find the others.
const LARGE: u64 = 64 << 10;

/// Blobs from this size on are laid beside containerd's own; for smaller ones, telling it of each takes longer.
const PLACED: u64 = 8 << 20;

/// How many pieces may be under way to a node. The slowest one decides.
const UNDER_WAY: usize = 64;

/// After how many bytes a step tells how far it is.
const TELL: u64 = 4 << 20;

/// What came of sending an archive to a node.
pub(super) struct Outcome {
    pub(super) sent: u64,
    /// The blobs that its import was not sent, since it had them, or they were laid beside its own.
    pub(super) left_out: BTreeSet<String>,
    pub(super) taken: Result<(), NodeError>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self { sent: 0, left_out: BTreeSet::new(), taken: Ok(()) }
    }
}

/// Whether large blobs go past containerd's import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// They do, where the archive tells their digests.
    Past,
    /// Everything goes through it.
    Through,
}

/// Sends an archive to nodes, without the blobs that each has.
///
/// # Errors
/// [`LoadError`] if the archive ends early, or is none. What a node has to say is in its outcome.
pub(super) async fn send(
    reporter: &Reporter,
    takers: &[Taker<'_>],
    names: &str,
    way: Way,
    archive: impl Stream<Item = Result<Bytes, LoadError>>,
    unusable: impl Fn(ImageArchiveError) -> LoadError,
) -> Result<Vec<Outcome>, LoadError> {
    let (mut lines, mut takes) = (Vec::new(), Vec::new());
    for taker in takers {
        let step = reporter.step(&taker.node.name, &format!("Loading {names}"));
        let (line, ends) = line(&taker.held.blobs, step, way);
        lines.push(line);
        takes.push(take(taker.node, ends));
    }
    let distribute = async {
        let outcome = distribute(archive, &mut lines, unusable).await;
        // Whoever reads sees the end.
        let ends = lines.into_iter().map(|line| (line.step, line.outcome)).collect::<Vec<_>>();
        (outcome, ends)
    };
    let ((distributed, ends), taken) = tokio::join!(distribute, join_all(takes));
    distributed?;
    let ended = ends.into_iter().zip(taken).map(|((step, outcome), taken)| {
        match &taken {
            Ok(()) => step.done(),
            Err(error) => step.fail(error),
        }
        Outcome { taken, ..outcome }
    });
    Ok(ended.collect())
}

/// A node's ends of a line.
struct Ends {
    import: mpsc::Receiver<Bytes>,
    place: mpsc::Receiver<Bytes>,
    /// Dropped when all blobs lie where they belong, or have failed to.
    placed: oneshot::Sender<()>,
}

async fn take(node: &Node, ends: Ends) -> Result<(), NodeError> {
    let place = async {
        let outcome = place(node, ends.place).await;
        drop(ends.placed);
        outcome
    };
    let import = node.feed_pieces("ctr images import", TAKE, pieces(ends.import));
    let (placed, imported) = tokio::join!(place, import);
    placed.and(imported.map(|_| ()))
}

/// Has the blobs that come laid beside containerd's own. An archive without a large one costs nothing here.
async fn place(node: &Node, mut blobs: mpsc::Receiver<Bytes>) -> Result<(), NodeError> {
    let Some(first) = blobs.recv().await else { return Ok(()) };
    let input = stream::once(std::future::ready(first)).chain(pieces(blobs));
    node.feed_pieces("laying layers beside containerd's", PLACE, input).await.map(|_| ())
}

fn pieces(receiver: mpsc::Receiver<Bytes>) -> impl Stream<Item = Bytes> {
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) })
}

/// Where the file that passes by goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Import,
    Place,
    Nowhere,
}

/// The way to a node.
struct Line<'a> {
    held: &'a BTreeSet<String>,
    import: mpsc::Sender<Bytes>,
    /// Until all blobs have come by; never if everything goes through the import.
    place: Option<mpsc::Sender<Bytes>>,
    placed: oneshot::Receiver<()>,
    step: Step,
    to: To,
    told: u64,
    outcome: Outcome,
}

fn line(held: &BTreeSet<String>, step: Step, way: Way) -> (Line<'_>, Ends) {
    let (import, imported) = mpsc::channel(UNDER_WAY);
    let (place, to_place) = mpsc::channel(UNDER_WAY);
    let (placed, all_placed) = oneshot::channel();
    let place = (way == Way::Past).then_some(place);
    let outcome = Outcome::default();
    let line = Line { held, import, place, placed: all_placed, step, to: To::Import, told: 0, outcome };
    (line, Ends { import: imported, place: to_place, placed })
}

impl Line<'_> {
    /// A file begins that is a blob of that digest, if it is one.
    fn begin(&mut self, blob: Option<&str>, size: u64) {
        self.to = match blob {
            Some(digest) if self.held.contains(digest) => To::Nowhere,
            Some(_) if size >= PLACED && self.place.is_some() => To::Place,
            _ => To::Import,
        };
        if let (To::Place | To::Nowhere, Some(digest)) = (self.to, blob) {
            self.outcome.left_out.insert(digest.to_owned());
        }
    }

    async fn send(&mut self, bytes: Bytes) {
        let to = match self.to {
            To::Import => Some(&self.import),
            To::Place => self.place.as_ref(),
            To::Nowhere => None,
        };
        let Some(to) = to else { return };
        self.outcome.sent += bytes.len() as u64;
        // One that reads no more has failed, and says so itself.
        let _ = to.send(bytes).await;
        if self.outcome.sent - self.told >= TELL {
            self.told = self.outcome.sent;
            self.step.detail(&format!("{} MB", self.told / 1_000_000));
        }
    }

    /// All blobs have come by: waits until they lie where they belong. What follows makes containerd look for them.
    async fn settle(&mut self) {
        self.to = To::Import;
        if self.place.take().is_some() {
            // Nothing is ever sent; that it is dropped says it.
            let _ = (&mut self.placed).await;
        }
    }
}

/// A blob that is laid beside containerd's own, as it passes by.
struct Blob {
    digest: String,
    missing: u64,
    hashing: mpsc::Sender<Bytes>,
    hashed: JoinHandle<String>,
}

impl Blob {
    fn new(digest: String, size: u64) -> Self {
        let (hashing, mut bytes) = mpsc::channel::<Bytes>(UNDER_WAY);
        // Beside the sending.
        let hashed = tokio::task::spawn_blocking(move || {
            let mut hash = Sha256::new();
            while let Some(bytes) = bytes.blocking_recv() {
                hash.update(&bytes);
            }
            format!("sha256:{}", hex::encode(hash.finalize()))
        });
        Self { digest, missing: size, hashing, hashed }
    }

    /// Takes its next bytes off `content`, which may go on with what fills up its last block.
    async fn take(&mut self, content: &mut Bytes) -> Bytes {
        let here = usize::try_from(self.missing).map_or(content.len(), |missing| missing.min(content.len()));
        let bytes = content.split_to(here);
        self.missing -= here as u64;
        // It reads until this is dropped.
        let _ = self.hashing.send(bytes.clone()).await;
        bytes
    }

    /// Nothing, if what has come is what its name says.
    async fn check(self) -> Result<(), ImageArchiveError> {
        drop(self.hashing);
        match self.hashed.await {
            Ok(hash) if hash == self.digest => Ok(()),
            _ => Err(ImageArchiveError::Digest { digest: self.digest }),
        }
    }
}

/// Sends to all lines at once that a file goes down.
async fn send_all(lines: &mut [Line<'_>], to: To, bytes: Bytes) {
    join_all(lines.iter_mut().filter(|line| line.to == to).map(|line| line.send(bytes.clone()))).await;
}

/// Sends an archive down all lines, and on none what is there already.
async fn distribute(
    archive: impl Stream<Item = Result<Bytes, LoadError>>,
    lines: &mut [Line<'_>],
    unusable: impl Fn(ImageArchiveError) -> LoadError,
) -> Result<(), LoadError> {
    let mut archive = std::pin::pin!(archive);
    let mut splitter = Splitter::default();
    let mut placing: Option<Blob> = None;
    while let Some(chunk) = archive.next().await {
        for piece in splitter.take(chunk?).map_err(&unusable)? {
            match piece {
                Piece::Begin { name, size, head } => {
                    let blob = blob_digest(&name).filter(|_| size >= LARGE);
                    lines.iter_mut().for_each(|line| line.begin(blob.as_deref(), size));
                    send_all(lines, To::Import, head).await;
                    if let Some(digest) = blob.filter(|_| lines.iter().any(|line| line.to == To::Place)) {
                        let hex = digest.trim_start_matches("sha256:");
                        send_all(lines, To::Place, Bytes::from(format!("{hex} {size}\n"))).await;
                        placing = Some(Blob::new(digest, size));
                    }
                }
                Piece::Content(mut content) => {
                    send_all(lines, To::Import, content.clone()).await;
                    if let Some(blob) = &mut placing {
                        let bytes = blob.take(&mut content).await;
                        send_all(lines, To::Place, bytes).await;
                    }
                    if let Some(blob) = placing.take_if(|blob| blob.missing == 0) {
                        blob.check().await.map_err(&unusable)?;
                        send_all(lines, To::Place, Bytes::from_static(b"keep\n")).await;
                        for line in lines.iter_mut().filter(|line| line.to == To::Place) {
                            line.to = To::Nowhere;
                        }
                    }
                }
                Piece::Rest(bytes) => {
                    join_all(lines.iter_mut().map(Line::settle)).await;
                    send_all(lines, To::Import, bytes).await;
                }
            }
        }
    }
    if splitter.is_whole() { Ok(()) } else { Err(unusable(ImageArchiveError::NoTar)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive with a blob of so many bytes, its digest, and what the archive has without it.
    fn archive(size: u64) -> (String, Vec<u8>, Vec<u8>) {
        let layer = vec![7; usize::try_from(size).unwrap()];
        let hex = hex::encode(Sha256::digest(&layer));
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [(format!("blobs/sha256/{hex}").as_str(), &layer[..]), ("index.json", b"{}")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let without = bytes[512 + layer.len().next_multiple_of(512)..].to_vec();
        (format!("sha256:{hex}"), bytes, without)
    }

    /// What has come out of a line.
    struct Got {
        imported: Vec<u8>,
        placed: Vec<u8>,
        left_out: usize,
    }

    async fn all_of(mut receiver: mpsc::Receiver<Bytes>) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        all
    }

    /// What comes out of two lines, the first of whose nodes has the blob.
    async fn distributed(bytes: Vec<u8>, digest: &str, way: Way) -> (Result<(), LoadError>, Vec<Got>) {
        let (reporter, _) = Reporter::recording();
        let (has, nothing) = (BTreeSet::from([digest.to_owned()]), BTreeSet::new());
        let (mut lines, mut got) = (Vec::new(), Vec::new());
        for held in [&has, &nothing] {
            let (line, ends) = line(held, reporter.stage("x"), way);
            lines.push(line);
            let Ends { import, place, placed } = ends;
            let place = tokio::spawn(async move {
                let all = all_of(place).await;
                drop(placed);
                all
            });
            got.push((tokio::spawn(all_of(import)), place));
        }
        let pieces: Vec<_> = bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let unusable = |error| LoadError::Export { host: String::new(), error };
        let outcome = distribute(stream::iter(pieces), &mut lines, unusable).await;
        let left_out: Vec<usize> = lines.iter().map(|line| line.outcome.left_out.len()).collect();
        drop(lines);
        let mut all = Vec::new();
        for ((import, place), left_out) in got.into_iter().zip(left_out) {
            all.push(Got { imported: import.await.unwrap(), placed: place.await.unwrap(), left_out });
        }
        (outcome, all)
    }

    #[tokio::test]
    async fn each_node_gets_what_it_lacks_and_nothing_else() {
        for (size, way) in [(LARGE + 1, Way::Past), (PLACED + 1, Way::Through)] {
            let (digest, bytes, without) = archive(size);
            let (outcome, got) = distributed(bytes.clone(), &digest, way).await;
            assert!(outcome.is_ok());
            assert_eq!((got[0].imported.len(), got[0].left_out), (without.len(), 1));
            assert_eq!((&got[1].imported, got[1].left_out), (&bytes, 0));
            assert!(got.iter().all(|got| got.placed.is_empty()));
        }
    }

    #[tokio::test]
    async fn large_blobs_go_past_the_import_with_their_digests() {
        // One that fills its last block, and one that does not.
        for size in [PLACED, PLACED + 7] {
            let (digest, bytes, without) = archive(size);
            let (outcome, got) = distributed(bytes, &digest, Way::Past).await;
            assert!(outcome.is_ok());
            assert!(got[0].placed.is_empty(), "it has the blob");
            assert!(got.iter().all(|got| got.imported == without && got.left_out == 1));
            let (hex, layer) = (digest.trim_start_matches("sha256:"), vec![7; usize::try_from(size).unwrap()]);
            assert_eq!(got[1].placed, [format!("{hex} {size}\n").as_bytes(), &layer, b"keep\n"].concat());
        }
    }

    #[tokio::test]
    async fn a_blob_that_is_not_what_its_name_says_is_not_kept() {
        let (digest, mut bytes, _) = archive(PLACED);
        bytes[600] = 8;
        let (outcome, got) = distributed(bytes, &digest, Way::Past).await;
        let Err(LoadError::Export { error: ImageArchiveError::Digest { digest: told }, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(told, digest);
        assert!(!got[1].placed.ends_with(b"keep\n"));
        assert_eq!(got[1].imported, b"", "and what says that there is such an image does not come");
    }

    #[tokio::test]
    async fn an_archive_that_ends_early_is_no_archive() {
        for (size, way) in [(LARGE + 1, Way::Through), (PLACED, Way::Past)] {
            let (digest, mut bytes, _) = archive(size);
            bytes.truncate(3000);
            let (outcome, got) = distributed(bytes, &digest, way).await;
            assert!(matches!(outcome, Err(LoadError::Export { error: ImageArchiveError::NoTar, .. })));
            assert!(!got[1].placed.ends_with(b"keep\n"));
        }
    }

    /// Runs the script that lays blobs with a store of its own and a containerd that says what it was told; gives its code,
    /// what it printed, and what is in the store.
    fn placed(input: &[u8]) -> (bool, String, Vec<(String, usize)>) {
        use std::io::Write as _;
        use std::os::unix::fs::PermissionsExt as _;
        use std::process::{Command, Stdio};

        let folder = tempfile::tempdir().unwrap();
        let (ctr, root, work) = (folder.path().join("ctr"), folder.path().join("root"), folder.path().join("work"));
        let store = root.join("io.containerd.content.v1.content/blobs/sha256");
        std::fs::create_dir_all(&store).unwrap();
        std::fs::create_dir_all(&work).unwrap();
        std::fs::write(&ctr, "#!/bin/sh\necho \"$* of $(wc -c)\"\n").unwrap();
        std::fs::set_permissions(&ctr, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new("sh")
            .args(["-euc", PLACE])
            .env("PATH", format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap()))
            .env("root", &root)
            .env("TMPDIR", &work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // One that fails may read no more.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "nothing is left of what was under way");
        let mut laid: Vec<_> = std::fs::read_dir(&store)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let size = usize::try_from(entry.metadata().unwrap().len()).unwrap();
                (entry.file_name().into_string().unwrap(), size)
            })
            .collect();
        laid.sort();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), laid)
    }

    #[test]
    fn blobs_are_laid_whole_or_not_at_all() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let head = format!("{a} 3\nx\n\0keep\n{b} 100000\n");
        let two = [head.as_bytes(), &[9; 100_000]].concat();
        let told = |hex: &str, size: usize| {
            let by = format!("--expected-digest sha256:{hex} --expected-size {size}");
            format!("--namespace k8s.io content ingest {by} kprov-{hex} of {size}\n")
        };
        let whole = [&two[..], b"keep\n"].concat();
        let both = (true, told(&a, 3) + &told(&b, 100_000), vec![(a.clone(), 3), (b.clone(), 100_000)]);
        assert_eq!(placed(&whole), both);
        // Ends, or goes on with anything else.
        let first = (false, told(&a, 3), vec![(a.clone(), 3)]);
        for rest in [&b""[..], b"no\n", b"\n"] {
            assert_eq!(placed(&[&two[..], rest].concat()), first);
        }
        assert_eq!(placed(&whole[..whole.len() - 50_000]), first, "killed on the way");
    }
}
