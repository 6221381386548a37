//! A program on a host of its own, which takes a command per line and answers each with one line.
//! In a namespace it is a process: this very test program, started there with [`child`] as the only
//! test. On a simulated host it is obeyed on the spot.
//!
//! Ports are named by a word. Commands:
//!
//! ```text
//! multicast PORT ADDRESS      udp PORT ADDRESS
//! join PORT GROUP ON          leave PORT GROUP ON
//! join_source|leave_source|block|unblock PORT GROUP SOURCE ON
//! filter PORT GROUP ON        out PORT ON
//! ttl PORT N                  loopback PORT 0|1      broadcast PORT 0|1
//! send PORT ADDRESS TEXT      written at once; `-` is an empty datagram
//! queue PORT ADDRESS TEXT     written by the loop; answers what write_failed was told
//! hear PORT                   the next datagram
//! heard PORT TEXT             all up to TEXT, which will come, sorted
//! device PORT ON|-            connect PORT ADDRESS    disconnect PORT
//! reply PORT TEXT             to the last one heard
//! interface list NAME         what interfaces() tells of it
//! ```

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use strand_reactor::sim::World;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, Metadata, Reactor, SendOptions,
    UdpOptions, WriteFailure, parse_address,
};

/// Longer than anything here takes; who waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells the children from the tests.
const ROLE: &str = "STRAND_MULTICAST_HOST";

/// Marks the lines of a child among those of the test harness.
const MARK: &str = "@@ ";

// ---- The parent's side ----

/// The program of a host.
pub struct Host {
    name: String,
    program: Program,
}

enum Program {
    /// In a namespace.
    Process {
        process: Child,
        answers: Receiver<String>,
    },
    Simulated(Ports),
}

impl Host {
    /// On a simulated host.
    pub fn simulated(world: &Rc<World>, handle: Handle, name: &str) -> Self {
        let ports = Ports::new(Drive::World(Rc::clone(world), handle));
        Self { name: name.to_owned(), program: Program::Simulated(ports) }
    }

    /// A process in a namespace.
    #[track_caller]
    pub fn start(namespace: &str, name: &str) -> Self {
        let mut process = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(std::env::current_exe().unwrap())
            .args(["host::child", "--exact", "--nocapture"])
            .env(ROLE, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once(MARK)
                    && send.send(answer.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        assert_eq!(answer(name, &answers), "ready");
        Self { name: name.to_owned(), program: Program::Process { process, answers } }
    }

    /// Gives a command and returns the answer.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        match &mut self.program {
            Program::Process { process, answers } => {
                let input = process.stdin.as_mut().unwrap();
                writeln!(input, "{command}").unwrap();
                answer(&self.name, answers)
            }
            Program::Simulated(ports) => {
                let answer = ports.answer(command);
                // Between namespaces nothing takes time, either.
                ports.drive.turn().unwrap();
                answer
            }
        }
    }

    /// Gives a command that must succeed.
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        assert_eq!(self.ask(command), "ok", "{}: {command}", self.name);
    }

    /// The next datagram must be this one: `TEXT from SOURCE`.
    #[track_caller]
    pub fn hears(&mut self, port: &str, expected: &str) {
        let heard = self.ask(&format!("hear {port}"));
        let (heard, _) = heard.split_once(" to ").unwrap_or((&heard, ""));
        assert_eq!(heard, expected, "{} on {port}", self.name);
    }
}

