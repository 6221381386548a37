//! RFC 867.

use std::time::{Duration, SystemTime};

use crate::Guard;
use crate::clocked::clocked;

/// Daytime, RFC 867: every datagram is answered with the date and time of day, for people to
/// read; what it holds is ignored.
///
/// The standard port is 13. The form is the first of those that the RFC proposes, in UTC; see
/// [`daytime`].
///
/// ```
/// # use std::net::UdpSocket;
/// use std::time::{Duration, SystemTime};
/// use strand_protocols::Daytime;
/// # let reactor = strand_reactor::Reactor::new()?;
/// let service = Daytime::new().clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400));
/// let port = reactor.listen_udp("127.0.0.1:0", service)?;
/// # let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"", port.local_addr()?)?;
/// # while port.stats()?.datagrams_out == 0 {
/// #     reactor.iterate(None)?;
/// # }
/// let mut answer = [0; 64];
/// let len = client.recv(&mut answer)?;
/// assert_eq!(&answer[..len], b"Tuesday, February 29, 2000 00:00:00-UTC\r\n");
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct Daytime {
    guard: Guard,
    clock: Box<dyn FnMut() -> SystemTime>,
}

clocked!(Daytime, daytime);

/// The line with which [`Daytime`] answers at the instant `at`: weekday, date and time of day in
/// UTC by the Gregorian calendar, in ASCII, ended by CR LF.
///
/// ```
/// use std::time::SystemTime;
/// let line = strand_protocols::daytime(SystemTime::UNIX_EPOCH);
/// assert_eq!(line, "Thursday, January 1, 1970 00:00:00-UTC\r\n");
/// ```
pub fn daytime(at: SystemTime) -> String {
    const WEEKDAYS: [&str; 7] =
        ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let seconds = unix_seconds(at);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    // 1 January 1970 was a Thursday.
    let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
    let month = MONTHS[month as usize - 1];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {month} {day}, {year} {hour:02}:{minute:02}:{second:02}-UTC\r\n")
}

/// Whole seconds since 1 January 1970, rounded down; negative before. Leap seconds are not
/// counted, as `SystemTime` does not.
pub(crate) fn unix_seconds(at: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => whole(after),
        Err(before) => {
            let before = before.duration();
            -whole(before) - i64::from(before.subsec_nanos() > 0)
        }
    }
}

/// Year, month (1 to 12) and day (1 to 31) of the day that many days after 1 January 1970, by the
/// proleptic Gregorian calendar.
///
/// Years are counted from 1 March, so that the leap day is the last of its year, and in eras of
/// 400 years, after which the calendar repeats.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_ERA: i64 = 146_097;
    // 1 March of the year 0 is 719,468 days before 1 January 1970.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(DAYS_OF_ERA), days.rem_euclid(DAYS_OF_ERA));
    // Take out the leap days before: one in 4 years (1,460 days without), not in 100, yet in 400.
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, five months have 153 days: 31, 30, 31, 30, 31.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> SystemTime {
        let span = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { SystemTime::UNIX_EPOCH - span } else { SystemTime::UNIX_EPOCH + span }
    }

    /// Instants and their dates from `date -u -d @SECONDS`.
    #[test]
    fn known_instants() {
        for (seconds, line) in [
            (-2_208_988_800, "Monday, January 1, 1900 00:00:00-UTC\r\n"),
            (-2_203_891_201, "Wednesday, February 28, 1900 23:59:59-UTC\r\n"),
            (-2_203_891_200, "Thursday, March 1, 1900 00:00:00-UTC\r\n"),
            (-1, "Wednesday, December 31, 1969 23:59:59-UTC\r\n"),
            (1, "Thursday, January 1, 1970 00:00:01-UTC\r\n"),
            (382_930_663, "Friday, February 19, 1982 01:37:43-UTC\r\n"),
            (951_868_799, "Tuesday, February 29, 2000 23:59:59-UTC\r\n"),
            (951_868_800, "Wednesday, March 1, 2000 00:00:00-UTC\r\n"),
            (1_709_164_800, "Thursday, February 29, 2024 00:00:00-UTC\r\n"),
            (1_798_761_599, "Thursday, December 31, 2026 23:59:59-UTC\r\n"),
            (4_107_542_400, "Monday, March 1, 2100 00:00:00-UTC\r\n"),
            (253_402_300_799, "Friday, December 31, 9999 23:59:59-UTC\r\n"),
        ] {
            assert_eq!(daytime(at(seconds)), line, "{seconds}");
        }
    }

    #[test]
    fn a_part_of_a_second_is_left_out_before_1970_too() {
        let half = Duration::from_millis(500);
        assert_eq!(unix_seconds(SystemTime::UNIX_EPOCH + half), 0);
        assert_eq!(unix_seconds(SystemTime::UNIX_EPOCH - half), -1);
    }

    /// Day by day through 1,000 years against plain counting.
    #[test]
    fn no_day_is_skipped_or_doubled() {
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut year, mut month, mut day) = (1600, 1, 1);
        // 1 January 1600.
        for days in -135_140..230_000 {
            assert_eq!(civil_from_days(days), (year, month, day));
            let last = match month {
                2 => 28 + i64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > last {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!(year, 2599);
    }
}
