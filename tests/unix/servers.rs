//! Ports: who comes, how many, and what is told of them.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use strand_reactor::{AcceptBudget, OptionError, PeerAddr, PortState, UnixAddr, UnixOptions};

use crate::support::{
    Folder, Recorder, against, has_abstract_names, log, name, pair, reactor, run, turn_until,
};

#[test]
fn both_ends_are_told_who_the_other_is() {
    let (folder, log, told) = (Folder::new(), log(), Rc::default());
    let reactor = reactor();
    let path = folder.socket();
    let (seen, notes) = (Rc::clone(&told), Rc::clone(&log));
    let port = reactor
        .listen_unix(&path, move |peer: PeerAddr| {
            assert_eq!(peer.unix(), Some(&UnixAddr::UNNAMED));
            assert_eq!(peer.ip(), None);
            let seen: Rc<RefCell<Vec<String>>> = Rc::clone(&seen);
            Some(Recorder::new(&notes).made(move |transport| {
                let mut seen = seen.borrow_mut();
                seen.push(transport.peer()?.to_string());
                seen.push(transport.unix_local_addr()?.to_string());
                seen.push(transport.label());
                transport.lose_connection();
                Ok(())
            }))
        })
        .unwrap();
    let (seen, notes) = (Rc::clone(&told), Rc::clone(&log));
    let connector = reactor
        .connect_unix(&path, move |peer: PeerAddr| {
            seen.borrow_mut().push(peer.to_string());
            let (seen, port) = (Rc::clone(&seen), port.clone());
            Some(Recorder::new(&notes).made(move |transport| {
                port.stop_listening();
                seen.borrow_mut().push(transport.unix_local_addr()?.to_string());
                Ok(())
            }))
        })
        .unwrap();
    assert_eq!(connector.peer(), Some(UnixAddr::from(&path).into()));
    assert_eq!(connector.peer_addr(), None);
    run(&reactor);
    let mut told = told.borrow().clone();
    told.sort();
    let path = path.display().to_string();
    let label = format!("unix client of {path}");
    assert_eq!(told, [&path, &path, label.as_str(), "unnamed", "unnamed"]);
}

#[test]
fn a_client_bound_to_a_path_is_known_by_it() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let notes = Rc::clone(&log);
    let port = reactor
        .listen_unix(folder.socket(), move |peer: PeerAddr| {
            notes.borrow_mut().push(peer.to_string());
            None::<Recorder>
        })
        .unwrap();
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let own = folder.join("client");
    socket.bind(&socket2::SockAddr::unix(&own).unwrap()).unwrap();
    socket.connect(&socket2::SockAddr::unix(folder.socket()).unwrap()).unwrap();
    turn_until(&reactor, || port.stats().unwrap().refused == 1);
    assert_eq!(*log.borrow(), [own.display().to_string()]);
}

#[test]
fn the_longest_path_that_a_peer_can_have_harms_nobody() {
    // Linux takes 108 bytes without the zero that should end them, which std has no address for.
    if !cfg!(target_os = "linux") || !crate::program::has_python() {
        println!("skipped: it takes Linux and Python to bind to 108 bytes");
        return;
    }
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let path = folder.socket();
    let notes = Rc::clone(&log);
    let port = reactor
        .listen_unix(&path, move |peer: PeerAddr| {
            notes.borrow_mut().push(peer.to_string());
            None::<Recorder>
        })
        .unwrap();
    let own = folder.join(&"p".repeat(108 - 1 - folder.path().as_os_str().len()));
    let program = "import ctypes, os, socket, struct, sys\n\
        s = socket.socket(socket.AF_UNIX)\n\
        name = struct.pack('=H', socket.AF_UNIX) + os.fsencode(sys.argv[1])\n\
        assert len(name) == 110\n\
        if ctypes.CDLL(None).bind(s.fileno(), name, len(name)) != 0: sys.exit(1)\n\
        s.connect(sys.argv[2])\n";
    let mut peer = std::process::Command::new("python3")
        .args(["-c", program])
        .args([&own, &path])
        .spawn()
        .expect("python");
    turn_until(&reactor, || {
        port.stats().unwrap().accepted == 1 || peer.try_wait().expect("a child").is_some()
    });
    assert!(peer.wait().expect("it ends").success());
    turn_until(&reactor, || port.stats().unwrap().refused == 1);
    assert_eq!(*log.borrow(), [own.display().to_string()]);
}

#[test]
fn the_system_vouches_for_the_peer() {
    let log = log();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (at_server, at_client) = (Rc::clone(&seen), Rc::clone(&seen));
    pair(
        Recorder::new(&log).made(move |transport| {
            at_server.borrow_mut().push(transport.peer_credentials()?);
            transport.lose_connection();
            Ok(())
        }),
        Recorder::new(&log).made(move |transport| {
            at_client.borrow_mut().push(transport.peer_credentials()?);
            Ok(())
        }),
    );
    let folder = Folder::new();
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
    assert_eq!(seen.borrow().len(), 2);
    for peer in seen.borrow().iter() {
        assert_eq!(peer.uid, own);
        assert_eq!(peer.pid.unwrap_or(std::process::id()), std::process::id());
    }
}

