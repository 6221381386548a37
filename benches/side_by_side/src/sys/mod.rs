//! System calls that std has not: every unsafe block of this package is beneath this module.
//!
//! Descriptors are passed as numbers by those who own the socket; a wrong one is an error of the
//! system, never undefined behaviour.

#![allow(unsafe_code)]

mod batch;
mod echo;

use std::io;
use std::mem::zeroed;
use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd;

pub use batch::{BATCH, Receiver, Sender};
pub use echo::{BatchLoop, Variant};

pub type Fd = i32;
pub type Address = libc::sockaddr_in;
pub const ADDRESS_LEN: u32 = size_of::<Address>() as u32;

pub use libc::{EAGAIN, ECONNREFUSED, EINTR, ENOBUFS};
pub use libc::{EPOLLIN, EPOLLOUT, POLLIN, POLLOUT, epoll_event, pollfd};

/// The errno of the last call that failed.
pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

// ---- Clocks ----

/// Nanoseconds of the monotonic clock.
#[inline]
pub fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// CPU seconds of this process.
pub fn own_cpu() -> f64 {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID) as f64 / 1e9
}

/// CPU seconds of a process, user and system, to the nanosecond; `None` if it is gone.
pub fn process_cpu(pid: i32) -> Option<f64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` outlives the call, which writes to it alone.
    let result = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    (result == 0).then(|| clock_ns(clock) as f64 / 1e9)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    // SAFETY: `timespec` is plain data, for which zeroes are a value; it outlives the call.
    unsafe {
        let mut time: libc::timespec = zeroed();
        if libc::clock_gettime(clock, &mut time) != 0 {
            return 0;
        }
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

// ---- Sockets ----

pub fn address(of: SocketAddrV4) -> Address {
    // SAFETY: plain data, for which zeroes are a value.
    let mut address: Address = unsafe { zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = of.port().to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes(of.ip().octets());
    address
}

/// Sets how many connections may wait in a listener.
pub fn listen(listener: &TcpListener, backlog: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(listener.as_raw_fd(), backlog) }).map(drop)
}

/// Sets an option whose value is a number.
pub fn set_option(fd: Fd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as u32;
    // SAFETY: `value` outlives the call, and `len` is its size.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) }).map(drop)
}

fn socket(kind: i32) -> io::Result<Fd> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0) })
}

pub fn connect(fd: Fd, to: &Address) -> io::Result<()> {
    // SAFETY: `to` is an address of IPv4, and its length is given.
    check(unsafe { libc::connect(fd, (&raw const *to).cast(), ADDRESS_LEN) }).map(drop)
}

/// Closes a descriptor that the caller owns.
pub fn close(fd: Fd) {
    // SAFETY: takes no pointers.
    unsafe { libc::close(fd) };
}

/// A UDP socket on a port of the system's choice, with wide buffers; merging what it receives
/// (`UDP_GRO`) if asked.
pub fn udp_socket(merging: bool) -> io::Result<Fd> {
    let fd = socket(libc::SOCK_DGRAM)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, 4 << 20)?;
    if merging {
        set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)?;
    }
    let any = address(SocketAddrV4::new([127, 0, 0, 1].into(), 0));
    // SAFETY: `any` outlives the call, and its length is given.
    check(unsafe { libc::bind(fd, (&raw const any).cast(), ADDRESS_LEN) })?;
    Ok(fd)
}

/// A TCP socket with `TCP_NODELAY`, connected, and non-blocking from then on.
pub fn tcp_connected(to: &Address) -> io::Result<Fd> {
    let fd = socket(libc::SOCK_STREAM)?;
    connect(fd, to)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    // SAFETY: these commands of fcntl take no pointers.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(fd)
}

/// A TCP socket connected to `to` that has sent one byte.
pub fn connect_and_send(to: &Address) -> io::Result<Fd> {
    let fd = socket(libc::SOCK_STREAM)?;
    let sent = connect(fd, to).is_ok() && send(fd, b"x") == 1;
    if sent {
        Ok(fd)
    } else {
        let error = io::Error::last_os_error();
        close(fd);
        Err(error)
    }
}

/// `send(2)`: never blocks, never raises `SIGPIPE`. Negative: see [`errno`].
#[inline]
pub fn send(fd: Fd, data: &[u8]) -> isize {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length are those of a slice.
    unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), flags) }
}

/// `recv(2)`, without blocking.
#[inline]
pub fn receive(fd: Fd, buffer: &mut [u8]) -> isize {
    // SAFETY: pointer and length are those of a slice.
    unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) }
}

/// Takes up to `len` bytes off a stream and throws them away in the kernel (tcp(7), `MSG_TRUNC`).
#[inline]
pub fn discard(fd: Fd, len: usize) -> isize {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: with MSG_TRUNC a TCP socket does not write to the buffer, which may be null.
    unsafe { libc::recv(fd, std::ptr::null_mut(), len, flags) }
}

#[inline]
pub fn send_to(fd: Fd, data: &[u8], to: &Address) -> isize {
    let to = (&raw const *to).cast();
    // SAFETY: pointer and length are those of a slice, and of an address.
    unsafe { libc::sendto(fd, data.as_ptr().cast(), data.len(), 0, to, ADDRESS_LEN) }
}

/// `recvfrom(2)`, without blocking.
#[inline]
pub fn receive_from(fd: Fd, buffer: &mut [u8], from: &mut Address) -> isize {
    let mut len = ADDRESS_LEN;
    let from = (&raw mut *from).cast();
    let (data, room) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: pointers and lengths are those of a slice and of an address; `len` outlives the call.
    unsafe { libc::recvfrom(fd, data, room, libc::MSG_DONTWAIT, from, &mut len) }
}

/// Takes a connection that waits; it is non-blocking and has `TCP_NODELAY`.
pub fn accept(listener: Fd) -> io::Result<Fd> {
    let none = std::ptr::null_mut::<libc::sockaddr>();
    // SAFETY: both pointers may be null: the peer's address is not asked for.
    let fd = unsafe { libc::accept4(listener, none, std::ptr::null_mut(), libc::SOCK_NONBLOCK) };
    let fd = check(fd)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    Ok(fd)
}

/// Ends what we send on a connection.
pub fn end_sending(fd: Fd) {
    // SAFETY: takes no pointers.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// `poll(2)`; how many are ready.
pub fn poll(watched: &mut [pollfd], milliseconds: i32) -> usize {
    let (pointer, len) = (watched.as_mut_ptr(), watched.len() as libc::nfds_t);
    // SAFETY: pointer and length are those of a slice.
    unsafe { libc::poll(pointer, len, milliseconds) }.max(0) as usize
}

/// Raises the number of descriptors that this process may have.
pub fn allow_descriptors(count: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}

// ---- epoll ----

/// An epoll instance, for the life of the process.
pub struct Epoll(Fd);

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        Ok(Self(check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?))
    }

    pub fn add(&self, fd: Fd, events: i32, key: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, key)
    }

    pub fn modify(&self, fd: Fd, events: i32, key: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, key)
    }

    fn control(&self, operation: i32, fd: Fd, events: i32, key: u64) -> io::Result<()> {
        let mut event = epoll_event { events: events as u32, u64: key };
        // SAFETY: `event` outlives the call.
        check(unsafe { libc::epoll_ctl(self.0, operation, fd, &mut event) }).map(drop)
    }

    /// Waits for so many milliseconds (-1: for ever); how many events there are.
    #[inline]
    pub fn wait(&self, events: &mut [epoll_event], milliseconds: i32) -> usize {
        let (pointer, room) = (events.as_mut_ptr(), events.len() as i32);
        // SAFETY: pointer and length are those of a slice.
        unsafe { libc::epoll_wait(self.0, pointer, room, milliseconds) }.max(0) as usize
    }
}
