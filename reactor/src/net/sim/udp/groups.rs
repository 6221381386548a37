//! Multicast: memberships and their source filters (RFC 3376, RFC 3678), with the refusals of
//! `ip_mc_join_group` and `ip_mc_source` of Linux.

use std::io;
use std::net::IpAddr;

use super::super::host::{HostId, LOOPBACK};
use super::super::network::Net;
use super::State;
use crate::datagram::SourceFilter;
use crate::net::{self, GroupRequest};

/// Groups that one socket may join (`net.ipv4.igmp_max_memberships`), and sources that one filter
/// may have (`net.ipv4.igmp_max_msf`).
const MOST_GROUPS: usize = 20;
const MOST_SOURCES: usize = 10;

/// A group that a socket has joined on an interface.
pub(super) struct Membership {
    group: IpAddr,
    interface: u32,
    /// Hears these sources alone; otherwise all but these.
    include: bool,
    sources: Vec<IpAddr>,
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl State {
    /// Whether its memberships let in what `source` sends to `group`; what is no group, they do
    /// not concern.
    pub(super) fn lets_in(&self, group: IpAddr, source: IpAddr, interface: u32) -> bool {
        if !group.is_multicast() {
            return true;
        }
        let memberships = self.memberships.borrow();
        let at = |joined: &&Membership| joined.group == group && joined.interface == interface;
        match memberships.iter().find(at) {
            Some(joined) => joined.sources.contains(&source) == joined.include,
            None => self.options.borrow().multicast_all,
        }
    }

    pub(super) fn change_membership(
        &self,
        net: &mut Net,
        host: HostId,
        request: GroupRequest,
        at: &net::Membership,
    ) -> io::Result<()> {
        let interface = net.group_interface(host, at.group, at.interface)?;
        let memberships = &mut *self.memberships.borrow_mut();
        let place = memberships
            .iter()
            .position(|joined| joined.group == at.group && joined.interface == interface);
        let leave = |net: &mut Net, memberships: &mut Vec<Membership>, place| {
            memberships.remove(place);
            net.groups.leave(at.group, host, interface);
        };
        let (Some(source), _) = (at.source, request) else {
            return match (request, place) {
                (GroupRequest::Join, Some(_)) => Err(errno(libc::EADDRINUSE)),
                (GroupRequest::Join, None) => {
                    self.join(net, host, memberships, (at.group, interface), false).map(drop)
                }
                (_, Some(place)) => {
                    leave(net, memberships, place);
                    Ok(())
                }
                (_, None) => Err(errno(libc::EADDRNOTAVAIL)),
            };
        };
        let place = match (request, place) {
            (_, Some(place)) => place,
            (GroupRequest::JoinSource, None) => {
                self.join(net, host, memberships, (at.group, interface), true)?
            }
            (_, None) => return Err(errno(libc::EINVAL)),
        };
        let joined = &mut memberships[place];
        let including = matches!(request, GroupRequest::JoinSource | GroupRequest::LeaveSource);
        if joined.include != including {
            // An empty filter may change its kind.
            if !joined.sources.is_empty() {
                return Err(errno(libc::EINVAL));
            }
            joined.include = including;
        }
        let known = joined.sources.iter().position(|known| *known == source);
        match request {
            GroupRequest::JoinSource | GroupRequest::BlockSource if known.is_some() => {
                Err(errno(libc::EADDRNOTAVAIL))
            }
            GroupRequest::JoinSource | GroupRequest::BlockSource => {
                if joined.sources.len() >= MOST_SOURCES {
                    return Err(errno(libc::ENOBUFS));
                }
                joined.sources.push(source);
                Ok(())
            }
            _ => {
                joined.sources.remove(known.ok_or_else(|| errno(libc::EADDRNOTAVAIL))?);
                if joined.include && joined.sources.is_empty() {
                    leave(net, memberships, place);
                }
                Ok(())
            }
        }
    }

    fn join(
        &self,
        net: &mut Net,
        host: HostId,
        memberships: &mut Vec<Membership>,
        (group, interface): (IpAddr, u32),
        include: bool,
    ) -> io::Result<usize> {
        let of_family =
            memberships.iter().filter(|joined| joined.group.is_ipv4() == group.is_ipv4());
        // IPv6 has no such limit.
        if group.is_ipv4() && of_family.count() >= MOST_GROUPS {
            return Err(errno(libc::ENOBUFS));
        }
        memberships.push(Membership { group, interface, include, sources: Vec::new() });
        net.groups.join(group, host, interface);
        Ok(memberships.len() - 1)
    }

    pub(super) fn source_filter(&self, group: IpAddr, interface: u32) -> Option<SourceFilter> {
        let memberships = self.memberships.borrow();
        let joined = memberships
            .iter()
            .find(|joined| joined.group == group && joined.interface == interface)?;
        let sources = joined.sources.clone();
        Some(match joined.include {
            true => SourceFilter::Include(sources),
            false => SourceFilter::Exclude(sources),
        })
    }

    /// Ends every membership: the socket closes.
    pub(super) fn leave_all(&self, net: &mut Net, host: HostId) {
        for joined in self.memberships.borrow_mut().drain(..) {
            net.groups.leave(joined.group, host, joined.interface);
        }
    }
}

/// Which hosts have joined which groups, on which of their interfaces.
#[derive(Default)]
pub(in crate::net::sim) struct Groups {
    /// Sorted; each with the number of sockets.
    members: std::collections::BTreeMap<(IpAddr, HostId, u32), usize>,
}

impl Groups {
    fn join(&mut self, group: IpAddr, host: HostId, interface: u32) {
        *self.members.entry((group, host, interface)).or_default() += 1;
    }

    fn leave(&mut self, group: IpAddr, host: HostId, interface: u32) {
        let key = (group, host, interface);
        if let Some(count) = self.members.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.members.remove(&key);
            }
        }
    }

    /// The members of a group, by host and interface.
    pub(super) fn of(&self, group: IpAddr) -> impl Iterator<Item = (HostId, u32)> {
        let first = (group, HostId(0), 0);
        let last = (group, HostId(u32::MAX), u32::MAX);
        self.members.range(first..=last).map(|((_, host, interface), _)| (*host, *interface))
    }

    pub(super) fn has(&self, group: IpAddr, host: HostId, interface: u32) -> bool {
        self.members.contains_key(&(group, host, interface))
    }
}

impl Net {
    /// The interface of a request: as named, or else the first that is not loopback.
    pub(super) fn group_interface(
        &self,
        host: HostId,
        group: IpAddr,
        interface: u32,
    ) -> io::Result<u32> {
        let state = self.host(host);
        match interface {
            0 => state.first_interface(group).ok_or_else(|| errno(libc::ENODEV)),
            LOOPBACK => Ok(LOOPBACK),
            index if state.has_interface(index) => Ok(index),
            _ => Err(errno(libc::ENODEV)),
        }
    }
}
