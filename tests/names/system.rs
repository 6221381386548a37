//! The system's resolver. Numbers in the old notation ("127.1") reach it, and need no server.

use std::time::Duration;

use strand_reactor::{AddressFamily, Reactor, ResolveError, ResolveOptions, SystemResolver};

use crate::site::{Told, alone, begin, ips, look_up, turn_until};

fn system() -> Reactor {
    let reactor = Reactor::new().unwrap();
    reactor.set_resolver(SystemResolver::new());
    reactor
}

#[test]
fn names_are_looked_up_as_the_system_does() {
    let reactor = system();
    let outcome = look_up(&reactor, "127.1", ResolveOptions::new());
    assert_eq!(outcome.unwrap(), ips(&["127.0.0.1"]));
    let outcome = look_up(&reactor, "0x7f.0.2", ResolveOptions::new());
    assert_eq!(outcome.unwrap(), ips(&["127.0.0.2"]));
}

#[test]
fn the_family_is_passed_to_the_system() {
    let options = ResolveOptions::new().family(AddressFamily::V6);
    let error = look_up(&system(), "127.1", options).unwrap_err();
    assert!(matches!(error, ResolveError::NotFound { .. }), "{error}");
}

#[test]
fn many_lookups_at_once_complete_once_each_on_the_loop() {
    let reactor = system();
    let thread = std::thread::current().id();
    let told = std::rc::Rc::new(std::cell::RefCell::new(vec![0; 100]));
    for number in 0..100 {
        let told = std::rc::Rc::clone(&told);
        reactor.resolve(&format!("127.{}", number + 1), move |outcome| {
            assert_eq!(std::thread::current().id(), thread);
            assert_eq!(outcome?, [std::net::Ipv4Addr::new(127, 0, 0, number + 1)]);
            told.borrow_mut()[usize::from(number)] += 1;
            anyhow::Ok(())
        });
    }
    reactor.run().unwrap();
    assert!(told.borrow().iter().all(|&times| times == 1));
    assert_eq!(reactor.stats().callback_errors, 0);
}

#[test]
fn threads_start_when_needed_and_are_four_at_most() {
    if !alone("system::threads_start_when_needed_and_are_four_at_most") {
        return;
    }
    let Ok(before) = std::fs::read_dir("/proc/self/task").map(Iterator::count) else {
        println!("skipped: no /proc");
        return;
    };
    let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) - before;
    let reactor = system();
    let told = Told::default();
    assert_eq!(threads(), 0);
    for _ in 0..1000 {
        begin(&reactor, "127.1", ResolveOptions::new(), &told);
    }
    turn_until(&reactor, || {
        assert!(threads() <= 4);
        told.borrow().len() == 1000
    });
    assert!((1..=4).contains(&threads()));
    drop(reactor);
    let watchdog = std::time::Instant::now() + Duration::from_secs(60);
    while threads() > 0 {
        assert!(std::time::Instant::now() < watchdog, "threads outlive their resolver");
        std::thread::yield_now();
    }
}

#[test]
fn cancelling_and_timeouts_end_a_lookup_whatever_its_thread_is_at() {
    let reactor = system();
    let told = Told::default();
    let lookups: Vec<_> = (0..50)
        .map(|number| {
            let name = format!("h{number}.invalid.");
            begin(&reactor, &name, ResolveOptions::new(), &told)
        })
        .collect();
    // Some are at the threads by then, the others wait.
    reactor.iterate(Some(Duration::ZERO)).unwrap();
    for lookup in &lookups {
        lookup.cancel();
    }
    reactor.run().unwrap();
    assert_eq!(told.borrow().len(), 50);
    let told = told.take();
    assert!(told.iter().all(|told| matches!(
        told,
        Err(ResolveError::Cancelled { .. }
            | ResolveError::NotFound { .. }
            | ResolveError::Failed { .. })
    )));
    let now = ResolveOptions::new().timeout(Some(Duration::ZERO));
    let error = look_up(&reactor, "late.invalid.", now).unwrap_err();
    assert!(matches!(error, ResolveError::TimedOut { .. }), "{error}");
}

#[test]
fn a_name_that_cannot_exist_fails_once_and_asynchronously() {
    let options = ResolveOptions::new().timeout(Some(Duration::from_secs(1)));
    let error = look_up(&system(), "example.invalid.", options).unwrap_err();
    // Without a network the system may take its time.
    assert!(!matches!(error, ResolveError::InvalidName { .. }), "{error}");
    assert_eq!(error.name(), "example.invalid.");
}

#[test]
fn a_resolver_that_is_replaced_fails_what_it_owes() {
    let reactor = system();
    let told = Told::default();
    for number in 0..20 {
        begin(&reactor, &format!("h{number}.invalid."), ResolveOptions::new(), &told);
    }
    reactor.iterate(Some(Duration::ZERO)).unwrap();
    reactor.set_resolver(SystemResolver::new());
    reactor.run().unwrap();
    assert_eq!(told.borrow().len(), 20);
    assert!(told.borrow().iter().all(Result::is_err));
}
