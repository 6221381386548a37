//! A reactor with a DNS server on it, and a client that is configured to ask this server.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use strand_reactor::{
    DatagramTransport, DnsResolver, Reactor, Resolution, ResolveError, ResolveOptions,
};

use crate::server::{A, AAAA, DnsServer, Log, Question, Reply, a, aaaa};

pub type Outcome = Result<Vec<IpAddr>, ResolveError>;
/// What `done` was told.
pub type Told = Rc<RefCell<Vec<Outcome>>>;

pub struct Site {
    pub reactor: Reactor,
    pub server: DatagramTransport,
    /// What the server was asked.
    pub log: Log,
    pub files: Files,
}

/// A folder with resolv.conf and hosts.
pub struct Files {
    folder: PathBuf,
}

impl Files {
    pub fn new(resolv_conf: &str, hosts: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("strand-names-{}-{number}", std::process::id());
        let files = Self { folder: std::env::temp_dir().join(folder) };
        std::fs::create_dir_all(&files.folder).unwrap();
        std::fs::write(files.resolv_conf(), resolv_conf).unwrap();
        files.write_hosts(hosts);
        files
    }

    pub fn write_hosts(&self, text: &str) {
        std::fs::write(self.hosts(), text).unwrap();
    }

    fn resolv_conf(&self) -> PathBuf {
        self.folder.join("resolv.conf")
    }

    fn hosts(&self) -> PathBuf {
        self.folder.join("hosts")
    }

    pub fn resolver(&self, port: u16) -> DnsResolver {
        DnsResolver::from_files(self.resolv_conf(), self.hosts()).port(port)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Site {
    pub fn new(answer: impl FnMut(&Question) -> Reply + 'static) -> Self {
        Self::configured("nameserver 127.0.0.1\n", "", answer)
    }

    pub fn configured(
        resolv_conf: &str,
        hosts: &str,
        answer: impl FnMut(&Question) -> Reply + 'static,
    ) -> Self {
        let reactor = Reactor::new().unwrap();
        let log = Log::default();
        let protocol = DnsServer { answer, log: Rc::clone(&log) };
        let server = reactor.listen_udp("127.0.0.1:0", protocol).unwrap();
        let files = Files::new(resolv_conf, hosts);
        let site = Self { reactor, server, log, files };
        site.reactor.set_resolver(site.files.resolver(site.port()));
        site
    }

    pub fn port(&self) -> u16 {
        self.server.local_addr().unwrap().port()
    }

    /// Begins a lookup without a limit of time.
    pub fn begin(&self, name: &str, told: &Told) -> Resolution {
        begin(&self.reactor, name, ResolveOptions::new().timeout(None), told)
    }

    /// Looks a name up and waits for the outcome.
    #[track_caller]
    pub fn look_up(&self, name: &str) -> Outcome {
        look_up(&self.reactor, name, ResolveOptions::new().timeout(None))
    }

    #[track_caller]
    pub fn turn_until(&self, done: impl FnMut() -> bool) {
        turn_until(&self.reactor, done);
    }

    /// The names that were asked for, each once for all its types, in order.
    pub fn asked(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (name, _) in self.log.borrow().iter() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }
}

pub fn begin(reactor: &Reactor, name: &str, options: ResolveOptions, told: &Told) -> Resolution {
    let told = Rc::clone(told);
    reactor.resolve_with(name, options, move |outcome| told.borrow_mut().push(outcome))
}

#[track_caller]
pub fn look_up(reactor: &Reactor, name: &str, options: ResolveOptions) -> Outcome {
    let told = Told::default();
    begin(reactor, name, options, &told);
    assert!(told.borrow().is_empty(), "{name}: told inside the call");
    turn_until(reactor, || !told.borrow().is_empty());
    // Nothing may follow.
    for _ in 0..3 {
        reactor.iterate(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(told.borrow().len(), 1, "{name}");
    told.take().pop().unwrap()
}

/// Turns the loop until `done` says so; fails the test when that never happens.
#[track_caller]
pub fn turn_until(reactor: &Reactor, mut done: impl FnMut() -> bool) {
    let watchdog = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < watchdog, "nothing happens any more");
        reactor.iterate(Some(Duration::from_millis(100))).unwrap();
    }
}

/// 127.0.0.9 and ::1 for whatever is asked.
pub fn both(question: &Question) -> Reply {
    Reply::Records(match question.kind {
        A => vec![a(&question.name, [127, 0, 0, 9])],
        AAAA => vec![aaaa(&question.name, "::1")],
        _ => vec![],
    })
}

/// 127.0.0.9 alone.
pub fn v4(question: &Question) -> Reply {
    Reply::Records(match question.kind {
        A => vec![a(&question.name, [127, 0, 0, 9])],
        _ => vec![],
    })
}

#[track_caller]
pub fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// Runs a test in a process of its own, where nothing else has threads or descriptors. True in
/// that process.
#[track_caller]
pub fn alone(test: &str) -> bool {
    if std::env::var("STRAND_TEST_ALONE").as_deref() == Ok(test) {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("STRAND_TEST_ALONE", test)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}{errors}");
    false
}
