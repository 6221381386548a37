//! RFC 868.

use std::time::SystemTime;

use crate::Guard;
use crate::clocked::clocked;
use crate::daytime::unix_seconds;

/// Seconds from 1 January 1900 to 1 January 1970 (RFC 868).
const TO_1970: i64 = 2_208_988_800;

/// Time, RFC 868: every datagram is answered with the time as a number of 32 bits; what it holds
/// is ignored.
///
/// The standard port is 37. See [`time`] for the number.
///
/// ```
/// # use std::net::UdpSocket;
/// use std::time::SystemTime;
/// use strand_protocols::Time;
/// # let reactor = strand_reactor::Reactor::new()?;
/// let port = reactor.listen_udp("127.0.0.1:0", Time::new().clock(|| SystemTime::UNIX_EPOCH))?;
/// # let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"", port.local_addr()?)?;
/// # while port.stats()?.datagrams_out == 0 {
/// #     reactor.iterate(None)?;
/// # }
/// let mut answer = [0; 8];
/// assert_eq!(client.recv(&mut answer)?, 4);
/// assert_eq!(answer[..4], 2_208_988_800_u32.to_be_bytes());
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct Time {
    guard: Guard,
    clock: Box<dyn FnMut() -> SystemTime>,
}

clocked!(Time, time);

/// The bytes with which [`Time`] answers at the instant `at`: whole seconds since 1 January 1900
/// 00:00 UTC, modulo 2^32, the most significant byte first.
///
/// The number wraps to 0 on 7 February 2036 at 06:28:16 UTC; the RFC knows no second era, so a
/// reader must tell from elsewhere which one is meant.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use strand_protocols::time;
/// let wrap = SystemTime::UNIX_EPOCH + Duration::from_secs(2_085_978_496);
/// assert_eq!(time(wrap - Duration::from_secs(1)), [0xff; 4]);
/// assert_eq!(time(wrap), [0; 4]);
/// ```
pub fn time(at: SystemTime) -> [u8; 4] {
    let seconds = unix_seconds(at).wrapping_add(TO_1970);
    // The lower 32 bits are the number modulo 2^32, for instants before 1900 as well.
    (seconds as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The RFC's own examples.
    #[test]
    fn known_instants() {
        for (unix, since_1900) in [
            (0, 2_208_988_800_u32),
            (2_398_291_200 - 2_208_988_800, 2_398_291_200), // 1 January 1976
            (2_524_521_600 - 2_208_988_800, 2_524_521_600), // 1 January 1980
            (2_629_584_000 - 2_208_988_800, 2_629_584_000), // 1 May 1983
        ] {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(unix);
            assert_eq!(time(at), since_1900.to_be_bytes());
        }
        // 17 November 1858.
        let before_1900 =
            SystemTime::UNIX_EPOCH - Duration::from_secs(2_208_988_800 + 1_297_728_000);
        assert_eq!(time(before_1900), (-1_297_728_000_i32).to_be_bytes());
    }
}
