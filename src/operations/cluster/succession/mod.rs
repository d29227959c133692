//! One generation of a cluster's nodes follows another, and at every moment there is one that has been proven.
//!
//! Owns the order in which containers change places, and what becomes of a change that somebody was killed in. Both go by
//! what is on the engine (containers, their names, the label with their generation) and by the generation that the record
//! calls proven, never by memory. Making and proving nodes is its callers' affair; `live` is the real engine and the real
//! record, and tests have others that die at every step.

mod live;
#[cfg(test)]
mod tests;

use futures_util::future::try_join_all;

use crate::progress::Reporter;

pub(super) use live::{Live, commit, follow, once_released, recover, remove_generation};
pub use live::{lock, recover_unless_whole};

/// What follows the name of a container that is to become a node, and is none yet.
const NEXT: &str = ".kprov-next";

/// What follows the name of a container that was a node, and is one again should those after it fail.
const OLD: &str = ".kprov-old";

/// The name that a container has until it steps into the place called `name`.
pub(super) fn next_name(name: &str) -> String {
    format!("{name}{NEXT}")
}

/// Whether a container of that name stands beside the cluster, as part of a change of generations.
pub(super) fn is_beside(name: &str) -> bool {
    name.ends_with(NEXT) || name.ends_with(OLD)
}

/// A container of a cluster, as far as its place is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its id.
    pub(super) id: String,
    /// Its name now.
    pub(super) name: String,
    /// The generation that it belongs to.
    pub(super) generation: u64,
}

impl Member {
    /// The name of the place that it has, had, or is to have.
    fn place(&self) -> &str {
        self.name.strip_suffix(NEXT).or_else(|| self.name.strip_suffix(OLD)).unwrap_or(&self.name)
    }

    /// Whether it has never been in its place, or is about to be removed from beside it.
    fn is_next(&self) -> bool {
        self.name.ends_with(NEXT)
    }
}

/// The engine and the record of one cluster, and what goes wrong with them.
pub(super) trait World {
    /// What goes wrong.
    type Error;

    /// The cluster's containers that kprov made, whatever they are called and whether they run or not.
    async fn members(&self) -> Result<Vec<Member>, Self::Error>;
    /// The generation that was proven last; `None` if none ever was.
    fn proven(&self) -> Result<Option<u64>, Self::Error>;
    /// Gives a container another name.
    async fn rename(&self, member: &Member, name: &str) -> Result<(), Self::Error>;
    /// Ends a container. One that does not run, or is gone, is no error.
    async fn kill(&self, member: &Member) -> Result<(), Self::Error>;
    /// Starts containers. One that runs is no error.
    async fn start(&self, members: &[Member]) -> Result<(), Self::Error>;
    /// Removes a container. One that is gone is no error.
    async fn remove(&self, member: &Member) -> Result<(), Self::Error>;
    /// Brings what lies beside the record (keys, the user's kubeconfig) into line with it.
    fn tidy(&self) -> Result<(), Self::Error>;
    /// Looks at new nodes that have failed, while they are still there.
    async fn examine(&self, error: &Self::Error);
}

/// How a new generation comes about.
pub(super) trait Successor<W: World> {
    /// What comes of it.
    type Outcome;

    /// Makes containers beside those that there are, under [`next_name`]s, or leaves it to [`Self::take_over`].
    async fn make(&self, generation: u64) -> Result<(), W::Error>;
    /// Starts the containers that [`Self::make`] has made, now that they are in their places.
    async fn start(&self, world: &W, members: &[Member]) -> Result<(), W::Error> {
        world.start(members).await
    }
    /// Proves the new generation, and writes down that it is proven.
    async fn take_over(&self, generation: u64) -> Result<Self::Outcome, W::Error>;
}

/// What [`settle`] has found and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// There is one generation, in its places.
    Nothing,
    /// What stood beside the cluster is gone.
    Removed,
    /// The generation that was set aside is back in its places, and has been started.
    PutBack,
}

/// A generation that did not come about.
#[derive(Debug)]
pub(super) struct Failure<E> {
    /// What failed.
    pub(super) error: E,
    /// What has become of the cluster.
    pub(super) after: After<E>,
}

/// What there is after a new generation has failed.
#[derive(Debug)]
pub(super) enum After<E> {
    /// Nothing that was there before has been touched.
    Untouched,
    /// There was nothing before, and there is nothing now.
    Nothing,
    /// All is left as it was when it failed, as was asked for.
    Retained,
    /// What was there before is there again.
    PutBack,
    /// It failed when it had been proven: it stays.
    Proven,
    /// Cleaning up failed, too; the next command does it.
    Unsettled(E),
}

