//! What holds whoever resolves, and resolvers of one's own.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{
    AddressFamily, Answer, Handle, Query, QueryId, Reactor, Resolve, ResolveError, ResolveOptions,
    SystemResolver,
};

use crate::server::Reply;
use crate::site::{Site, Told, begin, ips, look_up, turn_until};

type Kept = Rc<RefCell<Vec<(Query, Answer)>>>;

/// Keeps what it is asked, for the test to answer.
#[derive(Default)]
struct Keeper {
    kept: Kept,
    cancelled: Rc<RefCell<Vec<QueryId>>>,
    reloads: Rc<Cell<u32>>,
}

impl Resolve for Keeper {
    fn resolve(&mut self, _: &Handle, query: Query, answer: Answer) {
        self.kept.borrow_mut().push((query, answer));
    }

    fn cancel(&mut self, _: &Handle, query: QueryId) {
        self.cancelled.borrow_mut().push(query);
    }

    fn reload(&mut self, _: &Handle) {
        self.reloads.set(self.reloads.get() + 1);
    }
}

/// Must not be asked.
struct Nobody;

impl Resolve for Nobody {
    fn resolve(&mut self, _: &Handle, query: Query, _: Answer) {
        panic!("asked for {}", query.name());
    }
}

#[test]
fn literals_and_localhost_are_answered_without_a_resolver() {
    let reactor = Reactor::new().unwrap();
    reactor.set_resolver(Nobody);
    for (name, address) in [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("fe80::1%7", "fe80::1"),
    ] {
        let outcome = look_up(&reactor, name, ResolveOptions::new());
        assert_eq!(outcome.unwrap(), ips(&[address]), "{name}");
    }
    for name in ["localhost", "LOCALHOST.", "db.localhost"] {
        let mut outcome = look_up(&reactor, name, ResolveOptions::new()).unwrap();
        outcome.sort();
        assert_eq!(outcome, ips(&["127.0.0.1", "::1"]), "{name}");
    }
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn the_other_dots_of_idna_are_dots() {
    let reactor = Reactor::new().unwrap();
    reactor.set_resolver(Nobody);
    let outcome = look_up(&reactor, "192\u{3002}0\u{ff0e}2\u{ff61}1", ResolveOptions::new());
    assert_eq!(outcome.unwrap(), ips(&["192.0.2.1"]));
    for name in ["db\u{3002}localhost", "db\u{ff0e}localhost\u{ff61}"] {
        let mut outcome = look_up(&reactor, name, ResolveOptions::new()).unwrap();
        outcome.sort();
        assert_eq!(outcome, ips(&["127.0.0.1", "::1"]), "{name}");
    }
    for name in ["\u{3002}", "a\u{3002}\u{ff0e}b", "\u{ff61}a"] {
        let error = look_up(&reactor, name, ResolveOptions::new()).unwrap_err();
        assert!(matches!(error, ResolveError::InvalidName { .. }), "{name}: {error}");
        assert_eq!(error.name(), name);
    }
    assert_eq!(reactor.stats().callback_panics, 0);
    // A resolver has to do with full stops alone.
    let keeper = Keeper::default();
    let kept = Rc::clone(&keeper.kept);
    reactor.set_resolver(keeper);
    let told = Told::default();
    begin(&reactor, "www\u{3002}example\u{ff0e}test", ResolveOptions::new(), &told);
    turn_until(&reactor, || !kept.borrow().is_empty());
    assert_eq!(kept.borrow()[0].0.name(), "www.example.test");
}

#[test]
fn a_literal_of_the_family_that_is_not_wanted_is_not_found() {
    let reactor = Reactor::new().unwrap();
    let options = ResolveOptions::new().family(AddressFamily::V6);
    let error = look_up(&reactor, "192.0.2.1", options).unwrap_err();
    assert!(matches!(error, ResolveError::NotFound { .. }), "{error}");
    assert_eq!(look_up(&reactor, "localhost", options).unwrap(), ips(&["::1"]));
}

#[test]
fn port_and_zone_are_kept_in_addresses_to_connect_to() {
    let reactor = Reactor::new().unwrap();
    let told = Rc::new(RefCell::new(Vec::<SocketAddr>::new()));
    for name in ["fe80::1%7", "192.0.2.1"] {
        let told = Rc::clone(&told);
        reactor.resolve_addrs(name, 8080, ResolveOptions::new(), move |outcome| {
            told.borrow_mut().extend(outcome?);
            anyhow::Ok(())
        });
    }
    reactor.run().unwrap();
    let expected: [SocketAddr; 2] =
        ["[fe80::1%7]:8080".parse().unwrap(), "192.0.2.1:8080".parse().unwrap()];
    assert_eq!(*told.borrow(), expected);
}

#[test]
fn names_that_no_host_can_have_complete_once_whoever_resolves() {
    let long_label = format!("{}.test", "a".repeat(64));
    let long_name = format!("{}test", "a.".repeat(130));
    let site = Site::new(|_| Reply::Code(crate::server::NXDOMAIN));
    let system = Reactor::new().unwrap();
    system.set_resolver(SystemResolver::new());
    for reactor in [&site.reactor, &system] {
        for name in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a\0b",
            "\0",
            "host:80",
            "http://host",
            "a b",
            "%",
            "1.2.3.4%lo",
            &long_label,
            &long_name,
        ] {
            let error = look_up(reactor, name, ResolveOptions::new()).unwrap_err();
            assert!(matches!(error, ResolveError::InvalidName { .. }), "{name:?}: {error}");
            assert_eq!(error.name(), name);
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        }
    }
    assert!(site.log.borrow().is_empty());
}

