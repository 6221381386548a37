//! What hickory asks of a runtime, answered by the reactor's loop.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};

use super::executor::{Sleep, current};
use super::sockets::{Tcp, Udp};

/// How long a TCP connection may take, if hickory does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The loop, as hickory's runtime: everything goes to the reactor whose task is being polled.
#[derive(Clone)]
pub(super) struct Loop;

impl RuntimeProvider for Loop {
    type Handle = Self;
    type Timer = Self;
    type Udp = Udp;
    type Tcp = Tcp;

    fn create_handle(&self) -> Self {
        Self
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Tcp>>>> {
        let connect = async move {
            let stream = Tcp::begin(server, bind)?;
            poll_fn(|cx| stream.poll_connected(cx)).await?;
            Ok(stream)
        };
        Box::pin(async move { within(timeout.unwrap_or(CONNECT_TIMEOUT), connect).await? })
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Udp>>>> {
        Box::pin(async move { Udp::open(local, server) })
    }
}

impl Spawn for Loop {
    fn spawn_bg(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        if let Some(inner) = current() {
            inner.executor.spawn(Box::pin(future));
        }
    }
}

#[async_trait]
impl Time for Loop {
    async fn delay_for(duration: Duration) {
        Sleep::new(duration).await;
    }

    async fn timeout<F: 'static + Future + Send>(
        duration: Duration,
        future: F,
    ) -> io::Result<F::Output> {
        within(duration, future).await
    }
}

/// Waits for `future`, but no longer than `duration`.
async fn within<F: Future>(duration: Duration, future: F) -> io::Result<F::Output> {
    let mut future = pin!(future);
    let mut sleep = Sleep::new(duration);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let over = Pin::new(&mut sleep).poll(cx);
        over.map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")))
    })
    .await
}

impl DnsUdpSocket for Udp {
    type Time = Loop;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        self.poll_receive(cx, buffer)
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        payload: &[u8],
        _: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, payload)
    }
}

impl DnsTcpStream for Tcp {
    type Time = Loop;
}
