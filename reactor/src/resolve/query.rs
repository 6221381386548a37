//! What is asked of a resolver, and how it answers.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::ResolveError;
use crate::Handle;
use crate::inner::{Inner, reach};
use crate::slots::Key;

/// Which addresses are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressFamily {
    /// Any.
    #[default]
    Any,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl AddressFamily {
    /// Whether an address is of this family.
    ///
    /// ```
    /// use strand_reactor::AddressFamily;
    /// assert!(AddressFamily::V6.contains("::1".parse()?));
    /// assert!(!AddressFamily::V4.contains("::1".parse()?));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn contains(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// How to look a name up; for [`Handle::resolve_with`].
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::{AddressFamily, Reactor, ResolveOptions};
/// let reactor = Reactor::new()?;
/// let options = ResolveOptions::new()
///     .family(AddressFamily::V4)
///     .timeout(Some(Duration::from_secs(5)));
/// reactor.resolve_with("localhost", options, |result| {
///     assert_eq!(result?, [std::net::Ipv4Addr::LOCALHOST]);
///     anyhow::Ok(())
/// });
/// reactor.run()?;
/// assert_eq!(reactor.stats().callback_errors, 0);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolveOptions {
    pub(super) family: AddressFamily,
    pub(super) timeout: Option<Duration>,
}

impl ResolveOptions {
    /// Addresses of any family, within 60 seconds.
    pub fn new() -> Self {
        Self { family: AddressFamily::Any, timeout: Some(Duration::from_secs(60)) }
    }

    /// Which addresses are wanted.
    pub fn family(mut self, family: AddressFamily) -> Self {
        self.family = family;
        self
    }

    /// How long the lookup may take before it ends in [`ResolveError::TimedOut`]. `None`: as long
    /// as the resolver takes.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A resolver: where [`Handle::resolve`] finds the addresses of names. For those that come with
/// the reactor see [`SystemResolver`](crate::SystemResolver) and, with the feature `dns`,
/// `DnsResolver`; [`Handle::set_resolver`] puts one in its place.
///
/// It is called from the loop and may answer at once or later. It is asked only what cannot be
/// answered without it: literals and `localhost` never reach it, nor do names that no host can
/// have. Its answers are delivered in its own order.
///
/// ```
/// use std::net::Ipv4Addr;
/// use strand_reactor::{Answer, Handle, Query, Reactor, Resolve};
///
/// /// Knows one name.
/// struct Fixed;
/// impl Resolve for Fixed {
///     fn resolve(&mut self, _: &Handle, query: Query, answer: Answer) {
///         match query.name() {
///             "printer" => answer.found([Ipv4Addr::new(192, 0, 2, 7).into()]),
///             _ => answer.not_found(),
///         }
///     }
/// }
///
/// let reactor = Reactor::new()?;
/// reactor.set_resolver(Fixed);
/// reactor.resolve("printer", |result| {
///     assert_eq!(result?, [Ipv4Addr::new(192, 0, 2, 7)]);
///     anyhow::Ok(())
/// });
/// reactor.run()?;
/// assert_eq!(reactor.stats().callback_errors, 0);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub trait Resolve {
    /// Looks a name up. The answer may be kept and given later, from the loop.
    fn resolve(&mut self, handle: &Handle, query: Query, answer: Answer);

    /// The answer to a query is wanted no longer: its lookup was cancelled, or took too long.
    /// Comes only while it is owed.
    fn cancel(&mut self, handle: &Handle, query: QueryId) {
        let _ = (handle, query);
    }

    /// The configuration may have changed, as [`Handle::reload_resolver`] says.
    fn reload(&mut self, handle: &Handle) {
        let _ = handle;
    }
}

impl<R: Resolve + ?Sized> Resolve for Box<R> {
    fn resolve(&mut self, handle: &Handle, query: Query, answer: Answer) {
        (**self).resolve(handle, query, answer);
    }

    fn cancel(&mut self, handle: &Handle, query: QueryId) {
        (**self).cancel(handle, query);
    }

    fn reload(&mut self, handle: &Handle) {
        (**self).reload(handle);
    }
}

