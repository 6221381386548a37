//! The way out: from a write call to the port's outbox, or straight to the socket.

use std::io::IoSlice;
use std::net::SocketAddr;

use super::family::MIN_MAX_PAYLOAD;
use super::outbox::{Completion, Payload};
use super::port::Port;
use super::{DatagramTransport, QueuePolicy, SendOptions};
use crate::agenda::Agenda;
use crate::callback::CallbackResult;
use crate::error::WriteError;
use crate::inner::Inner;
use crate::net::{Control, Outgoing, SendBatch, SocketOption};
use crate::slots::Key;

impl DatagramTransport {
    /// Sends `payload` to the port's peer. It leaves before the loop waits again, in order with
    /// all else that is written; `Ok` says that it is on its way.
    ///
    /// # Errors
    /// [`WriteError::DestinationRequired`] without a peer, `TooLong`, `QueueFull`, `Closed`. What
    /// the system finds wrong later goes to
    /// [`write_failed`](crate::DatagramProtocol::write_failed).
    pub fn write(&self, payload: &[u8]) -> Result<(), WriteError> {
        let is_done = |port: &mut Port, agenda: &mut Agenda, _: &Inner| {
            port.enqueue_plain(payload, None, agenda)
        };
        match self.with(is_done) {
            Some(true) => Ok(()),
            _ => self.enqueue_slowly(payload, None),
        }
    }

