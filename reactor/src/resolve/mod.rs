//! Names: from the name of a host to its addresses.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | the API, and the lookups under way |
//! | `query.rs` | the trait [`Resolve`], what it is asked and how it answers |
//! | `error.rs` | [`ResolveError`] |
//! | `literal.rs` | names that need no resolver, and names that cannot be |
//! | `order.rs` | the order of addresses, RFC 6724 |
//! | `getaddrinfo.rs` | [`SystemResolver`]: the system's resolver, on threads |
//! | `hickory.rs` | `DnsResolver`: a DNS client on the loop (feature `dns`) |
//! | `runtime.rs`, `executor.rs`, `sockets.rs` | what that client runs on |
//!
//! A lookup is begun by a notice, so nothing of it happens inside the call. Whoever takes it out
//! of its slot (an answer, the timeout, a cancellation) queues the notice that tells `done`;
//! there is no second one to take.

mod error;
#[cfg(feature = "dns")]
mod executor;
mod getaddrinfo;
#[cfg(feature = "dns")]
mod hickory;
mod literal;
mod order;
mod query;
#[cfg(feature = "dns")]
mod runtime;
#[cfg(feature = "dns")]
mod sockets;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};

pub use error::ResolveError;
#[cfg(feature = "dns")]
pub(crate) use executor::Executor;
pub use getaddrinfo::SystemResolver;
#[cfg(feature = "dns")]
pub use hickory::DnsResolver;
pub use query::{AddressFamily, Answer, Query, QueryId, Resolve, ResolveOptions};

use self::literal::Literal;
pub(crate) use self::literal::check as check_name;
use self::query::Failing;
use crate::Handle;
use crate::agenda::{Call, Notice};
use crate::callback::{CallbackResult, guarded};
use crate::inner::{Inner, reach};
use crate::slots::{Key, Slots};
use crate::timers::DelayedCall;

type Done = Box<dyn FnOnce(Result<Vec<SocketAddr>, ResolveError>) -> anyhow::Result<()>>;

/// The lookups of a reactor, and its resolver.
pub(crate) struct Names {
    lookups: RefCell<Slots<Lookup>>,
    /// Made at the first query, unless set; out while it is called.
    resolver: Cell<Option<Box<dyn Resolve>>>,
    /// Counts the resolvers there have been.
    generation: Cell<u32>,
    begun: Cell<u64>,
}

struct Lookup {
    query: Query,
    done: Done,
    timer: Option<DelayedCall>,
    /// The generation of the resolver that has the query.
    asked: Option<u32>,
    referenced: bool,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self {
            lookups: RefCell::new(Slots::new()),
            resolver: Cell::new(None),
            generation: Cell::new(0),
            begun: Cell::new(0),
        }
    }

    /// Lookups begun so far, and those under way.
    pub(crate) fn gauges(&self) -> (u64, u64) {
        (self.begun.get(), self.lookups.borrow().len() as u64)
    }

    /// The end of the reactor. What is returned is to be dropped with nothing borrowed.
    pub(crate) fn close(&self) -> impl Sized + use<> {
        (self.lookups.borrow_mut().drain(), self.resolver.take())
    }

    fn is_pending(&self, key: Key) -> bool {
        self.lookups.borrow().get(key).is_some()
    }

    /// Calls the resolver, which may set another one meanwhile.
    fn with_resolver(&self, inner: &Rc<Inner>, call: impl FnOnce(&mut dyn Resolve, &Handle)) {
        let mut resolver = self.resolver.take().unwrap_or_else(|| default_resolver(inner));
        let handle = inner.handle();
        let outcome = guarded(|| {
            call(&mut *resolver, &handle);
            Ok(())
        });
        match self.resolver.take() {
            None if !inner.core.borrow().closed => self.resolver.set(Some(resolver)),
            successor => {
                self.resolver.set(successor);
                drop(resolver);
            }
        }
        if let Err(failure) = outcome {
            inner.report(None, "resolver", failure);
        }
    }
}

