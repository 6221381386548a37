//! Many lookups, few sockets, one thread.

use std::time::Duration;

use strand_reactor::{AddressFamily, Reactor, ResolveError, ResolveOptions};

use crate::server::{A, Reply, a};
use crate::site::{Site, Told, alone, begin, both};

const MANY: usize = 10_000;
/// 64 lookups with two queries of up to four sockets each.
const MOST_SOCKETS: u64 = 512;

/// Entries of a folder of this process in /proc.
fn count(folder: &str) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/self/{folder}")).ok()?.count())
}

#[test]
fn ten_thousand_lookups_that_nobody_answers_are_bounded_and_end() {
    if !alone("bounds::ten_thousand_lookups_that_nobody_answers_are_bounded_and_end") {
        return;
    }
    let site = Site::new(|_| Reply::Silence);
    let told = Told::default();
    let before = count("fd");
    let options = ResolveOptions::new().timeout(Some(Duration::from_secs(2)));
    for number in 0..MANY {
        begin(&site.reactor, &format!("h{number}.test"), options, &told);
    }
    assert_eq!(site.reactor.stats().pending_lookups, MANY as u64);
    let (mut sockets, mut tasks, mut files) = (0, 0, 0);
    site.turn_until(|| {
        let stats = site.reactor.stats();
        sockets = sockets.max(stats.resolver_sockets);
        tasks = tasks.max(stats.resolver_tasks);
        if let (Some(now), Some(before)) = (count("fd"), before) {
            files = files.max(now - before);
        }
        told.borrow().len() == MANY
    });
    assert!((1..=MOST_SOCKETS).contains(&sockets), "{sockets} sockets");
    // One for each lookup at work, and what the client keeps for itself.
    assert!(tasks <= 256, "{tasks} tasks");
    assert!(files as u64 <= MOST_SOCKETS + 8, "{files} descriptors");
    assert!(told.borrow().iter().all(|told| matches!(told, Err(ResolveError::TimedOut { .. }))));
    site.turn_until(|| site.reactor.stats().resolver_sockets == 0);
    assert_eq!(site.reactor.stats().pending_lookups, 0);
    assert!(site.reactor.pending_timers().is_empty());
}

#[test]
fn ten_thousand_lookups_are_each_answered_once() {
    let site = Site::new(|question| {
        let number: u16 = question.host()[1..].parse().unwrap();
        let [high, low] = number.to_be_bytes();
        assert_eq!(question.kind, A);
        Reply::Records(vec![a(&question.name, [127, 1, high, low])])
    });
    let told = std::rc::Rc::new(std::cell::RefCell::new(vec![0_u32; MANY]));
    let options = ResolveOptions::new().timeout(None).family(AddressFamily::V4);
    for number in 0..MANY {
        let told = std::rc::Rc::clone(&told);
        site.reactor.resolve_with(&format!("h{number}.test"), options, move |outcome| {
            let [high, low] = (number as u16).to_be_bytes();
            assert_eq!(outcome?, [std::net::Ipv4Addr::new(127, 1, high, low)]);
            told.borrow_mut()[number] += 1;
            anyhow::Ok(())
        });
    }
    let mut sockets = 0;
    site.turn_until(|| {
        let stats = site.reactor.stats();
        sockets = sockets.max(stats.resolver_sockets);
        assert_eq!(stats.callback_errors + stats.callback_panics, 0);
        stats.pending_lookups == 0
    });
    site.turn_until(|| told.borrow().iter().all(|&times| times == 1));
    assert!((1..=MOST_SOCKETS).contains(&sockets), "{sockets} sockets");
}

#[test]
fn the_end_of_the_reactor_closes_the_sockets_of_lookups() {
    if !alone("bounds::the_end_of_the_reactor_closes_the_sockets_of_lookups") {
        return;
    }
    let before = count("fd");
    let site = Site::new(|_| Reply::Silence);
    let told = Told::default();
    site.begin("www.test", &told);
    site.turn_until(|| site.log.borrow().len() == 2);
    assert!(count("fd") > before || before.is_none());
    drop(site);
    assert_eq!(count("fd"), before);
    assert!(told.borrow().is_empty());
}

#[test]
fn the_dns_client_has_no_threads() {
    if !alone("bounds::the_dns_client_has_no_threads") {
        return;
    }
    let threads = count("task");
    let site = Site::new(both);
    let mut most = threads;
    for number in 0..10 {
        let told = Told::default();
        site.begin(&format!("h{number}.test"), &told);
        site.turn_until(|| {
            most = most.max(count("task"));
            !told.borrow().is_empty()
        });
        assert!(told.borrow()[0].is_ok());
    }
    // Those of the test harness, and no more.
    assert_eq!(most, threads);
}

#[test]
fn cancelling_ten_thousand_lookups_is_cheap_and_tells_each_once() {
    let site = Site::new(|_| Reply::Silence);
    let told = Told::default();
    let lookups: Vec<_> =
        (0..MANY).map(|number| site.begin(&format!("h{number}.test"), &told)).collect();
    site.turn_until(|| !site.log.borrow().is_empty());
    for lookup in &lookups {
        assert!(lookup.cancel());
    }
    site.turn_until(|| told.borrow().len() == MANY);
    site.turn_until(|| site.reactor.stats().resolver_sockets == 0);
}

#[test]
fn several_reactors_of_one_thread_have_clients_of_their_own() {
    let sites = [Site::new(both), Site::new(both)];
    let told = Told::default();
    for site in &sites {
        site.begin("www.test", &told);
    }
    sites[0].turn_until(|| {
        sites[1].reactor.iterate(Some(Duration::ZERO)).unwrap();
        told.borrow().len() == 2
    });
    for site in &sites {
        assert_eq!(site.log.borrow().len(), 2);
    }
}

#[test]
fn a_reactor_without_lookups_has_no_client() {
    let reactor = Reactor::new().unwrap();
    reactor.call_when_running(|_| {});
    reactor.run().unwrap();
    let stats = reactor.stats();
    assert_eq!((stats.lookups, stats.resolver_tasks, stats.resolver_sockets), (0, 0, 0));
}

#[test]
fn no_other_runtime_is_among_the_dependencies() {
    // The lock file lists them for every system.
    let lock = include_str!("../../Cargo.lock");
    assert!(lock.contains("name = \"hickory-resolver\""));
    assert!(!lock.contains("name = \"tokio\""));
}