#[test]
fn names_in_punycode_and_beyond_ascii_complete_once() {
    let site = Site::new(|_| Reply::Code(crate::server::NXDOMAIN));
    for name in [
        "xn--",
        "xn--a",
        "xn--80ak6aa92e.test",
        "bücher.test",
        "\u{200d}.test",
        "☃.test",
        "xn--\u{fc}",
    ] {
        let error = site.look_up(name).unwrap_err();
        assert!(
            matches!(error, ResolveError::NotFound { .. } | ResolveError::InvalidName { .. }),
            "{name:?}: {error}"
        );
    }
    assert!(site.asked().contains(&"xn--bcher-kva.test.".to_owned()));
}

#[test]
fn a_resolver_of_ones_own_may_answer_later_and_in_any_order() {
    let reactor = Reactor::new().unwrap();
    let keeper = Keeper::default();
    let kept = Rc::clone(&keeper.kept);
    reactor.set_resolver(keeper);
    let told = Told::default();
    for name in ["one", "two", "three"] {
        begin(&reactor, name, ResolveOptions::new(), &told);
    }
    turn_until(&reactor, || kept.borrow().len() == 3);
    let names: Vec<_> = kept.borrow().iter().map(|(query, _)| query.name().to_owned()).collect();
    assert_eq!(names, ["one", "two", "three"]);
    assert!(kept.borrow().is_sorted_by_key(|(query, _)| query.id()));
    let (_, third) = kept.borrow_mut().pop().unwrap();
    third.found(ips(&["192.0.2.3"]));
    let (_, second) = kept.borrow_mut().pop().unwrap();
    second.not_found();
    let (_, first) = kept.borrow_mut().pop().unwrap();
    first.fail("out of order");
    assert!(told.borrow().is_empty(), "told inside the answer");
    reactor.run().unwrap();
    let told = told.borrow();
    assert!(matches!(
        &told[..],
        [
            Ok(_),
            Err(ResolveError::NotFound { name: second }),
            Err(ResolveError::Failed { name: first, source })
        ] if second == "two" && first == "one" && source.to_string() == "out of order"
    ));
}

#[test]
fn addresses_of_the_wrong_family_are_dropped_from_an_answer() {
    let reactor = Reactor::new().unwrap();
    let keeper = Keeper::default();
    let kept = Rc::clone(&keeper.kept);
    reactor.set_resolver(keeper);
    let told = Told::default();
    begin(&reactor, "host", ResolveOptions::new().family(AddressFamily::V4), &told);
    turn_until(&reactor, || !kept.borrow().is_empty());
    let (query, answer) = kept.borrow_mut().pop().unwrap();
    assert_eq!(query.family(), AddressFamily::V4);
    answer.found(ips(&["::1", "192.0.2.1"]));
    reactor.run().unwrap();
    assert_eq!(told.borrow()[0].as_ref().unwrap(), &ips(&["192.0.2.1"]));
}