/// Names one query of a reactor; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub(super) u64);

/// What a resolver is asked.
#[derive(Clone, Debug)]
pub struct Query {
    pub(super) id: QueryId,
    pub(super) name: Rc<str>,
    pub(super) family: AddressFamily,
}

impl Query {
    /// Names this query, for [`Resolve::cancel`].
    pub fn id(&self) -> QueryId {
        self.id
    }

    /// The name, as it was given, but with full stops for the other dots of IDNA (RFC 3490 section
    /// 3.1): of labels of 1 to 63 bytes, 253 in all, perhaps with a final dot, of letters, digits,
    /// hyphens, underscores and what lies outside ASCII.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which addresses are wanted. Others are dropped from the answer.
    pub fn family(&self) -> AddressFamily {
        self.family
    }
}

/// The right, and the duty, to answer a query once. Dropped unused, it says that the resolver
/// dropped the query. An answer that is wanted no longer goes nowhere.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::{Answer, Handle, Query, Reactor, Resolve};
///
/// /// Answers a millisecond later.
/// struct Slow;
/// impl Resolve for Slow {
///     fn resolve(&mut self, handle: &Handle, _: Query, answer: Answer) {
///         assert!(answer.is_wanted());
///         handle.call_later(Duration::from_millis(1), |_| answer.not_found());
///     }
/// }
///
/// let reactor = Reactor::new()?;
/// reactor.set_resolver(Slow);
/// reactor.resolve("printer", |result| assert!(result.is_err()));
/// reactor.run()?;
/// assert_eq!(reactor.stats().callback_panics, 0);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[must_use = "dropping it fails the lookup"]
pub struct Answer {
    inner: Weak<Inner>,
    /// Until it is given.
    key: Cell<Option<Key>>,
}

impl Answer {
    pub(super) fn new(inner: &Rc<Inner>, key: Key) -> Self {
        Self { inner: Rc::downgrade(inner), key: Cell::new(Some(key)) }
    }

    /// These are the addresses, the best one first. An empty list is
    /// [`not_found`](Self::not_found).
    pub fn found(self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.complete(Ok(addresses.into_iter().map(|address| (address, 0).into()).collect()));
    }

    /// The name does not exist, or has no addresses.
    pub fn not_found(self) {
        self.complete(Ok(Vec::new()));
    }

    /// The resolver could not find out: [`ResolveError::Failed`].
    pub fn fail(self, error: impl Into<Box<dyn Error + Send + Sync>>) {
        self.complete(Err(Failing::Failed(error.into())));
    }

    /// Whether anybody still waits for it.
    pub fn is_wanted(&self) -> bool {
        let (Some(inner), Some(key)) = (self.inner.upgrade(), self.key.get()) else {
            return false;
        };
        inner.names.is_pending(key)
    }

    pub(super) fn complete(self, result: Result<Vec<SocketAddr>, Failing>) {
        self.give(result);
    }

    /// For an answer that comes from another thread: gives the duty up for a key.
    pub(super) fn into_key(self) -> Option<Key> {
        self.key.take()
    }

    fn give(&self, result: Result<Vec<SocketAddr>, Failing>) {
        if let Some(key) = self.key.take()
            && let Some(inner) = reach(&self.inner)
        {
            inner.complete_lookup(key, result);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.give(Err(Failing::Failed("the resolver dropped the query".into())));
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("wanted", &self.is_wanted()).finish()
    }
}

/// A [`ResolveError`] to which the name is yet to be added.
pub(crate) enum Failing {
    NotFound,
    InvalidName(&'static str),
    TimedOut,
    Cancelled,
    Failed(Box<dyn Error + Send + Sync>),
}

impl Failing {
    pub(super) fn of(self, name: &str) -> ResolveError {
        let name = name.to_owned();
        match self {
            Self::NotFound => ResolveError::NotFound { name },
            Self::InvalidName(reason) => ResolveError::InvalidName { name, reason },
            Self::TimedOut => ResolveError::TimedOut { name },
            Self::Cancelled => ResolveError::Cancelled { name },
            Self::Failed(source) => ResolveError::Failed { name, source },
        }
    }
}
