//! Other threads.

use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use strand_reactor::{
    DatagramKey, DatagramTransport, DelayedCall, Handle, LoopingCall, Reactor, ReactorGone, Remote,
};

use crate::support::{
    ANY, Ending, Log, OnDatagram, OnDrop, Quiet, drop_flag, turn_until, watchdog,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Two threads' worth of what may cross them, and a proof that the rest may not: were the type
/// `Send`, the compiler could not tell which of two traits is meant.
#[test]
fn only_remotes_and_keys_cross_threads() {
    fn crosses<T: Send + Sync + Clone + 'static>() {}
    crosses::<Remote>();
    crosses::<DatagramKey>();
    fn copies<T: Copy>() {}
    copies::<DatagramKey>();

    trait Stays<Marker> {
        fn stays(&self) {}
    }
    struct Sent;
    impl<T> Stays<()> for PhantomData<T> {}
    impl<T: Send> Stays<Sent> for PhantomData<T> {}
    PhantomData::<Handle>.stays();
    PhantomData::<DatagramTransport>.stays();
    PhantomData::<DelayedCall>.stays();
    PhantomData::<LoopingCall>.stays();
    PhantomData::<Reactor>.stays();
}

#[test]
fn calls_of_each_thread_keep_their_order() {
    const THREADS: usize = 8;
    const CALLS: usize = 100_000 / THREADS;
    thread_local! {
        static NEXT: [Cell<usize>; THREADS] = const { [const { Cell::new(0) }; THREADS] };
    }
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    let barrier = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (remote, barrier) = (reactor.remote(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                for number in 0..CALLS {
                    let call = move |handle: &Handle| {
                        NEXT.with(|next| assert_eq!(next[thread].replace(number + 1), number));
                        if NEXT.with(|next| next.iter().all(|next| next.get() == CALLS)) {
                            handle.stop();
                        }
                    };
                    remote.call_from_thread(call).unwrap();
                }
            })
        })
        .collect();
    reactor.run().unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    let stats = reactor.stats();
    assert_eq!((stats.calls, stats.callback_panics), ((THREADS * CALLS) as u64, 0));
    assert!(reactor.datagram(port.key().unwrap_or_else(|_| unreachable!())).is_none());
}

#[test]
fn calls_posted_while_the_loop_is_busy_share_one_turn() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let remote = reactor.remote();
    reactor.call_later(HOUR, |_| {});
    reactor.call_when_running(move |_| {
        // The callback blocks the loop until the other thread has posted everything.
        let poster = thread::spawn(move || {
            for _ in 0..1000 {
                remote.call_from_thread(|_| {}).unwrap();
            }
            remote.call_from_thread(|handle| handle.stop()).unwrap();
        });
        poster.join().unwrap();
    });
    reactor.run().unwrap();
    assert_eq!(reactor.stats().calls, 1002);
    assert_eq!(reactor.stats().turns, 2);
}

#[test]
fn a_sleeping_loop_is_woken_by_a_call() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    reactor.listen_udp(ANY, Quiet).unwrap();
    let remote = reactor.remote();
    let (done, wait) = channel();
    let thread = thread::spawn(move || {
        // One at a time: each finds a loop that has nothing else to wake up for.
        for number in 0..1000 {
            let done = done.clone();
            remote.call_from_thread(move |_| done.send(number).unwrap()).unwrap();
            assert_eq!(wait.recv(), Ok(number));
        }
        remote.stop();
    });
    reactor.run().unwrap();
    thread.join().unwrap();
    assert_eq!(reactor.stats().calls, 1000);
}

#[test]
fn stop_wakes_a_sleeping_loop() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    for _ in 0..100 {
        let ends = Log::new();
        reactor.listen_udp(ANY, Ending(ends.clone())).unwrap();
        let remote = reactor.remote();
        let thread = thread::spawn(move || remote.stop());
        reactor.run().unwrap();
        thread.join().unwrap();
        assert_eq!(ends.entries(), ["the reactor shuts down"]);
    }
}

