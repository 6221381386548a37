//! The life of a port: what keeps the loop running, what a handle can do, what is dropped when.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use strand_reactor::{
    ConnectError, Datagram, DatagramProtocol, DatagramTransport, ListenError, OptionError,
    PortState, WriteError,
};

use crate::support::{
    Event, Log, Recorder, everywhere, everywhere_on_the_system, never, plainly, without_children,
};

#[test]
fn debug_of_a_port_shows_its_number_until_it_is_stopped() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        let number = port.local_addr().unwrap().port().to_string();
        assert!(format!("{port:?}").contains(&number));
        assert!(port.label().contains(&number));
        port.stop_listening();
        lab.until("the port closes", || port.state() == PortState::Closed);
        let text = format!("{port:?}");
        assert!(text.contains("closed") && !text.contains(&number), "{text}");
        assert!(!port.label().contains(&number));
    });
}

#[test]
fn a_label_can_be_given_and_changed() {
    plainly(|s| {
        let lab = s.lab();
        let port = lab.listen_udp(s.options().label("sensor feed"), Recorder::quiet()).unwrap();
        assert_eq!(port.label(), "sensor feed");
        port.set_label("other").unwrap();
        assert_eq!(port.label(), "other");
    });
}

#[test]
fn a_closed_port_answers_closed_to_everything() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let to = peer.addr();
        port.stop_listening();
        lab.until("the port closes", || port.state() == PortState::Closed);
        assert!(matches!(port.write(b"x"), Err(WriteError::Closed)));
        assert!(matches!(port.write_to(b"x", to), Err(WriteError::Closed)));
        assert!(matches!(port.try_write_to(b"x", to), Err(WriteError::Closed)));
        assert!(matches!(port.try_write_batch(&[(b"x", Some(to))]), Err(WriteError::Closed)));
        assert!(matches!(port.write_then(b"x", to, never), Err(WriteError::Closed)));
        assert!(matches!(port.flush(), Err(WriteError::Closed)));
        assert!(matches!(port.connect(to), Err(ConnectError::Closed)));
        assert!(matches!(port.disconnect(), Err(ConnectError::Closed)));
        assert!(matches!(port.bind(to), Err(ListenError::Closed)));
        assert!(port.pause_reading().is_err() && port.resume_reading().is_err());
        assert!(port.unref().is_err() && port.reref().is_err());
        assert!(port.stats().is_err() && port.set_label("x").is_err());
        assert!(matches!(port.pending_datagram_size(), Err(OptionError::Closed)));
        assert!(matches!(port.read_datagram(&mut []), Err(OptionError::Closed)));
        assert!(matches!(port.local_addr(), Err(OptionError::Closed)));
        assert!(matches!(port.peer_addr(), Err(OptionError::Closed)));
        assert!(matches!(port.ttl(), Err(OptionError::Closed)));
        assert!(matches!(port.set_ttl(1), Err(OptionError::Closed)));
        assert!(matches!(port.family(), Err(OptionError::Closed)));
        assert!(matches!(port.with_fd(|_| ()), Err(OptionError::Closed)));
        assert_eq!((port.queued_datagrams(), port.queued_bytes()), (0, 0));
        assert!(lab.datagram(port.key().unwrap()).is_none());
    });
}

#[test]
fn a_handle_that_outlives_the_reactor_answers_closed() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        let to = s.peer().addr();
        drop(lab);
        assert_eq!(port.state(), PortState::Closed);
        assert!(matches!(port.write_to(b"x", to), Err(WriteError::Closed)));
        assert!(matches!(port.local_addr(), Err(OptionError::Closed)));
        assert!(port.stop_listening_then(|_| never(())).is_err());
        port.stop_listening();
        assert!(port.reactor().is_closed() && port.key().is_err());
    });
}

#[test]
fn a_number_can_be_bound_again_after_the_port_that_had_it() {
    // A handle to the first port keeps no descriptor open, and does not speak for the second.
    everywhere(|s| {
        let lab = s.lab();
        let (address, _closing) = (s.lasting_address(), without_children());
        let first = s.open_at(&lab, address, Recorder::quiet());
        first.stop_listening();
        lab.until("the port closes", || first.state() == PortState::Closed);
        let log = Log::default();
        let second = lab.listen_udp(s.options_at(address), Recorder::new(&log)).unwrap();
        assert!(!first.is_same_port(&second) && first.state() == PortState::Closed);
        s.peer().send("for the second", s.reach(&second));
        lab.until("the datagram", || log.has_payload("for the second"));
    });
}

