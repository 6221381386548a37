//! Multicast: memberships and their source filters (RFC 3376, RFC 3678), with the refusals of
//! `ip_mc_join_group` and `ip_mc_source` of Linux.

use std::collections::BTreeMap;
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
#[derive(Clone)]
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
        // IPv6 looks for the youngest, wherever it was joined (`inet6_mc_check`).
        let at = |joined: &&Membership| {
            joined.group == group && (group.is_ipv6() || joined.interface == interface)
        };
        match memberships.iter().rev().find(at) {
            Some(joined) => joined.lets_in(source),
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
        let find = |memberships: &[Membership]| {
            let mut places = memberships.iter();
            places.position(|joined| joined.group == at.group && joined.interface == interface)
        };
        let place = find(memberships);
        let before = place.map(|place| memberships[place].clone());
        change(memberships, place, request, at, interface)?;
        let after = find(memberships).map(|place| &memberships[place]);
        net.groups.replace((at.group, host, interface), before.as_ref(), after);
        Ok(())
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
            let place = (joined.group, host, joined.interface);
            net.groups.replace(place, Some(&joined), None);
        }
    }
}

/// Does what was asked for to the memberships of a socket, or nothing; `place` has the one that is
/// concerned.
fn change(
    memberships: &mut Vec<Membership>,
    place: Option<usize>,
    request: GroupRequest,
    at: &net::Membership,
    interface: u32,
) -> io::Result<()> {
    let Some(source) = at.source else {
        return match (request, place) {
            (GroupRequest::Join, Some(_)) => Err(errno(libc::EADDRINUSE)),
            (GroupRequest::Join, None) => join(memberships, (at.group, interface), false).map(drop),
            (_, Some(place)) => {
                memberships.remove(place);
                Ok(())
            }
            (_, None) => Err(errno(libc::EADDRNOTAVAIL)),
        };
    };
    let place = match (request, place) {
        (_, Some(place)) => place,
        (GroupRequest::JoinSource, None) => join(memberships, (at.group, interface), true)?,
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
                memberships.remove(place);
            }
            Ok(())
        }
    }
}

fn join(
    memberships: &mut Vec<Membership>,
    (group, interface): (IpAddr, u32),
    include: bool,
) -> io::Result<usize> {
    let of_family = memberships.iter().filter(|joined| joined.group.is_ipv4() == group.is_ipv4());
    // IPv6 has no such limit.
    if group.is_ipv4() && of_family.count() >= MOST_GROUPS {
        return Err(errno(libc::ENOBUFS));
    }
    memberships.push(Membership { group, interface, include, sources: Vec::new() });
    Ok(memberships.len() - 1)
}

impl Membership {
    fn lets_in(&self, source: IpAddr) -> bool {
        self.sources.contains(&source) == self.include
    }
}

/// Names a group on an interface of a host.
type Place = (IpAddr, HostId, u32);

/// Which hosts have joined which groups, on which of their interfaces.
#[derive(Default)]
pub(in crate::net::sim) struct Groups {
    /// Sorted.
    members: BTreeMap<Place, Merged>,
}

/// What the sockets of a host want together (RFC 3376, 3.2).
#[derive(Default)]
struct Merged {
    sockets: usize,
    /// Those that hear all but some sources.
    excluding: usize,
    /// Sources, with the number of sockets that want this one, and that do not.
    included: BTreeMap<IpAddr, usize>,
    excluded: BTreeMap<IpAddr, usize>,
}

impl Merged {
    fn lists(&mut self, joined: &Membership) -> &mut BTreeMap<IpAddr, usize> {
        if joined.include { &mut self.included } else { &mut self.excluded }
    }

    fn add(&mut self, joined: &Membership) {
        self.sockets += 1;
        self.excluding += usize::from(!joined.include);
        let counts = self.lists(joined);
        for source in &joined.sources {
            *counts.entry(*source).or_default() += 1;
        }
    }

    fn take(&mut self, joined: &Membership) {
        self.sockets -= 1;
        self.excluding -= usize::from(!joined.include);
        let counts = self.lists(joined);
        for source in &joined.sources {
            if let Some(count) = counts.get_mut(source) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(source);
                }
            }
        }
    }

    /// Whether some socket wants it (`ip_check_mc_rcu`, `ipv6_chk_mcast_addr`).
    fn lets_in(&self, source: IpAddr) -> bool {
        let unwilling = self.excluded.get(&source).copied().unwrap_or(0);
        self.included.contains_key(&source) || unwilling != self.excluding
    }
}

impl Groups {
    /// A membership of a socket has come, has changed, or has gone.
    fn replace(&mut self, place: Place, old: Option<&Membership>, new: Option<&Membership>) {
        let merged = self.members.entry(place).or_default();
        // In this order, so that the counts never fall below 0.
        if let Some(new) = new {
            merged.add(new);
        }
        if let Some(old) = old {
            merged.take(old);
        }
        if merged.sockets == 0 {
            self.members.remove(&place);
        }
    }

    /// The members of a group that hear a source, by host and interface.
    pub(super) fn of(&self, group: IpAddr, source: IpAddr) -> impl Iterator<Item = (HostId, u32)> {
        let first = (group, HostId(0), 0);
        let last = (group, HostId(u32::MAX), u32::MAX);
        let those = self.members.range(first..=last);
        let hear = those.filter(move |(_, merged)| merged.lets_in(source));
        hear.map(|((_, host, interface), _)| (*host, *interface))
    }

    /// Whether a host is a member and hears a source.
    pub(super) fn hears(&self, place: Place, source: IpAddr) -> bool {
        self.members.get(&place).is_some_and(|merged| merged.lets_in(source))
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
