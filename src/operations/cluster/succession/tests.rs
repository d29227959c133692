//! Changes of generations in a world in memory that dies at every step, and whoever comes after it dies at every step, too:
//! there is always a whole generation that has been proven, and nothing of another one is left in the end.

use std::cell::{Cell, RefCell};

use super::*;

/// The places of the cluster.
const PLACES: [&str; 4] = ["c-control-plane", "c-control-plane2", "c-worker", "c-external-load-balancer"];

/// All there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    members: Vec<Member>,
    running: Vec<String>,
    /// Those that run for a moment more: whoever had them killed is dead, the engine goes on.
    dying: Vec<String>,
    /// The generation that the record calls proven.
    proven: Option<u64>,
    /// Whose keys lie beside the record.
    keys: Option<u64>,
    /// Whose keys are about to.
    staged: Option<u64>,
    has_record: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Broken {
    /// kprov has been killed.
    Dead,
    /// The new nodes do not come up.
    Unfit,
    /// A name, or what a node needs, is taken.
    Taken(String),
    /// Who asked for it has had enough.
    Stopped,
}

struct Memory {
    state: RefCell<State>,
    /// How many more steps may be taken; `None` for no end.
    left: Cell<Option<usize>>,
    /// Whether the step that it dies at still takes effect.
    half_done: bool,
    steps: Cell<usize>,
}

impl Memory {
    fn of(state: State, left: Option<usize>, half_done: bool) -> Self {
        Self { state: RefCell::new(state), left: Cell::new(left), half_done, steps: Cell::new(0) }
    }

    fn step<T>(&self, act: impl FnOnce(&mut State) -> Result<T, Broken>) -> Result<T, Broken> {
        self.steps.set(self.steps.get() + 1);
        match self.left.get() {
            Some(0) => {
                if self.half_done {
                    // Once: who is dead does nothing more.
                    self.left.set(Some(usize::MAX));
                    let done = act(&mut self.state.borrow_mut());
                    self.left.set(Some(usize::MAX - 1));
                    done?;
                }
                self.left.set(Some(usize::MAX));
                return Err(Broken::Dead);
            }
            Some(left) if left > usize::MAX / 2 => return Err(Broken::Dead),
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
        let result = act(&mut self.state.borrow_mut());
        self.state.borrow().check();
        result
    }
}

impl State {
    /// A cluster of a generation, in its places.
    fn of(generation: u64) -> Self {
        let mut state = Self { proven: Some(generation), keys: Some(generation), has_record: true, ..Self::default() };
        for place in PLACES {
            state.create(place, generation);
            state.running.push(id(place, generation));
        }
        state
    }

    fn create(&mut self, name: &str, generation: u64) {
        let member = Member { id: String::new(), name: name.to_owned(), generation };
        self.members.push(Member { id: id(member.place(), generation), ..member });
    }

    /// What has to hold at every moment: the proven generation is there as a whole.
    fn check(&self) {
        if let Some(proven) = self.proven
            && self.has_record
        {
            for place in PLACES {
                assert!(self.members.iter().any(|one| one.id == id(place, proven)), "{place} is lost: {self:?}");
            }
        }
    }

    /// What has to hold in the end: one generation, in its places, and running.
    fn check_whole(&self, generation: u64) {
        let mut whole = Self::of(generation);
        let mut found = self.clone();
        for state in [&mut whole, &mut found] {
            state.members.sort_by(|a, b| a.id.cmp(&b.id));
            state.running.sort();
        }
        assert_eq!(found, whole);
    }
}

fn id(place: &str, generation: u64) -> String {
    format!("{place}@{generation}")
}

impl World for Memory {
    type Error = Broken;

    async fn members(&self) -> Result<Vec<Member>, Broken> {
        self.step(|state| Ok(state.members.clone()))
    }

    fn proven(&self) -> Result<Option<u64>, Broken> {
        self.step(|state| Ok(state.proven))
    }

    async fn rename(&self, member: &Member, name: &str) -> Result<(), Broken> {
        self.step(|state| {
            if state.members.iter().any(|other| other.name == name && other.id != member.id) {
                return Err(Broken::Taken(name.to_owned()));
            }
            let found = state.members.iter_mut().find(|other| other.id == member.id).expect("it is there");
            name.clone_into(&mut found.name);
            Ok(())
        })
    }