fn default_resolver(inner: &Inner) -> Box<dyn Resolve> {
    #[cfg(feature = "sim")]
    if let Some(world) = inner.simulation() {
        return world.resolver();
    }
    #[cfg(not(feature = "sim"))]
    let _ = inner;
    #[cfg(feature = "dns")]
    return Box::new(DnsResolver::system());
    #[cfg(not(feature = "dns"))]
    Box::new(SystemResolver::new())
}

impl Inner {
    /// The first step of a lookup, from the loop.
    fn begin_lookup(self: &Rc<Self>, key: Key) {
        let query = self.names.lookups.borrow().get(key).map(|lookup| lookup.query.clone());
        let Some(mut query) = query else { return };
        if let Cow::Owned(name) = literal::with_full_stops(&query.name) {
            query.name = name.into();
        }
        match literal::read(query.name()) {
            Literal::Addresses(mut addresses) => {
                addresses.retain(|address| query.family.contains(address.ip()));
                order::sort(self, &mut addresses);
                self.complete_lookup(key, Ok(addresses));
            }
            Literal::Invalid(reason) => {
                self.complete_lookup(key, Err(Failing::InvalidName(reason)));
            }
            Literal::Name => {
                if let Some(lookup) = self.names.lookups.borrow_mut().get_mut(key) {
                    lookup.asked = Some(self.names.generation.get());
                }
                let answer = Answer::new(self, key);
                self.names.with_resolver(self, |resolver, handle| {
                    resolver.resolve(handle, query, answer);
                });
            }
        }
    }

    /// Ends a lookup, if it has not ended: `done` is told by the loop.
    fn complete_lookup(self: &Rc<Self>, key: Key, result: Result<Vec<SocketAddr>, Failing>) {
        let Some(lookup) = self.names.lookups.borrow_mut().remove(key) else { return };
        let Lookup { query, done, timer, asked, referenced } = lookup;
        if let Some(timer) = timer {
            // Failing means that the timer is what ends the lookup.
            let _ = timer.cancel();
        }
        let asked = match result {
            Err(Failing::TimedOut | Failing::Cancelled) => asked,
            _ => None,
        };
        let result = match result {
            Ok(mut addresses) => {
                addresses.retain(|address| query.family.contains(address.ip()));
                if addresses.is_empty() { Err(Failing::NotFound) } else { Ok(addresses) }
            }
            Err(failing) => Err(failing),
        };
        let call: Call = Box::new(move |handle| {
            if let Some(inner) = handle.upgrade()
                && asked == Some(inner.names.generation.get())
            {
                inner.names.with_resolver(&inner, |resolver, handle| {
                    resolver.cancel(handle, query.id);
                });
            }
            done(result.map_err(|failing| failing.of(&query.name)))
        });
        let mut core = self.core.borrow_mut();
        if core.closed {
            // The reactor is being dropped, and its lookups with it.
            drop(core);
            drop(call);
            return;
        }
        core.agenda.references -= usize::from(referenced);
        core.agenda.notices.push_back(Notice::Call(call));
    }
}

/// A lookup under way; made by [`Handle::resolve`].
///
/// Dropping it changes nothing: the answer still comes.
///
/// ```
/// use strand_reactor::{Reactor, ResolveError};
/// let reactor = Reactor::new()?;
/// let lookup = reactor.resolve("example.com", |result| {
///     assert!(matches!(result, Err(ResolveError::Cancelled { .. })));
/// });
/// assert!(lookup.active());
/// assert!(lookup.cancel());
/// assert!(!lookup.cancel());
/// reactor.run()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Resolution {
    inner: Weak<Inner>,
    key: Option<Key>,
}

impl Resolution {
    /// Ends the lookup: `done` is called from the loop with [`ResolveError::Cancelled`], and with
    /// nothing else. False when there is nothing to cancel: the lookup has ended (although `done`
    /// may not have been called yet), or the reactor is gone.
    pub fn cancel(&self) -> bool {
        let Some((inner, key)) = self.pending() else { return false };
        inner.complete_lookup(key, Err(Failing::Cancelled));
        true
    }

