//! Ports: factories, limits, options, and stopping.

use super::*;

struct Counting {
    log: Log,
}

impl Factory for Counting {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        None
    }
    fn start_factory(&mut self) -> anyhow::Result<()> {
        self.log.borrow_mut().push("start".into());
        Ok(())
    }
    fn stop_factory(&mut self) -> anyhow::Result<()> {
        self.log.borrow_mut().push("stop".into());
        Ok(())
    }
}

#[test]
fn a_shared_factory_starts_with_its_first_port_and_stops_with_its_last() {
    everywhere(|ground| {
        let log = log();
        let factory = SharedFactory::new(Counting { log: Rc::clone(&log) });
        let first = ground.server().listen_tcp(ground.any_port(), factory.clone()).expect("a port");
        let second =
            ground.server().listen_tcp(ground.any_port(), factory.clone()).expect("a port");
        first.stop_listening();
        first.stop_listening();
        ground.turns(1, Duration::ZERO);
        assert_eq!((factory.ports(), &log.borrow()[..]), (1, &["start".to_owned()][..]));
        second.stop_listening();
        ground.run();
        assert_eq!(*log.borrow(), ["start", "stop"]);
    });
}

#[test]
fn stopping_the_reactor_ends_every_connection_once() {
    everywhere(|ground| {
        let log = log();
        let inner = log.clone();
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), move |_: PeerAddr| {
                Some(Recorder::new(&inner).made(|transport| {
                    transport.write(b"bye")?;
                    transport.reactor().stop();
                    Ok(())
                }))
            })
            .expect("a port");
        let mut stream = ground.plain(port.local_addr().expect("bound"));
        ground.run();
        assert_eq!(*log.borrow(), ["made", "lost: Done"]);
        assert_eq!(read_all(&mut stream), b"bye");
        assert!(port.local_addr().is_err());
    });
}

#[test]
fn a_refused_connection_is_closed_and_no_other() {
    everywhere(|ground| {
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), |_: PeerAddr| None::<Recorder>)
            .expect("a port");
        let mut stream = ground.plain(port.local_addr().expect("bound"));
        ground.turn_until(|| port.stats().expect("open").refused > 0);
        assert_eq!(read_all(&mut stream), b"");
        assert_eq!(port.stats().expect("open").connections, 0);
    });
}

#[test]
fn the_limits_on_connections_hold() {
    everywhere(|ground| {
        let held: Rc<RefCell<Vec<Transport>>> = Rc::default();
        let all = Rc::clone(&held);
        let options = ground.loopback().max_connections(2);
        let port = ground
            .server()
            .listen_tcp(options, move |_: PeerAddr| {
                let all = Rc::clone(&all);
                Some(Recorder::new(&Log::default()).made(move |transport| {
                    all.borrow_mut().push(transport.clone());
                    Ok(())
                }))
            })
            .expect("a port");
        let address = port.local_addr().expect("bound");
        let streams: Vec<_> = (0..3).map(|_| ground.plain(address)).collect();
        ground.turn_until(|| held.borrow().len() >= 2);
        ground.turns(1, Duration::ZERO);
        assert_eq!(port.stats().expect("open").connections, 2);
        held.borrow()[0].abort_connection();
        ground.turn_until(|| held.borrow().len() >= 3);
        assert_eq!(port.stats().expect("open").accepted, 3);
        drop(streams);
    });
}

#[test]
fn a_completion_of_what_left_at_once_or_was_empty_is_told() {
    everywhere(|ground| {
        let log = log();
        let done = Rc::new(RefCell::new(Vec::new()));
        let (empty, large) = (Rc::clone(&done), Rc::clone(&done));
        let protocol = Recorder::new(&log).made(move |transport| {
            let (empty, large) = (Rc::clone(&empty), Rc::clone(&large));
            transport.write_then(&[], move |result| empty.borrow_mut().push(result.ok()))?;
            transport
                .write_then(&[1; 20_000], move |result| large.borrow_mut().push(result.ok()))?;
            Ok(())
        });
        against(
            ground,
            protocol,
            |options| options,
            |mut stream| {
                stream.read_exact(&mut [0; 20_000]).expect("all of it");
            },
        );
        assert_eq!(*done.borrow(), [Some(0), Some(20_000)]);
    });
}

