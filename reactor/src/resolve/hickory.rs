//! DNS by hickory, on the reactor's own loop.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query as DnsQuery, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
#[cfg(not(any(target_os = "android", target_vendor = "apple")))]
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver};

use super::executor::current;
use super::query::Failing;
use super::runtime::Loop;
use super::{AddressFamily, Answer, Query, QueryId, Resolve, order};
use crate::Handle;
use crate::inner::Inner;
use crate::slots::Key;

/// Lookups that the client works on at a time. Each is up to two queries, and each of these up to
/// four sockets while its answer is late: at most 512 sockets, within the usual limit of 1,024
/// descriptors. The rest waits here, without a socket.
const MOST: usize = 64;

/// Answers that are kept.
const CACHED: u64 = 256;

/// The limits of `timeout` in resolv.conf.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// A DNS client on the reactor's own loop: no threads, and a cancelled lookup is gone at once.
///
/// It reads resolv.conf(5) and hosts(5) at its first lookup and after
/// [`Handle::reload_resolver`]: name servers, search list, `ndots`, `timeout`, `attempts`, `edns0`.
/// What the hosts file knows is not asked of a server. Queries go by UDP, each from a socket of
/// its own on a random port, and by TCP after a truncated answer. Up to 256 answers
/// are kept, for as long as they say. At most 64 lookups are at work; others wait for their turn, in order.
///
/// It is not the system's resolver: nsswitch.conf(5), and with it multicast DNS and the like, is
/// none of its concern; [`SystemResolver`](crate::SystemResolver) knows these. Of the options of
/// resolv.conf, `rotate`, `use-vc` and `sortlist` are ignored, and so is the zone of a name
/// server's address.
///
/// ```
/// use strand_reactor::{DnsResolver, Reactor};
/// let reactor = Reactor::new()?;
/// reactor.set_resolver(DnsResolver::from_files("/etc/resolv.conf", "/etc/hosts").port(5353));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct DnsResolver {
    state: Rc<RefCell<State>>,
}

impl DnsResolver {
    /// Configured as this system is.
    pub fn system() -> Self {
        Self::new(Source::System)
    }

    /// Configured by these files. Where there is no such `resolv_conf`, or it names no server, the
    /// server is 127.0.0.1, as resolv.conf(5) says; where there is no such `hosts`, it is empty.
    pub fn from_files(resolv_conf: impl AsRef<Path>, hosts: impl AsRef<Path>) -> Self {
        Self::new(Source::Files {
            resolv_conf: resolv_conf.as_ref().to_owned(),
            hosts: hosts.as_ref().to_owned(),
        })
    }

    /// The port of the name servers, in place of 53.
    pub fn port(self, port: u16) -> Self {
        self.state.borrow_mut().port = Some(port);
        self
    }

