//! The memberships of a port. The kernel keeps them; what is kept here is only which interfaces
//! [`Interface::Default`] and [`Interface::All`] stood for, which it does not tell.

use std::io;
use std::net::IpAddr;

use super::interface::Place;
use super::port::Port;
use super::{Family, Interface, SourceFilter};
use crate::error::MulticastError;
use crate::interfaces::NetworkInterface;
use crate::net::{GroupRequest, Membership};

/// What was joined without naming one interface.
#[derive(Default)]
pub(crate) struct Joined(Vec<Entry>, Vec<Named>);

/// What was joined by the name or address of an interface. When that is gone only its index tells
/// the kernel which membership is to end.
struct Named {
    on: Interface,
    interface: u32,
    target: Target,
}

struct Entry {
    group: IpAddr,
    source: Option<IpAddr>,
    all: bool,
    interfaces: Vec<u32>,
}

impl Joined {
    fn interfaces(&self, group: IpAddr, all: bool) -> Vec<u32> {
        let of_group = self.0.iter().filter(|entry| entry.group == group && entry.all == all);
        let mut interfaces: Vec<u32> =
            of_group.flat_map(|entry| entry.interfaces.iter().copied()).collect();
        interfaces.sort_unstable();
        interfaces.dedup();
        interfaces
    }

    fn contains(&self, group: IpAddr, source: Option<IpAddr>, all: bool) -> bool {
        self.0
            .iter()
            .any(|entry| entry.group == group && entry.source == source && entry.all == all)
    }

    fn add(&mut self, group: IpAddr, source: Option<IpAddr>, all: bool, interfaces: Vec<u32>) {
        self.0.push(Entry { group, source, all, interfaces });
    }

    /// A membership ended (`source` is `None`), or one source of it did.
    fn forget(&mut self, group: IpAddr, source: Option<IpAddr>, interface: u32) {
        for entry in &mut self.0 {
            if entry.group == group && (source.is_none() || entry.source == source) {
                entry.interfaces.retain(|joined| *joined != interface);
            }
        }
        self.0.retain(|entry| !entry.interfaces.is_empty());
        self.1.retain(|named| {
            named.interface != interface
                || named.target.group != group
                || (source.is_some() && named.target.source != source)
        });
    }

    /// The index of an interface that is gone, for a membership that is to end.
    fn gone(&self, on: &Interface, target: Target) -> Option<u32> {
        match on {
            Interface::Index(index) if *index != 0 => Some(*index),
            on => {
                let mut joined = self.1.iter().rev();
                let same = |named: &&Named| named.on == *on && named.target.group == target.group;
                joined.find(same).map(|named| named.interface)
            }
        }
    }

    /// Ends what `All` stood for.
    fn forget_all(&mut self, group: IpAddr, source: Option<IpAddr>) {
        let ends = |entry: &Entry| {
            entry.all && entry.group == group && (source.is_none() || entry.source == source)
        };
        self.0.retain(|entry| !ends(entry));
    }
}

impl GroupRequest {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Join => "join_group",
            Self::Leave => "leave_group",
            Self::JoinSource => "join_source",
            Self::LeaveSource => "leave_source",
            Self::BlockSource => "block_source",
            Self::UnblockSource => "unblock_source",
        }
    }

    fn joins(self) -> bool {
        matches!(self, Self::Join | Self::JoinSource)
    }

    fn leaves(self) -> bool {
        matches!(self, Self::Leave | Self::LeaveSource)
    }

    fn inverse(self) -> Self {
        match self {
            Self::Join => Self::Leave,
            Self::Leave => Self::Join,
            Self::JoinSource => Self::LeaveSource,
            Self::LeaveSource => Self::JoinSource,
            Self::BlockSource => Self::UnblockSource,
            Self::UnblockSource => Self::BlockSource,
        }
    }
}

/// A group, and a source in the requests about one.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) group: IpAddr,
    pub(super) source: Option<IpAddr>,
}

