//! Taking a path and giving it back.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use strand_reactor::{
    Handle, ListenError, ListeningPort, OptionError, PeerAddr, Protocol, Transport, UnixAddr,
    UnixDatagramOptions, UnixDatagramProtocol, UnixDatagramTransport, UnixOptions,
};

use crate::program::{Program, works};
use crate::support::{Folder, has_abstract_names, name, reactor, run};
use crate::watchdog::watchdog;

/// A protocol of both kinds that does nothing.
struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

impl UnixDatagramProtocol for Quiet {
    fn datagram_received(
        &mut self,
        _: &UnixDatagramTransport,
        _: strand_reactor::UnixDatagram<'_>,
    ) -> anyhow::Result<()> {
        Ok(())
    }
}

fn listen(handle: &Handle, options: impl Into<UnixOptions>) -> Result<ListeningPort, ListenError> {
    handle.listen_unix(options.into(), |_: PeerAddr| Some(Quiet))
}

fn datagrams(
    handle: &Handle,
    options: impl Into<UnixDatagramOptions>,
) -> Result<UnixDatagramTransport, ListenError> {
    handle.listen_unix_datagram(options.into(), Quiet)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[track_caller]
fn assert_taken(outcome: Result<impl Sized, ListenError>, path: &Path) {
    let Err(error) = outcome else { panic!("the path was taken over") };
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
    let ListenError::BindUnix { address, .. } = &error else { panic!("{error:?}") };
    assert_eq!(address.as_path(), Some(path));
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[test]
fn a_path_is_there_from_listening_to_stopping() {
    let (folder, reactor) = (Folder::new(), reactor());
    let path = folder.socket();
    let port = listen(&reactor, &path).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    assert_eq!(port.unix_addr().unwrap(), UnixAddr::from(&path));
    assert!(port.label().contains(&path.display().to_string()), "{}", port.label());
    port.stop_listening();
    run(&reactor);
    assert!(folder.entries().is_empty());
    let port = datagrams(&reactor, &path).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    port.stop_listening();
    run(&reactor);
    assert!(folder.entries().is_empty());
}

#[test]
fn a_reactor_that_stops_or_is_dropped_leaves_no_path() {
    let folder = Folder::new();
    for stops in [true, false] {
        let reactor = reactor();
        listen(&reactor, folder.join("stream")).unwrap();
        datagrams(&reactor, folder.join("datagrams")).unwrap();
        assert_eq!(folder.entries(), ["datagrams", "stream"]);
        if stops {
            reactor.stop();
            run(&reactor);
            assert!(folder.entries().is_empty());
        }
        drop(reactor);
        assert!(folder.entries().is_empty());
    }
}

#[test]
fn a_path_that_is_not_ours_any_more_is_left_alone() {
    let (folder, reactor) = (Folder::new(), reactor());
    let path = folder.socket();
    for put in [
        |path: &Path| fs::write(path, "a file").unwrap(),
        |path: &Path| drop(UnixListener::bind(path).unwrap()),
        |path: &Path| symlink("elsewhere", path).unwrap(),
    ] {
        let port = listen(&reactor, &path).unwrap();
        fs::remove_file(&path).unwrap();
        put(&path);
        let inode = fs::symlink_metadata(&path).unwrap().ino();
        port.stop_listening();
        run(&reactor);
        assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode);
        fs::remove_file(&path).unwrap();
    }
    // Nothing is there to remove.
    let port = listen(&reactor, &path).unwrap();
    fs::remove_file(&path).unwrap();
    port.stop_listening();
    run(&reactor);
}

#[test]
fn what_a_dead_program_left_behind_is_replaced() {
    let (folder, reactor) = (Folder::new(), reactor());
    let path = folder.socket();
    for leave in [
        |path: &Path| drop(UnixListener::bind(path).unwrap()),
        |path: &Path| drop(UnixDatagram::bind(path).unwrap()),
    ] {
        leave(&path);
        let port = listen(&reactor, &path).unwrap();
        drop(UnixStream::connect(&path).unwrap());
        port.stop_listening();
        run(&reactor);
        leave(&path);
        let port = datagrams(&reactor, &path).unwrap();
        UnixDatagram::unbound().unwrap().connect(&path).unwrap();
        port.stop_listening();
        run(&reactor);
        assert!(folder.entries().is_empty());
    }
}

#[test]
fn a_socket_that_somebody_has_open_is_not_replaced() {
    let (folder, reactor) = (Folder::new(), reactor());
    let path = folder.socket();
    let living = UnixListener::bind(&path).unwrap();
    assert_taken(listen(&reactor, &path), &path);
    assert_taken(datagrams(&reactor, &path), &path);
    // Also not when it has no room for the one who asks.
    drop(living);
    fs::remove_file(&path).unwrap();
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    assert_taken(listen(&reactor, &path), &path);
    drop(socket);
    fs::remove_file(&path).unwrap();
    let _living = UnixDatagram::bind(&path).unwrap();
    assert_taken(listen(&reactor, &path), &path);
    assert_taken(datagrams(&reactor, &path), &path);
    assert!(path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let (folder, reactor) = (Folder::new(), reactor());
    let path = folder.socket();
    fs::write(&path, "precious").unwrap();
    assert_taken(listen(&reactor, &path), &path);
    assert_taken(datagrams(&reactor, &path), &path);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    // Nor is a link to one, dead or not.
    let dead = folder.join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    symlink(&dead, &path).unwrap();
    assert_taken(listen(&reactor, &path), &path);
    assert_eq!(folder.entries(), ["dead", "s"]);
}

#[test]
fn of_two_ports_on_a_dead_path_the_second_is_refused() {
    let (folder, reactor) = (Folder::new(), reactor());
    let path = folder.socket();
    drop(UnixListener::bind(&path).unwrap());
    let _port = listen(&reactor, &path).unwrap();
    assert_taken(listen(&reactor, &path), &path);
    drop(UnixStream::connect(&path).unwrap());
}

#[test]
fn a_dead_path_is_left_alone_while_another_program_replaces_one_there() {
    if !works(Command::new("flock").arg("--version"), "flock") {
        return;
    }
    let (folder, reactor) = (Folder::new(), reactor());
    let path = folder.socket();
    drop(UnixListener::bind(&path).unwrap());
    let mut lock = Command::new("flock");
    let mut other = Program::start(lock.arg(folder.path()).args(["-c", "echo locked; read end"]));
    assert_eq!(other.line(), "locked");
    assert_taken(listen(&reactor, &path), &path);
    // Where nothing is in the way, nobody is waited for.
    listen(&reactor, folder.join("free")).unwrap();
    other.say("end");
    other.finish().succeeded();
    listen(&reactor, &path).unwrap();
}

#[test]
fn a_directory_that_is_none_does_not_block() {
    if !works(Command::new("mkfifo").arg("--version"), "mkfifo") {
        return;
    }
    // A loop that is blocked cannot end its own test.
    let _watchdog = watchdog();
    let (folder, reactor) = (Folder::new(), reactor());
    let fifo = folder.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let error = listen(&reactor, fifo.join("s")).unwrap_err();
    assert!(error.to_string().contains("fifo/s"), "{error}");
}

#[test]
fn the_mode_is_what_was_asked_for_whatever_the_umask() {
    let (folder, reactor) = (Folder::new(), reactor());
    let umask = || {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        status.lines().find(|line| line.starts_with("Umask")).map(str::to_owned)
    };
    let before = umask();
    for bits in [0o600, 0o660, 0o666, 0o777, 0o000, 0o222] {
        let (stream, other) = (folder.join("stream"), folder.join("datagrams"));
        let port = listen(&reactor, UnixOptions::new(&stream).mode(bits)).unwrap();
        let datagrams = datagrams(&reactor, UnixDatagramOptions::new(&other).mode(bits)).unwrap();
        assert_eq!((mode(&stream), mode(&other)), (bits, bits), "{bits:o}");
        port.stop_listening();
        datagrams.stop_listening();
        run(&reactor);
    }
    assert_eq!(umask(), before);
}

#[test]
fn a_path_is_at_no_moment_more_open_than_asked() {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        println!("skipped: elsewhere a path begins with what the umask leaves");
        return;
    }
    let (folder, reactor) = (Folder::new(), reactor());
    let path = folder.socket();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0_u32;
            while !over.load(Ordering::Relaxed) {
                if let Ok(found) = fs::symlink_metadata(&path) {
                    looks += 1;
                    let bits = found.permissions().mode() & 0o777;
                    assert_eq!(bits & !0o620, 0, "it was {bits:o}");
                }
            }
            looks
        });
        let mut rounds = 0;
        while rounds < 2_000 && !watcher.is_finished() {
            rounds += 1;
            let port: Box<dyn Fn()> = if rounds % 2 == 0 {
                let port = listen(&reactor, UnixOptions::new(&path).mode(0o620)).unwrap();
                Box::new(move || port.stop_listening())
            } else {
                let options = UnixDatagramOptions::new(&path).mode(0o620);
                let port = datagrams(&reactor, options).unwrap();
                Box::new(move || port.stop_listening())
            };
            port();
            run(&reactor);
        }
        over.store(true, Ordering::Relaxed);
        watcher.join().expect("no bit too many");
    });
}

