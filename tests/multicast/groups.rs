//! Memberships, filters and TTL between hosts. That something is not heard is shown by what is
//! sent, and heard, after it.

use crate::network::Network;

/// A group of each family, written with a port, and what the sources are called there.
struct Kind {
    group: &'static str,
    to: &'static str,
    any: &'static str,
    a_red: &'static str,
    a_blue: &'static str,
    c_red: &'static str,
    c_blue: &'static str,
}

const V4: Kind = Kind {
    group: "239.1.2.3",
    to: "239.1.2.3:5000",
    any: "0.0.0.0:5000",
    a_red: "192.0.2.1",
    a_blue: "198.51.100.1",
    c_red: "192.0.2.3",
    c_blue: "198.51.100.3",
};

/// Of wider than link-local scope, so that the sources are the global addresses.
const V6: Kind = Kind {
    group: "ff15::7",
    to: "[ff15::7]:5000",
    any: "[::]:5000",
    a_red: "2001:db8:1::1",
    a_blue: "2001:db8:2::1",
    c_red: "2001:db8:1::3",
    c_blue: "2001:db8:2::3",
};

/// The three hosts, with a port each; `a` and `c` send by `eth0`.
fn stage(kind: &Kind) -> impl Iterator<Item = Network> {
    Network::each().map(|network| set(network, kind))
}

/// On the system alone: interfaces of simulated hosts neither come nor go.
fn stage_of_the_system(kind: &Kind) -> impl Iterator<Item = Network> {
    Network::of_the_system().map(|network| set(network, kind))
}

fn set(mut network: Network, kind: &Kind) -> Network {
    for host in [&mut network.a, &mut network.b, &mut network.c] {
        host.tell(&format!("multicast p {}", kind.any));
        host.tell("out p eth0");
    }
    network
}

fn joined_on_one_of_two_interfaces(kind: &Kind) {
    for mut network in stage(kind) {
        let Network { a, b, c, .. } = &mut network;
        b.tell(&format!("join p {} eth1", kind.group));
        a.tell(&format!("send p {} on-red", kind.to));
        c.tell("out p eth1");
        c.tell(&format!("send p {} on-blue", kind.to));
        b.hears("p", &format!("on-blue from {}", kind.c_blue));
        // The same by address: it names the interface, not another.
        b.tell(&format!(
            "leave p {} {}",
            kind.group,
            if kind.any == V4.any { "198.51.100.2" } else { "2001:db8:2::2" }
        ));
        b.tell(&format!(
            "join p {} {}",
            kind.group,
            if kind.any == V4.any { "192.0.2.2" } else { "2001:db8:1::2" }
        ));
        c.tell(&format!("send p {} on-blue", kind.to));
        a.tell(&format!("send p {} on-red", kind.to));
        b.hears("p", &format!("on-red from {}", kind.a_red));
    }
}

#[test]
fn a_v4_group_is_heard_on_the_interface_it_was_joined_on_alone() {
    joined_on_one_of_two_interfaces(&V4);
}

#[test]
fn a_v6_group_is_heard_on_the_interface_it_was_joined_on_alone() {
    joined_on_one_of_two_interfaces(&V6);
}

fn joined_by_default_and_on_all(kind: &Kind) {
    for mut network in stage(kind) {
        let Network { a, b, .. } = &mut network;
        let (group, to) = (kind.group, kind.to);
        b.tell(&format!("join p {group} default"));
        assert_eq!(b.ask(&format!("filter p {group} default")), "Some(Exclude([]))");
        assert!(b.ask(&format!("join p {group} default")).contains("already"));
        assert!(b.ask(&format!("join p {group} eth0")).contains("already"));
        b.tell(&format!("join p {group} eth1"));
        // What Default chose is left, although another membership is younger.
        b.tell(&format!("leave p {group} default"));
        assert_eq!(b.ask(&format!("filter p {group} eth0")), "None");
        assert_eq!(b.ask(&format!("filter p {group} eth1")), "Some(Exclude([]))");

        // All adds what is missing, and takes away what it added.
        b.tell(&format!("join p {group} all"));
        assert!(b.ask(&format!("join p {group} all")).contains("already"));
        a.tell(&format!("send p {to} on-red"));
        b.hears("p", &format!("on-red from {}", kind.a_red));
        b.tell(&format!("leave p {group} all"));
        a.tell(&format!("send p {to} on-red"));
        a.tell("out p eth1");
        a.tell(&format!("send p {to} on-blue"));
        b.hears("p", &format!("on-blue from {}", kind.a_blue));
        assert!(b.ask(&format!("leave p {group} all")).contains("not joined"));
        b.tell(&format!("leave p {group} eth1"));
    }
}