    /// Sends `payload` to `destination`, as [`write`](Self::write) does.
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`WriteError::IsConnected`] on a port with a peer,
    /// `WrongFamily`, and `BroadcastNotAllowed` for 255.255.255.255.
    #[inline]
    pub fn write_to(&self, payload: &[u8], destination: SocketAddr) -> Result<(), WriteError> {
        // A result that may hold an error is slow to hand on.
        let is_done = |port: &mut Port, agenda: &mut Agenda, _: &Inner| {
            port.enqueue_plain(payload, Some(&destination), agenda)
        };
        match self.with(is_done) {
            Some(true) => Ok(()),
            _ => self.enqueue_slowly(payload, Some(destination)),
        }
    }

    /// Sends the pieces as one datagram to the port's peer.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`WriteError::NoBuffers`] for an empty list.
    pub fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> Result<(), WriteError> {
        self.enqueue(gather(pieces)?, SendOptions::new(), None)
    }

    /// Sends the pieces as one datagram to `destination`.
    ///
    /// ```
    /// # use std::io::IoSlice;
    /// # use strand_reactor::*;
    /// # struct Quiet;
    /// # impl DatagramProtocol for Quiet {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, d: Datagram<'_>)
    /// #     -> anyhow::Result<()> { assert_eq!(d.payload(), b"head body"); Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_udp("127.0.0.1:0", Quiet)?;
    /// let pieces = [IoSlice::new(b"head "), IoSlice::new(b"body")];
    /// port.write_vectored_to(&pieces, port.local_addr()?)?;
    /// while port.stats()?.datagrams_in == 0 {
    ///     reactor.iterate(None)?;
    /// }
    /// assert_eq!(port.stats()?.callback_panics, 0);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`write_to`](Self::write_to); [`WriteError::NoBuffers`] for an empty list.
    pub fn write_vectored_to(
        &self,
        pieces: &[IoSlice<'_>],
        destination: SocketAddr,
    ) -> Result<(), WriteError> {
        self.enqueue(gather(pieces)?, SendOptions::to(destination), None)
    }

    /// Sends `payload` as `options` say: destination, source address, interface, hop limit, ECN.
    ///
    /// # Errors
    /// As [`write_to`](Self::write_to); [`WriteError::Unsupported`] where the system cannot
    /// choose these per datagram.
    pub fn write_with(&self, payload: &[u8], options: &SendOptions) -> Result<(), WriteError> {
        self.enqueue(Payload::Copied(payload), *options, None)
    }

    /// Sends `payload` and calls `done` from the loop, once, with the bytes handed to the system
    /// or the error. `destination` is a `SocketAddr`, or `None` for the port's peer. Failures are
    /// then told to `done` alone, not to `write_failed`.
    ///
    /// # Errors
    /// As [`write_to`](Self::write_to); `done` is then dropped without a call.
    pub fn write_then<F, R>(
        &self,
        payload: &[u8],
        destination: impl Into<Option<SocketAddr>>,
        done: F,
    ) -> Result<(), WriteError>
    where
        F: FnOnce(Result<usize, WriteError>) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let done = completion(done);
        self.enqueue(Payload::Copied(payload), options_to(destination), Some(done))
    }

    /// As [`write_then`](Self::write_then), for pieces that make one datagram.
    ///
    /// # Errors
    /// As [`write_then`](Self::write_then); [`WriteError::NoBuffers`] for an empty list.
    pub fn write_vectored_then<F, R>(
        &self,
        pieces: &[IoSlice<'_>],
        destination: impl Into<Option<SocketAddr>>,
        done: F,
    ) -> Result<(), WriteError>
    where
        F: FnOnce(Result<usize, WriteError>) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let done = completion(done);
        self.enqueue(gather(pieces)?, options_to(destination), Some(done))
    }

    /// Hands `payload` to the system before it returns, or not at all; returns its length.
    ///
    /// # Errors
    /// [`WriteError::WouldBlock`] if anything written before still waits, or the system has no
    /// room; [`WriteError::Io`] for what the system says; else as [`write`](Self::write).
    pub fn try_write(&self, payload: &[u8]) -> Result<usize, WriteError> {
        self.try_send(payload, None)
    }

    /// As [`try_write`](Self::try_write), to `destination`.
    ///
    /// # Errors
    /// As [`try_write`](Self::try_write) and [`write_to`](Self::write_to).
    pub fn try_write_to(
        &self,
        payload: &[u8],
        destination: SocketAddr,
    ) -> Result<usize, WriteError> {
        self.try_send(payload, Some(destination))
    }

    /// Hands datagrams to the system before it returns, in order, until one is refused. Returns
    /// how many were sent: exactly the first ones.
    ///
    /// # Errors
    /// When not even the first could be sent: why, as [`try_write`](Self::try_write) says.
    pub fn try_write_batch(
        &self,
        datagrams: &[(&[u8], Option<SocketAddr>)],
    ) -> Result<usize, WriteError> {
        self.with(|port, agenda, _| {
            port.flush_unless_blocked(agenda);
            if !port.outbox.is_empty() {
                return Err(WriteError::WouldBlock);
            }
            let mut sent = 0;
            // In pieces, to bound the memory that the copies take.
            for piece in datagrams.chunks(64) {
                let (mut queue, mut own) = (Vec::with_capacity(piece.len()), Vec::new());
                let mut invalid = None;
                for (payload, to) in piece {
                    match port.admit(payload.len(), &options_to(*to)) {
                        Ok(to) => {
                            queue.push(Outgoing::one(own.len(), payload.len(), to));
                            own.extend_from_slice(payload);
                        }
                        Err(error) => {
                            invalid = Some(error);
                            break;
                        }
                    }
                }
                let count = match port.send_now(
                    &SendBatch { queue: &queue, own: &own, lent: &[], merge: port.merges() },
                    agenda,
                ) {
                    Ok(count) => count,
                    Err(error) if sent == 0 => return Err(error),
                    Err(_) => return Ok(sent),
                };
                sent += count;
                match invalid {
                    Some(error) if sent == 0 => return Err(error),
                    None if count == piece.len() => {}
                    _ => return Ok(sent),
                }
            }
            Ok(sent)
        })
        .unwrap_or(Err(WriteError::Closed))
    }

    /// Offers everything written so far to the system now, instead of when the callback ends.
    ///
    /// # Errors
    /// [`WriteError::WouldBlock`] if some still waits for room; [`WriteError::Closed`].
    pub fn flush(&self) -> Result<(), WriteError> {
        self.with(|port, agenda, _| {
            port.flush(agenda);
            if port.outbox.is_empty() { Ok(()) } else { Err(WriteError::WouldBlock) }
        })
        .unwrap_or(Err(WriteError::Closed))
    }

    /// Datagrams written and not yet taken by the system; 0 once closed.
    pub fn queued_datagrams(&self) -> usize {
        self.with(|port, _, _| port.outbox.len()).unwrap_or(0)
    }

    /// Bytes of the payloads written and not yet taken by the system; 0 once closed.
    pub fn queued_bytes(&self) -> usize {
        self.with(|port, _, _| port.outbox.bytes()).unwrap_or(0)
    }

    /// Apart, so that the short way needs no room for what it does.
    #[cold]
    fn enqueue_slowly(&self, payload: &[u8], to: Option<SocketAddr>) -> Result<(), WriteError> {
        self.enqueue(Payload::Copied(payload), options_to(to), None)
    }

    fn enqueue(
        &self,
        payload: Payload<'_>,
        options: SendOptions,
        completion: Option<Completion>,
    ) -> Result<(), WriteError> {
        let mut completion = completion;
        let result =
            self.with(|port, agenda, _| port.enqueue(payload, &options, &mut completion, agenda));
        // A completion that will not be called is user code to drop, with nothing borrowed.
        drop(completion);
        result.unwrap_or(Err(WriteError::Closed))
    }

    fn try_send(&self, payload: &[u8], to: Option<SocketAddr>) -> Result<usize, WriteError> {
        self.with(|port, agenda, _| {
            let to = port.admit(payload.len(), &options_to(to))?;
            port.flush_unless_blocked(agenda);
            if !port.outbox.is_empty() {
                return Err(WriteError::WouldBlock);
            }
            let queue = [Outgoing::one(0, payload.len(), to)];
            port.send_now(
                &SendBatch { queue: &queue, own: payload, lent: &[], merge: false },
                agenda,
            )?;
            Ok(payload.len())
        })
        .unwrap_or(Err(WriteError::Closed))
    }
}