impl Target {
    /// Mapped addresses are taken for what they stand for.
    pub(super) fn new(
        group: IpAddr,
        source: Option<IpAddr>,
        family: Family,
    ) -> Result<Self, MulticastError> {
        let (group, source) = (group.to_canonical(), source.map(|source| source.to_canonical()));
        if !group.is_multicast() {
            return Err(MulticastError::NotAGroup { address: group });
        }
        if group.is_ipv4() != (family == Family::V4) {
            return Err(MulticastError::WrongFamily { address: group, family });
        }
        if let Some(source) = source {
            if source.is_ipv4() != group.is_ipv4() {
                return Err(MulticastError::MixedFamilies { group, other: source });
            }
            let broadcast = matches!(source, IpAddr::V4(v4) if v4.is_broadcast());
            if source.is_multicast() || source.is_unspecified() || broadcast {
                return Err(MulticastError::NotASource { address: source });
            }
        }
        Ok(Self { group, source })
    }

    fn at(&self, interface: u32) -> Membership {
        Membership { group: self.group, source: self.source, interface }
    }

    pub(super) fn resolve(
        &self,
        on: &Interface,
        present: &[NetworkInterface],
    ) -> Result<Place, MulticastError> {
        match on {
            Interface::Addr(other) if other.to_canonical().is_ipv4() != self.group.is_ipv4() => {
                Err(MulticastError::MixedFamilies { group: self.group, other: *other })
            }
            on => on.resolve(present),
        }
    }
}

impl Port {
    pub(super) fn change_membership(
        &mut self,
        request: GroupRequest,
        target: Target,
        on: &Interface,
        present: &[NetworkInterface],
    ) -> Result<(), MulticastError> {
        let place = match target.resolve(on, present) {
            // The kernel keeps a membership when its interface goes, and counts it.
            Err(MulticastError::UnknownInterface { interface }) if request.leaves() => {
                match self.joined.gone(on, target) {
                    Some(index) => Place::At(index),
                    None => return Err(MulticastError::UnknownInterface { interface }),
                }
            }
            place => place?,
        };
        match place {
            Place::At(interface) => {
                self.change_at(request, target, interface)?;
                if request.joins() && matches!(on, Interface::Name(_) | Interface::Addr(_)) {
                    self.joined.1.push(Named { on: on.clone(), interface, target });
                }
                Ok(())
            }
            Place::Default => self.change_default(request, target, present),
            Place::All(fit) if request.joins() => {
                if self.joined.contains(target.group, target.source, true) {
                    return Err(MulticastError::AlreadyJoined { group: target.group });
                }
                let interfaces = self.change_each(request, target, &fit)?;
                self.joined.add(target.group, target.source, true, interfaces);
                Ok(())
            }
            Place::All(_) => {
                let interfaces = self.joined.interfaces(target.group, true);
                if interfaces.is_empty() {
                    return Err(MulticastError::NotJoined { group: target.group });
                }
                match self.change_each(request, target, &interfaces) {
                    // Left one by one, or gone with their interfaces.
                    Err(error) if error.is_of_one_interface() && request.leaves() => {}
                    other => drop(other?),
                }
                if request.leaves() {
                    self.joined.forget_all(target.group, target.source);
                }
                Ok(())
            }
        }
    }

    /// Makes the change on each interface where it can be made, and tells where it was; on none
    /// if one fails for a reason that is not its own.
    fn change_each(
        &mut self,
        request: GroupRequest,
        target: Target,
        interfaces: &[u32],
    ) -> Result<Vec<u32>, MulticastError> {
        let mut done = Vec::new();
        let mut last = MulticastError::NoInterface { group: target.group };
        for &interface in interfaces {
            match self.change_kernel(request, target, interface) {
                Ok(()) => done.push(interface),
                Err(error) if error.is_of_one_interface() => last = error,
                Err(error) => {
                    for &interface in &done {
                        // What was just possible is so the other way round.
                        let _ = self.change_kernel(request.inverse(), target, interface);
                    }
                    return Err(error);
                }
            }
        }
        if done.is_empty() { Err(last) } else { Ok(done) }
    }