#[test]
fn state_follows_the_life_of_a_port() {
    everywhere(|s| {
        let lab = s.lab();
        let states: Rc<RefCell<Vec<PortState>>> = Rc::default();
        let seen = Rc::clone(&states);
        let port = lab.open(Recorder::quiet().on_stop(move |transport, _| {
            seen.borrow_mut().push(transport.state());
        }));
        assert_eq!(port.state(), PortState::Open);
        port.pause_reading().unwrap();
        assert_eq!(port.state(), PortState::Paused);
        port.resume_reading().unwrap();
        assert_eq!(port.state(), PortState::Open);
        port.stop_listening();
        assert_eq!(port.state(), PortState::Closing);
        lab.run();
        assert_eq!((states.take(), port.state()), (vec![PortState::Closing], PortState::Closed));
    });
}

#[test]
fn ports_keep_the_loop_running_unless_unreferenced() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.open(Recorder::new(&log).on_datagram(|transport, _| {
            transport.stop_listening();
            Ok(())
        }));
        port.unref().unwrap();
        port.unref().unwrap();
        lab.run();
        assert_eq!(log.take(), [Event::Start], "run returned at once, and called nothing");
        assert_eq!(port.state(), PortState::Open);
        port.reref().unwrap();
        s.peer().send("end", s.reach(&port));
        lab.run();
        assert_eq!(log.events(), [Event::Datagram(b"end".to_vec()), Event::Stop("stopped".into())]);
    });
}

#[test]
fn a_send_under_way_keeps_the_loop_running_until_its_completion() {
    everywhere(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab.open(Recorder::quiet());
        port.unref().unwrap();
        let done = log.clone();
        port.write_then(b"last", peer.addr(), move |result| {
            assert_eq!(result.unwrap(), 4);
            done.note("done");
        })
        .unwrap();
        assert!(log.events().is_empty());
        lab.run();
        assert_eq!(log.events(), [Event::Note("done")], "once");
        assert_eq!(peer.receive().0, b"last");
    });
}

#[test]
fn with_fd_lends_the_socket_itself() {
    // There is nothing to lend on a simulated host.
    everywhere_on_the_system(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        let address = port.with_fd(|fd| SockRef::from(&fd).local_addr().unwrap()).unwrap();
        assert_eq!(address.as_socket(), Some(port.local_addr().unwrap()));
        // A duplicate of it has the same address, and outlives the port.
        let duplicate = port.with_fd(|fd| fd.try_clone_to_owned().unwrap()).unwrap();
        port.stop_listening();
        lab.until("the port closes", || port.state() == PortState::Closed);
        assert_eq!(
            SockRef::from(&duplicate).local_addr().unwrap().as_socket(),
            address.as_socket()
        );
    });
}

#[test]
fn the_port_may_be_used_and_stopped_inside_with_fd() {
    // There is nothing to lend on a simulated host.
    everywhere_on_the_system(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab.open(Recorder::new(&log));
        port.with_fd(|fd| {
            port.write_to(b"inside", peer.addr()).unwrap();
            port.stop_listening();
            lab.until("the port closes", || port.state() == PortState::Closed);
            assert!(SockRef::from(&fd).local_addr().is_ok(), "lent until the call returns");
        })
        .unwrap();
        assert_eq!(peer.receive().0, b"inside");
        assert!(log.has(&Event::Stop("stopped".into())));
        assert!(matches!(port.with_fd(|_| ()), Err(OptionError::Closed)));
    });
}

#[test]
fn keys_find_their_port_and_no_other() {
    plainly(|s| {
        let (lab, other) = (s.lab(), s.lab());
        let port = lab.open(Recorder::quiet());
        let twin = other.open(Recorder::quiet());
        let key = port.key().unwrap();
        assert!(lab.datagram(key).unwrap().is_same_port(&port));
        assert!(other.datagram(key).is_none(), "a key of another reactor");
        assert!(!twin.is_same_port(&port));
        let (sender, receiver) = std::sync::mpsc::channel();
        let remote = lab.remote();
        std::thread::spawn(move || {
            let sent = remote.call_from_thread(move |handle| {
                sender.send(handle.datagram(key).is_some()).unwrap();
            });
            assert!(sent.is_ok());
        })
        .join()
        .unwrap();
        lab.turn();
        assert!(receiver.try_recv().unwrap());
    });
}