#[track_caller]
fn answer(host: &str, answers: &Receiver<String>) -> String {
    match answers.recv_timeout(PATIENCE) {
        Ok(answer) => answer,
        Err(error) => panic!("host {host}: {error}"),
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Program::Process { process, .. } = &mut self.program {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

// ---- The side of the program ----

#[derive(Default)]
struct Heard {
    datagrams: VecDeque<(String, SendOptions)>,
    failures: VecDeque<String>,
}

struct Ear(Rc<RefCell<Heard>>);

impl DatagramProtocol for Ear {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let destination = datagram.destination().context("no destination")?;
        let interfaces = transport.reactor().interfaces()?;
        let index = datagram.interface().context("no interface")?;
        let interface = interfaces.iter().find(|one| one.index() == index).context("unknown")?;
        let line = format!(
            "{} from {} to {} on {} hops {}",
            String::from_utf8_lossy(datagram.payload()),
            datagram.source().ip().to_canonical(),
            destination.ip().to_canonical(),
            interface.name(),
            datagram.hop_limit().context("no hop limit")?,
        );
        self.0.borrow_mut().datagrams.push_back((line, datagram.reply()));
        Ok(())
    }

    fn write_failed(
        &mut self,
        _: &DatagramTransport,
        failure: &WriteFailure,
    ) -> anyhow::Result<()> {
        let line = format!("failed: {:?}", failure.error.kind());
        self.0.borrow_mut().failures.push_back(line);
        Ok(())
    }
}

struct Open {
    transport: DatagramTransport,
    heard: Rc<RefCell<Heard>>,
    answer: SendOptions,
}

/// What turns the loop.
enum Drive {
    Reactor(Reactor),
    World(Rc<World>, Handle),
}

impl Drive {
    fn handle(&self) -> &Handle {
        match self {
            Self::Reactor(reactor) => reactor,
            Self::World(_, handle) => handle,
        }
    }

    /// At least one turn; waits for a little while.
    fn turn(&self) -> anyhow::Result<()> {
        match self {
            Self::Reactor(reactor) => {
                reactor.iterate(Some(Duration::from_millis(20)))?;
            }
            Self::World(world, _) => world.run_for(Duration::from_millis(20))?,
        }
        Ok(())
    }

    /// Reads an address. Names of zones are those of the system: on a simulated host they are put
    /// as the indices of its interfaces.
    fn address(&self, text: &str) -> anyhow::Result<SocketAddr> {
        if let (Self::World(..), Some((start, rest))) = (self, text.split_once('%')) {
            let (zone, port) = rest.split_once(']').context("no port")?;
            let interfaces = self.handle().interfaces()?;
            let index = interfaces.iter().find(|one| one.name() == zone).map(|one| one.index());
            let zone = index.map_or(zone.to_owned(), |index| index.to_string());
            return Ok(parse_address(&format!("{start}%{zone}]{port}"))?);
        }
        Ok(parse_address(text)?)
    }

    /// Time as it passes for the host.
    fn clock(&self) -> Instant {
        self.handle().now()
    }
}

struct Ports {
    drive: Drive,
    open: HashMap<String, Open>,
}

/// The process of a host, when started as one; otherwise nothing to test.
#[test]
fn child() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let mut ports = Ports::new(Drive::Reactor(Reactor::new().unwrap()));
    println!("{MARK}ready");
    for line in std::io::stdin().lines() {
        let answer = ports.answer(&line.unwrap());
        println!("{MARK}{answer}");
    }
}

impl Ports {
    fn new(drive: Drive) -> Self {
        Self { drive, open: HashMap::new() }
    }

    fn answer(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.obey(&words).unwrap_or_else(|error| format!("error: {error:#}"))
    }

    fn obey(&mut self, words: &[&str]) -> anyhow::Result<String> {
        let ok = || Ok("ok".to_owned());
        let address = |text: &str| -> anyhow::Result<IpAddr> { Ok(text.parse()?) };
        let (command, name) = (words[0], words[1]);
        if command == "interface" {
            return self.interface(words[2]);
        }
        if let "multicast" | "udp" = command {
            self.listen(command, name, words[2])?;
            return ok();
        }
        let port = self.open.get(name).with_context(|| format!("no port {name}"))?;
        let transport = &port.transport;
        match (command, &words[2..]) {
            ("join", [group, on]) => transport.join_group(address(group)?, *on)?,
            ("leave", [group, on]) => transport.leave_group(address(group)?, *on)?,
            ("join_source", [group, source, on]) => {
                transport.join_source(address(group)?, address(source)?, *on)?;
            }
            ("leave_source", [group, source, on]) => {
                transport.leave_source(address(group)?, address(source)?, *on)?;
            }
            ("block", [group, source, on]) => {
                transport.block_source(address(group)?, address(source)?, *on)?;
            }
            ("unblock", [group, source, on]) => {
                transport.unblock_source(address(group)?, address(source)?, *on)?;
            }
            ("filter", [group, on]) => {
                return Ok(format!("{:?}", transport.source_filter(address(group)?, *on)?));
            }
            ("out", [on]) => transport.set_multicast_interface(*on)?,
            ("ttl", [hops]) => transport.set_multicast_ttl(hops.parse()?)?,
            ("loopback", [on]) => transport.set_multicast_loopback(*on == "1")?,
            ("broadcast", [on]) => transport.set_broadcast_allowed(*on == "1")?,
            ("send", [to, text]) => {
                let text = text.trim_matches('-');
                transport.try_write_to(text.as_bytes(), self.drive.address(to)?)?;
            }
            ("queue", [to, text]) => {
                let to = self.drive.address(to)?;
                transport.write_to(text.as_bytes(), to)?;
                // Written in the first turn, and told in the same.
                self.drive.turn()?;
                if let Some(failure) = port.heard.borrow_mut().failures.pop_front() {
                    return Ok(failure);
                }
            }
            ("hear", []) => {
                let start = self.drive.clock();
                while port.heard.borrow().datagrams.is_empty() {
                    if self.drive.clock() - start > PATIENCE / 2 {
                        return Err(anyhow!("nothing was heard"));
                    }
                    self.drive.turn()?;
                }
                let next = port.heard.borrow_mut().datagrams.pop_front();
                let (line, answer) = next.context("nothing was heard")?;
                if let Some(port) = self.open.get_mut(name) {
                    port.answer = answer;
                }
                return Ok(line);
            }
            ("heard", [end]) => {
                let start = self.drive.clock();
                let ended = |heard: &Heard| {
                    heard.datagrams.iter().any(|(line, _)| line.split(' ').next() == Some(end))
                };
                while !ended(&port.heard.borrow()) {
                    if self.drive.clock() - start > PATIENCE / 2 {
                        return Err(anyhow!("{end} was not heard"));
                    }
                    self.drive.turn()?;
                }
                let heard = std::mem::take(&mut port.heard.borrow_mut().datagrams);
                let mut lines: Vec<String> = heard.into_iter().map(|(line, _)| line).collect();
                lines.sort();
                return Ok(lines.join("; "));
            }
            ("device", [on]) => transport.set_device(Some(*on).filter(|on| *on != "-"))?,
            ("connect", [to]) => transport.connect(self.drive.address(to)?)?,
            ("disconnect", []) => transport.disconnect()?,
            ("reply", [text]) => {
                transport.write_with(text.as_bytes(), &port.answer)?;
                let source = port.answer.source_address();
                transport.flush()?;
                return Ok(source.map_or("none".to_owned(), |ip| ip.to_canonical().to_string()));
            }
            _ => return Err(anyhow!("no such command")),
        }
        ok()
    }

    fn interface(&self, name: &str) -> anyhow::Result<String> {
        let interfaces = self.drive.handle().interfaces()?;
        let found = interfaces.iter().find(|one| one.name() == name).context("no interface")?;
        let mut line = String::new();
        for (on, flag) in [
            (found.is_up(), "up "),
            (found.is_loopback(), "loopback "),
            (found.is_multicast(), "multicast "),
            (found.is_broadcast(), "broadcast "),
        ] {
            line.push_str(if on { flag } else { "" });
        }
        for address in found.addresses() {
            line.push_str(&format!("{}/{} ", address.ip(), address.prefix_len()));
            if let Some(broadcast) = address.broadcast() {
                line.push_str(&format!("({broadcast}) "));
            }
        }
        Ok(line.trim_end().to_owned())
    }

    fn listen(&mut self, kind: &str, name: &str, address: &str) -> anyhow::Result<()> {
        let heard = Rc::new(RefCell::new(Heard::default()));
        let options = UdpOptions::new(self.drive.address(address)?)
            .metadata(Metadata::DESTINATION | Metadata::HOP_LIMIT);
        let ear = Ear(Rc::clone(&heard));
        let transport = match kind {
            "multicast" => self.drive.handle().listen_multicast(options, ear)?,
            _ => self.drive.handle().listen_udp(options.reuse_address(true), ear)?,
        };
        let port = Open { transport, heard, answer: SendOptions::new() };
        self.open.insert(name.to_owned(), port);
        Ok(())
    }
}
