//! Sockets handed over by the service manager: sd_listen_fds(3).

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use crate::sys;

/// The first of the descriptors handed over.
const FIRST: RawFd = 3;

/// A socket that the service manager opened for this program.
#[derive(Debug)]
#[non_exhaustive]
pub struct ListenFd {
    /// The descriptor, close-on-exec.
    pub fd: OwnedFd,
    /// Its name (`FileDescriptorName=`), if the manager gave any.
    pub name: Option<String>,
}

/// Takes the sockets that systemd, or another manager with the same protocol, opened for this
/// program (`LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, see sd_listen_fds(3)), in the order
/// of its configuration.
///
/// The list is empty if there are none, if they are meant for another process, and from the second
/// call on: each descriptor has one owner. Call it at the start of `main`, before anything else
/// can have closed or reused these numbers.
///
/// ```
/// for socket in strand_reactor::os::take_listen_fds()? {
///     println!("{:?}: {:?}", socket.name, socket.fd);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// `InvalidData` when one of the variables makes no sense, or names descriptors that are not open;
/// the error names it and its value.
pub fn take_listen_fds() -> io::Result<Vec<ListenFd>> {
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let (pid, count, names) =
        (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
    let names = names_for(std::process::id(), pid.as_deref(), count.as_deref(), names.as_deref())?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let fds = match sys::inherited_fds(FIRST, names.len()) {
        None => return Ok(Vec::new()),
        Some(fds) => fds.map_err(|error| {
            let text = format!("LISTEN_FDS=\"{}\": one of them is not open: {error}", names.len());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?,
    };
    Ok(fds.into_iter().zip(names).map(|(fd, name)| ListenFd { fd, name }).collect())
}

/// The names of the descriptors handed over to process `own_pid`, one for each, from the variables.
fn names_for(
    own_pid: u32,
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
) -> io::Result<Vec<Option<String>>> {
    let (Some(pid), Some(count)) = (pid, count) else {
        return Ok(Vec::new());
    };
    let makes_no_sense = |name: &str, value: &str, why: &str| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{name}={value:?}: {why}"))
    };
    let pid: u32 =
        pid.parse().map_err(|_| makes_no_sense("LISTEN_PID", pid, "not a process id"))?;
    if pid != own_pid {
        return Ok(Vec::new());
    }
    // More than any process can have open is a mistake, not a reason to reserve memory.
    let fds: usize = match count.parse() {
        Ok(fds) if fds <= 1 << 20 => fds,
        _ => return Err(makes_no_sense("LISTEN_FDS", count, "not a number of descriptors")),
    };
    let Some(text) = names else {
        return Ok(vec![None; fds]);
    };
    let listed: Vec<_> = match text {
        "" => Vec::new(),
        text => text.split(':').map(|name| (!name.is_empty()).then(|| name.to_owned())).collect(),
    };
    if listed.is_empty() && fds <= 1 {
        // One empty name and no name are written alike.
        return Ok(vec![None; fds]);
    }
    if listed.len() != fds {
        let why = format!("not as many names as LISTEN_FDS={count:?}");
        return Err(makes_no_sense("LISTEN_FDNAMES", text, &why));
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(names: &[&str]) -> Vec<Option<String>> {
        names.iter().map(|name| Some((*name).to_owned())).collect()
    }

    #[test]
    fn nothing_was_handed_over() {
        assert!(names_for(7, None, None, None).unwrap().is_empty());
        assert!(names_for(7, Some("7"), None, None).unwrap().is_empty());
        assert!(names_for(7, None, Some("2"), None).unwrap().is_empty());
        assert!(names_for(7, Some("7"), Some("0"), Some("")).unwrap().is_empty());
    }

    #[test]
    fn handed_over_to_another_process() {
        assert!(names_for(7, Some("8"), Some("2"), None).unwrap().is_empty());
        // Its other variables are not ours to judge.
        assert!(names_for(7, Some("8"), Some("many"), None).unwrap().is_empty());
    }

    #[test]
    fn names_are_optional() {
        assert_eq!(names_for(7, Some("7"), Some("2"), None).unwrap(), [None, None]);
        assert_eq!(names_for(7, Some("7"), Some("1"), Some("")).unwrap(), [None]);
        let named = names_for(7, Some("7"), Some("2"), Some("dns:http.socket")).unwrap();
        assert_eq!(named, some(&["dns", "http.socket"]));
        let second = names_for(7, Some("7"), Some("2"), Some(":b")).unwrap();
        assert_eq!(second, [None, Some("b".to_owned())]);
    }

    #[test]
    fn nonsense_names_the_variable_and_its_value() {
        for (pid, count, names, part) in [
            ("seven", "1", None, "LISTEN_PID=\"seven\""),
            ("", "1", None, "LISTEN_PID=\"\""),
            ("7", "-1", None, "LISTEN_FDS=\"-1\""),
            ("7", "9999999999", None, "LISTEN_FDS=\"9999999999\""),
            ("7", "2", Some("one"), "LISTEN_FDNAMES=\"one\""),
            ("7", "2", Some(""), "LISTEN_FDNAMES=\"\""),
            ("7", "1", Some("a:b"), "LISTEN_FDNAMES=\"a:b\""),
        ] {
            let error = names_for(7, Some(pid), Some(count), names).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    /// The part of `what_was_handed_over_is_taken_once` that runs in a process of its own; in
    /// any other it has nothing to take.
    #[test]
    fn child() {
        use std::os::fd::AsRawFd;
        let own = std::process::id().to_string();
        let expected = usize::from(std::env::var("LISTEN_PID") == Ok(own));
        let taken = take_listen_fds().unwrap();
        assert_eq!(taken.len(), expected);
        assert!(take_listen_fds().unwrap().is_empty());
        for socket in taken {
            assert_eq!((socket.fd.as_raw_fd(), socket.name.as_deref()), (3, Some("dns")));
            let socket = std::net::UdpSocket::from(socket.fd);
            println!("taken: {}", socket.local_addr().unwrap());
        }
    }

    #[test]
    fn what_was_handed_over_is_taken_once() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        // Only the shell knows the process id before the program starts.
        let script = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=dns \
            exec \"$0\" activation::tests::child --exact --nocapture 3<&0 </dev/null";
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .stdin(OwnedFd::from(socket))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains(&format!("taken: {address}")), "{text}");
    }
}