#[test]
fn stop_from_a_thread_before_run_is_kept_for_it() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    let remote = reactor.remote();
    thread::spawn(move || remote.stop()).join().unwrap();
    reactor.run().unwrap();
    assert_eq!(port.state(), strand_reactor::PortState::Closed);
    assert_eq!(reactor.stats().turns, 0);
}

#[test]
fn calls_posted_before_run_wait_for_it() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let remote = reactor.remote();
    thread::spawn(move || remote.call_from_thread(|_| {}).unwrap()).join().unwrap();
    assert_eq!(reactor.stats().calls, 0);
    // A call that waits is something left to do.
    reactor.run().unwrap();
    assert_eq!(reactor.stats().calls, 1);
}

#[test]
fn a_remote_does_not_keep_the_loop_running() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let remote = reactor.remote();
    reactor.run().unwrap();
    assert!(remote.call_from_thread(|_| {}).is_ok());
}

#[test]
fn a_call_posted_by_a_call_runs_in_the_next_turn_without_waiting() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    reactor.call_later(HOUR, |_| {});
    let (turns, seen) = channel();
    let remote = reactor.remote();
    let again = remote.clone();
    remote
        .call_from_thread(move |handle| {
            turns.send(handle.stats().turns).unwrap();
            again
                .call_from_thread(move |handle| {
                    turns.send(handle.stats().turns).unwrap();
                    handle.stop();
                })
                .unwrap();
        })
        .unwrap();
    reactor.run().unwrap();
    let turns: Vec<_> = seen.try_iter().collect();
    assert_eq!(turns, [1, 2]);
}

#[test]
fn calls_that_were_not_reached_before_stop_run_in_the_next_run() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (order, seen) = channel();
    let remote = reactor.remote();
    for number in 0..4 {
        let order = order.clone();
        remote
            .call_from_thread(move |handle| {
                order.send(number).unwrap();
                if number == 1 {
                    handle.stop();
                }
            })
            .unwrap();
    }
    reactor.run().unwrap();
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [0, 1]);
    remote.call_from_thread(move |_| order.send(4).unwrap()).unwrap();
    reactor.run().unwrap();
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn the_closure_comes_back_when_the_reactor_is_gone() {
    let reactor = Reactor::new().unwrap();
    let remote = reactor.remote();
    drop(reactor);
    let thread = thread::spawn(move || {
        let text = String::from("not lost");
        let gone = remote.call_from_thread(move |_: &Handle| drop(text)).unwrap_err();
        assert!(gone.to_string().contains("gone"));
        assert!(format!("{gone:?}").contains("ReactorGone"));
        // Harmless, any number of times.
        remote.stop();
        remote.stop();
        gone
    });
    let call = thread.join().unwrap().into_inner();
    let other = Reactor::new().unwrap();
    other.call_when_running(call);
    other.run().unwrap();
    assert_eq!(other.stats().calls, 1);
}

#[test]
fn calls_that_will_never_run_are_dropped_with_the_reactor() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let remote = reactor.remote();
    let (dropped, wait) = channel();
    let guard = OnDrop(move || dropped.send(()).unwrap());
    remote.call_from_thread(move |_| drop(guard)).unwrap();
    drop(reactor);
    assert_eq!(wait.try_recv(), Ok(()));
}

#[test]
fn a_race_between_posting_and_the_end_loses_no_closure() {
    let _watchdog = watchdog();
    for _ in 0..50 {
        let reactor = Reactor::new().unwrap();
        let remote = reactor.remote();
        let count = Arc::new(());
        let held = Arc::clone(&count);
        let thread = thread::spawn(move || {
            let mut posted = 0;
            loop {
                let captured = Arc::clone(&held);
                match remote.call_from_thread(move |_| drop(captured)) {
                    Ok(()) => posted += 1,
                    Err(ReactorGone { .. }) => return posted,
                }
            }
        });
        reactor.iterate(Some(Duration::ZERO)).unwrap();
        drop(reactor);
        let posted: u64 = thread.join().unwrap();
        assert_eq!(Arc::strong_count(&count), 1, "of {posted} closures");
    }
}