#[test]
fn what_only_tcp_has_is_unsupported_and_the_rest_works() {
    let log = log();
    pair(
        Recorder::new(&log).made(|transport| {
            let unsupported = |error: OptionError| {
                assert!(matches!(error, OptionError::Unsupported { .. }), "{error:?}");
                assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
            };
            unsupported(transport.nodelay().unwrap_err());
            unsupported(transport.set_nodelay(true).unwrap_err());
            unsupported(transport.keepalive().unwrap_err());
            unsupported(transport.set_keepalive(None).unwrap_err());
            unsupported(transport.local_addr().unwrap_err());
            unsupported(transport.peer_addr().unwrap_err());
            unsupported(transport.family().unwrap_err());
            assert!(transport.peer_addr().unwrap_err().to_string().contains("see peer"));
            transport.set_send_buffer_size(100_000)?;
            assert!(transport.send_buffer_size()? >= 100_000);
            transport.set_recv_buffer_size(100_000)?;
            assert!(transport.recv_buffer_size()? >= 100_000);
            assert!(format!("{transport:?}").contains("unnamed"));
            transport.lose_connection();
            Ok(())
        }),
        Recorder::new(&log),
    );
}

#[test]
fn a_tcp_connection_says_that_it_is_none_of_unix() {
    let reactor = reactor();
    let port = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| None::<Recorder>).unwrap();
    assert!(matches!(port.unix_addr(), Err(OptionError::Unsupported { .. })));
    let near = std::net::TcpStream::connect(port.local_addr().unwrap()).unwrap();
    let transport = reactor.adopt_stream_connection(near, Recorder::new(&log())).unwrap();
    assert!(matches!(transport.unix_local_addr(), Err(OptionError::Unsupported { .. })));
    assert!(matches!(transport.peer_credentials(), Err(OptionError::Unsupported { .. })));
    let peer = transport.peer().unwrap();
    assert_eq!(peer, transport.peer_addr().unwrap());
}

#[test]
fn options_reach_every_accepted_connection() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let options =
        UnixOptions::new(folder.socket()).send_buffer_size(50_000).write_limit(10).backlog(3);
    let sizes = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&sizes);
    let port = reactor
        .listen_unix(options, move |_: PeerAddr| {
            let seen = Rc::clone(&seen);
            Some(Recorder::new(&log).made(move |transport| {
                seen.borrow_mut().push(transport.send_buffer_size()?);
                Ok(())
            }))
        })
        .unwrap();
    let _one = UnixStream::connect(folder.socket()).unwrap();
    turn_until(&reactor, || sizes.borrow().len() == 1);
    assert!((50_000..=100_000).contains(&sizes.borrow()[0]), "{sizes:?}");
    assert_eq!(port.state(), PortState::Open);
}

#[test]
fn a_limit_holds_others_in_the_backlog_until_one_leaves() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let options =
        UnixOptions::new(folder.socket()).max_connections(2).accept_budget(AcceptBudget::Fixed(1));
    let notes = Rc::clone(&log);
    let port =
        reactor.listen_unix(options, move |_: PeerAddr| Some(Recorder::new(&notes))).unwrap();
    let mut clients: Vec<_> =
        (0..3).map(|_| UnixStream::connect(folder.socket()).unwrap()).collect();
    turn_until(&reactor, || port.stats().unwrap().accepted == 2);
    // Each accept is a turn of its own: a third would have come with these.
    for _ in 0..5 {
        reactor.iterate(Some(std::time::Duration::ZERO)).unwrap();
    }
    assert_eq!(port.stats().unwrap().accepted, 2);
    drop(clients.remove(0));
    turn_until(&reactor, || port.stats().unwrap().accepted == 3);
}

#[test]
fn one_user_cannot_have_more_connections_than_allowed() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let options = UnixOptions::new(folder.socket()).max_connections_per_user(2);
    let notes = Rc::clone(&log);
    let port =
        reactor.listen_unix(options, move |_: PeerAddr| Some(Recorder::new(&notes))).unwrap();
    let mut clients: Vec<_> =
        (0..3).map(|_| UnixStream::connect(folder.socket()).unwrap()).collect();
    turn_until(&reactor, || port.stats().unwrap().refused == 1);
    assert_eq!(port.stats().unwrap().connections, 2);
    assert_eq!(clients[2].read(&mut [0]).unwrap(), 0, "the third is closed");
    drop(clients.remove(0));
    turn_until(&reactor, || port.stats().unwrap().connections == 1);
    let mut next = UnixStream::connect(folder.socket()).unwrap();
    turn_until(&reactor, || port.stats().unwrap().connections == 2);
    next.write_all(b"x").unwrap();
}

#[test]
fn a_connection_that_the_factory_refuses_is_closed() {
    let (folder, reactor) = (Folder::new(), reactor());
    let port = reactor.listen_unix(folder.socket(), |_: PeerAddr| None::<Recorder>).unwrap();
    let mut client = UnixStream::connect(folder.socket()).unwrap();
    turn_until(&reactor, || port.stats().unwrap().refused == 1);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn connections_outlive_their_port_and_its_path() {
    let log = log();
    let back = against(
        Recorder::new(&log).data(|transport, data| Ok(transport.write(data)?)),
        |mut stream| {
            stream.write_all(b"still here").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            back
        },
    );
    assert_eq!(back, b"still here");
}

#[test]
fn streams_run_over_abstract_names() {
    if !has_abstract_names() {
        return;
    }
    let (folder, log) = (Folder::new(), log());
    let into = Rc::new(RefCell::new(Vec::new()));
    crate::support::pair_with(
        name(&folder).as_str().into(),
        Recorder::new(&log).data(|transport, data| Ok(transport.write(data)?)),
        Recorder::new(&log).collect(&into).made(|transport| {
            transport.write(b"by name")?;
            transport.lose_write();
            Ok(())
        }),
    );
    assert_eq!(*into.borrow(), b"by name");
}
