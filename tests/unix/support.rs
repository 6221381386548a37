//! Paths of a test's own, and the ways to run a protocol over UNIX sockets.

use std::cell::OnceCell;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use strand_reactor::{Handle, ListeningPort, PeerAddr, Reactor, UnixOptions};

pub use crate::recorder::{Log, Recorder, assert_last, count, log, note, pattern};

/// Bounds every test: a hang is a failure. Nothing is ever timed by it.
pub const WATCHDOG: Duration = Duration::from_secs(120);

fn hang(handle: &Handle) {
    handle.stop();
    panic!("the test hangs");
}

pub fn reactor() -> Reactor {
    let reactor = Reactor::new().expect("a reactor");
    reactor.call_later(WATCHDOG, hang).unref();
    reactor
}

/// Runs until nothing is left that could call back.
#[track_caller]
pub fn run(reactor: &Reactor) {
    reactor.run().expect("the loop runs");
    assert_eq!(reactor.stats().callback_panics, 0, "a callback panicked");
}

/// Turns until `done`.
#[track_caller]
pub fn turn_until(reactor: &Reactor, mut done: impl FnMut() -> bool) {
    while !done() {
        reactor.iterate(Some(Duration::from_millis(20))).expect("a turn");
        assert_eq!(reactor.stats().callback_panics, 0, "a callback panicked, or the test hangs");
    }
}

/// A directory that is gone with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("strand-unix-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a socket may be put.
    pub fn socket(&self) -> PathBuf {
        self.join("s")
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The names in it.
    pub fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("a directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A name of the abstract namespace that is the caller's own.
pub fn name(folder: &Folder) -> String {
    format!("\0{}", folder.path().display())
}

/// Says why, if abstract names cannot be had.
pub fn has_abstract_names() -> bool {
    let has = cfg!(any(target_os = "linux", target_os = "android"));
    if !has {
        println!("skipped: this system has no abstract names");
    }
    has
}

/// A port of `reactor` that accepts one connection, for `protocol`, and closes.
pub fn once(reactor: &Handle, options: impl Into<UnixOptions>, protocol: Recorder) {
    let own = Rc::new(OnceCell::<ListeningPort>::new());
    let (mut protocol, this) = (Some(protocol), Rc::clone(&own));
    let port = reactor
        .listen_unix(options.into(), move |_: PeerAddr| {
            this.get().expect("open").stop_listening();
            protocol.take()
        })
        .expect("a port");
    own.set(port).expect("set once");
}

/// A server and a client of the same loop, until both are lost.
#[track_caller]
pub fn pair(server: Recorder, client: Recorder) -> Reactor {
    let folder = Folder::new();
    pair_with(folder.socket().into(), server, client)
}

#[track_caller]
pub fn pair_with(options: UnixOptions, server: Recorder, client: Recorder) -> Reactor {
    let (reactor, path) = (reactor(), OnceCell::new());
    once(&reactor, options, server);
    let port = reactor.listening_ports().pop().expect("open");
    path.set(port.unix_addr().expect("bound")).expect("set once");
    let mut client = Some(client);
    let target = path.into_inner().expect("set");
    reactor.connect_unix(target, move |_: PeerAddr| client.take()).expect("an attempt");
    run(&reactor);
    assert!(reactor.streams().is_empty());
    reactor
}

/// A server, and a plain socket of the system on a thread.
#[track_caller]
pub fn against<R: Send + 'static>(
    server: Recorder,
    peer: impl FnOnce(UnixStream) -> R + Send + 'static,
) -> R {
    let folder = Folder::new();
    let (reactor, path) = (reactor(), folder.socket());
    once(&reactor, &path, server);
    let peer = std::thread::spawn(move || {
        let stream = UnixStream::connect(path).expect("a connection");
        stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
        peer(stream)
    });
    // The port closes once it has accepted.
    turn_until(&reactor, || {
        peer.is_finished() && reactor.listening_ports().is_empty() && reactor.streams().is_empty()
    });
    // What is still to be told.
    run(&reactor);
    peer.join().expect("the peer is content")
}