#[test]
fn default_and_all_leave_what_they_joined_of_a_v4_group() {
    joined_by_default_and_on_all(&V4);
}

#[test]
fn default_and_all_leave_what_they_joined_of_a_v6_group() {
    joined_by_default_and_on_all(&V6);
}

fn sources(kind: &Kind) {
    for mut network in stage(kind) {
        let Network { a, b, c, .. } = &mut network;
        let (group, to) = (kind.group, kind.to);
        // One source of two.
        b.tell(&format!("join_source p {group} {} eth0", kind.c_red));
        a.tell(&format!("send p {to} from-a"));
        c.tell(&format!("send p {to} from-c"));
        b.hears("p", &format!("from-c from {}", kind.c_red));
        assert!(b.ask(&format!("join_source p {group} {} eth0", kind.c_red)).contains("already"));
        assert!(b.ask(&format!("join p {group} eth0")).contains("leave it first"));
        assert!(b.ask(&format!("block p {group} {} eth0", kind.c_red)).contains("leave it first"));
        // Both, then the other.
        b.tell(&format!("join_source p {group} {} eth0", kind.a_red));
        a.tell(&format!("send p {to} both-a"));
        b.hears("p", &format!("both-a from {}", kind.a_red));
        b.tell(&format!("leave_source p {group} {} eth0", kind.c_red));
        c.tell(&format!("send p {to} left-c"));
        a.tell(&format!("send p {to} left-a"));
        b.hears("p", &format!("left-a from {}", kind.a_red));
        // The membership ends with its last source.
        b.tell(&format!("leave_source p {group} {} eth0", kind.a_red));
        assert_eq!(b.ask(&format!("filter p {group} eth0")), "None");
        assert!(b.ask(&format!("leave p {group} eth0")).contains("not joined"));
        // Everybody but one.
        b.tell(&format!("join p {group} eth0"));
        assert!(b.ask(&format!("leave_source p {group} {} eth0", kind.a_red)).contains("leave it"));
        assert!(b.ask(&format!("unblock p {group} {} eth0", kind.a_red)).contains("not blocked"));
        b.tell(&format!("block p {group} {} eth0", kind.a_red));
        assert!(b.ask(&format!("block p {group} {} eth0", kind.a_red)).contains("already"));
        let filter = format!("Some(Exclude([{}]))", kind.a_red);
        assert_eq!(b.ask(&format!("filter p {group} eth0")), filter);
        a.tell(&format!("send p {to} blocked-a"));
        c.tell(&format!("send p {to} open-c"));
        b.hears("p", &format!("open-c from {}", kind.c_red));
        b.tell(&format!("unblock p {group} {} eth0", kind.a_red));
        a.tell(&format!("send p {to} open-a"));
        b.hears("p", &format!("open-a from {}", kind.a_red));
    }
}

#[test]
fn sources_of_a_v4_group_are_chosen_and_blocked() {
    sources(&V4);
}

#[test]
fn sources_of_a_v6_group_are_chosen_and_blocked() {
    sources(&V6);
}