#[test]
fn one_protocol_can_serve_two_ports() {
    struct Both {
        starts: u32,
        stops: u32,
        payloads: Vec<Vec<u8>>,
    }
    impl DatagramProtocol for Both {
        fn start_protocol(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
            self.starts += 1;
            Ok(())
        }
        fn datagram_received(
            &mut self,
            _: &DatagramTransport,
            datagram: Datagram<'_>,
        ) -> anyhow::Result<()> {
            self.payloads.push(datagram.payload().to_vec());
            Ok(())
        }
        fn stop_protocol(&mut self, _: &DatagramTransport, _: strand_reactor::StopReason) {
            self.stops += 1;
        }
    }
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let both = Rc::new(RefCell::new(Both { starts: 0, stops: 0, payloads: Vec::new() }));
        let one = lab.open(Rc::clone(&both));
        let two = lab.open(Rc::clone(&both));
        peer.send("to one", s.reach(&one));
        lab.until("the first", || both.borrow().payloads.len() == 1);
        peer.send("to two", s.reach(&two));
        lab.until("the second", || both.borrow().payloads.len() == 2);
        one.stop_listening();
        lab.until("one closes", || one.state() == PortState::Closed);
        assert_eq!((both.borrow().starts, both.borrow().stops), (2, 1));
        two.stop_listening();
        lab.run();
        assert_eq!(both.borrow().stops, 2);
        assert_eq!(Rc::strong_count(&both), 1, "closed ports hold no protocol");
    });
}

/// Counts the drops of what it is captured by.
struct Counted(Rc<Cell<u32>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn dropping_the_reactor_drops_protocols_without_a_callback() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let drops = Rc::new(Cell::new(0));
        let counted = Counted(Rc::clone(&drops));
        let stored: Rc<RefCell<Option<DatagramTransport>>> = Rc::default();
        let (store, handle) = (Rc::clone(&stored), lab.reactor_handle());
        // The protocol stores its own transport and the handle of its reactor.
        let protocol = Recorder::new(&log).on_start(move |transport| {
            let _ = (&counted, &handle);
            *store.borrow_mut() = Some(transport.clone());
            Ok(())
        });
        let (address, _closing) = (s.lasting_address(), without_children());
        let port = s.open_at(&lab, address, protocol);
        port.write_then(b"never sent", address, never).unwrap();
        let timer = Counted(Rc::clone(&drops));
        lab.call_later(Duration::from_secs(60), move |_| drop(timer));
        drop(lab);
        assert_eq!(drops.get(), 2);
        assert_eq!(log.events(), [Event::Start]);
        assert!(stored.borrow().is_some() && Rc::strong_count(&stored) == 1);
        s.assert_free(address);
    });
}

#[test]
fn a_protocol_is_dropped_when_its_port_closes() {
    everywhere(|s| {
        let lab = s.lab();
        let drops = Rc::new(Cell::new(0));
        let counted = Counted(Rc::clone(&drops));
        let port = lab.open(Recorder::quiet().on_start(move |_| {
            let _ = &counted;
            Ok(())
        }));
        let clone = port.clone();
        port.stop_listening();
        lab.run();
        assert_eq!(drops.get(), 1, "a stored handle keeps nothing alive");
        assert_eq!(clone.state(), PortState::Closed);
    });
}

#[test]
fn user_values_are_dropped_with_nothing_borrowed() {
    plainly(|s| {
        /// Uses its port in its destructor.
        struct Last(Rc<RefCell<Option<DatagramTransport>>>, Log);
        impl Drop for Last {
            fn drop(&mut self) {
                let port = self.0.borrow_mut().take().unwrap();
                assert!(port.write_to(b"x", "127.0.0.1:9".parse().unwrap()).is_err());
                port.stop_listening();
                assert!(port.reactor().listen_udp("nowhere", Recorder::quiet()).is_err());
                self.1.note("dropped");
            }
        }
        for stop_first in [true, false] {
            let (lab, log) = (s.lab(), Log::default());
            let cell = Rc::default();
            let last = Last(Rc::clone(&cell), log.clone());
            let port = lab.open(Recorder::quiet().on_start(move |_| {
                let _ = &last;
                Ok(())
            }));
            *cell.borrow_mut() = Some(port.clone());
            if stop_first {
                port.stop_listening();
                lab.run();
            }
            drop(lab);
            assert_eq!(log.events(), [Event::Note("dropped")]);
        }
    });
}
