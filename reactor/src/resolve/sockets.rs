//! The sockets of the executor's tasks.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_io::{AsyncRead, AsyncWrite};

use super::executor::{Executor, GivenUp, Shared, current};
use super::order::connected_udp;
use crate::inner::Inner;
use crate::net::{DatagramSocket, Outgoing, RecvBatch, SendBatch, StreamSocket};
use crate::slots::{Key, Kind};

/// A socket in its slot.
pub(crate) struct Socket {
    io: Io,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

enum Io {
    Datagram {
        socket: Rc<dyn DatagramSocket>,
        /// Datagrams taken from the system together with one that was asked for.
        inbox: VecDeque<(Box<[u8]>, SocketAddr)>,
    },
    Stream(Rc<dyn StreamSocket>),
}

/// A future's hand on its socket.
struct Hand {
    key: Key,
    shared: Arc<Shared>,
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.shared.give_up(GivenUp::Socket(self.key));
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the reactor is gone")
}

impl Hand {
    fn new(inner: &Inner, io: Io) -> Self {
        let key =
            inner.executor.sockets.borrow_mut().insert(Socket { io, reader: None, writer: None });
        Self { key, shared: inner.executor.shared() }
    }

    fn datagram(&self, inner: &Inner) -> io::Result<Rc<dyn DatagramSocket>> {
        match inner.executor.sockets.borrow().get(self.key).map(|socket| &socket.io) {
            Some(Io::Datagram { socket, .. }) => Ok(Rc::clone(socket)),
            _ => Err(gone()),
        }
    }

    fn stream(&self, inner: &Inner) -> io::Result<Rc<dyn StreamSocket>> {
        match inner.executor.sockets.borrow().get(self.key).map(|socket| &socket.io) {
            Some(Io::Stream(socket)) => Ok(Rc::clone(socket)),
            _ => Err(gone()),
        }
    }

    /// What a call that may block returned; if it would, the next event wakes the task.
    fn wait<T>(
        &self,
        inner: &Inner,
        cx: &Context<'_>,
        side: fn(&mut Socket) -> &mut Option<Waker>,
        result: io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let waker = cx.waker().clone();
                let mut sockets = inner.executor.sockets.borrow_mut();
                let former = sockets.get_mut(self.key).and_then(|it| side(it).replace(waker));
                drop(sockets);
                drop(former);
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }
}

fn reader(socket: &mut Socket) -> &mut Option<Waker> {
    &mut socket.reader
}

fn writer(socket: &mut Socket) -> &mut Option<Waker> {
    &mut socket.writer
}

impl Executor {
    /// Something happened on a socket; false when it is gone.
    pub(crate) fn event(&self, token: usize, readable: bool, writable: bool) -> bool {
        let (reader, writer) = {
            let mut sockets = self.sockets.borrow_mut();
            let Some(key) = sockets.key_of(token) else { return false };
            let Some(socket) = sockets.get_mut(key) else { return false };
            (
                readable.then(|| socket.reader.take()).flatten(),
                writable.then(|| socket.writer.take()).flatten(),
            )
        };
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
        true
    }
}

/// A UDP socket with a peer: what others send is dropped by the system, and a refusal is told.
pub(super) struct Udp(Hand);

impl Udp {
    pub(super) fn open(local: SocketAddr, peer: SocketAddr) -> io::Result<Self> {
        let inner = current().ok_or_else(gone)?;
        let token = inner.executor.sockets.borrow().next_key().token(Kind::Task);
        let socket = connected_udp(&inner, Some(local), peer, token)?;
        Ok(Self(Hand::new(&inner, Io::Datagram { socket, inbox: VecDeque::new() })))
    }

    pub(super) fn poll_receive(
        &self,
        cx: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let inner = current().ok_or_else(gone)?;
        let socket = self.0.datagram(&inner)?;
        loop {
            if !inner.executor.may_read() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some((payload, source)) = self.take_received(&inner) {
                let len = payload.len().min(buffer.len());
                buffer[..len].copy_from_slice(&payload[..len]);
                return Poll::Ready(Ok((len, source)));
            }
            let batch = inner.core.borrow_mut().batches.pop();
            let mut batch = batch.unwrap_or_else(RecvBatch::new);
            let received = socket.receive(1, &mut batch);
            if received.is_ok() {
                self.keep_received(&inner, &batch);
            }
            inner.core.borrow_mut().batches.push(batch);
            match self.0.wait(&inner, cx, reader, received) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn take_received(&self, inner: &Inner) -> Option<(Box<[u8]>, SocketAddr)> {
        let mut sockets = inner.executor.sockets.borrow_mut();
        match &mut sockets.get_mut(self.0.key)?.io {
            Io::Datagram { inbox, .. } => inbox.pop_front(),
            Io::Stream(_) => None,
        }
    }

    fn keep_received(&self, inner: &Inner, batch: &RecvBatch) {
        let mut sockets = inner.executor.sockets.borrow_mut();
        let Some(Socket { io: Io::Datagram { inbox, .. }, .. }) = sockets.get_mut(self.0.key)
        else {
            return;
        };
        // One message; the kernel may have merged several datagrams into it.
        if let Some(message) = batch.messages.first() {
            let data = &batch.data[..message.len];
            inbox.extend(data.chunks(message.segment).map(|part| (part.into(), message.source)));
        }
    }

    pub(super) fn poll_send(&self, cx: &Context<'_>, payload: &[u8]) -> Poll<io::Result<usize>> {
        let inner = current().ok_or_else(gone)?;
        let socket = self.0.datagram(&inner)?;
        let datagram = Outgoing::one(0, payload.len(), None);
        let sent =
            socket.send(&SendBatch { queue: &[datagram], own: payload, lent: &[], merge: false });
        if matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            socket.watch_writable(true)?;
        }
        self.0.wait(&inner, cx, writer, sent.map(|_| payload.len()))
    }
}

/// A TCP connection, or the attempt at one.
pub(super) struct Tcp(Hand);

impl Tcp {
    pub(super) fn begin(peer: SocketAddr, bind: Option<SocketAddr>) -> io::Result<Self> {
        let inner = current().ok_or_else(gone)?;
        let token = inner.executor.sockets.borrow().next_key().token(Kind::Task);
        let socket = inner.driver.borrow_mut().connect_stream(peer, bind, token)?;
        Ok(Self(Hand::new(&inner, Io::Stream(socket))))
    }

    /// Ready when the attempt ended.
    pub(super) fn poll_connected(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let inner = current().ok_or_else(gone)?;
        let stream = self.0.stream(&inner)?;
        let state = match stream.take_error()? {
            Some(error) => Err(error),
            None => match stream.peer_addr() {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                other => other.map(|_| ()),
            },
        };
        self.0.wait(&inner, cx, writer, state)
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let inner = current().ok_or_else(gone)?;
        if !inner.executor.may_read() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = self.0.stream(&inner)?.read(buffer);
        self.0.wait(&inner, cx, reader, read)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = current().ok_or_else(gone)?;
        let written = self.0.stream(&inner)?.write(data);
        self.0.wait(&inner, cx, writer, written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = current().ok_or_else(gone)?;
        Poll::Ready(self.0.stream(&inner)?.shutdown(std::net::Shutdown::Write))
    }
}
