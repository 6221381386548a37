//! A record of what the programs of a host send.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::super::error::HostError;
use super::super::host::HostId;
use super::super::world::World;
use crate::datagram::SendOptions;
use crate::net::SendBatch;

/// Records what the programs of one host send, from [`World::record`] until its last clone goes:
/// each datagram with its destination and options, and the bytes of each stream. What a socket
/// refuses is not recorded; what the network loses afterwards is.
///
/// ```
/// # use strand_reactor::*;
/// # struct P;
/// # impl DatagramProtocol for P {
/// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
/// #     -> anyhow::Result<()> { Ok(()) }
/// # }
/// use std::time::Duration;
/// use strand_reactor::SendOptions;
/// use strand_reactor::sim::World;
///
/// let world = World::new(1);
/// let host = world.host("a", "10.0.0.1")?;
/// let recorder = world.record("a")?;
/// let to = "10.0.0.2:53".parse()?;
/// host.listen_udp(9, P)?.write_with(b"hello", &SendOptions::to(to).hop_limit(1))?;
/// world.run_for(Duration::ZERO)?;
///
/// let sent = &recorder.datagrams()[0];
/// assert_eq!((sent.payload.as_slice(), sent.to), (&b"hello"[..], to));
/// assert_eq!(sent.options, SendOptions::to(to).hop_limit(1));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Recorder {
    tape: Rc<RefCell<Tape>>,
}

/// A datagram that a program has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentDatagram {
    /// When, since the world was made.
    pub at: Duration,
    /// The address of the port. Its IP is unspecified if the port was bound so.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// What was asked of it; the destination is always told.
    pub options: SendOptions,
    /// The payload.
    pub payload: Vec<u8>,
}

/// What a program has written to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrittenStream {
    /// Its own end.
    pub from: SocketAddr,
    /// The other end.
    pub to: SocketAddr,
    /// The bytes that the socket has taken.
    pub bytes: Vec<u8>,
    /// Nothing comes after them: the writing side was shut down.
    pub is_ended: bool,
    /// Tells connections apart that have had the same ends.
    token: usize,
}

#[derive(Default)]
struct Tape {
    datagrams: Vec<SentDatagram>,
    streams: Vec<WrittenStream>,
}

impl Recorder {
    /// The datagrams so far, in the order in which they were sent.
    pub fn datagrams(&self) -> Vec<SentDatagram> {
        self.tape.borrow().datagrams.clone()
    }

    /// Their payloads.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl DatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let pair = sim::pair(1, P, P)?;
    /// pair.client().write(b"one")?;
    /// pair.client().write(b"two")?;
    /// while pair.step()? {}
    /// assert_eq!(pair.sent_by_client().payloads(), [b"one", b"two"]);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn payloads(&self) -> Vec<Vec<u8>> {
        self.tape.borrow().datagrams.iter().map(|sent| sent.payload.clone()).collect()
    }

    /// What was written to streams, in the order of their first writes.
    pub fn streams(&self) -> Vec<WrittenStream> {
        self.tape.borrow().streams.clone()
    }

    /// The bytes of all streams, one after the other: of one stream, what was written to it.
    ///
    /// ```
    /// use strand_reactor::{Protocol, Transport, sim};
    ///
    /// struct Greet;
    /// impl Protocol for Greet {
    ///     fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
    ///         transport.write(b"220 ready\r\n")?;
    ///         Ok(())
    ///     }
    ///     fn data_received(&mut self, transport: &Transport, _: &[u8]) -> anyhow::Result<()> {
    ///         transport.lose_connection();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let pair = sim::stream_pair(1, Greet, Greet)?;
    /// while pair.step()? {}
    /// assert_eq!(pair.sent_by_server().written(), b"220 ready\r\n");
    /// assert!(pair.sent_by_server().streams()[0].is_ended);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn written(&self) -> Vec<u8> {
        self.tape.borrow().streams.iter().flat_map(|stream| stream.bytes.clone()).collect()
    }

    /// Forgets what was sent so far.
    pub fn clear(&self) {
        drop(self.tape.take());
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tape = self.tape.borrow();
        f.debug_struct("Recorder")
            .field("datagrams", &tape.datagrams)
            .field("streams", &tape.streams)
            .finish()
    }
}

impl World {
    /// Records from now on what the programs of a host send. Several may record one host; a
    /// restart does not end the record.
    ///
    /// # Errors
    /// [`HostError::Unknown`].
    pub fn record(&self, host: &str) -> Result<Recorder, HostError> {
        let id = self.find(host)?;
        let tape = Rc::default();
        self.net.borrow_mut().tapes.running.entry(id).or_default().push(Rc::downgrade(&tape));
        Ok(Recorder { tape })
    }
}

/// The records that are being made in a world.
#[derive(Default)]
pub(in super::super) struct Tapes {
    /// By host: what one sends is the business of its own alone.
    running: BTreeMap<HostId, Vec<Weak<RefCell<Tape>>>>,
}

impl Tapes {
    #[inline]
    pub(in super::super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    fn each(&mut self, host: HostId, mut note: impl FnMut(&mut Tape)) {
        let Some(tapes) = self.running.get_mut(&host) else { return };
        tapes.retain(|tape| match tape.upgrade() {
            Some(tape) => {
                note(&mut tape.borrow_mut());
                true
            }
            None => false,
        });
        if tapes.is_empty() {
            self.running.remove(&host);
        }
    }

    /// The first datagrams of a batch were sent.
    pub(in super::super) fn datagrams(
        &mut self,
        (now, host): (u64, HostId),
        (from, peer): (SocketAddr, Option<SocketAddr>),
        batch: &SendBatch<'_>,
        sent: usize,
    ) {
        let at = Duration::from_nanos(now);
        self.each(host, |tape| {
            for datagram in batch.datagrams().take(sent) {
                let Some(to) = datagram.to.or(peer) else { continue };
                let options = SendOptions { control: datagram.control, ..SendOptions::to(to) };
                let payload = batch.payload(&datagram).to_vec();
                tape.datagrams.push(SentDatagram { at, from, to, options, payload });
            }
        });
    }

    /// Of these pieces so many bytes were written to a stream.
    pub(in super::super) fn bytes(
        &mut self,
        host: HostId,
        stream: &StreamName,
        pieces: &[IoSlice<'_>],
        written: usize,
    ) {
        self.each(host, |tape| {
            let bytes = &mut tape.stream(stream).bytes;
            let end = bytes.len() + written;
            pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
            bytes.truncate(end);
        });
    }

    /// The writing side of a stream was shut down.
    pub(in super::super) fn end(&mut self, host: HostId, stream: &StreamName) {
        self.each(host, |tape| tape.stream(stream).is_ended = true);
    }
}

/// Which stream: its token, and its ends.
pub(in super::super) struct StreamName {
    pub(in super::super) token: usize,
    pub(in super::super) from: SocketAddr,
    pub(in super::super) to: SocketAddr,
}

impl Tape {
    fn stream(&mut self, name: &StreamName) -> &mut WrittenStream {
        let &StreamName { token, from, to } = name;
        let is_it = |s: &WrittenStream| (s.token, s.from, s.to) == (token, from, to);
        let place = self.streams.iter().rposition(is_it).unwrap_or_else(|| {
            let (bytes, is_ended) = (Vec::new(), false);
            self.streams.push(WrittenStream { from, to, bytes, is_ended, token });
            self.streams.len() - 1
        });
        &mut self.streams[place]
    }
}