    fn new(source: Source) -> Self {
        let state = State {
            source,
            port: None,
            inner: Weak::new(),
            client: None,
            active: BTreeMap::new(),
            waiting: BTreeMap::new(),
            closed: false,
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }
}

impl fmt::Debug for DnsResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        f.debug_struct("DnsResolver")
            .field("source", &state.source)
            .field("active", &state.active.len())
            .field("waiting", &state.waiting.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
enum Source {
    System,
    Files { resolv_conf: PathBuf, hosts: PathBuf },
}

struct State {
    source: Source,
    port: Option<u16>,
    /// From the first query on.
    inner: Weak<Inner>,
    /// Made when it is needed.
    client: Option<Rc<Client>>,
    /// The tasks of the queries at work.
    active: BTreeMap<QueryId, Key>,
    waiting: BTreeMap<QueryId, (Query, Answer)>,
    closed: bool,
}

struct Client {
    resolver: Resolver<Loop>,
    /// What the search list may have appended to a name.
    suffixes: Vec<Name>,
    hosts: Hosts,
}

impl Resolve for DnsResolver {
    fn resolve(&mut self, handle: &Handle, query: Query, answer: Answer) {
        self.state.borrow_mut().inner = handle.weak();
        let name = match parse(query.name()) {
            Ok(name) => name,
            Err(failing) => return answer.complete(Err(failing)),
        };
        let client = match client(&self.state) {
            Ok(client) => client,
            Err(error) => return answer.fail(error),
        };
        let known = client.in_hosts(&name, query.family());
        if let Some(inner) = handle.upgrade()
            && !known.is_empty()
        {
            return answer.complete(Ok(sorted(&inner, known)));
        }
        if self.state.borrow().active.len() < MOST {
            start(&self.state, query, answer);
        } else {
            self.state.borrow_mut().waiting.insert(query.id(), (query, answer));
        }
    }

    fn cancel(&mut self, handle: &Handle, query: QueryId) {
        let (waiting, task) = {
            let mut state = self.state.borrow_mut();
            (state.waiting.remove(&query), state.active.get(&query).copied())
        };
        drop(waiting);
        if let (Some(task), Some(inner)) = (task, handle.upgrade()) {
            inner.executor.abort(task);
        }
    }

    fn reload(&mut self, _: &Handle) {
        let client = self.state.borrow_mut().client.take();
        drop(client);
    }
}

impl Drop for DnsResolver {
    fn drop(&mut self) {
        let (client, waiting, tasks, inner) = {
            let mut state = self.state.borrow_mut();
            state.closed = true;
            let tasks: Vec<Key> = state.active.values().copied().collect();
            (state.client.take(), std::mem::take(&mut state.waiting), tasks, state.inner.upgrade())
        };
        if let Some(inner) = inner {
            for task in tasks {
                inner.executor.abort(task);
            }
        }
        drop((client, waiting));
    }
}

/// While it lives, a query is at work; its end makes room for the next.
struct Active {
    state: Rc<RefCell<State>>,
    id: QueryId,
}

impl Drop for Active {
    fn drop(&mut self) {
        let next = {
            let mut state = self.state.borrow_mut();
            state.active.remove(&self.id);
            if state.closed { None } else { state.waiting.pop_first() }
        };
        if let Some((_, (query, answer))) = next {
            start(&self.state, query, answer);
        }
    }
}

/// Starts the task of a query.
fn start(state: &Rc<RefCell<State>>, query: Query, answer: Answer) {
    let Some(inner) = state.borrow().inner.upgrade() else { return };
    let id = query.id();
    let active = Active { state: Rc::clone(state), id };
    let task = inner.executor.spawn(Box::pin(async move {
        // Made here, so that a change of the configuration holds for all that has not begun.
        let result = match client(&active.state) {
            Ok(client) => client.look_up(&query).await,
            Err(error) => Err(Failing::Failed(error.into())),
        };
        answer.complete(result.map(|addresses| match current() {
            Some(inner) => sorted(&inner, addresses),
            None => addresses,
        }));
        drop(active);
    }));
    state.borrow_mut().active.insert(id, task);
}

fn client(state: &RefCell<State>) -> Result<Rc<Client>, NetError> {
    if let Some(client) = &state.borrow().client {
        return Ok(Rc::clone(client));
    }
    let (source, port) = {
        let state = state.borrow();
        (state.source.clone(), state.port)
    };
    let client = Rc::new(Client::new(&source, port)?);
    state.borrow_mut().client = Some(Rc::clone(&client));
    Ok(client)
}

fn sorted(inner: &Inner, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    order::sort(inner, &mut addresses);
    addresses
}

/// The name as DNS writes it.
fn parse(name: &str) -> Result<Name, Failing> {
    let parsed = if name.is_ascii() { Name::from_ascii(name) } else { Name::from_utf8(name) };
    let parsed = parsed.map_err(|_| Failing::InvalidName("it has no form in ASCII (RFC 5890)"))?;
    if parsed.iter().any(|label| label.contains(&b'.')) {
        return Err(Failing::InvalidName("one of its labels has a dot in it"));
    }
    // No domain is called that; asked with the search list, it would be told to others.
    if parsed.iter().next_back().is_some_and(|label| label.iter().all(u8::is_ascii_digit)) {
        let reason =
            "its last label is a number: write an IPv4 address as four, without a final dot";
        return Err(Failing::InvalidName(reason));
    }
    Ok(parsed)
}

impl Client {
    fn new(source: &Source, port: Option<u16>) -> Result<Self, NetError> {
        let (mut config, mut options) = configuration(source)?;
        if !config.search().is_empty() {
            // The domain of the host's name stands in for a search list, and is no part of it.
            config.domain = None;
        }
        if let Some(port) = port {
            let servers = config.name_servers.iter_mut();
            for connection in servers.flat_map(|server| &mut server.connections) {
                connection.port = port;
            }
        }
        // Without time nothing can be answered; these are the limits of the C library.
        options.timeout = options.timeout.clamp(SHORTEST, LONGEST);
        // There it is the number of attempts, here that of repetitions.
        options.attempts = options.attempts.saturating_sub(1);
        // An answer may have thousands of records.
        options.cache_size = CACHED;
        // Hosts are looked up here: with an IPv4 address in the file alone, hickory would ask a
        // server for an IPv6 one.
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let suffixes = config.search().iter().chain(config.domain()).cloned().collect();
        let resolver = Resolver::builder_with_config(config, Loop).with_options(options).build()?;
        Ok(Self { resolver, suffixes, hosts: read_hosts(source) })
    }

    fn in_hosts(&self, name: &Name, family: AddressFamily) -> Vec<SocketAddr> {
        let kinds = [RecordType::A, RecordType::AAAA];
        let found = kinds
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&DnsQuery::query(name.clone(), kind)));
        found
            .flat_map(|lookup| addresses(lookup.answers()))
            .filter(|address| family.contains(address.ip()))
            .collect()
    }

