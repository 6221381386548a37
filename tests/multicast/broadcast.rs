//! Broadcasts between hosts: to everybody, and to a network.

use crate::network::Network;

fn stage() -> impl Iterator<Item = Network> {
    Network::each().map(|mut network| {
        for host in [&mut network.a, &mut network.b, &mut network.c] {
            host.tell("udp p 0.0.0.0:5000");
        }
        network
    })
}

/// The name of an interface, as a datagram from `from` tells.
fn interface_of(heard: &str) -> &str {
    heard.split_once(" on ").unwrap().1.split_whitespace().next().unwrap()
}

#[test]
fn a_broadcast_is_refused_until_it_is_allowed() {
    for mut network in stage() {
        let Network { a, b, .. } = &mut network;
        let refused = a.ask("queue p 255.255.255.255:5000 no");
        assert!(refused.contains("set_broadcast_allowed"), "{refused}");
        assert_eq!(a.ask("queue p 192.0.2.255:5000 no"), "failed: PermissionDenied");
        a.tell("broadcast p 1");
        a.tell("queue p 192.0.2.255:5000 yes");
        b.hears("p", "yes from 192.0.2.1");
        a.tell("broadcast p 0");
        assert_eq!(a.ask("queue p 192.0.2.255:5000 no"), "failed: PermissionDenied");
        a.tell("send p 192.0.2.2:5000 sentinel");
        b.hears("p", "sentinel from 192.0.2.1");
    }
}

#[test]
fn broadcasts_reach_every_host_of_the_network_and_are_told_as_such() {
    for mut network in stage() {
        let Network { a, b, c, .. } = &mut network;
        a.tell("broadcast p 1");
        a.tell("send p 192.0.2.2:5000 red");
        let red = b.ask("hear p");
        let red = interface_of(&red).to_owned();
        for (to, text) in [
            ("255.255.255.255:5000", "all"),
            ("<broadcast>:5000", "alias"),
            ("192.0.2.255:5000", "net"),
        ] {
            a.tell(&format!("send p {to} {text}"));
            let destination = if text == "net" { "192.0.2.255" } else { "255.255.255.255" };
            let expected = format!("{text} from 192.0.2.1 to {destination} on {red} ");
            let heard = b.ask("hear p");
            assert!(heard.starts_with(&expected), "{heard}");
            c.hears("p", &format!("{text} from 192.0.2.1"));
        }
        // The other network's address leads there.
        a.tell("send p 198.51.100.255:5000 blue");
        let heard = b.ask("hear p");
        assert!(heard.starts_with("blue from 198.51.100.1 to 198.51.100.255 on "), "{heard}");
        assert_ne!(interface_of(&heard), red);
    }
}

#[test]
fn an_answer_to_a_broadcast_or_group_comes_from_an_address_of_the_host() {
    for mut network in stage() {
        let Network { a, b, .. } = &mut network;
        a.tell("broadcast p 1");
        // The answering port is closed to broadcasts, and its address is not theirs.
        for (to, text) in [("255.255.255.255:5000", "all"), ("192.0.2.255:5000", "net")] {
            a.tell(&format!("send p {to} {text}"));
            // The sender is a host of the network, too.
            a.hears("p", &format!("{text} from 192.0.2.1"));
            b.hears("p", &format!("{text} from 192.0.2.1"));
            assert_eq!(b.ask("reply p pong"), "192.0.2.2");
            a.hears("p", "pong from 192.0.2.2");
        }
        b.tell("join p 239.1.2.3 eth1");
        a.tell("out p eth1");
        a.tell("send p 239.1.2.3:5000 group");
        b.hears("p", "group from 198.51.100.1");
        assert_eq!(b.ask("reply p pong"), "198.51.100.2");
        a.hears("p", "pong from 198.51.100.2");
    }
}

#[test]
fn empty_broadcasts_arrive() {
    for mut network in stage() {
        network.a.tell("broadcast p 1");
        network.a.tell("send p 192.0.2.255:5000 -");
        network.b.hears("p", " from 192.0.2.1");
    }
}

#[test]
fn what_a_host_sends_to_itself_comes_by_the_interface_of_the_address() {
    for mut network in stage() {
        let Network { a, b, .. } = &mut network;
        a.tell("udp q [::]:5001");
        b.tell("udp q [::]:5001");
        for (port, own, others, to) in [
            ("p", "192.0.2.1", "192.0.2.2", "192.0.2.1:5000"),
            ("p", "198.51.100.1", "198.51.100.2", "198.51.100.1:5000"),
            ("q", "2001:db8:1::1", "2001:db8:1::2", "[2001:db8:1::1]:5001"),
            ("q", "2001:db8:2::1", "2001:db8:2::2", "[2001:db8:2::1]:5001"),
        ] {
            b.tell(&format!("send {port} {to} outside"));
            let outside = a.ask(&format!("hear {port}"));
            assert!(outside.starts_with(&format!("outside from {others} ")), "{outside}");
            a.tell(&format!("send {port} {to} inside"));
            let inside = a.ask(&format!("hear {port}"));
            assert!(inside.starts_with(&format!("inside from {own} ")), "{inside}");
            assert_eq!(interface_of(&inside), interface_of(&outside));
        }
        for (port, to) in [("p", "127.0.0.1:5000"), ("q", "[::1]:5001")] {
            a.tell(&format!("send {port} {to} loopback"));
            let loopback = a.ask(&format!("hear {port}"));
            assert_eq!(interface_of(&loopback), "lo", "{loopback}");
        }
    }
}
