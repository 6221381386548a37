//! quinn-udp: batches with GRO, answers with GSO where what was received allows; mio tells when.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use side_by_side::peer::{Command, Counter, not_offered, udp};

fn main() -> io::Result<()> {
    let command = Command::parse("gro");
    match command.kind.as_str() {
        "udp-echo" => serve(command.port, None),
        "udp-sink" => serve(command.port, Some(Counter::default())),
        _ => not_offered(),
    }
}

struct Peer {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Peer {
    fn send(&self, to: SocketAddr, contents: &[u8], segment_size: Option<usize>) {
        let transmit =
            Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
        // What cannot be sent is lost: UDP.
        let _ = self.state.send((&self.socket).into(), &transmit);
    }

    fn echo(&self, message: &[u8], meta: &RecvMeta) {
        let stride = meta.stride.max(1);
        let most = self.state.max_gso_segments().max(1);
        for part in message.chunks(stride * most) {
            self.send(meta.addr, part, (part.len() > stride).then_some(stride));
        }
    }
}

fn serve(port: u16, mut counter: Option<Counter>) -> io::Result<()> {
    let socket = udp(port)?;
    let state = UdpSocketState::new((&socket).into())?;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(16));
    let fd = socket.as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
    let peer = Peer { socket, state };
    let mut buffers = vec![vec![0; 65_536]; BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    loop {
        if poll.poll(&mut events, None).is_err() {
            continue;
        }
        loop {
            let mut slices: Vec<_> =
                buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let received = peer.state.recv((&peer.socket).into(), &mut slices, &mut metas);
            let Ok(count) = received else { break };
            for (meta, buffer) in metas[..count].iter().zip(&buffers) {
                let message = &buffer[..meta.len];
                let Some(counter) = &mut counter else {
                    peer.echo(message, meta);
                    continue;
                };
                for datagram in message.chunks(meta.stride.max(1)) {
                    if let Some(answer) = counter.datagram(datagram) {
                        peer.send(meta.addr, &answer, None);
                    }
                }
            }
        }
    }
}