    /// All that may be asked for in place of a name: it, and it with the domains of the search list.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        let mut candidates = vec![absolute];
        if !name.is_fqdn() {
            let longer = self.suffixes.iter().filter_map(|suffix| {
                // Too long a name is not asked for.
                name.clone().append_domain(suffix).ok()
            });
            candidates.extend(longer);
        }
        candidates
    }

    /// Both families. Of two failures hickory tells that of IPv4 alone. Where the name merely has
    /// no IPv4 address, IPv6 is asked for again before it may be said to have none at all. As a
    /// rule this costs nothing: that there is no IPv6 address has been kept as well.
    async fn look_up_both(&self, name: Name) -> Result<Lookup, NetError> {
        match self.resolver.lookup_ip(name.clone()).await {
            Err(error) if is_empty(&error) => self.resolver.ipv6_lookup(name).await,
            result => result.map(Lookup::from),
        }
    }

    async fn look_up(&self, query: &Query) -> Result<Vec<SocketAddr>, Failing> {
        let name = parse(query.name())?;
        let mut asked = self.candidates(&name);
        let result = match query.family() {
            AddressFamily::Any => self.look_up_both(name).await,
            AddressFamily::V4 => self.resolver.ipv4_lookup(name).await,
            AddressFamily::V6 => self.resolver.ipv6_lookup(name).await,
        };
        match result {
            Ok(lookup) => {
                asked.push(lookup.query().name().clone());
                Ok(addresses(of_names(&asked, lookup.answers())))
            }
            Err(NetError::Timeout) => Err(Failing::TimedOut),
            Err(NetError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Err(Failing::TimedOut)
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Err(Failing::NotFound),
            Err(error) => Err(Failing::Failed(error.into())),
        }
    }
}

/// Whether a name that exists has no records of a type.
fn is_empty(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(none))
        if none.response_code != ResponseCode::NXDomain)
}

