//! resolv.conf and hosts, and what is kept of answers.

use strand_reactor::ResolveError;

use crate::server::{A, NXDOMAIN, Reply, SERVFAIL, a};
use crate::site::{Site, ips, v4};

const SEARCH: &str = "nameserver 127.0.0.1\nsearch one.test two.test\n";

const SEARCHED: [&str; 3] = ["host.one.test.", "host.two.test.", "host."];

fn missing(conf: &str) -> Site {
    Site::configured(conf, "", |_| Reply::Code(NXDOMAIN))
}

#[test]
fn a_name_with_too_few_dots_goes_through_the_search_list_first() {
    let site = missing(SEARCH);
    site.look_up("host").unwrap_err();
    assert_eq!(site.asked(), ["host.one.test.", "host.two.test.", "host."]);
}

#[test]
fn a_name_with_enough_dots_is_tried_as_it_is_first() {
    let site = missing(SEARCH);
    site.look_up("host.lan").unwrap_err();
    assert_eq!(site.asked(), ["host.lan.", "host.lan.one.test.", "host.lan.two.test."]);
}

#[test]
fn ndots_says_how_many_are_enough() {
    let site = missing(&format!("{SEARCH}options ndots:2\n"));
    site.look_up("host.lan").unwrap_err();
    assert_eq!(site.asked(), ["host.lan.one.test.", "host.lan.two.test.", "host.lan."]);
    site.log.borrow_mut().clear();
    site.look_up("a.host.lan").unwrap_err();
    assert_eq!(site.asked()[0], "a.host.lan.");
}

#[test]
fn a_final_dot_ends_the_search() {
    let site = missing(SEARCH);
    site.look_up("host.").unwrap_err();
    assert_eq!(site.asked(), ["host."]);
}

#[test]
fn the_search_ends_with_the_first_that_has_addresses() {
    let site = Site::configured(SEARCH, "", |question| match question.name.as_str() {
        "host.two.test." => v4(question),
        _ => Reply::Code(NXDOMAIN),
    });
    assert_eq!(site.look_up("host").unwrap(), ips(&["127.0.0.9"]));
    assert_eq!(site.asked(), ["host.one.test.", "host.two.test."]);
}

#[test]
fn domain_is_a_search_list_of_one() {
    let site = missing("nameserver 127.0.0.1\ndomain only.test\n");
    site.look_up("host").unwrap_err();
    assert_eq!(site.asked(), ["host.only.test.", "host."]);
}

#[test]
fn of_domain_and_search_the_last_one_holds() {
    for (lines, expected) in [
        ("domain first.test\nsearch one.test\n", "host.one.test."),
        ("search one.test\ndomain last.test\n", "host.last.test."),
    ] {
        let site = missing(&format!("nameserver 127.0.0.1\n{lines}"));
        site.look_up("host").unwrap_err();
        assert_eq!(site.asked(), [expected, "host."]);
    }
}

#[test]
fn attempts_says_how_often_a_server_is_asked() {
    for attempts in [1, 3] {
        let conf = format!("nameserver 127.0.0.1\noptions attempts:{attempts}\n");
        let site = Site::configured(&conf, "", |_| Reply::Code(SERVFAIL));
        site.look_up("broken.").unwrap_err();
        // For each of the two types of address.
        assert_eq!(site.log.borrow().len(), 2 * attempts);
    }
}

#[test]
fn nonsense_in_resolv_conf_is_passed_over() {
    let conf =
        "; comment\n# another\nnonsense 1 2\noptions ndots:x what:ever\nnameserver 127.0.0.1";
    let site = Site::configured(conf, "", v4);
    assert_eq!(site.look_up("www.test").unwrap(), ips(&["127.0.0.9"]));
}

