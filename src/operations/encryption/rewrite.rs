//! Rewriting what is stored, through the API, until etcd holds nothing under another key; and the proof of it.
//!
//! What is left to do is read from etcd, so that an interrupted rewriting goes on where it was. Which key each resource
//! is to have, the journal says; where resources lie, the layout does.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::documents::encryption::{Config, Journal, Layout, Located};

use super::world::Storage;
use super::{EncryptionError, Proof};

/// How many objects are rewritten at a time.
const PARALLEL: usize = 16;

/// How often everything is looked through before what is left counts as refused.
const ROUNDS: usize = 10;

/// Of more resources than this, all of etcd is read at once rather than each by itself.
const FEW: usize = 8;

/// A walk's resources: each with the first bytes that its values are to have.
struct Wanted<'a>(Vec<(&'a Located, String)>);

impl<'a> Wanted<'a> {
    fn of(layout: &'a Layout, journal: &Journal, base: &Config) -> Self {
        let resources = layout.resources().iter();
        Self(resources.filter_map(|known| Some((known, journal.destination(base, &known.name)?.stored()))).collect())
    }

    fn of_key(&self, key: &str) -> Option<&(&'a Located, String)> {
        self.0.iter().find(|(known, _)| key.starts_with(&known.prefix))
    }
}

/// A value that is stored otherwise than it is to be.
struct Stale<'a> {
    resource: &'a Located,
    key: String,
}

async fn stale<'a>(
    storage: &impl Storage,
    layout: &Layout,
    wanted: &Wanted<'a>,
) -> Result<Vec<Stale<'a>>, EncryptionError> {
    let prefixes: Vec<&str> = if wanted.0.len() > FEW {
        vec![layout.root()]
    } else {
        wanted.0.iter().map(|(known, _)| known.prefix.as_str()).collect()
    };
    let mut found = Vec::new();
    for prefix in prefixes {
        let visit = |key: &str, stored: &str| {
            if let Some((resource, to)) = wanted.of_key(key)
                && to != stored
            {
                found.push(Stale { resource, key: key.to_owned() });
            }
        };
        storage.scan(prefix, visit).await?;
    }
    Ok(found)
}

/// Rewrites all that the walk decides on; gives how many objects it has rewritten.
pub(super) async fn rewrite(
    storage: &impl Storage,
    layout: &Layout,
    journal: &Journal,
    base: &Config,
    detail: impl Fn(&str),
) -> Result<usize, EncryptionError> {
    let wanted = Wanted::of(layout, journal, base);
    let mut rewritten = 0;
    // Whoever wrote meanwhile, wrote with the new key; looking again is the proof.
    let mut left = stale(storage, layout, &wanted).await?;
    for _ in 0..ROUNDS {
        if left.is_empty() {
            break;
        }
        rewritten += touch_all(storage, &left, &detail).await?;
        left = stale(storage, layout, &wanted).await?;
    }
    let Some(first) = left.first() else { return Ok(rewritten) };
    let count = left.iter().filter(|stale| stale.resource.name == first.resource.name).count();
    Err(EncryptionError::Left { resource: first.resource.name.to_string(), count, key: first.key.clone() })
}

async fn touch_all(
    storage: &impl Storage,
    left: &[Stale<'_>],
    detail: impl Fn(&str),
) -> Result<usize, EncryptionError> {
    let mut totals: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for stale in left {
        totals.entry(stale.resource.name.to_string()).or_default().1 += 1;
    }
    let touches = left.iter().map(|stale| async move {
        storage.touch(stale.resource, &stale.key).await?;
        Ok::<_, EncryptionError>(stale.resource.name.to_string())
    });
    let mut touches = stream::iter(touches).buffer_unordered(PARALLEL);
    while let Some(name) = touches.try_next().await? {
        let (done, total) = totals.entry(name.clone()).or_default();
        *done += 1;
        if *done % 10 == 0 || done == total {
            detail(&format!("{name}: {done} of {total}"));
        }
    }
    Ok(left.len())
}

/// Holds that nothing needs a key of `base` that `target` lacks: looks through all of etcd, whatever the values are
/// and wherever they lie.
pub(super) async fn prove(
    storage: &impl Storage,
    layout: &Layout,
    journal: &Journal,
    base: &Config,
    target: &Config,
) -> Result<Proof, EncryptionError> {
    let wanted = Wanted::of(layout, journal, base);
    let mut proof = Proof::default();
    let mut left: Vec<(Option<&Located>, String)> = Vec::new();
    let visit = |key: &str, stored: &str| {
        proof.values += 1;
        let owner = layout.owner(key);
        let (was, is) = match owner {
            Some(owner) => (base.reads(&owner.name, stored), target.reads(&owner.name, stored)),
            // Of what the API knows nothing of, nobody can say which rule is its.
            None => (base.knows(stored), target.knows(stored) || !stored.starts_with("k8s:enc:")),
        };
        let concerned = wanted.of_key(key);
        proof.concerned += usize::from(concerned.is_some());
        if was && !is || concerned.is_some_and(|(_, to)| to != stored) {
            left.push((owner, key.to_owned()));
        }
    };
    storage.scan(layout.root(), visit).await?;
    match left.first() {
        None => Ok(proof),
        Some((Some(owner), key)) => {
            let (resource, key) = (owner.name.to_string(), key.clone());
            Err(EncryptionError::Left { resource, count: left.len(), key })
        }
        Some((None, key)) => Err(EncryptionError::NotServed { resource: key.clone() }),
    }
}
