//! Images into nodes: from the engine or from archives, to all nodes at once, and only what each of them lacks.
//!
//! Owns who gets what, and making sure that it has come. `send` is the way there; what an archive is made of is
//! `documents::images`'.

mod send;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use crate::adapters::engine::EngineError;
use crate::adapters::node::{Node, NodeError};
use crate::documents::images::{ImageArchiveError, Named, images_in, whole_name};
use crate::documents::names::ClusterName;
use crate::documents::record::Record;
use crate::operations::cluster::{self, ClusterError, Context};

use send::{Outcome, Way, send};

const HELD: &str = include_str!("scripts/held.sh");
const SEE: &str = include_str!("scripts/see.sh");

/// How long a node may take for an archive.
const LONG: Duration = Duration::from_secs(3600);

/// How much of an archive is read at once.
const READ: usize = 256 << 10;

/// How long containerd's CRI plugin may take to see what containerd has taken, and how often that is looked at.
const SEEN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// Why images could not be brought to nodes.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LoadError {
    /// The engine does not have it.
    #[error("the engine has no image {0}")]
    #[diagnostic(
        code(kprov::load::no_image),
        help(
            "nothing has been loaded; `docker images` lists what there is, `docker pull {0}` fetches it. An archive is loaded by `kprov load image-archive FILE`"
        )
    )]
    NoImage(String),
    /// It has no name that a pod could ask for.
    #[error("{0} is no name that a pod could ask for")]
    #[diagnostic(code(kprov::load::nameless), help("nothing has been loaded; give it one: `docker tag {0} NAME:TAG`"))]
    Nameless(String),
    /// An archive is none of images.
    #[error("{path} is no archive of images: {error}", path = path.display())]
    #[diagnostic(code(kprov::load::archive))]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: ImageArchiveError,
    },
    /// What the engine sends is no archive.
    #[error("what the engine at {host} sends of its images cannot be used: {error}")]
    #[diagnostic(code(kprov::load::engine))]
    Export {
        /// The engine's address.
        host: String,
        /// What is wrong with it.
        error: ImageArchiveError,
    },
    /// The cluster has no such node.
    #[error("the cluster {cluster:?} has no node called {node:?}; it has: {}", known.join(", "))]
    #[diagnostic(code(kprov::load::unknown_node), help("nothing has been loaded"))]
    UnknownNode {
        /// The cluster.
        cluster: String,
        /// The name that was asked for.
        node: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A node has taken an archive, and the image is not there.
    #[error("{node}: {name} is not there after it was loaded: {reason}")]
    #[diagnostic(
        code(kprov::load::missing),
        help(
            "`kprov exec {node} -- ctr -n k8s.io images check` shows what there is; the journal of containerd may say why"
        )
    )]
    Missing {
        /// The node.
        node: String,
        /// The image.
        name: String,
        /// What was seen.
        reason: String,
    },
    /// A node has failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Node(#[from] NodeError),
    /// The engine has failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Engine(#[from] EngineError),
    /// The cluster could not be found.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Cluster(#[from] ClusterError),
}

/// What is to be loaded.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// Images of the engine, by name.
    Images(&'a [String]),
    /// Archives, as `docker save` writes them.
    Archives(&'a [PathBuf]),
}

/// What came of it.
#[derive(Debug)]
pub struct Loaded {
    /// The cluster.
    pub cluster: ClusterName,
    /// The images, by the names that they have on nodes.
    pub images: Vec<String>,
    /// How many bytes went to each node; none to one that had all.
    pub sent: BTreeMap<String, u64>,
}

/// What a node's containerd holds.
#[derive(Debug, Default)]
struct Held {
    /// Digests of what images' names stand for.
    images: BTreeMap<String, String>,
    blobs: BTreeSet<String>,
}

impl Held {
    fn parse(text: &str) -> Self {
        let mut held = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("image"), Some(name), Some(digest)) => {
                    held.images.insert(name.to_owned(), digest.to_owned());
                }
                (Some("blob"), Some(digest), None) => {
                    held.blobs.insert(digest.to_owned());
                }
                _ => {}
            }
        }
        held
    }

    /// Why a pod that asks for the image would not get it; `None` if it would. For each image that it knows, containerd's CRI
    /// plugin keeps another name: the digest of its configuration.
    fn lacks(&self, image: &Named) -> Option<&'static str> {
        let Some(target) = self.images.get(&image.name) else { return Some("there is none of that name") };
        let ids = self.images.iter().filter(|(name, digest)| name.starts_with("sha256:") && *digest == target);
        let mut known = false;
        for (id, _) in ids {
            known = true;
            if *id == image.id {
                return None;
            }
        }
        match (known, *target == image.id) {
            (true, true) => None,
            (true, false) => Some("the name stands for another one"),
            (false, _) => Some("the kubelet does not see it"),
        }
    }
}