    fn change_default(
        &mut self,
        request: GroupRequest,
        target: Target,
        present: &[NetworkInterface],
    ) -> Result<(), MulticastError> {
        if let [interface] = self.joined.interfaces(target.group, false)[..] {
            return self.change_at(request, target, interface);
        }
        let Some(before) = self.joined_on(target.group, present) else {
            // The kernel cannot be asked; it knows what 0 means.
            return self.change_kernel(request, target, 0);
        };
        if !request.joins() {
            return match before[..] {
                [] => Err(MulticastError::NotJoined { group: target.group }),
                [interface] => self.change_at(request, target, interface),
                _ => Err(MulticastError::NotOneInterface),
            };
        }
        if request == GroupRequest::JoinSource {
            if target.group.is_ipv6() && !before.is_empty() {
                // Linux would add the source to any of these.
                return Err(MulticastError::NotOneInterface);
            }
            // Which interface the kernel will take is its secret until then; one with a membership
            // of the other kind would have that replaced.
            for &interface in &before {
                self.check_filter(request, target, interface)?;
            }
        }
        self.change_kernel(request, target, 0)?;
        let now = self.joined_on(target.group, present).unwrap_or_default();
        if let Some(chosen) = now.into_iter().find(|interface| !before.contains(interface)) {
            self.joined.add(target.group, target.source, false, vec![chosen]);
        }
        Ok(())
    }

    fn change_at(
        &mut self,
        request: GroupRequest,
        target: Target,
        interface: u32,
    ) -> Result<(), MulticastError> {
        self.change_kernel(request, target, interface)?;
        if request.leaves() {
            // With its last source a membership ends, too.
            let ended = self
                .socket
                .source_filter(target.group, interface)
                .is_ok_and(|filter| filter.is_none());
            let source = if ended { None } else { target.source };
            self.joined.forget(target.group, source, interface);
        }
        Ok(())
    }

    fn change_kernel(
        &self,
        request: GroupRequest,
        target: Target,
        interface: u32,
    ) -> Result<(), MulticastError> {
        if interface != 0 {
            self.check_filter(request, target, interface)?;
        }
        let changed = self.socket.change_membership(request, &target.at(interface));
        changed.map_err(|error| refused(request, target, interface, error))
    }

    /// The interface that a join on [`Interface::Default`] chose.
    pub(super) fn default_interface(&self, group: IpAddr) -> Option<u32> {
        self.joined.interfaces(group, false).first().copied()
    }

    /// The indices of the interfaces where the group is joined; `None` if the kernel cannot be
    /// asked.
    fn joined_on(&self, group: IpAddr, present: &[NetworkInterface]) -> Option<Vec<u32>> {
        let mut joined = Vec::new();
        for interface in present {
            if self.socket.source_filter(group, interface.index()).ok()?.is_some() {
                joined.push(interface.index());
            }
        }
        Some(joined)
    }