#[test]
fn a_resolver_hears_of_what_is_wanted_no_longer_and_its_late_answer_is_lost() {
    let reactor = Reactor::new().unwrap();
    let keeper = Keeper::default();
    let (kept, cancelled) = (Rc::clone(&keeper.kept), Rc::clone(&keeper.cancelled));
    reactor.set_resolver(keeper);
    let told = Told::default();
    let lookup = begin(&reactor, "one", ResolveOptions::new(), &told);
    let soon = ResolveOptions::new().timeout(Some(Duration::from_millis(20)));
    begin(&reactor, "two", soon, &told);
    turn_until(&reactor, || kept.borrow().len() == 2);
    lookup.cancel();
    assert!(cancelled.borrow().is_empty(), "called inside cancel");
    turn_until(&reactor, || told.borrow().len() == 2);
    let asked: Vec<_> = kept.borrow().iter().map(|(query, _)| query.id()).collect();
    assert_eq!(*cancelled.borrow(), asked);
    for (_, answer) in kept.take() {
        assert!(!answer.is_wanted());
        answer.found([Ipv4Addr::LOCALHOST.into()]);
    }
    reactor.run().unwrap();
    assert!(matches!(
        told.borrow()[..],
        [Err(ResolveError::Cancelled { .. }), Err(ResolveError::TimedOut { .. })]
    ));
    assert!(reactor.pending_timers().is_empty());
}

