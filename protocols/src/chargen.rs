//! RFC 864.

use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};

use crate::Guard;

/// Most characters in an answer (RFC 864).
const MAX_LEN: usize = 512;
/// The step from one length to the next: with 513 it has no divisor in common, so every length
/// from 0 to 512 comes up once before any comes up twice.
const LEN_STEP: usize = 197;
/// The characters of a line, the printable ones of ASCII in a ring; CR and LF follow.
const LINE_LEN: usize = 72;
const PRINTABLE: usize = 95;

/// Character generator, RFC 864: every datagram is answered with 0 to 512 characters; what it
/// holds is ignored.
///
/// The standard port is 19. The characters are the RFC's pattern: lines of 72 printable ASCII
/// characters, each line one further round the ring than the one before, and ended by CR LF. Each
/// answer starts one line further than the last. The lengths, which the RFC wants random, run
/// through all from 0 to 512 in a fixed order that looks so.
///
/// ```
/// # use std::net::UdpSocket;
/// # use strand_protocols::Chargen;
/// # let reactor = strand_reactor::Reactor::new()?;
/// let port = reactor.listen_udp("127.0.0.1:0", Chargen::new())?;
/// # let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"", port.local_addr()?)?;
/// # while port.stats()?.datagrams_out == 0 {
/// #     reactor.iterate(None)?;
/// # }
/// let mut answer = [0; 1024];
/// let len = client.recv(&mut answer)?;
/// assert!(len <= 512);
/// assert!(answer.starts_with(b" !\"#$%&'()*+,-./0123456789"));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Chargen {
    guard: Guard,
    line: usize,
    len: usize,
}

impl Chargen {
    /// A service that answers no port under 1024.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether ports under 1024 are answered, too; see [`Guard`].
    pub fn allow_privileged_ports(mut self, on: bool) -> Self {
        self.guard = self.guard.allow_privileged_ports(on);
        self
    }

    /// Fills `buffer` with the next answer, and returns its length.
    fn next(&mut self, buffer: &mut [u8; MAX_LEN]) -> usize {
        self.len = (self.len + LEN_STEP) % (MAX_LEN + 1);
        for (index, byte) in buffer[..self.len].iter_mut().enumerate() {
            let (line, column) = (self.line + index / (LINE_LEN + 2), index % (LINE_LEN + 2));
            *byte = match column {
                LINE_LEN => b'\r',
                column if column > LINE_LEN => b'\n',
                // Less than 95 above the first printable character: below 127.
                column => b' ' + ((line + column) % PRINTABLE) as u8,
            };
        }
        self.line = (self.line + 1) % PRINTABLE;
        self.len
    }
}

impl DatagramProtocol for Chargen {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        if self.guard.admits(datagram.source()) {
            let mut buffer = [0; MAX_LEN];
            let len = self.next(&mut buffer);
            transport.write_with(&buffer[..len], &datagram.reply())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_length_from_0_to_512_comes_up_once_before_any_comes_up_twice() {
        let mut chargen = Chargen::new();
        let mut buffer = [0; MAX_LEN];
        let lengths: BTreeSet<_> = (0..=MAX_LEN).map(|_| chargen.next(&mut buffer)).collect();
        assert!(lengths.into_iter().eq(0..=MAX_LEN));
    }

    #[test]
    fn lines_hold_72_printable_characters_and_move_on_by_one() {
        let mut chargen = Chargen::new();
        let mut buffer = [0; MAX_LEN];
        while chargen.next(&mut buffer) < MAX_LEN {}
        let text = std::str::from_utf8(&buffer).unwrap();
        let lines: Vec<_> = text.split("\r\n").collect();
        assert_eq!(lines.len(), 7, "six whole lines and a piece of the seventh");
        for pair in lines.windows(2) {
            assert_eq!(pair[0].len(), 72);
            assert!(pair[0].bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
            assert!(pair[0][1..].starts_with(&pair[1][..pair[1].len().min(71)]));
        }
    }

    #[test]
    fn the_ring_closes_after_the_tilde() {
        let mut chargen = Chargen { line: 94, ..Chargen::new() };
        let mut buffer = [0; MAX_LEN];
        assert!(chargen.next(&mut buffer) > 2);
        assert!(buffer.starts_with(b"~ !\"#"));
    }
}