async fn held(node: &Node) -> Result<Held, NodeError> {
    Ok(Held::parse(&node.script("listing images", HELD).await?))
}

/// Brings images to the nodes of a cluster, or to those called `only`; done when pods can use them.
///
/// # Errors
/// [`LoadError`]. Nodes that had taken all of it by then keep it; the others are as they were.
pub async fn load(
    context: &Context,
    cluster: Option<&ClusterName>,
    only: &[String],
    what: What<'_>,
) -> Result<Loaded, LoadError> {
    let found = cluster::find(&context.engine, cluster).await?;
    let mut nodes = found.nodes(&context.engine);
    if let Some(unknown) = only.iter().find(|name| nodes.iter().all(|node| node.name != **name)) {
        let known = nodes.into_iter().map(|node| node.name).collect();
        return Err(LoadError::UnknownNode { cluster: found.name.to_string(), node: unknown.clone(), known });
    }
    nodes.retain(|node| only.is_empty() || only.contains(&node.name));
    let nodes: Vec<Node> = nodes.iter().map(|node| node.patient(LONG)).collect();
    let mut loaded = Loaded {
        cluster: found.name,
        images: Vec::new(),
        sent: nodes.iter().map(|node| (node.name.clone(), 0)).collect(),
    };
    let loader = Loader { context, nodes: &nodes };
    match what {
        What::Images(references) => {
            let (images, held) = tokio::join!(on_engine(context, references), loader.held());
            let wanted: Vec<Wanted<'_>> =
                references.iter().zip(images?).map(|(reference, image)| Wanted { reference, image }).collect();
            loader.load_images(&wanted, held?, &mut loaded).await?;
        }
        What::Archives(paths) => {
            // All are looked into before the first one is loaded.
            let mut archives = Vec::new();
            for path in paths {
                let fail = |error| LoadError::Archive { path: path.clone(), error };
                let file = std::fs::File::open(path).map_err(|error| fail(error.into()))?;
                archives.push((path, images_in(std::io::BufReader::new(file)).map_err(fail)?));
            }
            for (path, images) in archives {
                loader.load_archive(path, images, &mut loaded).await?;
            }
        }
    }
    Ok(loaded)
}

/// Makes sure that the engine has these images, which a cluster is to be made with.
///
/// # Errors
/// [`LoadError::Engine`] if one is neither there nor to be had.
pub async fn fetch(context: &Context, images: &[String]) -> Result<(), LoadError> {
    for image in images {
        if context.engine.image(image).await?.is_none() {
            let step = context.reporter.stage(&format!("Pulling {image}"));
            context.engine.pull(image, |status| step.detail(status)).await?;
            step.done();
        }
    }
    Ok(())
}

/// Brings the images that a profile wants in nodes into those of its cluster.
///
/// # Errors
/// [`LoadError`]; the cluster is up all the same.
pub async fn preload(context: &Context, record: &Record) -> Result<(), LoadError> {
    let images = &record.profile.spec.preload;
    if !images.is_empty() {
        load(context, Some(&record.name), &[], What::Images(images)).await?;
    }
    Ok(())
}