fn completion<F, R>(done: F) -> Completion
where
    F: FnOnce(Result<usize, WriteError>) -> R + 'static,
    R: CallbackResult + 'static,
{
    Box::new(move |result| done(result).into_result())
}

fn options_to(destination: impl Into<Option<SocketAddr>>) -> SendOptions {
    SendOptions { to: destination.into(), ..SendOptions::new() }
}

fn gather<'a>(pieces: &'a [IoSlice<'a>]) -> Result<Payload<'a>, WriteError> {
    if pieces.is_empty() { Err(WriteError::NoBuffers) } else { Ok(Payload::Pieces(pieces)) }
}

/// A payload that lies in the buffers being delivered to this very port is sent from there.
#[inline]
fn in_place<'a>(payload: Payload<'a>, key: Key, agenda: &Agenda) -> Payload<'a> {
    if let Payload::Copied(bytes) = payload
        && !bytes.is_empty()
        && let Some(lent) = &agenda.lent
        && lent.key == key
        && let Some(start) = bytes.as_ptr().addr().checked_sub(lent.data.as_ptr().addr())
        && start + bytes.len() <= lent.data.len()
    {
        return Payload::Lent { start, len: bytes.len() };
    }
    payload
}

impl Port {
    /// The checks that every write passes, and the destination as the socket takes it.
    #[inline(always)]
    fn admit(&self, len: usize, options: &SendOptions) -> Result<Option<SocketAddr>, WriteError> {
        let to = match (self.peer, options.to) {
            (None, Some(to)) => match self.family.admit(to) {
                Some(to) => Some(to),
                None => return Err(WriteError::WrongFamily { address: to, family: self.family }),
            },
            (Some(_), None) => None,
            (Some(peer), Some(to))
                if options.is_reply && (peer.ip(), peer.port()) == (to.ip(), to.port()) =>
            {
                None
            }
            (Some(peer), Some(_)) => return Err(WriteError::IsConnected { peer: peer.into() }),
            (None, None) => return Err(WriteError::DestinationRequired),
        };
        let max = self.family.max_payload(to.or(self.peer));
        if len > max {
            return Err(WriteError::TooLong { len, max });
        }
        if to.as_ref().is_some_and(is_limited_broadcast)
            && self.socket.option(SocketOption::Broadcast).is_ok_and(|allowed| allowed == 0)
        {
            return Err(WriteError::BroadcastNotAllowed);
        }
        if !options.control.is_none() && !self.capabilities.send_options {
            return Err(WriteError::Unsupported { name: "source, interface, hop limit or ECN" });
        }
        Ok(to)
    }

