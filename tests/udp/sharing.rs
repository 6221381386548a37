//! Several ports on one address, and several reactors on one port.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use strand_reactor::{DatagramTransport, Family, PortState, Reactor, UdpOptions};

use crate::support::{
    Log, PATIENCE, Recorder, Setup, listening, listening_on_the_system, plainly, without_children,
};

fn same(s: &Setup, port: &DatagramTransport) -> UdpOptions {
    UdpOptions::new(port.local_addr().unwrap()).family(s.family)
}

#[test]
fn ports_do_not_share_an_address_unless_both_asked() {
    listening(|s| {
        let lab = s.lab();
        let plain = lab.open(Recorder::quiet());
        for options in
            [same(s, &plain), same(s, &plain).reuse_address(true), same(s, &plain).reuse_port(true)]
        {
            let error = lab.listen_udp(options, Recorder::quiet()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
        }
        let sharing = lab.listen_udp(s.options().reuse_address(true), Recorder::quiet()).unwrap();
        let second = same(s, &sharing).reuse_address(true);
        assert!(lab.listen_udp(second, Recorder::quiet()).is_ok());
        // A later attempt with default options shares nothing with the earlier ones.
        let third = lab.listen_udp(same(s, &sharing), Recorder::quiet()).unwrap_err();
        assert_eq!(third.kind(), ErrorKind::AddrInUse);
    });
}

#[test]
fn an_address_of_one_family_may_be_taken_beside_the_other() {
    plainly(|s| {
        if !s.simulated && !crate::support::has_ipv6() {
            return;
        }
        let lab = s.lab();
        let v6 = UdpOptions::parse("[::]:0").unwrap().family(Family::V6Only);
        // The number may be taken for IPv4 by somebody else: try a few.
        let beside = (0..20).any(|_| {
            let v6 = lab.listen_udp(v6.clone(), Recorder::quiet()).unwrap();
            let number = v6.local_addr().unwrap().port();
            lab.listen_udp(number, Recorder::quiet()).is_ok()
        });
        assert!(beside, "an IPv6-only port leaves IPv4 alone");
        let dual = lab.listen_udp("[::]:0", Recorder::quiet()).unwrap();
        let number = dual.local_addr().unwrap().port();
        let error = lab.listen_udp(number, Recorder::quiet()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "a dual-stack port takes both");
    });
}

/// How many ports fit beside what the rest of the process has open.
fn many() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| {
        line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<usize>().ok()
    });
    soft.unwrap_or(1_024).saturating_sub(500).clamp(50, 2_500)
}

#[test]
fn many_ports_on_one_number_can_all_close_in_the_first_delivery() {
    plainly(|s| {
        let lab = s.lab();
        let count = many();
        println!("{count} ports");
        let ports: Rc<RefCell<Vec<DatagramTransport>>> = Rc::default();
        let (delivered, completed, stopped) =
            (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let first = lab.listen_udp(s.options().reuse_address(true), Recorder::quiet()).unwrap();
        let options = same(s, &first).reuse_address(true);
        for _ in 0..count {
            let (all, seen, stops) =
                (Rc::clone(&ports), Rc::clone(&delivered), Rc::clone(&stopped));
            let recorder = Recorder::quiet()
                .on_datagram(move |_, _| {
                    seen.set(seen.get() + 1);
                    all.borrow().iter().for_each(DatagramTransport::stop_listening);
                    Ok(())
                })
                .on_stop(move |_, _| stops.set(stops.get() + 1));
            ports.borrow_mut().push(lab.listen_udp(options.clone(), recorder).unwrap());
        }
        first.stop_listening();
        lab.until("the first closes", || first.state() == PortState::Closed);
        let peer = s.peer();
        let to = ports.borrow()[0].local_addr().unwrap();
        for port in ports.borrow().iter() {
            let done = Rc::clone(&completed);
            port.write_then(b"sent", peer.addr(), move |sent| {
                sent.unwrap();
                done.set(done.get() + 1);
            })
            .unwrap();
        }
        // Several are readable: the sender of a port is not its only one.
        for _ in 0..3 {
            peer.send("go", to);
        }
        lab.run();
        assert_eq!((completed.get(), stopped.get()), (count, count));
        assert_eq!(delivered.get(), 1, "no delivery to a port that was stopped");
        assert!(ports.borrow().iter().all(|port| port.state() == PortState::Closed));
        assert_eq!(lab.stats().callback_panics, 0);
    });
}

#[test]
fn reactors_in_several_threads_share_a_port() {
    // A world and its hosts are of one thread.
    listening_on_the_system(|s| {
        let (sender, arrivals) = mpsc::channel::<usize>();
        let (to_main, ready) = mpsc::channel();
        let s = *s;
        // The number: held by a port that leaves before anything is sent.
        let lab = s.lab();
        let options = s.options_at(s.lasting_address()).reuse_port(true);
        let holder = lab.listen_udp(options.clone(), Recorder::quiet()).unwrap();
        let threads: Vec<_> = (0..2)
            .map(|index| {
                let (options, sender, to_main) = (options.clone(), sender.clone(), to_main.clone());
                std::thread::spawn(move || {
                    let reactor = Reactor::builder().portable_sockets(s.portable).build().unwrap();
                    let sender = sender.clone();
                    let recorder = Recorder::quiet().on_datagram(move |_, _| {
                        sender.send(index)?;
                        Ok(())
                    });
                    let port = reactor.listen_udp(options, recorder).unwrap();
                    reactor.call_later(PATIENCE * 3, |handle| handle.stop()).unref();
                    to_main.send(reactor.remote()).unwrap();
                    reactor.run().unwrap();
                    assert_eq!(port.state(), PortState::Closed);
                })
            })
            .collect();
        let remotes = [ready.recv().unwrap(), ready.recv().unwrap()];
        let reach = s.reach(&holder);
        let _closing = without_children();
        holder.stop_listening();
        lab.run();
        // The kernel chooses by a hash of the sender's address: send from new ones until both
        // have had something.
        let mut counts = [0; 2];
        let mut sent = 0;
        while sent < 10 || counts.contains(&0) {
            assert!(sent < 200, "one of two reactors hears nothing: {counts:?}");
            s.peer().send("x", reach);
            sent += 1;
            counts[arrivals.recv_timeout(PATIENCE).expect("every datagram arrives")] += 1;
        }
        assert_eq!(counts[0] + counts[1], sent);
        for remote in remotes {
            remote.stop();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(arrivals.recv_timeout(Duration::ZERO).is_err(), "and arrives once");
    });
}

#[test]
fn two_reactors_may_take_turns_in_one_thread() {
    // The reactors of a world are on hosts of their own, and meet in `both`.
    listening_on_the_system(|s| {
        let (one, two, log) = (s.lab(), s.lab(), Log::default());
        let echo = one.open(Recorder::echo());
        let asker = two.open(Recorder::new(&log));
        asker.write_to(b"across", s.reach(&echo)).unwrap();
        two.turn();
        one.until("the question", || echo.stats().unwrap().datagrams_out == 1);
        two.until("the answer", || log.has_payload("across"));
    });
}
