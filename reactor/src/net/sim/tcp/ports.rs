//! Who may bind where, and the sizes of buffers: ip(7), tcp(7), socket(7).

use std::ops::RangeInclusive;

use super::address::{Place, Tuple};
use super::incoming::TIME_WAIT;
use super::stack::Stack;

/// `net.ipv4.ip_local_port_range`.
pub(super) const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
/// An ended connection is no obstacle to one from the same port after this (`tcp_tw_reuse`).
const REUSE_AFTER: u64 = 1_000_000_000;

/// The size of buffers unless set. As in Linux half of it is room for data.
pub(super) const BUFFER: usize = 131_072;
/// That to send over loopback: Linux makes it as large as twenty of its long segments need, at
/// most `net.ipv4.tcp_wmem`, as soon as the connection is open. All of it takes data.
pub(super) const LOOPBACK_SEND: usize = 4 << 20;
/// `net.core.rmem_max` and `wmem_max`.
const MOST_ASKED: usize = 4 << 20;
/// `SOCK_MIN_RCVBUF`, `SOCK_MIN_SNDBUF`.
const LEAST_RECV: usize = 2_304;
const LEAST_SEND: usize = 4_608;

/// The receive buffer granted when this is asked for: Linux doubles.
pub(super) fn recv_buffer(asked: usize) -> usize {
    (asked.min(MOST_ASKED) * 2).max(LEAST_RECV)
}

/// The send buffer granted when this is asked for.
pub(super) fn send_buffer(asked: usize) -> usize {
    (asked.min(MOST_ASKED) * 2).max(LEAST_SEND)
}

/// What a socket allows to others at its port.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sharing {
    pub(super) address: bool,
    pub(super) port: bool,
    /// The interface that it is confined to; 0 for none.
    pub(super) device: u32,
}

impl Stack {
    /// Whether a socket may be bound there.
    pub(super) fn is_free(&self, now: u64, place: Place, port: u16, sharing: Sharing) -> bool {
        let listeners = self.by_port.get(&port).into_iter().flatten();
        let is_taken = listeners.filter_map(|key| self.listeners.get(*key)).any(|listener| {
            let apart = [listener.device, sharing.device].iter().all(|device| *device != 0)
                && listener.device != sharing.device;
            listener.place.overlaps(&place) && !(sharing.port && listener.reuse_port) && !apart
        });
        let mut tuples = self.by_tuple.range(Tuple::of_port(port));
        let mut remembered = self.remembered.range(Tuple::of_port(port));
        !is_taken
            && !tuples.any(|(tuple, key)| {
                let reuse = self.connections.get(*key).is_some_and(|connection| connection.reuse);
                place.covers(tuple.local) && !(reuse && sharing.address)
            })
            && !remembered.any(|(tuple, old)| {
                place.covers(tuple.local)
                    && now < old.since + TIME_WAIT
                    && !(old.reuse && sharing.address)
            })
    }

    /// A port to listen on, by the system's choice.
    pub(super) fn free_port(&mut self, now: u64, place: Place) -> Option<u16> {
        self.find_port(|stack, port| stack.is_free(now, place, port, Sharing::default()))
    }

    /// A port to connect from: any with which the connection is the only one of its addresses, and
    /// that nobody listens on.
    pub(super) fn port_to(&mut self, now: u64, mut tuple: Tuple) -> Option<u16> {
        self.find_port(|stack, port| {
            tuple.local_port = port;
            !stack.by_port.contains_key(&port) && stack.may_connect(now, &tuple)
        })
    }

    /// Whether there is no connection of these addresses, and there was none just now.
    pub(super) fn may_connect(&self, now: u64, tuple: &Tuple) -> bool {
        !self.by_tuple.contains_key(tuple)
            && self.remembered.get(tuple).is_none_or(|old| now >= old.since + REUSE_AFTER)
    }

    fn find_port(&mut self, mut is_free: impl FnMut(&Self, u16) -> bool) -> Option<u16> {
        for _ in EPHEMERAL {
            self.ephemeral = match self.ephemeral {
                port if port >= *EPHEMERAL.end() => *EPHEMERAL.start(),
                port => port + 1,
            };
            if is_free(self, self.ephemeral) {
                return Some(self.ephemeral);
            }
        }
        None
    }
}
