//! The pending error of a socket (`SO_ERROR`) and its error queue, as `__udp4_lib_err`,
//! `ip_icmp_error` and `sock_dequeue_err_skb` of Linux handle them.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::super::packet::{IcmpError, IcmpKind};
use super::{State, charge};
use crate::net::{Origin, QueuedError};

#[derive(Default)]
pub(super) struct Errors {
    /// 0: none.
    pending: i32,
    queue: VecDeque<Report>,
}

struct Report {
    errno: i32,
    origin: Origin,
    icmp_type: u8,
    icmp_code: u8,
    info: u32,
    offender: Option<IpAddr>,
    destination: SocketAddr,
}

/// What a report takes of the receive buffer.
const CHARGE: usize = 768;

impl Errors {
    pub(super) fn is_pending(&self) -> bool {
        self.pending != 0
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Empties the queue; returns the room that it took.
    pub(super) fn purge(&mut self) -> usize {
        let freed = self.queue.len() * CHARGE;
        self.queue.clear();
        freed
    }
}

/// Type and code on the wire, the errno, and whether it is fatal to the association.
fn wire(kind: IcmpKind, v4: bool) -> (u8, u8, i32, bool) {
    if v4 {
        match kind {
            IcmpKind::NetUnreachable => (3, 0, libc::ENETUNREACH, false),
            IcmpKind::HostUnreachable => (3, 1, libc::EHOSTUNREACH, false),
            IcmpKind::PortUnreachable => (3, 3, libc::ECONNREFUSED, true),
            IcmpKind::TooBig { .. } => (3, 4, libc::EMSGSIZE, true),
            IcmpKind::AdminProhibited => (3, 13, libc::EHOSTUNREACH, true),
            IcmpKind::TimeExceeded => (11, 0, libc::EHOSTUNREACH, false),
        }
    } else {
        match kind {
            IcmpKind::NetUnreachable => (1, 0, libc::ENETUNREACH, false),
            IcmpKind::AdminProhibited => (1, 1, libc::EACCES, true),
            IcmpKind::HostUnreachable => (1, 3, libc::EHOSTUNREACH, false),
            IcmpKind::PortUnreachable => (1, 4, libc::ECONNREFUSED, true),
            IcmpKind::TooBig { .. } => (2, 0, libc::EMSGSIZE, false),
            IcmpKind::TimeExceeded => (3, 0, libc::EHOSTUNREACH, false),
        }
    }
}

impl State {
    /// A report about a datagram of this socket has come; tells whether that is an event.
    pub(super) fn reported(&self, by: IpAddr, report: &IcmpError) -> bool {
        let destination = report.about_destination;
        let v4 = destination.is_ipv4();
        let (icmp_type, icmp_code, errno, mut fatal) = wire(report.kind, v4);
        let (error_queue, path_mtu) = {
            let options = self.options.borrow();
            (options.error_queue, options.path_mtu)
        };
        let mut info = 0;
        if let IcmpKind::TooBig { mtu } = report.kind {
            if path_mtu == 0 {
                // The socket lets its datagrams be fragmented.
                return false;
            }
            fatal = v4 || path_mtu == 2;
            info = mtu;
        }
        if error_queue {
            let origin = if v4 { Origin::Icmp } else { Origin::Icmp6 };
            let offender = Some(by);
            let entry = Report { errno, origin, icmp_type, icmp_code, info, offender, destination };
            self.enqueue(entry);
        } else if !(fatal && self.peer.get().is_some()) {
            return false;
        }
        self.errors.borrow_mut().pending = errno;
        true
    }

    /// A datagram is too long to be sent: the queue tells so, too.
    pub(super) fn too_long(&self, destination: SocketAddr, mtu: u32) -> bool {
        if !self.options.borrow().error_queue {
            return false;
        }
        self.enqueue(Report {
            errno: libc::EMSGSIZE,
            origin: Origin::Local,
            icmp_type: 0,
            icmp_code: 0,
            info: mtu,
            offender: None,
            destination,
        });
        true
    }

    /// A full receive buffer has no room for reports.
    fn enqueue(&self, report: Report) {
        if self.charged.get() + CHARGE < self.options.borrow().recv_buffer as usize {
            self.charged.set(self.charged.get() + CHARGE);
            self.errors.borrow_mut().queue.push_back(report);
        }
    }

    pub(super) fn next_error(&self) -> Option<QueuedError> {
        let errors = &mut *self.errors.borrow_mut();
        let report = errors.queue.pop_front()?;
        self.charged.set(self.charged.get() - CHARGE);
        let is_icmp = |report: &Report| matches!(report.origin, Origin::Icmp | Origin::Icmp6);
        match errors.queue.front().filter(|next| is_icmp(next)) {
            Some(next) => errors.pending = next.errno,
            None if is_icmp(&report) => errors.pending = 0,
            None => {}
        }
        Some(QueuedError {
            error: io::Error::from_raw_os_error(report.errno),
            origin: report.origin,
            icmp_type: report.icmp_type,
            icmp_code: report.icmp_code,
            info: report.info,
            offender: report.offender.map(|ip| self.shown_ip(ip)),
            destination: Some(self.shown(report.destination)),
        })
    }

    /// Fetches and clears the pending error.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        match std::mem::take(&mut self.errors.borrow_mut().pending) {
            0 => None,
            errno => Some(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Room for a datagram of this length, if there is any.
    pub(super) fn admits(&self, len: usize) -> bool {
        let admits = self.charged.get() <= self.options.borrow().recv_buffer as usize;
        if admits {
            self.charged.set(self.charged.get() + charge(len));
        } else {
            self.drops.set(self.drops.get().wrapping_add(1));
        }
        admits
    }
}