/// What the engine has under these names.
async fn on_engine(context: &Context, references: &[String]) -> Result<Vec<Named>, LoadError> {
    let looked_up = references.iter().map(|reference| async move {
        let name = whole_name(reference);
        let image = match context.engine.image(reference).await {
            Err(EngineError::NoImage { .. }) => None,
            other => other?,
        };
        let image = image.ok_or_else(|| LoadError::NoImage(reference.clone()))?;
        Ok(Named { name: name.ok_or_else(|| LoadError::Nameless(reference.clone()))?, id: image.id })
    });
    try_join_all(looked_up).await
}

/// An image by the name that the user has typed, and what it is.
struct Wanted<'a> {
    reference: &'a str,
    image: Named,
}

/// A node that something goes to.
struct Taker<'a> {
    node: &'a Node,
    held: Held,
}

struct Loader<'a> {
    context: &'a Context,
    nodes: &'a [Node],
}

impl<'a> Loader<'a> {
    async fn held(&self) -> Result<Vec<Held>, LoadError> {
        Ok(try_join_all(self.nodes.iter().map(held)).await?)
    }

    /// The nodes that lack one of these images.
    fn takers<'n>(&self, held: Vec<Held>, images: &[&'n Named]) -> Vec<Taker<'a>> {
        let lacks = |held: &Held| images.iter().any(|image| held.lacks(image).is_some());
        let all = self.nodes.iter().zip(held).map(|(node, held)| Taker { node, held });
        all.filter(|taker| lacks(&taker.held)).collect()
    }

    async fn load_images(&self, wanted: &[Wanted<'_>], held: Vec<Held>, loaded: &mut Loaded) -> Result<(), LoadError> {
        loaded.images.extend(wanted.iter().map(|wanted| wanted.image.name.clone()));
        // Those that some node lacks.
        let lacking: Vec<&Wanted<'_>> =
            wanted.iter().filter(|wanted| held.iter().any(|held| held.lacks(&wanted.image).is_some())).collect();
        let images: Vec<&Named> = lacking.iter().map(|wanted| &wanted.image).collect();
        let references: Vec<&str> = lacking.iter().map(|wanted| wanted.reference).collect();
        let takers = self.takers(held, &images);
        if takers.is_empty() {
            return Ok(());
        }
        let engine = &self.context.engine;
        let unusable = |error| LoadError::Export { host: engine.host().to_owned(), error };
        let archive = || engine.export(&references).map(|piece| piece.map_err(LoadError::from));
        self.bring(&takers, &images, archive, unusable, loaded).await
    }

    async fn load_archive(&self, path: &Path, images: Vec<Named>, loaded: &mut Loaded) -> Result<(), LoadError> {
        loaded.images.extend(images.iter().map(|image| image.name.clone()));
        let images: Vec<&Named> = images.iter().collect();
        let takers = self.takers(self.held().await?, &images);
        if takers.is_empty() {
            return Ok(());
        }
        let unusable = |error| LoadError::Archive { path: path.to_owned(), error };
        let archive = || read(path).map(|piece| piece.map_err(|error| unusable(error.into())));
        self.bring(&takers, &images, archive, unusable, loaded).await
    }

    /// Sends an archive to nodes, and makes sure that they have its images. A node that has lost meanwhile what it was not
    /// sent gets all of it.
    async fn bring<S: Stream<Item = Result<Bytes, LoadError>>>(
        &self,
        takers: &[Taker<'_>],
        images: &[&Named],
        archive: impl Fn() -> S,
        unusable: impl Fn(ImageArchiveError) -> LoadError,
        loaded: &mut Loaded,
    ) -> Result<(), LoadError> {
        let names = images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>().join(", ");
        let reporter = &self.context.reporter;
        let outcomes = send(reporter, takers, &names, Way::Past, archive(), &unusable).await?;
        let whole = takers.iter().zip(outcomes).map(|(taker, outcome)| {
            *loaded.sent.entry(taker.node.name.clone()).or_default() += outcome.sent;
            has_come(taker.node, outcome, images)
        });
        let whole = try_join_all(whole.collect::<Vec<_>>()).await?;
        let lacking = takers.iter().zip(whole).filter(|(_, whole)| !whole);
        let everything: Vec<Taker<'_>> =
            lacking.map(|(taker, _)| Taker { node: taker.node, held: Held::default() }).collect();
        if everything.is_empty() {
            return Ok(());
        }
        let outcomes = send(reporter, &everything, &names, Way::Through, archive(), &unusable).await?;
        for (taker, outcome) in everything.iter().zip(outcomes) {
            *loaded.sent.entry(taker.node.name.clone()).or_default() += outcome.sent;
            outcome.taken?;
            check(taker.node, &settled(taker.node, images).await?, images)?;
        }
        Ok(())
    }
}

/// Whether a node has the images that were sent to it; `false` if it may lack what was left out.
async fn has_come(node: &Node, outcome: Outcome, images: &[&Named]) -> Result<bool, LoadError> {
    match outcome.taken {
        Err(_) if !outcome.left_out.is_empty() => return Ok(false),
        other => other?,
    }
    let held = settled(node, images).await?;
    if !outcome.left_out.is_subset(&held.blobs) {
        return Ok(false);
    }
    check(node, &held, images)?;
    Ok(true)
}

/// What a node holds, once its CRI plugin has seen what containerd has taken, or has had the time to.
async fn settled(node: &Node, images: &[&Named]) -> Result<Held, LoadError> {
    let deadline = tokio::time::Instant::now() + SEEN;
    let mut told = false;
    loop {
        let held = held(node).await?;
        let unseen = images.iter().filter(|image| held.lacks(image).is_some());
        let unseen: Vec<&str> = unseen.map(|image| image.name.as_str()).collect();
        if unseen.is_empty() || tokio::time::Instant::now() > deadline {
            return Ok(held);
        }
        if !told && unseen.iter().all(|name| held.images.contains_key(*name)) {
            told = true;
            let script = format!("names='{}'\n{SEE}", unseen.join(" "));
            node.script("having containerd look at images", &script).await?;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn check(node: &Node, held: &Held, images: &[&Named]) -> Result<(), LoadError> {
    let lacking = images.iter().find_map(|image| Some((image, held.lacks(image)?)));
    lacking.map_or(Ok(()), |(image, reason)| {
        let (node, name) = (node.name.clone(), image.name.clone());
        Err(LoadError::Missing { node, name, reason: reason.to_owned() })
    })
}

/// A file, in pieces.
fn read(path: &Path) -> impl Stream<Item = Result<Bytes, std::io::Error>> + use<> {
    let path = path.to_owned();
    stream::once(async move { File::open(path).await })
        .map(|file| match file {
            Ok(file) => stream::try_unfold(file, |mut file| async move {
                let mut piece = BytesMut::with_capacity(READ);
                let read = file.read_buf(&mut piece).await?;
                Ok((read > 0).then(|| (piece.freeze(), file)))
            })
            .left_stream(),
            Err(error) => stream::once(std::future::ready(Err(error))).right_stream(),
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, id: &str) -> Named {
        Named { name: name.to_owned(), id: id.to_owned() }
    }

    #[test]
    fn an_image_is_there_only_if_the_kubelet_sees_the_very_one() {
        let held = Held::parse(
            "image REF DIGEST\nimage a:1 sha256:m1\nimage sha256:c1 sha256:m1\nimage b:1 sha256:m2\nblob sha256:m1\n",
        );
        assert_eq!(held.lacks(&named("a:1", "sha256:c1")), None);
        assert_eq!(held.lacks(&named("a:1", "sha256:m1")), None, "an engine that keeps images in containerd says this");
        assert_eq!(held.lacks(&named("a:1", "sha256:c2")), Some("the name stands for another one"));
        assert_eq!(held.lacks(&named("b:1", "sha256:m2")), Some("the kubelet does not see it"));
        assert_eq!(held.lacks(&named("c:1", "sha256:c1")), Some("there is none of that name"));
        assert!(held.blobs.contains("sha256:m1"));
    }
}