    async fn kill(&self, member: &Member) -> Result<(), Broken> {
        let later = self.half_done && self.left.get() == Some(0);
        self.step(|state| {
            if later {
                state.dying.push(member.id.clone());
            } else {
                // Ends only when the container has.
                state.running.retain(|running| *running != member.id);
                state.dying.retain(|dying| *dying != member.id);
            }
            Ok(())
        })
    }

    async fn start(&self, members: &[Member]) -> Result<(), Broken> {
        for member in members {
            self.step(|state| {
                // Its address and its ports are those of its place.
                let place = format!("{}@", member.place());
                if state.running.iter().any(|other| other.starts_with(&place) && *other != member.id) {
                    return Err(Broken::Taken(place));
                }
                if !state.running.contains(&member.id) {
                    state.running.push(member.id.clone());
                }
                // One that still ran was no error.
                let ended = std::mem::take(&mut state.dying);
                state.running.retain(|running| !ended.contains(running));
                Ok(())
            })?;
        }
        Ok(())
    }

    async fn remove(&self, member: &Member) -> Result<(), Broken> {
        self.step(|state| {
            state.members.retain(|other| other.id != member.id);
            state.running.retain(|running| *running != member.id);
            state.dying.retain(|dying| *dying != member.id);
            Ok(())
        })
    }

    fn tidy(&self) -> Result<(), Broken> {
        self.step(|state| {
            if state.staged.is_some() && state.staged == state.proven {
                state.keys = state.staged;
            }
            Ok(())
        })?;
        self.step(|state| {
            state.staged = None;
            Ok(())
        })
    }

    async fn examine(&self, _: &Broken) {}
}

/// New nodes, made beside the old ones or in their stead.
struct New<'a> {
    world: &'a Memory,
    beside: bool,
    fit: bool,
}

impl New<'_> {
    fn create(&self, name: &str, generation: u64) -> Result<(), Broken> {
        self.world.step(|state| {
            if state.members.iter().any(|other| other.name == name) {
                return Err(Broken::Taken(name.to_owned()));
            }
            state.create(name, generation);
            Ok(())
        })
    }
}

