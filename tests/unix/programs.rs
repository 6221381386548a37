//! The example, and programs of others that speak over UNIX sockets.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::rc::Rc;

use strand_reactor::PeerAddr;

use crate::program::{Program, start, works};
use crate::support::{Folder, Recorder, has_abstract_names, log, pattern, reactor, turn_until};

fn has_socat() -> bool {
    works(Command::new("socat").arg("-V"), "socat")
}

/// The example, listening.
fn serve(folder: &Folder, more: &[&str]) -> Program {
    let path = folder.socket().display().to_string();
    let server = start("unix_echo", &[&["--listen", &path], more].concat());
    assert_eq!(server.line_after("echoing on "), path);
    server
}

#[test]
fn unix_echo_answers_with_the_mode_asked_for() {
    let folder = Folder::new();
    let server = serve(&folder, &["--mode", "620"]);
    let bits = std::fs::metadata(folder.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(bits, 0o620);
    let mut stream = UnixStream::connect(folder.socket()).unwrap();
    let data = pattern(1 << 20);
    let (mut writer, sent) = (stream.try_clone().unwrap(), data.clone());
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == data, "{} bytes came back", back.len());
    let client = server.line_after("a client of user ");
    assert!(client.contains(&std::process::id().to_string()), "{client}");
}

#[test]
fn unix_echo_refuses_what_makes_no_sense() {
    let folder = Folder::new();
    let path = folder.socket().display().to_string();
    for (arguments, parts) in [
        (&["--mode", "999"][..], &["--mode", "999", "octal"][..]),
        (&["--listen", &"l".repeat(200)], &["lll", "too long"]),
        (&["--listen", "/no/such/directory/s"], &["/no/such/directory/s"]),
        (&["--listen", "@name", "--mode", "600"], &["mode bits"]),
    ] {
        let text = start("unix_echo", arguments).finish().failed();
        for part in parts {
            assert!(text.contains(part), "{arguments:?} does not name {part:?}: {text}");
        }
    }
    let _server = serve(&folder, &[]);
    let text = start("unix_echo", &["--listen", &path]).finish().failed();
    assert!(text.contains(&path) && text.contains("in use"), "{text}");
}

/// Sends a file's worth through the echo and back.
fn socat_gets_it_back(address: &str) {
    let mut socat = Command::new("socat")
        .args(["-t", "60", "-", address])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("socat");
    let data = pattern(1 << 20);
    let (mut input, sent) = (socat.stdin.take().unwrap(), data.clone());
    let writing = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut back = Vec::new();
    socat.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(socat.wait().unwrap().success());
    assert!(back == data, "{} bytes came back", back.len());
}

#[test]
fn socat_gets_back_what_it_sent() {
    if !has_socat() {
        return;
    }
    let folder = Folder::new();
    let _server = serve(&folder, &[]);
    socat_gets_it_back(&format!("UNIX-CONNECT:{}", folder.socket().display()));
}

#[test]
fn socat_reaches_an_abstract_name() {
    if !has_socat() || !has_abstract_names() {
        return;
    }
    let folder = Folder::new();
    let name = folder.path().display().to_string();
    let server = start("unix_echo", &["--listen", &format!("@{name}")]);
    server.line_after("echoing on @");
    socat_gets_it_back(&format!("ABSTRACT-CONNECT:{name}"));
}

#[test]
fn socat_is_answered_by_datagrams() {
    if !has_socat() {
        return;
    }
    let folder = Folder::new();
    let _server = serve(&folder, &["--datagrams"]);
    let client = folder.join("client");
    let address = format!("UNIX-SENDTO:{},bind={}", folder.socket().display(), client.display());
    let mut socat = Program::start(Command::new("socat").args(["-", &address]));
    socat.say("a datagram");
    assert_eq!(socat.line(), "a datagram");
}

#[test]
fn a_client_of_ours_talks_to_socat() {
    if !has_socat() {
        return;
    }
    let (folder, log) = (Folder::new(), log());
    let path = folder.socket();
    let address = format!("UNIX-LISTEN:{}", path.display());
    let socat = Program::start(Command::new("socat").args([&address, "EXEC:cat"]));
    let reactor = reactor();
    let into = Rc::new(std::cell::RefCell::new(Vec::new()));
    let (collect, target) = (Rc::clone(&into), path);
    // It listens when it is ready, which it does not say: a refusal is asked again.
    let notes = Rc::clone(&log);
    turn_until(&reactor, || {
        if reactor.streams().is_empty() && into.borrow().is_empty() {
            let (notes, collect) = (Rc::clone(&notes), Rc::clone(&collect));
            reactor
                .connect_unix(&target, move |_: PeerAddr| {
                    Some(Recorder::new(&notes).collect(&collect).made(|transport| {
                        transport.write(b"through cat")?;
                        transport.lose_write();
                        Ok(())
                    }))
                })
                .unwrap();
        }
        into.borrow().as_slice() == b"through cat"
    });
    turn_until(&reactor, || reactor.streams().is_empty());
    socat.finish().succeeded();
}