    /// Whether the lookup has not ended.
    pub fn active(&self) -> bool {
        self.pending().is_some()
    }

    /// Lets [`run`](crate::Reactor::run) return although this lookup has not ended.
    pub fn unref(&self) {
        self.count(false);
    }

    /// Takes [`unref`](Self::unref) back.
    pub fn reref(&self) {
        self.count(true);
    }

    fn count(&self, referenced: bool) {
        let Some((inner, key)) = self.pending() else { return };
        let mut lookups = inner.names.lookups.borrow_mut();
        let Some(lookup) = lookups.get_mut(key) else { return };
        let references = &mut inner.core.borrow_mut().agenda.references;
        match (std::mem::replace(&mut lookup.referenced, referenced), referenced) {
            (false, true) => *references += 1,
            (true, false) => *references -= 1,
            _ => {}
        }
    }

    fn pending(&self) -> Option<(Rc<Inner>, Key)> {
        let (inner, key) = (reach(&self.inner)?, self.key?);
        let pending = inner.names.is_pending(key) && !inner.core.borrow().closed;
        pending.then_some((inner, key))
    }
}

impl fmt::Debug for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolution").field("active", &self.active()).finish()
    }
}

impl Handle {
    /// Looks a name up and calls `done` with its addresses, IPv4 and IPv6, the one to try first
    /// in front (RFC 6724): once, from the loop, never inside this call, within 60 seconds. The
    /// list is never empty.
    ///
    /// An address as text is its own answer, and so are `localhost` and all names below it (RFC
    /// 6761); no server is asked. The zone of `fe80::1%eth0` has no place in an [`IpAddr`]: it is
    /// checked and left out, and [`resolve_addrs`](Self::resolve_addrs) keeps it. A name that no
    /// host can have ends in [`ResolveError::InvalidName`].
    ///
    /// A lookup keeps [`run`](crate::Reactor::run) going. After a `stop` it goes on with the next
    /// `run`. When the reactor is dropped, or was when this is called, `done` is dropped.
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// let reactor = strand_reactor::Reactor::new()?;
    /// reactor.resolve("192.0.2.1", |result| {
    ///     assert_eq!(result?, [Ipv4Addr::new(192, 0, 2, 1)]);
    ///     anyhow::Ok(())
    /// });
    /// reactor.run()?;
    /// assert_eq!(reactor.stats().callback_errors, 0);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn resolve<F, R>(&self, name: &str, done: F) -> Resolution
    where
        F: FnOnce(Result<Vec<IpAddr>, ResolveError>) -> R + 'static,
        R: CallbackResult,
    {
        self.resolve_with(name, ResolveOptions::new(), done)
    }

    /// As [`resolve`](Self::resolve), for one family alone or with another timeout.
    pub fn resolve_with<F, R>(&self, name: &str, options: ResolveOptions, done: F) -> Resolution
    where
        F: FnOnce(Result<Vec<IpAddr>, ResolveError>) -> R + 'static,
        R: CallbackResult,
    {
        self.look_up(
            name,
            options,
            Box::new(move |result| {
                let ips = |list: Vec<SocketAddr>| list.iter().map(SocketAddr::ip).collect();
                done(result.map(ips)).into_result()
            }),
        )
    }