    /// Queues a datagram, and flushes when that is due.
    fn enqueue(
        &mut self,
        payload: Payload<'_>,
        options: &SendOptions,
        completion: &mut Option<Completion>,
        agenda: &mut Agenda,
    ) -> Result<(), WriteError> {
        let len = payload.len();
        let to = self.admit(len, options)?;
        if self.is_full(len) {
            self.flush_unless_blocked(agenda);
            while self.is_full(len) {
                match self.queue_policy {
                    QueuePolicy::Error => {
                        let (datagrams, bytes) = (self.outbox.len(), self.outbox.bytes());
                        return Err(WriteError::QueueFull { datagrams, bytes });
                    }
                    QueuePolicy::DropNewest => {
                        let dropped = Outgoing::one(0, len, to);
                        self.stats.queue_dropped += 1;
                        self.fail(dropped, completion.take(), WriteError::Dropped, agenda);
                        return Ok(());
                    }
                    QueuePolicy::DropOldest => self.drop_oldest(agenda),
                }
            }
        }
        if let Some(completion) = completion.take() {
            self.outbox.complete_next(completion);
        }
        let control = Some(&options.control).filter(|control| !control.is_none());
        self.append(payload, to.as_ref(), control, agenda);
        if self.blocked {
            self.note_waiting(agenda);
        }
        Ok(())
    }

    /// Queues a datagram that was admitted, and flushes when that is due.
    #[inline]
    fn append(
        &mut self,
        payload: Payload<'_>,
        to: Option<&SocketAddr>,
        control: Option<&Control>,
        agenda: &mut Agenda,
    ) {
        let payload = in_place(payload, self.key, agenda);
        self.outbox.push(&payload, to, control, self.merges(), &mut agenda.spares);
        agenda.queued += 1;
        self.make_dirty(agenda);
        if self.outbox.is_due() && !self.blocked {
            self.flush(agenda);
        }
    }

    /// The short way of what most writes are, with nothing to convert, to ask or to refuse. False,
    /// and nothing done, if this is no such write.
    #[inline]
    fn enqueue_plain(
        &mut self,
        payload: &[u8],
        to: Option<&SocketAddr>,
        agenda: &mut Agenda,
    ) -> bool {
        let is_addressed = match to {
            Some(to) => self.peer.is_none() && self.family.takes(to) && !is_limited_broadcast(to),
            None => self.peer.is_some(),
        };
        let is_plain = is_addressed
            && payload.len() <= MIN_MAX_PAYLOAD
            && !self.blocked
            && !self.is_full(payload.len());
        if is_plain {
            self.append(Payload::Copied(payload), to, None, agenda);
        }
        is_plain
    }

    fn note_waiting(&mut self, agenda: &mut Agenda) {
        let waiting = self.outbox.len() as u64;
        self.stats.queue_high_water = self.stats.queue_high_water.max(waiting);
        self.check_watermarks(agenda);
    }
}

#[inline]
fn is_limited_broadcast(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(to) => to.ip().is_broadcast(),
        SocketAddr::V6(to) => to.ip().to_ipv4_mapped().is_some_and(|v4| v4.is_broadcast()),
    }
}