#[test]
fn a_lookup_that_is_cancelled_at_once_is_never_asked_for() {
    let reactor = Reactor::new().unwrap();
    reactor.set_resolver(Nobody);
    let told = Told::default();
    assert!(begin(&reactor, "host", ResolveOptions::new(), &told).cancel());
    reactor.run().unwrap();
    assert!(matches!(told.borrow()[..], [Err(ResolveError::Cancelled { .. })]));
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn an_answer_that_is_dropped_and_a_resolver_that_panics_fail_the_lookup() {
    struct Careless;
    impl Resolve for Careless {
        fn resolve(&mut self, _: &Handle, query: Query, answer: Answer) {
            match query.name() {
                "drop" => drop(answer),
                _ => panic!("no answer to {}", query.name()),
            }
        }
    }
    let reactor = Reactor::new().unwrap();
    reactor.set_resolver(Careless);
    for name in ["drop", "panic", "drop"] {
        let error = look_up(&reactor, name, ResolveOptions::new()).unwrap_err();
        assert!(matches!(error, ResolveError::Failed { .. }), "{error}");
    }
    assert_eq!(reactor.stats().callback_panics, 1);
}

#[test]
fn a_resolver_that_is_replaced_fails_what_it_owes_and_the_next_one_is_asked() {
    struct One;
    impl Resolve for One {
        fn resolve(&mut self, _: &Handle, _: Query, answer: Answer) {
            answer.found([Ipv4Addr::new(192, 0, 2, 1).into()]);
        }
    }
    /// Owns its answers, so that they go with it.
    #[derive(Default)]
    struct Owner(Vec<Answer>);
    impl Resolve for Owner {
        fn resolve(&mut self, handle: &Handle, _: Query, answer: Answer) {
            self.0.push(answer);
            // While it is being called.
            handle.set_resolver(One);
        }
    }
    let reactor = Reactor::new().unwrap();
    reactor.set_resolver(Owner::default());
    let told = Told::default();
    begin(&reactor, "first", ResolveOptions::new(), &told);
    begin(&reactor, "second", ResolveOptions::new(), &told);
    reactor.run().unwrap();
    assert!(matches!(
        &told.borrow()[..],
        [Err(ResolveError::Failed { name, .. }), Ok(_)] if name == "first"
    ));
}

#[test]
fn a_resolver_hears_nothing_of_what_its_predecessor_was_asked() {
    let reactor = Reactor::new().unwrap();
    let former = Keeper::default();
    let kept = Rc::clone(&former.kept);
    reactor.set_resolver(former);
    let told = Told::default();
    let lookup = begin(&reactor, "host", ResolveOptions::new(), &told);
    turn_until(&reactor, || !kept.borrow().is_empty());
    let present = Keeper::default();
    let cancelled = Rc::clone(&present.cancelled);
    reactor.set_resolver(present);
    // The test holds the answer, so the lookup is still under way.
    assert!(lookup.cancel());
    reactor.run().unwrap();
    assert_eq!(told.borrow().len(), 1);
    assert!(cancelled.borrow().is_empty());
}

#[test]
fn reload_reaches_the_resolver_from_the_loop() {
    let reactor = Reactor::new().unwrap();
    let keeper = Keeper::default();
    let reloads = Rc::clone(&keeper.reloads);
    reactor.set_resolver(keeper);
    reactor.reload_resolver();
    assert_eq!(reloads.get(), 0);
    reactor.run().unwrap();
    assert_eq!(reloads.get(), 1);
}

#[test]
fn a_stopped_run_leaves_lookups_to_the_next() {
    let reactor = Reactor::new().unwrap();
    let keeper = Keeper::default();
    let kept = Rc::clone(&keeper.kept);
    reactor.set_resolver(keeper);
    let told = Told::default();
    begin(&reactor, "host", ResolveOptions::new(), &told);
    turn_until(&reactor, || !kept.borrow().is_empty());
    reactor.stop();
    reactor.run().unwrap();
    assert!(told.borrow().is_empty());
    let (_, answer) = kept.borrow_mut().pop().unwrap();
    answer.found([Ipv4Addr::LOCALHOST.into()]);
    reactor.run().unwrap();
    assert_eq!(told.borrow().len(), 1);
}

#[test]
fn the_end_of_the_reactor_drops_lookups_without_a_call() {
    /// What `done` captured; uses its reactor when it goes.
    struct Guard(Handle, Rc<Cell<u32>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            let lookup = self.0.resolve("again", |_| -> () { panic!("called") });
            assert!(!lookup.active() && !lookup.cancel());
            self.1.set(self.1.get() + 1);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let site = Site::new(|_| Reply::Silence);
    let begin = |handle: &Handle, name: &str| {
        let guard = Guard(handle.clone(), Rc::clone(&dropped));
        handle.resolve(name, move |_| drop(guard))
    };
    let asked = begin(&site.reactor, "asked.test");
    site.turn_until(|| site.log.borrow().len() == 2);
    let unasked = begin(&site.reactor, "unasked.test");
    let handle = site.reactor.clone();
    drop(site);
    assert_eq!(dropped.get(), 2);
    assert!(!asked.cancel() && !unasked.cancel());
    drop(begin(&handle, "afterwards"));
    assert_eq!(dropped.get(), 3);
}

#[test]
fn a_lookup_may_be_begun_and_cancelled_from_anywhere_on_the_loop() {
    let reactor = Reactor::new().unwrap();
    let count = Rc::new(Cell::new(0));
    let told = Rc::clone(&count);
    let handle = reactor.clone();
    reactor.resolve("192.0.2.1", move |first| {
        let first: Vec<IpAddr> = first?;
        let inner = Rc::clone(&told);
        let cancelled = handle.resolve("192.0.2.2", move |outcome| {
            assert!(matches!(outcome, Err(ResolveError::Cancelled { .. })));
            inner.set(inner.get() + 1);
        });
        cancelled.cancel();
        told.set(told.get() + first.len());
        anyhow::Ok(())
    });
    reactor.run().unwrap();
    assert_eq!(count.get(), 2);
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn errors_and_panics_of_completions_are_counted_and_hurt_nobody() {
    let reactor = Reactor::new().unwrap();
    let told = Told::default();
    reactor.resolve("192.0.2.1", |_| anyhow::bail!("on purpose"));
    reactor.resolve("192.0.2.2", |_| -> () { panic!("on purpose") });
    begin(&reactor, "192.0.2.3", ResolveOptions::new(), &told);
    reactor.run().unwrap();
    assert_eq!(told.borrow().len(), 1);
    let stats = reactor.stats();
    assert_eq!((stats.callback_errors, stats.callback_panics), (1, 1));
}