impl Successor<Memory> for New<'_> {
    type Outcome = u64;

    async fn make(&self, generation: u64) -> Result<(), Broken> {
        self.world.step(|state| {
            state.has_record = true;
            Ok(())
        })?;
        if self.beside {
            for place in PLACES {
                self.create(&next_name(place), generation)?;
            }
        }
        Ok(())
    }

    async fn take_over(&self, generation: u64) -> Result<u64, Broken> {
        let world = self.world;
        if !self.beside {
            for place in PLACES {
                self.create(place, generation)?;
                let member = Member { id: id(place, generation), name: place.to_owned(), generation };
                world.start(&[member]).await?;
            }
        }
        if !self.fit {
            return Err(Broken::Unfit);
        }
        world.step(|state| {
            state.staged = Some(generation);
            Ok(())
        })?;
        world.step(|state| {
            state.proven = Some(generation);
            Ok(())
        })?;
        world.tidy()?;
        Ok(generation)
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn change(world: &Memory, beside: bool, fit: bool) -> Result<(u64, Result<Settled, Broken>), Failure<Broken>> {
    let (reporter, _) = Reporter::recording();
    run(succeed(world, &New { world, beside, fit }, &reporter, false, std::future::pending()))
}

/// Brings what somebody who died has left to its end, dying at every step of that, too. Gives the state in the end.
fn recover_dying(state: &State) -> State {
    let whole = Memory::of(state.clone(), None, false);
    run(settle(&whole)).unwrap();
    let end = whole.state.into_inner();
    for half_done in [false, true] {
        for death in 0..whole.steps.get() {
            let dying = Memory::of(state.clone(), Some(death), half_done);
            assert_eq!(run(settle(&dying)), Err(Broken::Dead));
            let next = Memory::of(dying.state.into_inner(), None, false);
            run(settle(&next)).unwrap();
            let next = next.state.into_inner();
            next.check_whole(end.proven.unwrap());
        }
    }
    end
}

#[test]
fn a_killed_change_is_put_back_or_finished_at_every_step() {
    for beside in [true, false] {
        let before = State::of(4);
        let whole = Memory::of(before.clone(), None, false);
        let (generation, settled) = change(&whole, beside, true).unwrap();
        assert_eq!((generation, settled), (5, Ok(Settled::Removed)));
        whole.state.borrow().check_whole(5);
        let (mut back, mut finished) = (0, 0);
        for half_done in [false, true] {
            for death in 0..whole.steps.get() {
                let dying = Memory::of(before.clone(), Some(death), half_done);
                match change(&dying, beside, true) {
                    Err(failure) => assert_eq!(failure.error, Broken::Dead),
                    Ok((_, settled)) => assert_eq!(settled, Err(Broken::Dead)),
                }
                let end = recover_dying(&dying.state.into_inner());
                let proven = end.proven.unwrap();
                end.check_whole(proven);
                *(if proven == 4 { &mut back } else { &mut finished }) += 1;
            }
        }
        assert!(back > 10 && finished > 3, "{back} put back, {finished} finished");
    }
}

#[test]
fn new_nodes_that_fail_leave_the_old_ones_running_and_nothing_else() {
    for beside in [true, false] {
        let whole = Memory::of(State::of(0), None, false);
        let failure = change(&whole, beside, false).unwrap_err();
        assert_eq!(failure.error, Broken::Unfit);
        assert!(matches!(failure.after, After::PutBack), "{failure:?}");
        whole.state.borrow().check_whole(0);
        for half_done in [false, true] {
            for death in 0..whole.steps.get() {
                let dying = Memory::of(State::of(0), Some(death), half_done);
                change(&dying, beside, false).unwrap_err();
                recover_dying(&dying.state.into_inner()).check_whole(0);
            }
        }
    }
}

#[test]
fn a_cluster_that_was_not_there_is_not_there_again() {
    let world = Memory::of(State::default(), None, false);
    let failure = change(&world, true, false).unwrap_err();
    assert!(matches!(failure.after, After::Nothing), "{failure:?}");
    assert_eq!(world.state.borrow().members, []);
    let (generation, _) = change(&world, true, true).unwrap();
    world.state.borrow().check_whole(generation);
}

#[test]
fn who_has_had_enough_gets_the_old_nodes_back() {
    let world = Memory::of(State::of(2), None, false);
    let (reporter, _) = Reporter::recording();
    let new = New { world: &world, beside: true, fit: true };
    // Asked before it has begun; the two are polled in any order.
    let result = run(succeed(&world, &new, &reporter, false, std::future::ready(Broken::Stopped)));
    let end = match result {
        Ok((generation, _)) => generation,
        Err(failure) => {
            assert_eq!(failure.error, Broken::Stopped);
            2
        }
    };
    world.state.borrow().check_whole(end);
}

#[test]
fn what_is_retained_is_put_right_by_the_next_command() {
    let world = Memory::of(State::of(0), None, false);
    let (reporter, _) = Reporter::recording();
    let new = New { world: &world, beside: true, fit: false };
    let failure = run(succeed(&world, &new, &reporter, true, std::future::pending())).unwrap_err();
    assert!(matches!(failure.after, After::Retained), "{failure:?}");
    assert_eq!(world.state.borrow().members.len(), 2 * PLACES.len());
    assert_eq!(run(settle(&world)), Ok(Settled::PutBack));
    world.state.borrow().check_whole(0);
}

#[test]
fn nodes_that_nothing_is_wrong_with_are_not_touched() {
    let mut state = State::of(3);
    // Stopped by its user.
    state.running.clear();
    let world = Memory::of(state.clone(), None, false);
    assert_eq!(run(settle(&world)), Ok(Settled::Nothing));
    state.create(&next_name(PLACES[0]), 4);
    let world = Memory::of(state.clone(), None, false);
    assert_eq!(run(settle(&world)), Ok(Settled::Removed));
    assert_eq!(world.state.borrow().running, [""; 0]);
}

#[test]
fn without_a_proven_generation_the_earliest_stands() {
    // Its nodes have gone by another tool's hand, and two resets have been killed since.
    let mut state = State { proven: Some(0), has_record: true, ..State::default() };
    for place in PLACES {
        state.create(&format!("{place}{OLD}"), 1);
        state.create(place, 2);
    }
    let world = Memory { half_done: false, ..Memory::of(State { proven: None, ..state }, None, false) };
    assert_eq!(run(settle(&world)), Ok(Settled::PutBack));
    let members = world.state.into_inner().members;
    assert!(members.iter().all(|member| member.generation == 1 && member.name == member.place()), "{members:?}");
}