    /// As [`resolve_with`](Self::resolve_with), with addresses that are ready to connect to: of
    /// this port, and with the zone that the name had (`fe80::1%eth0`) or the resolver knows.
    ///
    /// ```
    /// use strand_reactor::{Reactor, ResolveOptions};
    /// let reactor = Reactor::new()?;
    /// reactor.resolve_addrs("fe80::1%7", 80, ResolveOptions::new(), |result| {
    ///     assert_eq!(result?, ["[fe80::1%7]:80".parse()?]);
    ///     anyhow::Ok(())
    /// });
    /// reactor.run()?;
    /// assert_eq!(reactor.stats().callback_errors, 0);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn resolve_addrs<F, R>(
        &self,
        name: &str,
        port: u16,
        options: ResolveOptions,
        done: F,
    ) -> Resolution
    where
        F: FnOnce(Result<Vec<SocketAddr>, ResolveError>) -> R + 'static,
        R: CallbackResult,
    {
        self.look_up(
            name,
            options,
            Box::new(move |mut result| {
                if let Ok(addresses) = &mut result {
                    for address in addresses {
                        address.set_port(port);
                    }
                }
                done(result).into_result()
            }),
        )
    }

    fn look_up(&self, name: &str, options: ResolveOptions, done: Done) -> Resolution {
        let open = self.upgrade().filter(|inner| !inner.core.borrow().closed);
        let Some(inner) = open else {
            drop(done);
            return Resolution { inner: self.weak(), key: None };
        };
        let names = &inner.names;
        let id = QueryId(names.begun.get());
        names.begun.set(id.0 + 1);
        let query = Query { id, name: name.into(), family: options.family };
        let lookup = Lookup { query, done, timer: None, asked: None, referenced: true };
        let key = names.lookups.borrow_mut().insert(lookup);
        if let Some(timeout) = options.timeout {
            let timer = self.call_later(timeout, move |handle| {
                if let Some(inner) = handle.upgrade() {
                    inner.complete_lookup(key, Err(Failing::TimedOut));
                }
            });
            timer.unref();
            if let Some(lookup) = names.lookups.borrow_mut().get_mut(key) {
                lookup.timer = Some(timer);
            }
        }
        let begin: Call = Box::new(move |handle| {
            if let Some(inner) = handle.upgrade() {
                inner.begin_lookup(key);
            }
            Ok(())
        });
        let agenda = &mut inner.core.borrow_mut().agenda;
        agenda.references += 1;
        agenda.notices.push_back(Notice::Call(begin));
        Resolution { inner: self.weak(), key: Some(key) }
    }

    /// Puts another resolver in the place of the one at work. What that one was asked and has not
    /// answered ends in [`ResolveError::Failed`], unless it keeps the [`Answer`]s elsewhere; it is
    /// dropped from the loop.
    ///
    /// Without this call the resolver is `DnsResolver::system()` with the feature `dns`, and
    /// [`SystemResolver`] without it.
    pub fn set_resolver<R: Resolve + 'static>(&self, resolver: R) {
        let Some(inner) = self.upgrade() else { return };
        if inner.core.borrow().closed {
            return;
        }
        let names = &inner.names;
        names.generation.set(names.generation.get().wrapping_add(1));
        let former = names.resolver.replace(Some(Box::new(resolver)));
        self.notice(&inner, move |_| drop(former));
    }

    /// Tells the resolver that its configuration may have changed: `DnsResolver` reads its files
    /// anew and forgets what it has cached. Lookups under way go on as they began.
    ///
    /// For programs that outlive a change of network, on a signal or on a timer:
    ///
    /// ```
    /// use std::time::Duration;
    /// let reactor = strand_reactor::Reactor::new()?;
    /// let every = Duration::from_secs(60);
    /// let reloading = reactor.looping_call(every, |handle, _| handle.reload_resolver());
    /// reloading.unref();
    /// reactor.run()?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn reload_resolver(&self) {
        let Some(inner) = self.upgrade() else { return };
        if inner.core.borrow().closed {
            return;
        }
        self.notice(&inner, |handle| {
            if let Some(inner) = handle.upgrade() {
                inner.names.with_resolver(&inner, |resolver, handle| resolver.reload(handle));
            }
        });
    }

    fn notice(&self, inner: &Inner, call: impl FnOnce(&Self) + 'static) {
        let call: Call = Box::new(move |handle| {
            call(handle);
            Ok(())
        });
        inner.core.borrow_mut().agenda.notices.push_back(Notice::Call(call));
    }
}