#[test]
fn domains_that_cannot_be_names_are_left_out_of_the_search_list() {
    for (lines, expected) in [
        ("search .local\n", &["host."][..]),
        ("domain b..test # no name\n", &["host."]),
        ("search b..test one.test .local two.test\n", &SEARCHED),
        ("search one.test two.test\ndomain .\u{e9}\n", &SEARCHED),
    ] {
        for server in ["nameserver 127.0.0.1\n", ""] {
            let site = Site::configured(&format!("{server}{lines}"), "", |_| Reply::Code(NXDOMAIN));
            let error = site.look_up("host").unwrap_err();
            assert!(matches!(error, ResolveError::NotFound { .. }), "{lines}: {error}");
            let mut asked = site.asked();
            // The domain of this host's name, if it has one, takes the place of an empty list.
            if expected.len() == 1 {
                asked.retain(|name| name == "host.");
            }
            assert_eq!(asked, expected, "{lines}");
        }
    }
}

#[test]
fn a_timeout_of_zero_leaves_time_for_an_answer() {
    let conf = "nameserver 127.0.0.1\noptions timeout:0\n";
    let site = Site::configured(conf, "", v4);
    assert_eq!(site.look_up("www.test").unwrap(), ips(&["127.0.0.9"]));
}

#[test]
fn without_a_name_server_this_host_is_asked() {
    let site = Site::configured("options timeout:5\n", "", v4);
    assert_eq!(site.look_up("www.test").unwrap(), ips(&["127.0.0.9"]));
}

#[test]
fn a_second_name_server_answers_for_one_that_does_not_exist() {
    // The port is closed on the first address and open on the second.
    let conf = "nameserver 127.0.0.2\nnameserver 127.0.0.1\n";
    let site = Site::configured(conf, "", v4);
    assert_eq!(site.look_up("www.test").unwrap(), ips(&["127.0.0.9"]));
}

#[test]
fn what_the_hosts_file_knows_is_not_asked() {
    let hosts = "# comment\n192.0.2.1 router Gateway # both\n192.0.2.2\tprinter.lan\n\
        2001:db8::2 printer.lan\nnonsense x\n\u{fffd}\n192.0.2.3 last\n";
    let site = Site::configured(SEARCH, hosts, |_| Reply::Code(NXDOMAIN));
    // An IPv4 address alone is enough: nobody is asked for an IPv6 one.
    assert_eq!(site.look_up("router").unwrap(), ips(&["192.0.2.1"]));
    assert_eq!(site.look_up("gateway.").unwrap(), ips(&["192.0.2.1"]));
    let mut both = site.look_up("PRINTER.lan").unwrap();
    both.sort();
    assert_eq!(both, ips(&["192.0.2.2", "2001:db8::2"]));
    assert_eq!(site.look_up("last").unwrap(), ips(&["192.0.2.3"]));
    assert!(site.log.borrow().is_empty());
}

#[test]
fn files_are_read_anew_after_a_reload_and_not_before() {
    let site = Site::configured("nameserver 127.0.0.1\n", "192.0.2.1 router\n", v4);
    assert_eq!(site.look_up("router").unwrap(), ips(&["192.0.2.1"]));
    site.files.write_hosts("192.0.2.77 router\n");
    assert_eq!(site.look_up("router").unwrap(), ips(&["192.0.2.1"]));
    site.reactor.reload_resolver();
    assert_eq!(site.look_up("router").unwrap(), ips(&["192.0.2.77"]));
}

#[test]
fn an_answer_is_kept_for_as_long_as_it_says_and_forgotten_by_a_reload() {
    let mut last = 0;
    let site = Site::new(move |question| match question.kind {
        A => {
            last += 1;
            Reply::Records(vec![a(&question.name, [127, 0, 0, last])])
        }
        _ => Reply::Records(vec![]),
    });
    assert_eq!(site.look_up("www.test").unwrap(), ips(&["127.0.0.1"]));
    assert_eq!(site.look_up("www.test").unwrap(), ips(&["127.0.0.1"]));
    site.reactor.reload_resolver();
    assert_eq!(site.look_up("www.test").unwrap(), ips(&["127.0.0.2"]));
}