fn sources_on_all(kind: &Kind) {
    for mut network in stage(kind) {
        let Network { a, b, c, .. } = &mut network;
        let (group, to) = (kind.group, kind.to);
        b.tell(&format!("join_source p {group} {} all", kind.c_red));
        b.tell(&format!("join_source p {group} {} all", kind.c_blue));
        a.tell(&format!("send p {to} unwanted"));
        c.tell(&format!("send p {to} red"));
        c.tell("out p eth1");
        c.tell(&format!("send p {to} blue"));
        b.hears("p", &format!("red from {}", kind.c_red));
        b.hears("p", &format!("blue from {}", kind.c_blue));
        b.tell(&format!("leave_source p {group} {} all", kind.c_red));
        b.tell(&format!("leave_source p {group} {} all", kind.c_blue));
        for on in ["eth0", "eth1"] {
            assert_eq!(b.ask(&format!("filter p {group} {on}")), "None");
        }
        b.tell(&format!("join p {group} all"));
        b.tell(&format!("block p {group} {} all", kind.a_red));
        let filter = format!("Some(Exclude([{}]))", kind.a_red);
        for on in ["eth0", "eth1"] {
            assert_eq!(b.ask(&format!("filter p {group} {on}")), filter);
        }
        b.tell(&format!("unblock p {group} {} all", kind.a_red));
        b.tell(&format!("leave p {group} all"));
    }
}

#[test]
fn sources_of_a_v4_group_are_chosen_on_every_interface() {
    sources_on_all(&V4);
}

#[test]
fn sources_of_a_v6_group_are_chosen_on_every_interface() {
    sources_on_all(&V6);
}

fn several_members(kind: &Kind) {
    for mut network in stage(kind) {
        let Network { a, b, .. } = &mut network;
        let (group, to, any) = (kind.group, kind.to, kind.any);
        b.tell(&format!("multicast q {any}"));
        b.tell(&format!("multicast outsider {any}"));
        for port in ["p", "q"] {
            b.tell(&format!("join {port} {group} eth0"));
        }
        // A member of another group is no member of this one.
        let other = group.replace("2.3", "2.4").replace("::7", "::8");
        b.tell(&format!("join outsider {other} eth0"));
        a.tell(&format!("send p {to} first"));
        a.tell(&format!("send p {} other", to.replace(group, &other)));
        for port in ["p", "q"] {
            b.hears(port, &format!("first from {}", kind.a_red));
        }
        b.hears("outsider", &format!("other from {}", kind.a_red));
        b.tell(&format!("leave q {group} eth0"));
        b.tell(&format!("join q {other} eth0"));
        a.tell(&format!("send p {to} second"));
        a.tell(&format!("send p {} third", to.replace(group, &other)));
        b.hears("p", &format!("second from {}", kind.a_red));
        b.hears("q", &format!("third from {}", kind.a_red));
    }
}

#[test]
fn each_member_on_one_port_gets_each_datagram_of_a_v4_group() {
    several_members(&V4);
}

#[test]
fn each_member_on_one_port_gets_each_datagram_of_a_v6_group() {
    several_members(&V6);
}

fn ttl_and_loopback(kind: &Kind) {
    for mut network in stage(kind) {
        let Network { a, b, .. } = &mut network;
        let (group, to) = (kind.group, kind.to);
        a.tell(&format!("join p {group} eth0"));
        b.tell(&format!("join p {group} eth0"));
        // With a TTL of 0 only this host hears it; with 1, the network does.
        a.tell("ttl p 0");
        a.tell(&format!("send p {to} here"));
        a.tell("ttl p 1");
        a.tell(&format!("send p {to} there"));
        a.hears("p", &format!("here from {}", kind.a_red));
        a.hears("p", &format!("there from {}", kind.a_red));
        let heard = b.ask("hear p");
        assert!(heard.starts_with("there ") && heard.ends_with("hops 1"), "{heard}");
        a.tell("ttl p 255");
        a.tell("loopback p 0");
        a.tell(&format!("send p {to} silent"));
        a.tell("loopback p 1");
        a.tell(&format!("send p {to} loud"));
        let heard = b.ask("hear p");
        assert!(heard.starts_with("silent ") && heard.ends_with("hops 255"), "{heard}");
        a.hears("p", &format!("loud from {}", kind.a_red));
    }
}

#[test]
fn ttl_and_loopback_say_who_hears_a_v4_datagram() {
    ttl_and_loopback(&V4);
}