#[test]
fn modes_that_make_no_sense_are_errors_of_the_call() {
    let (folder, reactor) = (Folder::new(), reactor());
    let error = listen(&reactor, UnixOptions::new(folder.socket()).mode(0o1777)).unwrap_err();
    assert!(matches!(error, ListenError::Option(OptionError::OutOfRange { name: "mode", .. })));
    let options = UnixOptions::new(UnixAddr::abstract_name("n")).mode(0o600);
    let error = listen(&reactor, options).unwrap_err().to_string();
    assert!(error.contains("abstract") || error.contains("peer_credentials"), "{error}");
    assert!(folder.entries().is_empty());
}

#[test]
fn a_path_too_long_is_a_clear_error_and_the_longest_works() {
    let (folder, reactor) = (Folder::new(), reactor());
    let dir = folder.path().as_os_str().len() + 1;
    let longest = folder.join(&"l".repeat(107 - dir));
    let port = listen(&reactor, &longest).expect("107 bytes fit");
    drop(UnixStream::connect(&longest).expect("it listens"));
    port.stop_listening();
    run(&reactor);
    let long = folder.join(&"l".repeat(108 - dir));
    let target = long.clone();
    for error in [
        listen(&reactor, &long).unwrap_err().to_string(),
        datagrams(&reactor, &long).unwrap_err().to_string(),
        reactor.connect_unix(target, |_: PeerAddr| Some(Quiet)).unwrap_err().to_string(),
    ] {
        assert!(error.contains("too long") && error.contains("lll"), "{error}");
    }
    for address in ["", "a\0b"] {
        let error = listen(&reactor, address).unwrap_err();
        assert!(matches!(error, ListenError::Address(_)), "{error:?}");
    }
    assert!(folder.entries().is_empty());
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let (folder, reactor) = (Folder::new(), reactor());
    let path = folder.join("no/such/place");
    let error = listen(&reactor, &path).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("no/such/place"), "{error}");
}

#[test]
fn abstract_names_have_no_file_and_are_free_when_the_port_is_closed() {
    if !has_abstract_names() {
        return;
    }
    let (folder, reactor) = (Folder::new(), reactor());
    let name = name(&folder);
    for _ in 0..2 {
        let port = listen(&reactor, name.as_str()).unwrap();
        assert_eq!(port.unix_addr().unwrap(), UnixAddr::from(&name));
        let error = listen(&reactor, name.as_str()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("@/"), "{error}");
        port.stop_listening();
        run(&reactor);
    }
    let port = datagrams(&reactor, name.as_str()).unwrap();
    assert_eq!(port.local_addr().unwrap().as_abstract_name(), Some(&name.as_bytes()[1..]));
    assert!(folder.entries().is_empty());
}