/// The generation whose places these are: the proven one, or else the earliest that ever was in its places.
fn standing(members: &[Member], proven: Option<u64>) -> Option<u64> {
    let placed = || members.iter().filter(|member| !member.is_next()).map(|member| member.generation);
    placed().find(|generation| Some(*generation) == proven).or_else(|| placed().min())
}

/// Ends a change of generations that somebody began: in favour of the generation that has been proven.
///
/// # Errors
/// Those of the world. It can be called again, and goes on from there.
pub(super) async fn settle<W: World>(world: &W) -> Result<Settled, W::Error> {
    let members = world.members().await?;
    let standing = standing(&members, world.proven()?);
    let (stay, go): (Vec<_>, Vec<_>) =
        members.into_iter().partition(|member| Some(member.generation) == standing && !member.is_next());
    let displaced: Vec<Member> = stay.into_iter().filter(|member| member.name != member.place()).collect();
    let settled = match (displaced.is_empty(), go.is_empty()) {
        (true, true) => Settled::Nothing,
        (true, false) => Settled::Removed,
        (false, _) => {
            // Started before they have their names again: whoever is killed in between leaves a name that says so.
            // Those to be started are killed, too: where one still runs, who is dead has asked for its end, and the engine may
            // be about to bring it about.
            try_join_all(go.iter().chain(&displaced).map(|member| world.kill(member))).await?;
            world.start(&displaced).await?;
            let in_place = go.iter().filter(|member| member.name == member.place());
            try_join_all(in_place.map(async |member| world.rename(member, &next_name(member.place())).await)).await?;
            try_join_all(displaced.iter().map(|member| world.rename(member, member.place()))).await?;
            Settled::PutBack
        }
    };
    try_join_all(go.iter().map(|member| world.remove(member))).await?;
    world.tidy()?;
    Ok(settled)
}

/// Lets a new generation follow the one that there is, which stays beside it until the new one is proven. `stop` ends with
/// an error if the user has had enough.
///
/// Gives what came of it, and whether the generation before could be removed.
///
/// # Errors
/// [`Failure`], which says what there is now.
pub(super) async fn succeed<W: World, S: Successor<W>>(
    world: &W,
    successor: &S,
    reporter: &Reporter,
    retain: bool,
    stop: impl Future<Output = W::Error>,
) -> Result<(S::Outcome, Result<Settled, W::Error>), Failure<W::Error>> {
    let untouched = |error| Failure { error, after: After::Untouched };
    settle(world).await.map_err(untouched)?;
    let old = world.members().await.map_err(untouched)?;
    let proven = world.proven().map_err(untouched)?;
    let generation = old.iter().map(|member| member.generation).chain(proven).max().map_or(0, |last| last + 1);

    let mut touched = false;
    let result = tokio::select! {
        result = attempt(world, successor, reporter, generation, &mut touched) => result,
        error = stop => Err(error),
    };
    let error = match result {
        Ok(outcome) => return Ok((outcome, settle(world).await)),
        Err(error) => error,
    };
    if touched {
        world.examine(&error).await;
    }
    if retain && touched {
        return Err(Failure { error, after: After::Retained });
    }
    let proven = world.proven().is_ok_and(|proven| proven == Some(generation));
    let after = if old.is_empty() && !proven {
        match raze(world, generation).await {
            Ok(()) => After::Nothing,
            Err(failed) => After::Unsettled(failed),
        }
    } else {
        match settle(world).await {
            Ok(_) if proven => After::Proven,
            Ok(_) if touched => After::PutBack,
            Ok(_) => After::Untouched,
            Err(failed) => After::Unsettled(failed),
        }
    };
    Err(Failure { error, after })
}

/// Makes a generation, lets it change places with the others, and has it proven. `touched` tells when places are changed.
async fn attempt<W: World, S: Successor<W>>(
    world: &W,
    successor: &S,
    reporter: &Reporter,
    generation: u64,
    touched: &mut bool,
) -> Result<S::Outcome, W::Error> {
    successor.make(generation).await?;
    let step = reporter.stage("Changing places");
    let members = world.members().await?;
    let (new, old): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| member.generation == generation);
    *touched = true;
    // The name first: it says that a container does not run because of us.
    try_join_all(old.iter().map(async |member| {
        world.rename(member, &format!("{}{OLD}", member.place())).await?;
        world.kill(member).await
    }))
    .await?;
    try_join_all(new.iter().map(|member| world.rename(member, member.place()))).await?;
    let new: Vec<Member> = new.into_iter().map(|member| Member { name: member.place().to_owned(), ..member }).collect();
    successor.start(world, &new).await?;
    step.done();
    successor.take_over(generation).await
}

/// Removes a whole generation.
async fn raze<W: World>(world: &W, generation: u64) -> Result<(), W::Error> {
    let members = world.members().await?;
    let gone = members.iter().filter(|member| member.generation == generation);
    try_join_all(gone.map(|member| world.remove(member))).await?;
    world.tidy()
}
