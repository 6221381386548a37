//! Programs that a test runs: read line by line, never waited for without a bound, and ended with
//! the test.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// A program that is silent for this long has failed the test. Nothing is ever timed by it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// What a program left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    /// The lines that were not read before.
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
}

impl Finished {
    #[track_caller]
    pub fn succeeded(self) -> Vec<String> {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }

    /// Checks that the program failed, and returns what it said about it.
    #[track_caller]
    pub fn failed(self) -> String {
        // A panic (101) is no way to refuse an argument.
        assert!(matches!(self.status.code(), Some(1 | 2)), "{self:?}");
        self.stderr.join("\n")
    }
}

impl Program {
    /// Starts a program on pipes.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let pipe = Stdio::piped;
        Self::spawn(command.stdin(pipe()).stdout(pipe()).stderr(pipe()))
    }

    /// Starts a program on whatever the command gives it.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self {
            name,
            stdin: child.stdin.take(),
            stdout: lines(child.stdout.take()),
            stderr: lines(child.stderr.take()),
            child,
        }
    }

    /// The next line on standard output.
    #[track_caller]
    pub fn line(&self) -> String {
        match self.stdout.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{} says nothing", self.name),
            Err(RecvTimeoutError::Disconnected) => {
                let errors: Vec<_> = self.stderr.iter().collect();
                panic!("{} ended:\n{}", self.name, errors.join("\n"))
            }
        }
    }

    /// The next line on standard output that starts with `start`: the rest of it.
    #[track_caller]
    pub fn line_after(&self, start: &str) -> String {
        loop {
            if let Some(rest) = self.line().strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    /// Writes a line to standard input.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Sends it a signal, by name: `"-TERM"`.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal} {}", self.name);
    }

    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for the program to end by itself.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        self.end_input();
        let (stdout, stderr) = (self.rest(&self.stdout), self.rest(&self.stderr));
        Finished { status: self.child.wait().unwrap(), stdout, stderr }
    }

    #[track_caller]
    fn rest(&self, lines: &Receiver<String>) -> Vec<String> {
        let mut rest = Vec::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => return rest,
                Err(RecvTimeoutError::Timeout) => panic!("{} does not end: {rest:?}", self.name),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = channel();
    let Some(from) = from else { return receive };
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// The command of an example. It is built along with the tests, into the folder next to theirs.
#[track_caller]
pub fn example(name: &str) -> Command {
    let mut path = env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.push("examples");
    path.push(name);
    path.set_extension(env::consts::EXE_EXTENSION);
    assert!(path.exists(), "{} is missing: run `cargo build --examples`", path.display());
    Command::new(path)
}

/// Starts an example.
#[track_caller]
pub fn start(name: &str, arguments: &[&str]) -> Program {
    Program::start(example(name).args(arguments))
}

/// Starts an example that announces its address in its first line, after `start`.
#[track_caller]
pub fn serve(name: &str, arguments: &[&str], announcement: &str) -> (Program, SocketAddr) {
    let program = start(name, arguments);
    let line = program.line_after(announcement);
    let address = line.split(' ').next().unwrap().parse().unwrap();
    (program, address)
}

/// A client of `server`, on its host.
pub fn client(server: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((server.ip(), 0)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(server).unwrap();
    client
}

#[track_caller]
pub fn assert_echoes(server: SocketAddr, payload: &[u8]) {
    let client = client(server);
    client.send(payload).unwrap();
    let mut answer = [0; 65_536];
    let len = client.recv(&mut answer).unwrap();
    assert!(answer[..len] == *payload, "{len} bytes came back, {} were sent", payload.len());
}

/// Both loopback addresses, or one if this system has no IPv6.
pub fn loopbacks() -> Vec<&'static str> {
    let mut addresses = vec!["127.0.0.1:0"];
    if UdpSocket::bind("[::1]:0").is_ok() {
        addresses.push("[::1]:0");
    } else {
        println!("skipped over IPv6: [::1] cannot be bound");
    }
    addresses
}

/// Whether this command runs and succeeds; says so if it does not.
pub fn works(command: &mut Command, what: &str) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let works = status.is_ok_and(|status| status.success());
    if !works {
        println!("skipped: {what} is missing");
    }
    works
}

/// The root of the tree.
pub fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Whether there is a Python; prints the reason where it is missing.
pub fn has_python() -> bool {
    works(Command::new("python3").args(["-c", "import asyncio, socket"]), "python3")
}

/// A Python with Twisted, or none, with the reason printed. One that was named must work.
pub fn twisted_python() -> Option<PathBuf> {
    let named = env::var_os("STRAND_TWISTED_PYTHON").map(PathBuf::from);
    let is_named = named.is_some();
    let python = named.unwrap_or_else(|| root().join("target/venv/bin/python"));
    let works = works(Command::new(&python).args(["-c", "import twisted"]), "Twisted");
    assert!(works || !is_named, "no Twisted in STRAND_TWISTED_PYTHON={}", python.display());
    works.then_some(python)
}

/// Runs a Python program that ends by itself, and returns what it printed.
pub fn python(python: impl Into<PathBuf>, program: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new(python.into());
    Program::start(command.args(["-c", program]).args(arguments)).finish().succeeded()
}