#[test]
fn ttl_and_loopback_say_who_hears_a_v6_datagram() {
    ttl_and_loopback(&V6);
}

fn down_and_up(kind: &Kind) {
    for mut network in stage_of_the_system(kind) {
        let (group, to) = (kind.group, kind.to);
        network.b.tell(&format!("join p {group} eth0"));
        network.a.tell(&format!("send p {to} before"));
        network.b.hears("p", &format!("before from {}", kind.a_red));
        network.link("b", "eth0", "down");
        network.a.tell(&format!("send p {to} lost"));
        network.link("b", "eth0", "up");
        network.address("b", "eth0");
        network.a.tell(&format!("send p {to} after"));
        network.b.hears("p", &format!("after from {}", kind.a_red));
        // The membership is the same one, and can be left.
        network.b.tell(&format!("leave p {group} eth0"));
    }
}

#[test]
fn a_v4_membership_outlives_its_interface_going_down() {
    down_and_up(&V4);
}

#[test]
fn a_v6_membership_outlives_its_interface_going_down() {
    down_and_up(&V6);
}

#[test]
fn a_removed_interface_takes_nothing_with_it() {
    for mut network in stage_of_the_system(&V4) {
        network.b.tell("join p 239.1.2.3 all");
        network.remove("b", "eth1");
        network.b.tell("join p 239.1.2.4 all");
        network.a.tell("send p 239.1.2.3:5000 still");
        network.b.hears("p", "still from 192.0.2.1");
        network.b.tell("leave p 239.1.2.3 all");
        network.b.tell("leave p 239.1.2.4 all");
        assert!(network.b.ask("join p 239.1.2.3 eth1").contains("no interface eth1"));
    }
}

#[test]
fn a_group_can_be_left_on_an_interface_that_is_gone() {
    for (words, group) in [(&V4, "239.1.2.3"), (&V6, "ff15::7")] {
        for mut network in stage_of_the_system(words) {
            network.b.tell(&format!("join p {group} eth1"));
            network.remove("b", "eth1");
            network.b.tell(&format!("leave p {group} eth1"));
            assert!(network.b.ask(&format!("leave p {group} eth1")).contains("no interface eth1"));
        }
    }
}

#[test]
fn link_local_v6_groups_need_an_interface_and_tell_it() {
    // A world has each link-local address once: no host has the same on two networks.
    for mut network in stage_of_the_system(&V6) {
        let Network { a, b, .. } = &mut network;
        b.tell("join p ff02::fb eth1");
        assert!(b.ask("join p ff02::fb fe80::2").contains("several"));
        a.tell("send p [ff02::fb%eth0]:5000 red");
        a.tell("out p eth1");
        a.tell("send p [ff02::fb%eth1]:5000 blue");
        b.hears("p", "blue from fe80::1");
    }
}

#[test]
fn with_no_route_the_default_interface_is_an_error() {
    for mut network in stage_of_the_system(&V4) {
        network.link("b", "eth0", "down");
        network.link("b", "eth1", "down");
        network.link("b", "lo", "down");
        assert!(network.b.ask("join p 239.1.2.3 default").contains("no route"));
        assert!(network.b.ask("join p 239.1.2.3 all").contains("no route"));
    }
}

#[test]
fn interfaces_are_listed_with_addresses_and_flags_up_or_down() {
    // Interfaces of simulated hosts neither come nor go.
    for mut network in Network::of_the_system() {
        assert_eq!(network.a.ask("interface list lo"), "up loopback 127.0.0.1/8 ::1/128");
        let addresses = "198.51.100.1/24 (198.51.100.255)";
        assert_eq!(
            network.a.ask("interface list eth1"),
            format!("up multicast broadcast {addresses} 2001:db8:2::1/64 fe80::1/64")
        );
        network.link("a", "eth1", "down");
        let down = network.a.ask("interface list eth1");
        assert_eq!(down, format!("multicast broadcast {addresses}"));
        network.remove("a", "eth1");
        assert!(network.a.ask("interface list eth1").contains("no interface"));
    }
}
