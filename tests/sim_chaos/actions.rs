//! What a callback does: a few things by chance, of all that there are.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::Result;
use strand_reactor::{Handle, ShutdownPhase};

use crate::ledger::{Life, PortBook, StreamBook};
use crate::program::Program;
use crate::{datagrams, faults, streams};

/// The kind of promise that a lookup is.
pub const LOOKUP: &str = "lookup";

/// Who is called.
#[derive(Clone, Copy)]
pub enum Scene<'a> {
    Free,
    /// The call that has it called is told how it ends.
    Start(&'a Rc<PortBook>),
    Starting,
    Port(&'a Rc<PortBook>),
    Stream(&'a Rc<StreamBook>),
}

/// Does some things, and ends in one of the ways there are.
pub fn act(program: &Rc<Program>, life: &Rc<Life>, scene: Scene<'_>) -> Result<()> {
    if program.budget.get() == 0 {
        return Ok(());
    }
    program.budget.set(program.budget.get() - 1);
    for _ in 0..program.random.below(4) {
        let Some(handle) = program.handle(life.host) else { return Ok(()) };
        if life.crashed.get() {
            break;
        }
        do_something(program, life, &handle, scene);
    }
    match program.random.below(60) {
        0 => anyhow::bail!("one of many"),
        1 if !life.crashed.get() => {
            let told = matches!(scene, Scene::Start(_) | Scene::Starting);
            life.panics.set(life.panics.get() + u64::from(!told));
            // Without the message of a panic that nobody meant.
            std::panic::resume_unwind(Box::new("on purpose"))
        }
        _ => Ok(()),
    }
}

/// As [`act`], outside of any callback.
pub fn act_outside(program: &Rc<Program>, host: usize) {
    let life = program.life(host);
    if life.crashed.get() || program.budget.get() == 0 {
        return;
    }
    program.budget.set(program.budget.get() - 1);
    if let Some(handle) = program.handle(host) {
        do_something(program, &life, &handle, Scene::Free);
    }
}

fn do_something(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle, scene: Scene<'_>) {
    let random = &program.random;
    match random.below(40) {
        0 | 1 => datagrams::open(program, life, handle),
        2 => streams::listen(program, life, handle),
        3..=5 => streams::connect(program, life, handle),
        6..=8 => later(program, life, handle),
        9 => looping(program, life, handle),
        10 => post(program, life, handle),
        11 => job(program, life, handle),
        12 => lookup(program, life, handle),
        13 => end(program, life, handle),
        14 | 15 => faults::change(program),
        16 => timers(program),
        17 => listeners(program),
        18 => {
            let connectors = program.kept.connectors.borrow().clone();
            if let Some(connector) = random.some(&connectors) {
                streams::meddle_connector(program, connector);
            }
        }
        _ => with_scene(program, scene),
    }
}

/// Something with the port or the connection that is called, or with any other.
fn with_scene(program: &Rc<Program>, scene: Scene<'_>) {
    let random = &program.random;
    match scene {
        Scene::Port(book) | Scene::Start(book) if !random.one_in(4) => port(program, book),
        Scene::Stream(book) if !random.one_in(4) => stream(program, book),
        _ if random.flip() => {
            let book = random.some(&program.ports.borrow()).cloned();
            book.iter().for_each(|book| port(program, book));
        }
        _ => {
            // The later ones are likelier to be open.
            let book = {
                let streams = program.streams.borrow();
                let last = streams.len().saturating_sub(random.index(12) + 1);
                streams.get(last).cloned()
            };
            book.iter().for_each(|book| stream(program, book));
        }
    }
}

fn port(program: &Rc<Program>, book: &Rc<PortBook>) {
    match program.random.below(10) {
        0..=5 => {
            let to = program.random.flip().then(|| program.somewhere());
            datagrams::write(program, book, to);
        }
        6 => datagrams::join(program, book),
        _ => datagrams::meddle(program, book),
    }
}

fn stream(program: &Rc<Program>, book: &Rc<StreamBook>) {
    match program.random.below(10) {
        0..=5 => streams::write(program, book),
        _ => streams::meddle(program, book),
    }
}

fn later(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle) {
    let delay = program.random.time();
    let (inner, this) = (Rc::clone(program), Rc::clone(life));
    let due = Rc::new(Cell::new(handle.now() + delay));
    let told = Rc::clone(&due);
    program.note("call_later", life.host, delay.as_nanos() as u64);
    let timer = handle.call_later(delay, move |handle| {
        inner.note("timer", this.host, 0);
        inner.expect(!this.crashed.get(), || "a timer of a host that crashed".to_owned());
        inner.expect(handle.now() >= told.get(), || "a timer before its time".to_owned());
        act(&inner, &this, Scene::Free)
    });
    if program.random.one_in(4) {
        timer.unref();
    }
    program.kept.timers.borrow_mut().push((timer, due));
}

fn looping(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle) {
    let (inner, this) = (Rc::clone(program), Rc::clone(life));
    let mut rounds = 1 + program.random.below(6);
    let interval = program.random.time();
    program.note("looping_call", life.host, interval.as_nanos() as u64);
    let call = handle.looping_call(interval, move |_, _| {
        inner.note("round", this.host, rounds);
        rounds = rounds.saturating_sub(1);
        anyhow::ensure!(rounds > 0, "the last round");
        act(&inner, &this, Scene::Free)
    });
    program.kept.loops.borrow_mut().push(call);
}

fn post(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle) {
    let (inner, this) = (Rc::clone(program), Rc::clone(life));
    handle.call_when_running(move |_| {
        inner.note("posted", this.host, 0);
        inner.expect(!this.crashed.get(), || "a call on a host that crashed".to_owned());
        act(&inner, &this, Scene::Free)
    });
}

fn job(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle) {
    let (token, _) = program.promise("job", life);
    let (inner, this) = (Rc::clone(program), Rc::clone(life));
    let job = handle.defer_to_thread(
        || 7,
        move |_, outcome| {
            token.called();
            inner.note("job", this.host, u64::from(outcome.is_ok()));
            act(&inner, &this, Scene::Free)
        },
    );
    if program.random.one_in(6) {
        let _ = job.cancel();
    }
}

fn lookup(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle) {
    let random = &program.random;
    let name = match random.one_in(4) {
        true => "nobody.example".to_owned(),
        false => program.hosts[random.index(program.hosts.len())].name.clone(),
    };
    let (token, _) = program.promise(LOOKUP, life);
    let (inner, this) = (Rc::clone(program), Rc::clone(life));
    program.note("resolve", life.host, name.len() as u64);
    let lookup = handle.resolve(&name, move |found| {
        token.called();
        inner.note("found", this.host, found.map_or(0, |found| found.len() as u64));
        act(&inner, &this, Scene::Free)
    });
    if random.one_in(6) {
        lookup.cancel();
    }
}

/// Something about the end of a host.
fn end(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle) {
    let random = &program.random;
    let what = random.below(8);
    program.note("end", life.host, what);
    match what {
        0 => {
            life.stopped.set(true);
            handle.stop();
        }
        1 => handle.crash(),
        2 => faults::crash(program, life.host),
        3 => faults::crash(program, random.index(program.hosts.len())),
        4 => {
            if let Ok(hold) = handle.hold_shutdown() {
                program.kept.holds.borrow_mut().push(hold);
            }
        }
        5 => program.kept.holds.borrow_mut().truncate(0),
        _ => {
            const PHASES: [ShutdownPhase; 3] =
                [ShutdownPhase::Before, ShutdownPhase::During, ShutdownPhase::After];
            let (inner, this) = (Rc::clone(program), Rc::clone(life));
            let hook = handle.on_shutdown(random.pick(&PHASES), move |_| {
                inner.note("hook", this.host, 0);
                act(&inner, &this, Scene::Free)
            });
            drop(hook);
        }
    }
}

fn timers(program: &Program) {
    let random = &program.random;
    let timer = random.some(&program.kept.timers.borrow()).cloned();
    if let Some((timer, due)) = timer {
        match random.below(4) {
            0 => drop(timer.cancel()),
            1 => drop(timer.reset(random.time())),
            2 => timer.unref(),
            _ => drop(timer.delay(random.time())),
        }
        timer.deadline().into_iter().for_each(|deadline| due.set(deadline));
    }
    let looping = random.some(&program.kept.loops.borrow()).cloned();
    if let Some(looping) = looping {
        let _ = if random.one_in(4) { looping.stop() } else { looping.reset() };
    }
}

fn listeners(program: &Rc<Program>) {
    let one = {
        let listeners = program.kept.listeners.borrow();
        program.random.some(&listeners).cloned()
    };
    if let Some((life, port)) = one {
        streams::meddle_listener(program, &life, &port);
    }
}
