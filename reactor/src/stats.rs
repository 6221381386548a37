//! Counters: plain numbers, read as snapshots.

/// What a reactor has done since it was made; see [`Handle::stats`](crate::Handle::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReactorStats {
    /// Turns of the loop.
    pub turns: u64,
    /// Polls that came back with at least one event.
    pub wakeups: u64,
    /// Events dispatched.
    pub events: u64,
    /// Polls that spun before sleeping ([`Builder::busy_poll`](crate::Builder::busy_poll)).
    pub busy_polls: u64,
    /// Of these, those that need not sleep: something came while they spun.
    pub busy_poll_hits: u64,
    /// Events for ports that were gone.
    pub stale_events: u64,
    /// Timers called.
    pub timers_called: u64,
    /// The longest that a timer was called after its deadline, in nanoseconds.
    pub max_timer_lateness_ns: u64,
    /// Calls posted by `call_when_running` and `call_from_thread` that ran.
    pub calls: u64,
    /// Times that other threads woke the loop: at most once a turn, whatever they post.
    pub remote_wakes: u64,
    /// Jobs that wait for a thread now (`defer_to_thread`, feature `threads`).
    pub jobs_waiting: u64,
    /// Jobs that run on a thread now.
    pub jobs_running: u64,
    /// Callbacks that returned an error.
    pub callback_errors: u64,
    /// Callbacks that panicked.
    pub callback_panics: u64,
    /// Lookups begun by `resolve` and its kin.
    pub lookups: u64,
    /// Lookups that have not ended: a gauge.
    pub pending_lookups: u64,
    /// Tasks of the DNS client, its housekeeping included: a gauge.
    pub resolver_tasks: u64,
    /// Sockets that the DNS client has open: a gauge.
    pub resolver_sockets: u64,
}

/// What a port has done since it was opened; see
/// [`DatagramTransport::stats`](crate::DatagramTransport::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortStats {
    /// Datagrams taken from the system, delivered or waiting for delivery.
    pub datagrams_in: u64,
    /// Bytes of their payloads.
    pub bytes_in: u64,
    /// Receives that brought datagrams.
    pub batches_in: u64,
    /// Datagrams that were cut.
    pub truncated: u64,
    /// Datagrams that the kernel dropped for lack of room, as far as
    /// [`Metadata::DROPS`](crate::Metadata::DROPS) told.
    pub kernel_drops: u64,
    /// Datagrams handed to the system.
    pub datagrams_out: u64,
    /// Bytes of their payloads.
    pub bytes_out: u64,
    /// Sends that took datagrams.
    pub batches_out: u64,
    /// Sends that found no room in the system's buffer.
    pub would_block: u64,
    /// Datagrams dropped by the queue's policy.
    pub queue_dropped: u64,
    /// Datagrams that the system refused.
    pub write_failures: u64,
    /// Datagrams still waiting when the port closed.
    pub cancelled: u64,
    /// Most datagrams that waited for room at once.
    pub queue_high_water: u64,
    /// Refusals (`connection_refused`).
    pub refusals: u64,
    /// Other errors that the network reported.
    pub network_errors: u64,
    /// Callbacks that returned an error.
    pub callback_errors: u64,
    /// Callbacks that panicked.
    pub callback_panics: u64,
    /// Errors and panics that were counted but not logged, to bound the log.
    pub unlogged_errors: u64,
}

/// What a connection has done so far; see [`Transport::stats`](crate::Transport::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// Bytes received.
    pub bytes_in: u64,
    /// Of these, bytes that came after `lose_connection` and were discarded.
    pub bytes_discarded: u64,
    /// Reads that brought bytes.
    pub reads: u64,
    /// Bytes handed to the system.
    pub bytes_out: u64,
    /// Sends that took bytes.
    pub writes: u64,
    /// Sends that found no room in the system's buffer.
    pub would_block: u64,
    /// Most bytes that waited to be sent when a callback returned.
    pub queue_high_water: u64,
    /// Callbacks that returned an error.
    pub callback_errors: u64,
    /// Callbacks that panicked.
    pub callback_panics: u64,
}

/// What a TCP port has done so far; see [`ListeningPort::stats`](crate::ListeningPort::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Of these, those still open.
    pub connections: u64,
    /// Of those accepted, closed at once because the factory built no protocol, or for the limit
    /// per peer.
    pub refused: u64,
    /// Connections that were gone before they could be accepted.
    pub skipped: u64,
    /// Connections closed because the process was out of descriptors.
    pub shed: u64,
    /// Times that the port refrained from accepting.
    pub accept_errors: u64,
}
