//! The rules of streams, which hold over UNIX sockets as over TCP.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use strand_reactor::{ConnectionLost, ConnectionState, Flow, PeerAddr, StreamLayer, UnixOptions};

use crate::program::{Program, has_python};
use crate::support::{
    Folder, Recorder, WATCHDOG, against, assert_last, count, log, pair, pattern, reactor, run,
    turn_until,
};

fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an orderly end");
    all
}

#[test]
fn every_byte_arrives_in_both_directions_and_both_are_told_once() {
    let (log, client_log) = (log(), log());
    let data = pattern(4 << 20);
    let into = Rc::new(RefCell::new(Vec::new()));
    let sent = data.clone();
    pair(
        Recorder::new(&log).data(|transport, data| Ok(transport.write(data)?)),
        Recorder::new(&client_log).collect(&into).made(move |transport| {
            transport.write(&sent)?;
            transport.lose_write();
            Ok(())
        }),
    );
    assert!(*into.borrow() == data, "the bytes differ");
    assert_last(&log, "lost: Done");
    assert_last(&client_log, "lost: Done");
    assert_eq!((count(&log, "lost: Done"), count(&client_log, "lost: Done")), (1, 1));
}

#[test]
fn a_fin_does_not_cut_what_is_queued_for_its_sender() {
    let log = log();
    let data = pattern(3 << 20);
    let sent = data.clone();
    let got = against(
        Recorder::new(&log).half(move |transport| {
            transport.write(&sent)?;
            transport.lose_connection();
            Ok(())
        }),
        |mut stream| {
            stream.shutdown(Shutdown::Write).unwrap();
            read_all(&mut stream)
        },
    );
    assert!(got == data, "{} of {} bytes", got.len(), data.len());
    assert_last(&log, "lost: Done");
}

#[test]
fn each_half_is_closed_by_itself() {
    let log = log();
    let into = Rc::new(RefCell::new(Vec::new()));
    let (first, rest) = against(
        Recorder::new(&log).collect(&into).made(|transport| {
            transport.write(b"that was all")?;
            transport.lose_write();
            assert_eq!(transport.state(), ConnectionState::WriteClosed);
            Ok(())
        }),
        |mut stream| {
            let first = read_all(&mut stream);
            stream.write_all(b"but I go on").unwrap();
            drop(stream);
            (first, ())
        },
    );
    assert_eq!((first.as_slice(), rest), (&b"that was all"[..], ()));
    assert_eq!(*into.borrow(), b"but I go on");
    assert_eq!(*log.borrow(), ["made", "write lost", "read lost", "lost: Done"]);
}

#[test]
fn closing_leaves_the_peer_all_that_was_written_though_its_own_words_are_unread() {
    let log = log();
    let data = pattern(1 << 20);
    let sent = data.clone();
    let got = against(
        Recorder::new(&log).made(move |transport| {
            transport.pause_reading()?;
            transport.write(&sent)?;
            transport.lose_connection();
            Ok(())
        }),
        |mut stream| {
            stream.write_all(b"nobody reads this").unwrap();
            read_all(&mut stream)
        },
    );
    assert!(got == data, "{} of {} bytes", got.len(), data.len());
    assert_last(&log, "lost: Done");
}

#[test]
fn an_abort_drops_what_waits_and_ends_both_sides() {
    let log = log();
    let (tell, told) = std::sync::mpsc::channel();
    let got = against(
        Recorder::new(&log)
            .made(|transport| {
                transport.write(&pattern(8 << 20))?;
                transport.abort_connection();
                Ok(())
            })
            .lost(move |_| tell.send(()).expect("the peer waits")),
        move |mut stream| {
            // The system holds some of it, and was never asked to take the rest.
            told.recv_timeout(WATCHDOG).expect("it was lost");
            let mut all = Vec::new();
            // An end or a reset: UNIX sockets have no other word for it.
            let _ = stream.read_to_end(&mut all);
            all.len()
        },
    );
    assert!(got < 8 << 20, "{got} bytes came through");
    assert_last(&log, "lost: Aborted");
}

#[test]
fn a_peer_that_hangs_up_on_unread_words_is_a_reset() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let notes = Rc::clone(&log);
    let port = reactor
        .listen_unix(folder.socket(), move |_: PeerAddr| {
            Some(Recorder::new(&notes).made(|transport| Ok(transport.write(b"unread")?)))
        })
        .unwrap();
    let client = UnixStream::connect(folder.socket()).unwrap();
    turn_until(&reactor, || {
        reactor.streams().first().is_some_and(|stream| stream.stats().unwrap().bytes_out == 6)
    });
    drop(client);
    turn_until(&reactor, || reactor.streams().is_empty());
    port.stop_listening();
    run(&reactor);
    if cfg!(any(target_os = "linux", target_os = "android")) {
        assert_last(&log, "lost: Reset");
    }
}

#[test]
fn a_paused_connection_notices_that_its_peer_hung_up_on_it() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let notes = Rc::clone(&log);
    let port = reactor
        .listen_unix(folder.socket(), move |_: PeerAddr| {
            Some(Recorder::new(&notes).made(|transport| {
                transport.pause_reading()?;
                Ok(transport.write(&pattern(4 << 20))?)
            }))
        })
        .unwrap();
    let mut client = UnixStream::connect(folder.socket()).unwrap();
    turn_until(&reactor, || count(&log, "pause") == 1);
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    turn_until(&reactor, || reactor.streams().is_empty());
    port.stop_listening();
    run(&reactor);
    assert_last(&log, "lost: Reset");
}