fn addresses<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<SocketAddr> {
    let ips = records.into_iter().filter_map(|record| record.data.ip_addr());
    ips.map(|ip| (ip, 0).into()).collect()
}

/// The records of names and of what these are aliases of, in whatever order they come (RFC 1034
/// section 3.6.2). A server may add others, and these are no answer.
fn of_names<'a>(names: &'a [Name], records: &'a [Record]) -> impl Iterator<Item = &'a Record> {
    let mut targets: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
    for record in records {
        if let RData::CNAME(CNAME(target)) = &record.data {
            targets.entry(&record.name).or_default().push(target);
        }
    }
    let mut owners = BTreeSet::new();
    let mut next: Vec<&Name> = names.iter().collect();
    while let Some(name) = next.pop() {
        if owners.insert(name) {
            next.extend(targets.remove(name).unwrap_or_default());
        }
    }
    records.iter().filter(move |record| owners.contains(&record.name))
}

/// What a file says; nothing, where there is none.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            Err(io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
        }
        read => read,
    }
}

fn read_hosts(source: &Source) -> Hosts {
    let path = match source {
        Source::System => Path::new("/etc/hosts"),
        Source::Files { hosts, .. } => hosts,
    };
    let mut hosts = Hosts::default();
    let read = read(path).and_then(|text| {
        // A line that is not UTF-8 must not hide those after it.
        hosts.read_hosts_conf(String::from_utf8_lossy(&text).as_bytes())
    });
    if let Err(error) = read {
        tracing::warn!(%error, "the hosts file is left out");
    }
    hosts
}

#[cfg(not(any(target_os = "android", target_vendor = "apple")))]
fn configuration(source: &Source) -> Result<(ResolverConfig, ResolverOpts), NetError> {
    let path = match source {
        Source::System => Path::new("/etc/resolv.conf"),
        Source::Files { resolv_conf, .. } => resolv_conf,
    };
    let text = without_impossible_domains(&read(path)?);
    parse_resolv_conf(&text).or_else(|_| {
        // It is an error here to name no server.
        let local = b"\nnameserver 127.0.0.1\n";
        parse_resolv_conf([&text[..], local].concat())
    })
}

/// resolv.conf without those domains of a search list that cannot be names: the parser would end
/// with the first of them, and with it every lookup. The C library passes them over.
#[cfg(not(any(target_os = "android", target_vendor = "apple")))]
fn without_impossible_domains(text: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(text.len() + 1);
    for line in text.split(|byte| *byte == b'\n') {
        match std::str::from_utf8(line).ok().and_then(possible_domains) {
            Some(line) => kept.extend(line.bytes()),
            None => kept.extend(line),
        }
        kept.push(b'\n');
    }
    kept
}

/// What a line with domains is without the impossible ones; none of them, no line. `None` for any
/// other line.
#[cfg(not(any(target_os = "android", target_vendor = "apple")))]
fn possible_domains(line: &str) -> Option<String> {
    let mut words = line.split([';', '#']).next()?.split_whitespace();
    let keyword = words.next().filter(|word| matches!(*word, "search" | "domain"))?;
    let possible = |domain: &&str| {
        let parsed = Name::from_str_relaxed(domain);
        if let Err(error) = &parsed {
            tracing::warn!(domain, %error, "a domain of resolv.conf is left out");
        }
        parsed.is_ok()
    };
    let domains: Vec<&str> = words.filter(possible).collect();
    Some(if domains.is_empty() {
        String::new()
    } else {
        format!("{keyword} {}", domains.join(" "))
    })
}

/// There the configuration is no file.
#[cfg(any(target_os = "android", target_vendor = "apple"))]
fn configuration(source: &Source) -> Result<(ResolverConfig, ResolverOpts), NetError> {
    match source {
        Source::System => hickory_resolver::system_conf::read_system_conf(),
        Source::Files { .. } => Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    }
}