    /// Refuses what the kernel would refuse with an unclear error, or do halfway: taking a source
    /// from an unfiltered membership fails, and yet leaves one that hears nobody.
    fn check_filter(
        &self,
        request: GroupRequest,
        target: Target,
        interface: u32,
    ) -> Result<(), MulticastError> {
        use SourceFilter::{Exclude, Include};
        let Ok(filter) = self.socket.source_filter(target.group, interface) else {
            return Ok(());
        };
        let group = target.group;
        let listed = |sources: &[IpAddr]| target.source.is_some_and(|one| sources.contains(&one));
        match (request, filter) {
            (GroupRequest::Join | GroupRequest::JoinSource, None)
            | (GroupRequest::Leave, Some(_)) => Ok(()),
            (_, None) => Err(MulticastError::NotJoined { group }),
            (GroupRequest::Join, Some(Exclude(_))) => Err(MulticastError::AlreadyJoined { group }),
            (GroupRequest::JoinSource, Some(Include(sources))) => match listed(&sources) {
                false => Ok(()),
                true => Err(MulticastError::AlreadyJoined { group }),
            },
            (GroupRequest::LeaveSource, Some(Include(sources))) => match listed(&sources) {
                true => Ok(()),
                false => Err(MulticastError::NotJoined { group }),
            },
            (GroupRequest::BlockSource, Some(Exclude(sources))) => match listed(&sources) {
                false => Ok(()),
                true => {
                    Err(MulticastError::AlreadyBlocked { source: target.source.unwrap_or(group) })
                }
            },
            (GroupRequest::UnblockSource, Some(Exclude(sources))) => match listed(&sources) {
                true => Ok(()),
                false => Err(MulticastError::NotBlocked { source: target.source.unwrap_or(group) }),
            },
            (_, Some(_)) => Err(MulticastError::FilterConflict { group }),
        }
    }
}