#[test]
fn watermarks_are_told_once_per_crossing() {
    let log = log();
    let data = pattern(2 << 20);
    let (sent, expected) = (data.clone(), data.len());
    let got = against(
        Recorder::new(&log).made(move |transport| Ok(transport.write(&sent)?)).resume(
            |transport| {
                transport.lose_connection();
                Ok(())
            },
        ),
        move |mut stream| read_all(&mut stream).len() == expected,
    );
    assert!(got);
    assert_eq!((count(&log, "pause"), count(&log, "resume")), (1, 1), "{log:?}");
}

#[test]
fn a_write_limit_is_a_typed_error() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let seen = Rc::new(Cell::new(false));
    let (tell, notes) = (Rc::clone(&seen), Rc::clone(&log));
    let options = UnixOptions::new(folder.socket()).write_limit(1000);
    reactor
        .listen_unix(options, move |_: PeerAddr| {
            let tell = Rc::clone(&tell);
            Some(Recorder::new(&notes).made(move |transport| {
                // The system takes some, and then no more.
                let error = loop {
                    if let Err(error) = transport.write(&[0; 1000]) {
                        break error;
                    }
                };
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                tell.set(true);
                transport.abort_connection();
                Ok(())
            }))
        })
        .unwrap();
    let _client = UnixStream::connect(folder.socket()).unwrap();
    turn_until(&reactor, || seen.get());
}

#[test]
fn a_shutdown_sends_what_waits_first() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let data = pattern(2 << 20);
    let (sent, notes) = (data.clone(), Rc::clone(&log));
    reactor
        .listen_unix(folder.socket(), move |_: PeerAddr| {
            let sent = sent.clone();
            Some(Recorder::new(&notes).made(move |transport| {
                transport.write(&sent)?;
                transport.reactor().stop();
                Ok(())
            }))
        })
        .unwrap();
    let path = folder.socket();
    let peer = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        read_all(&mut stream)
    });
    run(&reactor);
    assert!(peer.join().unwrap() == data, "the bytes differ");
    assert_last(&log, "lost: Done");
    assert!(folder.entries().is_empty());
}

#[test]
fn a_failing_callback_closes_its_connection_with_its_error() {
    let log = log();
    let got = against(
        Recorder::new(&log).data(|transport, _| {
            transport.write(b"last words")?;
            anyhow::bail!("enough")
        }),
        |mut stream| {
            stream.write_all(b"x").unwrap();
            read_all(&mut stream)
        },
    );
    assert_eq!(got, b"last words");
    assert_last(&log, "lost: enough");
}

/// Turns every byte around.
struct Mirror;

impl StreamLayer for Mirror {
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.deliver(&data.iter().map(|byte| !byte).collect::<Vec<_>>());
        Ok(())
    }

    fn written(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(&data.iter().map(|byte| !byte).collect::<Vec<_>>());
        Ok(())
    }
}

#[test]
fn layers_do_not_know_what_they_run_over() {
    let log = log();
    let back = against(
        Recorder::new(&log).made(|transport| Ok(transport.push_layer(Mirror)?)).data(
            |transport, data| {
                assert!(data.is_ascii());
                Ok(transport.write(data)?)
            },
        ),
        |mut stream| {
            stream.write_all(&b"mirrored".map(|byte| !byte)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_all(&mut stream)
        },
    );
    assert_eq!(back, b"mirrored".map(|byte| !byte));
}

/// Sends descriptors and urgent data between the bytes: each ends a read of the system early.
const RUDE_PEER: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
pipe = os.pipe()
for byte in b"abc":
    socket.send_fds(s, [bytes([byte])], [pipe[1]])
    s.send(b"-")
os.close(pipe[1])
try:
    s.send(b"!", socket.MSG_OOB)
except OSError:
    pass
s.send(b"end")
print("sent", flush=True)
sys.stdin.readline()
# The end comes when nobody has the other end open any more.
os.read(pipe[0], 1)
print("closed", flush=True)
sys.stdin.readline()
"#;

#[test]
fn descriptors_among_the_data_neither_stop_it_nor_stay_open() {
    if !has_python() {
        return;
    }
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let into = Rc::new(RefCell::new(Vec::new()));
    let (collect, notes) = (Rc::clone(&into), Rc::clone(&log));
    let options = UnixOptions::new(folder.socket()).start_paused(true);
    let port = reactor
        .listen_unix(options, move |_: PeerAddr| Some(Recorder::new(&notes).collect(&collect)))
        .unwrap();
    let mut peer = Program::start(
        std::process::Command::new("python3").args(["-c", RUDE_PEER]).arg(folder.socket()),
    );
    assert_eq!(peer.line(), "sent");
    // All of it waits, so that no later event helps.
    port.resume_accepting().unwrap();
    turn_until(&reactor, || into.borrow().ends_with(b"end"));
    assert_eq!(into.borrow().iter().filter(|byte| **byte != b'!').count(), b"a-b-c-end".len());
    assert_eq!(reactor.streams().len(), 1);
    peer.say("read");
    assert_eq!(peer.line(), "closed");
    peer.say("done");
    turn_until(&reactor, || reactor.streams().is_empty());
    assert!(
        matches!(log.borrow().last(), Some(last) if *last == format!("lost: {:?}", ConnectionLost::Done))
    );
}