#[test]
fn a_broken_write_before_a_pause_still_ends_the_connection() {
    everywhere(|ground| {
        let log = log();
        let protocol = Recorder::new(&log).data(|transport, _| {
            // The peer is gone by the second of these; the pause must not hide that.
            while transport.writable() {
                let _ = transport.try_write(&[0; 100]);
            }
            Ok(transport.pause_reading()?)
        });
        against(
            ground,
            protocol,
            |options| options,
            |mut stream| {
                stream.write_all(b"x").expect("sent");
                stream.reset();
            },
        );
        assert_eq!(*log.borrow(), ["made", "lost: Reset"]);
    });
}

#[test]
fn the_options_of_a_port_hold_for_its_connections_and_can_be_changed() {
    everywhere(|ground| {
        let log = log();
        let times =
            KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(7), count: 3 };
        let protocol = Recorder::new(&log).made(move |transport| {
            assert_eq!((transport.nodelay()?, transport.keepalive()?), (true, Some(times)));
            assert!(transport.recv_buffer_size()? >= 20_000);
            transport.set_nodelay(false)?;
            transport.set_keepalive(None)?;
            assert_eq!((transport.nodelay()?, transport.keepalive()?), (false, None));
            assert!(transport.set_keepalive(Some(KeepAlive { count: 0, ..times })).is_err());
            assert!(transport.set_write_watermarks(2, 1).is_err());
            transport.set_write_watermarks(1, 2)?;
            assert_eq!(transport.write_watermarks()?, (1, 2));
            let key = transport.key()?;
            assert!(
                transport.reactor().stream(key).is_some_and(|t| t.is_same_connection(transport))
            );
            transport.lose_connection();
            Ok(())
        });
        let options = |options: TcpOptions| options.keepalive(times).recv_buffer_size(20_000);
        against(ground, protocol, options, |mut stream| read_all(&mut stream));
        assert_eq!(*log.borrow(), ["made", "lost: Done"]);
    });
}

#[test]
fn contradicting_options_are_an_error_at_the_call() {
    everywhere(|ground| {
        let address = || ground.loopback();
        for options in [
            address().family(Family::Dual),
            address().write_watermarks(2, 1),
            address().max_connections(0),
            address().accept_budget(AcceptBudget::Fixed(0)),
            address().write_limit(0),
        ] {
            let error =
                ground.server().listen_tcp(options, |_: PeerAddr| None::<Recorder>).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let text = ground.server().listen_tcp("example.com:80", |_: PeerAddr| None::<Recorder>);
        assert!(text.is_err_and(|error| error.to_string().contains("resolve")));
        let from =
            ConnectOptions::new(ground.nobody()).local_addr((std::net::Ipv6Addr::LOCALHOST, 0));
        let error = ground.client().connect_tcp(from, |_: PeerAddr| None::<Recorder>).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    });
}

#[test]
fn a_peer_that_never_closes_is_not_waited_for_longer_than_the_close_timeout() {
    everywhere(|ground| {
        let log = log();
        let protocol = Recorder::new(&log).made(|transport| {
            transport.write(b"bye")?;
            transport.lose_connection();
            Ok(())
        });
        let (told, wait) = std::sync::mpsc::channel();
        let protocol = protocol.lost(move |_| told.send(()).expect("waited for"));
        let got = against(
            ground,
            protocol,
            |options| options.close_timeout(Duration::from_millis(20)),
            move |mut stream| {
                let got = read_all(&mut stream);
                // The connection is lost while this end is open.
                stream.wait_for(&wait);
                got
            },
        );
        assert_eq!(*log.borrow(), ["made", "lost: Done"]);
        assert_eq!(got, b"bye");
    });
}