/// What the kernel's refusal means.
fn refused(
    request: GroupRequest,
    target: Target,
    interface: u32,
    error: io::Error,
) -> MulticastError {
    let group = target.group;
    let name = request.name();
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => MulticastError::AlreadyJoined { group },
        Some(libc::EADDRNOTAVAIL) => match (request, target.source) {
            (GroupRequest::Join | GroupRequest::JoinSource, _) => {
                MulticastError::AlreadyJoined { group }
            }
            (GroupRequest::BlockSource, Some(source)) => MulticastError::AlreadyBlocked { source },
            (GroupRequest::UnblockSource, Some(source)) => MulticastError::NotBlocked { source },
            _ => MulticastError::NotJoined { group },
        },
        Some(libc::ENODEV) if interface == 0 => MulticastError::NoInterface { group },
        Some(libc::ENODEV) => {
            MulticastError::UnknownInterface { interface: Interface::Index(interface) }
        }
        Some(libc::ENOBUFS | libc::ENOMEM) => MulticastError::TooMany { source: error },
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => MulticastError::Unsupported { name },
        _ if error.kind() == io::ErrorKind::Unsupported => MulticastError::Unsupported { name },
        _ => MulticastError::Io { name, source: error },
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::datagram::{Metadata, Tuning};
    use crate::net::script::Script;
    use crate::slots::Slots;

    const GROUP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(239, 1, 2, 3));

    /// Interfaces 2 to 4 are up and carry multicast.
    fn present() -> Vec<NetworkInterface> {
        let flags = (libc::IFF_UP | libc::IFF_MULTICAST) as u32;
        let interface = |index| NetworkInterface {
            index,
            name: format!("eth{index}"),
            flags,
            addresses: Vec::new(),
        };
        (2..=4).map(interface).collect()
    }

    /// A port on a system that does not tell memberships.
    fn port() -> (Port, Script) {
        let script = Script::new();
        let socket = script.socket(Family::V4, Metadata::NONE);
        let key = Slots::<()>::new().next_key();
        (Port::new(key, socket, None, false, Tuning::default(), Rc::from("test"), None), script)
    }

    fn change(port: &mut Port, request: GroupRequest, on: Interface) -> Result<(), MulticastError> {
        let target = Target::new(GROUP, None, Family::V4).unwrap();
        port.change_membership(request, target, &on, &present())
    }

    /// What was asked for since the last time.
    fn asked(script: &Script, seen: &mut usize) -> Vec<(&'static str, u32)> {
        let changes = script.group_changes();
        let new =
            changes[*seen..].iter().map(|change| (change.request, change.interface)).collect();
        *seen = changes.len();
        new
    }

    #[test]
    fn a_failure_on_one_of_all_interfaces_takes_the_others_back() {
        let (mut port, script) = port();
        for errno in [0, 0, libc::ENOBUFS] {
            script.answer_group_change(errno);
        }
        let error = change(&mut port, GroupRequest::Join, Interface::All).unwrap_err();
        assert!(matches!(error, MulticastError::TooMany { .. }), "{error}");
        let joins = [("join_group", 2), ("join_group", 3), ("join_group", 4)];
        let leaves = [("leave_group", 2), ("leave_group", 3)];
        let mut seen = 0;
        assert_eq!(asked(&script, &mut seen), [&joins[..], &leaves[..]].concat());
        // Nothing is remembered of it.
        let error = change(&mut port, GroupRequest::Leave, Interface::All).unwrap_err();
        assert!(matches!(error, MulticastError::NotJoined { .. }), "{error}");
        assert_eq!(asked(&script, &mut seen), []);
    }

    #[test]
    fn all_leaves_what_it_joined_and_what_was_not_left_before() {
        let (mut port, script) = port();
        // 3 was joined by its index before.
        for errno in [0, libc::EADDRINUSE, 0] {
            script.answer_group_change(errno);
        }
        change(&mut port, GroupRequest::Join, Interface::All).unwrap();
        let mut seen = 3;
        change(&mut port, GroupRequest::Leave, Interface::All).unwrap();
        assert_eq!(asked(&script, &mut seen), [("leave_group", 2), ("leave_group", 4)]);

        change(&mut port, GroupRequest::Join, Interface::All).unwrap();
        seen += 3;
        script.answer_group_change(libc::EADDRNOTAVAIL);
        change(&mut port, GroupRequest::Leave, Interface::All).unwrap();
        let all = [("leave_group", 2), ("leave_group", 3), ("leave_group", 4)];
        assert_eq!(asked(&script, &mut seen), all);
    }

    #[test]
    fn interfaces_that_are_gone_or_left_are_no_failure_of_leaving_all() {
        let (mut port, script) = port();
        change(&mut port, GroupRequest::Join, Interface::All).unwrap();
        for errno in [libc::ENODEV, libc::EADDRNOTAVAIL, libc::EADDRNOTAVAIL] {
            script.answer_group_change(errno);
        }
        change(&mut port, GroupRequest::Leave, Interface::All).unwrap();
        change(&mut port, GroupRequest::Join, Interface::All).unwrap();
    }

    #[test]
    fn without_the_systems_list_of_memberships_the_default_is_its_choice() {
        let (mut port, script) = port();
        change(&mut port, GroupRequest::Join, Interface::Default).unwrap();
        change(&mut port, GroupRequest::Leave, Interface::Default).unwrap();
        assert_eq!(asked(&script, &mut 0), [("join_group", 0), ("leave_group", 0)]);
    }

    #[test]
    fn each_refusal_of_the_system_is_told_apart() {
        use GroupRequest::{Join, Leave};
        use MulticastError as E;
        for (errno, request, on, expected) in [
            (libc::EADDRINUSE, Join, 2, E::AlreadyJoined { group: GROUP }),
            (libc::EADDRNOTAVAIL, Leave, 2, E::NotJoined { group: GROUP }),
            (libc::ENODEV, Join, 2, E::UnknownInterface { interface: Interface::Index(2) }),
            (libc::ENODEV, Join, 0, E::NoInterface { group: GROUP }),
            (libc::ENOPROTOOPT, Join, 2, E::Unsupported { name: "join_group" }),
        ] {
            let (mut port, script) = port();
            script.answer_group_change(errno);
            let error = change(&mut port, request, Interface::Index(on)).unwrap_err();
            assert_eq!(error.to_string(), expected.to_string());
        }
        let (mut port, script) = port();
        script.answer_group_change(libc::EPERM);
        let error = change(&mut port, Join, Interface::Index(2)).unwrap_err();
        assert!(matches!(error, E::Io { name: "join_group", .. }), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