#[test]
fn a_flood_neither_blocks_the_sender_nor_starves_the_ports() {
    const CALLS: u64 = 100_000;
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let heard = Rc::new(Cell::new(0));
    let count = Rc::clone(&heard);
    let protocol = OnDatagram(move |transport: &DatagramTransport, payload: &[u8]| {
        count.set(count.get() + 1);
        transport.write_to(payload, transport.local_addr()?)?;
        Ok(())
    });
    let port = reactor.listen_udp(ANY, protocol).unwrap();
    port.write_to(b"x", port.local_addr().unwrap()).unwrap();
    let remote = reactor.remote();
    // Nobody collects anything until the last is posted.
    let thread = thread::spawn(move || {
        for _ in 0..CALLS {
            remote.call_from_thread(|_| {}).unwrap();
        }
    });
    thread.join().unwrap();
    assert_eq!(reactor.stats().calls, 0);
    turn_until(&reactor, || reactor.stats().calls == CALLS && heard.get() > 0);
}

#[test]
fn a_key_finds_its_port_from_another_thread() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let heard = Log::new();
    let log = heard.clone();
    let protocol = OnDatagram(move |transport: &DatagramTransport, payload: &[u8]| {
        log.push(payload.to_vec());
        transport.reactor().stop();
        Ok(())
    });
    let port = reactor.listen_udp(ANY, protocol).unwrap();
    let (key, remote) = (port.key().unwrap(), reactor.remote());
    let thread = thread::spawn(move || {
        remote
            .call_from_thread(move |handle| {
                let port = handle.datagram(key).expect("it is open");
                port.write_to(b"from afar", port.local_addr()?)?;
                anyhow::Ok(())
            })
            .unwrap();
    });
    reactor.run().unwrap();
    thread.join().unwrap();
    assert_eq!(heard.entries(), [b"from afar"]);
}

#[test]
fn a_key_of_a_closed_port_or_another_reactor_finds_nothing() {
    let _watchdog = watchdog();
    let (one, two) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let (here, there) = (one.listen_udp(ANY, Quiet).unwrap(), two.listen_udp(ANY, Quiet).unwrap());
    let (key, foreign) = (here.key().unwrap(), there.key().unwrap());
    assert_ne!(key, foreign);
    assert!(one.datagram(key).unwrap().is_same_port(&here));
    assert!(one.datagram(foreign).is_none() && two.datagram(key).is_none());
    assert!(!here.is_same_port(&there));
    here.stop_listening();
    turn_until(&one, || one.datagram(key).is_none());
    // A new port in the old one's place has another key.
    let next = one.listen_udp(ANY, Quiet).unwrap();
    assert_ne!(next.key().unwrap(), key);
    assert!(one.datagram(key).is_none());
}

#[test]
fn a_failing_call_of_another_thread_hurts_no_other() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let remote = reactor.remote();
    let (done, ran) = channel();
    let thread = thread::spawn(move || {
        remote.call_from_thread(|_| anyhow::bail!("no")).unwrap();
        remote.call_from_thread(|_| -> () { panic!("never") }).unwrap();
        remote.call_from_thread(move |_| done.send(()).unwrap()).unwrap();
    });
    thread.join().unwrap();
    reactor.run().unwrap();
    assert_eq!(ran.try_recv(), Ok(()));
    let stats = reactor.stats();
    assert_eq!((stats.calls, stats.callback_errors, stats.callback_panics), (3, 1, 1));
}

#[test]
fn a_handle_to_a_reactor_that_is_gone_gives_a_remote_that_says_so() {
    let reactor = Reactor::new().unwrap();
    let handle = reactor.listen_udp(ANY, Quiet).unwrap().reactor();
    drop(reactor);
    let remote = handle.remote();
    assert!(remote.call_from_thread(|_| {}).is_err());
    remote.stop();
    let (captured, dropped) = drop_flag();
    handle.call_when_running(move |_| drop(captured));
    assert!(dropped.get());
}
