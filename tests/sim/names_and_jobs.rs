//! Names, jobs, and what a simulated host has not got.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::{HostError, Link, Rule, World};
use strand_reactor::{Handle, JobCancelError, PeerAddr, Protocol, ResolveError, Transport};

use crate::support::{Log, Recorder};

const SECOND: Duration = Duration::from_secs(1);

type Answer = Result<Vec<std::net::IpAddr>, ResolveError>;

fn ask(world: &World, handle: &Handle, name: &str) -> Option<Answer> {
    let answer = Rc::new(RefCell::new(None));
    let told = Rc::clone(&answer);
    handle.resolve(name, move |result| *told.borrow_mut() = Some(result));
    world.run_for(SECOND).unwrap();
    answer.take()
}

#[test]
fn names_are_those_of_the_world_and_of_its_hosts() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1, fd00::1").unwrap();
    world.name("db.example", "10.0.0.7").unwrap();
    let found = ask(&world, &host, "DB.example.").unwrap().unwrap();
    assert_eq!(found, ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(ask(&world, &host, "a").unwrap().unwrap().len(), 2);
    assert_eq!(ask(&world, &host, "localhost").unwrap().unwrap().len(), 2);
    let unknown = ask(&world, &host, "nowhere.example").unwrap();
    assert!(matches!(unknown, Err(ResolveError::NotFound { .. })), "{unknown:?}");
    world.unname("db.example");
    assert!(ask(&world, &host, "db.example").unwrap().is_err());
}

#[test]
fn names_that_differ_in_case_or_the_roots_full_stop_are_one() {
    let world = World::new(1);
    let host = world.host("Server.Test", "10.0.0.1").unwrap();
    for same in ["Server.Test", "server.test", "SERVER.TEST", "server.test."] {
        let taken = world.host(same, "10.0.0.2").unwrap_err();
        assert_eq!(taken, HostError::NameTaken { name: "Server.Test".into() });
        assert!(world.is_up(same).unwrap() && !world.handle(same).unwrap().is_closed());
        world.link(same, "10.0.0.1", Link::new()).unwrap();
        world.rule(Rule::drop().from(same)).unwrap().lift();
        assert_eq!(ask(&world, &host, same).unwrap().unwrap().len(), 1, "{same}");
    }
    assert!(matches!(world.host(".", "10.0.0.2"), Err(HostError::Name { .. })));
    // Shown as it was given; and a name that is none of these is free.
    assert!(world.dump().contains("host Server.Test, up"));
    world.host("server.test.example", "10.0.0.2").unwrap();
    world.crash("server.TEST").unwrap();
    assert!(!world.is_up("Server.Test").unwrap());
}

#[test]
fn a_name_may_mean_the_host_that_asks() {
    let world = World::new(1);
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        let host = world.host(name, address).unwrap();
        if name == "a" {
            world.name("me.example", "127.0.0.1, ::1").unwrap();
        }
        let found = ask(&world, &host, "me.example").unwrap().unwrap();
        assert!(found.len() == 2 && found.iter().all(std::net::IpAddr::is_loopback), "{found:?}");
        let log = Log::default();
        host.listen_udp("127.0.0.1:9", Recorder::new(&log)).unwrap();
        let port = host.listen_udp(0, Recorder::quiet()).unwrap();
        let own = *found.iter().find(|ip| ip.is_ipv4()).unwrap();
        port.write_to(b"to myself", (own, 9).into()).unwrap();
        world.run_for(SECOND).unwrap();
        assert!(log.has_payload("to myself"));
    }
    let refused = world.host("c", "10.0.0.3, 127.0.0.2").unwrap_err().to_string();
    assert!(refused.contains("every host has the addresses of loopback anyway"), "{refused}");
}

#[test]
fn a_lookup_takes_its_time_and_may_time_out() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    world.set_lookup_time(Duration::from_secs(2));
    let log = Log::default();
    let told = log.clone();
    host.resolve("a", move |_| told.note("answer"));
    world.run_for(Duration::from_millis(1_999)).unwrap();
    assert!(log.events().is_empty());
    world.run_for(Duration::from_millis(1)).unwrap();
    assert!(log.has_note("answer"));
    world.set_lookup_time(Duration::from_secs(61));
    let answer = Rc::new(RefCell::new(None));
    let told = Rc::clone(&answer);
    host.resolve("a", move |result| *told.borrow_mut() = Some(result));
    world.run_for(Duration::from_secs(60)).unwrap();
    assert!(matches!(answer.take(), Some(Err(ResolveError::TimedOut { .. }))));
}

#[test]
fn jobs_are_done_on_the_loop_after_their_time() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    world.set_job_time(SECOND);
    let log = Log::default();
    let told = log.clone();
    let here = std::thread::current().id();
    let job = host.defer_to_thread(
        move || std::thread::current().id() == here,
        move |_, done| {
            assert!(done.unwrap(), "no other thread");
            told.note("done");
        },
    );
    let told = log.clone();
    host.defer_to_thread(
        || panic!("in the job"),
        move |_, outcome: Result<(), _>| {
            assert!(outcome.is_err());
            told.note("panicked");
        },
    );
    assert!(job.is_pending());
    assert_eq!(job.cancel(), Err(JobCancelError::Running));
    world.run_for(Duration::from_millis(999)).unwrap();
    assert!(log.events().is_empty());
    world.run_for(SECOND).unwrap();
    assert!(log.has_note("done") && log.has_note("panicked"));
    assert_eq!(host.stats().callback_panics, 0);
}

#[test]
fn a_shutdown_waits_for_jobs() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    world.set_job_time(SECOND);
    let log = Log::default();
    let told = log.clone();
    host.defer_to_thread(|| {}, move |_, _| told.note("done"));
    host.stop();
    world.run_for(Duration::from_millis(999)).unwrap();
    assert!(!world.has_stopped("a").unwrap());
    world.run_for(SECOND).unwrap();
    assert!(world.has_stopped("a").unwrap() && log.has_note("done"));
}

#[test]
fn there_are_no_descriptors() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let port = host.listen_udp(9, Recorder::quiet()).unwrap();
    assert!(port.with_fd(|_| ()).is_err());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let refused = host.adopt_datagram_port(socket, Recorder::quiet()).unwrap_err();
    assert!(refused.to_string().contains("no descriptors"), "{refused}");
}

#[test]
fn there_are_no_unix_sockets() {
    struct Quiet;
    impl Protocol for Quiet {
        fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
            Ok(())
        }
    }
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let refused = host.listen_unix("nowhere", |_: PeerAddr| Some(Quiet)).unwrap_err();
    assert!(refused.to_string().contains("has no UNIX sockets"), "{refused}");
    assert!(!std::path::Path::new("nowhere").exists());
}

#[test]
fn interfaces_follow_from_the_addresses() -> io::Result<()> {
    let world = World::new(1);
    let host =
        world.host("a", ["10.0.0.1/24", "fd00::1", "192.168.7.1/16", "10.0.0.2/24"]).unwrap();
    let summary: Vec<_> = host
        .interfaces()?
        .iter()
        .map(|one| (one.index(), one.name().to_owned(), one.addresses().len(), one.is_loopback()))
        .collect();
    let expected = [(1, "lo", 2, true), (2, "eth0", 3, false), (3, "eth1", 1, false)];
    assert_eq!(summary, expected.map(|(at, name, len, lo)| (at, name.to_owned(), len, lo)));
    let eth1 = host.interfaces()?[2].addresses()[0];
    assert_eq!(
        (eth1.prefix_len(), eth1.broadcast()),
        (16, Some("192.168.255.255".parse().unwrap()))
    );
    Ok(())
}
