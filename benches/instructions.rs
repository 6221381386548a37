//! Counts the instructions that the reactor spends on a datagram, on what a stream brings, and on
//! a timer that is pushed back; compares them with the figures in `instructions.toml`.
//!
//! ```text
//! cargo bench --bench instructions                      # print the change
//! cargo bench --bench instructions -- --fail-above 5    # and fail where one rose by more than 5 %
//! cargo bench --bench instructions -- --write           # the figures become those to compare with
//! ```
//!
//! Callgrind (of valgrind) counts the turns of the loop alone: neither what brings the datagrams,
//! nor the scripted sockets, nor the kernel. Unlike a time, a count is the same in every run on a
//! busy machine. It is another with another compiler, processor or valgrind: figures made with
//! others are printed beside the new ones and not judged. Without valgrind nothing is counted,
//! and the reason printed.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use common::{Connected, Echo, Scripted, Sink, Streaming, peer, turn};
use strand_reactor::testing::{Script, StreamEvent};
use strand_reactor::{DelayedCall, Reactor, UdpOptions};

/// Datagrams that arrive together: four batches.
const DATAGRAMS: usize = 64;
/// What the first of them takes more, to fill the caches of the reactor, is no matter then.
const ROUNDS: usize = 500;
const PAYLOAD: [u8; 64] = [0x5a; 64];
/// The most that a case may take; they take a second or two each.
const LIMIT: Duration = Duration::from_secs(60);

/// What is counted: everything from the entry of `measured_...` to its return, but for the
/// scripted socket. Each of these turns counting on or off where it is entered, and back where it
/// returns: so turns of the loop that deliver or send anything run in `measured_turn` alone, and
/// none of the functions may call another.
const TOGGLES: [&str; 5] = [
    "instructions::measured*",
    "<strand_reactor::net::script::datagram::Socket as strand_reactor::net::DatagramSocket>::receive",
    "<strand_reactor::net::script::datagram::Socket as strand_reactor::net::DatagramSocket>::send",
    "<strand_reactor::net::script::stream::StreamEnd as strand_reactor::net::stream::StreamSocket>::read",
    "<strand_reactor::net::script::stream::StreamEnd as strand_reactor::net::stream::StreamSocket>::write",
];

/// A case: what it is called in the file, and what it does; returns how many operations were
/// measured.
type Case = (&'static str, fn() -> anyhow::Result<usize>);

const CASES: [Case; 12] = [
    ("udp_echo_1_peer", || datagrams(Scripted::new(Echo)?, 1)),
    ("udp_echo_16_peers", || datagrams(Scripted::new(Echo)?, 16)),
    ("udp_echo_merged", || merged_datagrams(Scripted::new(Echo)?)),
    ("udp_sink", || datagrams(Scripted::new(Sink::default())?, 16)),
    ("udp_sink_merged", || merged_datagrams(Scripted::new(Sink::default())?)),
    ("udp_echo_16_peers_system_sockets", system_datagrams),
    ("udp_echo_merged_system_sockets", system_merged_datagrams),
    ("tcp_echo_64_bytes", stream),
    ("tcp_echo_64_bytes_system_sockets", system_stream),
    ("timer_push_back", timer),
    // Nothing in a turn is to grow with what is open and idle.
    ("udp_echo_100_busy_of_100_ports", || busy_ports(100)),
    ("udp_echo_100_busy_of_10000_ports", || busy_ports(10_000)),
];

// ---- The cases, run under callgrind ----

#[inline(never)]
fn measured_turn(reactor: &Reactor) {
    turn(reactor);
}

#[inline(never)]
fn measured_push_back(calls: &[DelayedCall], delay: Duration) -> anyhow::Result<()> {
    for call in calls {
        call.reset(delay)?;
    }
    Ok(())
}

fn datagrams(scripted: Scripted, peers: usize) -> anyhow::Result<usize> {
    for _ in 0..ROUNDS {
        scripted.receive(DATAGRAMS, peers, &PAYLOAD);
        measured_turn(&scripted.reactor);
        scripted.script.forget_sent();
    }
    let delivered = scripted.port.stats()?.datagrams_in;
    anyhow::ensure!(delivered == (ROUNDS * DATAGRAMS) as u64, "{delivered} delivered");
    Ok(ROUNDS * DATAGRAMS)
}

/// The kernel hands over what a peer sent in a burst as one message.
fn merged_datagrams(scripted: Scripted) -> anyhow::Result<usize> {
    let burst = PAYLOAD.repeat(DATAGRAMS / 4);
    for _ in 0..ROUNDS {
        for number in 0..4 {
            scripted.script.receive_merged(peer(number), &burst, PAYLOAD.len());
        }
        measured_turn(&scripted.reactor);
        scripted.script.forget_sent();
    }
    let delivered = scripted.port.stats()?.datagrams_in;
    anyhow::ensure!(delivered == (ROUNDS * DATAGRAMS) as u64, "{delivered} delivered");
    Ok(ROUNDS * DATAGRAMS)
}

/// A hundred ports, spread over all that are open, receive a datagram each.
fn busy_ports(open: usize) -> anyhow::Result<usize> {
    let reactor = Reactor::new()?;
    let scripts: Vec<Script> = (0..open).map(|_| Script::new()).collect();
    for script in &scripts {
        script.listen(&reactor, UdpOptions::parse("127.0.0.1:9")?, Echo)?;
    }
    let rounds = ROUNDS / 10;
    for _ in 0..rounds {
        let busy = scripts.iter().step_by(open / 100);
        busy.clone().for_each(|script| script.receive(peer(0), &PAYLOAD));
        measured_turn(&reactor);
        for script in busy {
            anyhow::ensure!(script.sent().len() == 1, "one answer");
            script.forget_sent();
        }
    }
    Ok(rounds * 100)
}

/// With what a real socket makes of a batch, on either side of the kernel.
fn system_datagrams() -> anyhow::Result<usize> {
    let reactor = Reactor::new()?;
    let port = reactor.listen_udp("127.0.0.1:0", Echo)?;
    let peers = (0..16)
        .map(|_| {
            let peer = UdpSocket::bind("127.0.0.1:0")?;
            peer.connect(port.local_addr()?)?;
            Ok(peer)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut answer = PAYLOAD;
    for _ in 0..ROUNDS {
        let mut bursts = peers.iter().flat_map(|peer| std::iter::repeat_n(peer, DATAGRAMS / 16));
        bursts.try_for_each(|peer| peer.send(&PAYLOAD).map(drop))?;
        measured_turn(&reactor);
        let mut bursts = peers.iter().flat_map(|peer| std::iter::repeat_n(peer, DATAGRAMS / 16));
        bursts.try_for_each(|peer| peer.recv(&mut answer).map(drop))?;
    }
    Ok(ROUNDS * DATAGRAMS)
}

/// The same, with peers that send in bursts which the kernel does not take apart.
fn system_merged_datagrams() -> anyhow::Result<usize> {
    let (reactor, other) = (Reactor::new()?, Reactor::new()?);
    let port = reactor.listen_udp("127.0.0.1:0", Echo)?;
    let peers = (0..4)
        .map(|_| Ok(other.listen_udp("127.0.0.1:0", Sink::default())?))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let to = port.local_addr()?;
    for round in 1..=ROUNDS {
        for peer in &peers {
            (0..DATAGRAMS / 4).try_for_each(|_| peer.write_to(&PAYLOAD, to))?;
        }
        turn(&other);
        measured_turn(&reactor);
        turn(&other);
        let answered = port.stats()?.datagrams_out;
        anyhow::ensure!(answered == (round * DATAGRAMS) as u64, "{answered} answered");
    }
    Ok(ROUNDS * DATAGRAMS)
}

fn stream() -> anyhow::Result<usize> {
    let streaming = Streaming::new(Echo)?;
    for _ in 0..ROUNDS {
        streaming.script.receive(&PAYLOAD);
        streaming.script.raise(StreamEvent::READABLE);
        measured_turn(&streaming.reactor);
        let answered = streaming.script.written().len();
        anyhow::ensure!(answered == PAYLOAD.len(), "{answered} bytes were answered");
        streaming.script.forget_written();
    }
    Ok(ROUNDS)
}

fn system_stream() -> anyhow::Result<usize> {
    let mut connected = Connected::new(Echo)?;
    connected.other.set_nonblocking(false)?;
    let mut answer = PAYLOAD;
    for _ in 0..ROUNDS {
        connected.other.write_all(&PAYLOAD)?;
        measured_turn(&connected.reactor);
        connected.other.read_exact(&mut answer)?;
    }
    Ok(ROUNDS)
}

fn timer() -> anyhow::Result<usize> {
    let reactor = Reactor::new()?;
    let minute = Duration::from_secs(60);
    let calls: Vec<_> = (0..1_000_u32)
        .map(|number| reactor.call_later(minute * (number % 7 + 1), |_| {}))
        .collect();
    for call in &calls {
        call.reset(minute)?;
    }
    for number in 1..=4 {
        measured_push_back(&calls, minute * number)?;
    }
    Ok(4 * calls.len())
}

// ---- The driver ----

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut fail_above = None;
    let mut write = false;
    match given[..] {
        ["--case", name] => {
            let case = CASES.iter().find(|case| case.0 == name).context("no such case")?;
            println!("operations {}", case.1()?);
            return Ok(ExitCode::SUCCESS);
        }
        ["--fail-above", percent, ..] => fail_above = Some(percent.parse::<f64>()?),
        ["--write", ..] => write = true,
        // cargo adds `--bench`; `--test` is what asks criterion's benches to run once.
        [] | ["--bench" | "--test", ..] => {}
        [other, ..] => bail!("{other}? There are --fail-above PERCENT and --write"),
    }
    let Some(valgrind) = first_line(Command::new("valgrind").arg("--version")) else {
        println!("skipped: there is no valgrind here to count instructions with");
        return Ok(ExitCode::SUCCESS);
    };
    let here = Recorded { made_with: made_with(&valgrind), per_operation: count()? };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.toml");
    if write {
        std::fs::write(&file, here.to_text()?)?;
        println!("written to benches/instructions.toml");
        return Ok(ExitCode::SUCCESS);
    }
    let before = Recorded::from_text(&std::fs::read_to_string(&file).unwrap_or_default())?;
    Ok(compare(&before, &here, fail_above))
}

/// Prints the figures side by side. Fails if one rose above the limit and the two may be compared.
fn compare(before: &Recorded, here: &Recorded, fail_above: Option<f64>) -> ExitCode {
    let comparable = before.made_with == here.made_with;
    let mut risen = false;
    println!("{:36} {:>10} {:>10} {:>8}", "instructions of one", "recorded", "now", "change");
    for (name, now) in &here.per_operation {
        let Some(old) = before.per_operation.get(name) else {
            println!("{name:36} {:>10} {now:>10.1}", "-");
            continue;
        };
        let change = (now / old - 1.0) * 100.0;
        println!("{name:36} {old:>10.1} {now:>10.1} {change:>+7.1}%");
        risen |= fail_above.is_some_and(|limit| change > limit);
    }
    if !comparable {
        println!("recorded with {}", before.made_with.join(", "));
        println!("counted with {}: not judged", here.made_with.join(", "));
    } else if risen {
        println!("too much; if it is meant: cargo bench --bench instructions -- --write");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Figures, and what they depend on beside the code.
#[derive(Default)]
struct Recorded {
    made_with: Vec<String>,
    per_operation: BTreeMap<String, f64>,
}

impl Recorded {
    fn to_text(&self) -> anyhow::Result<String> {
        let mut text = "# Made by `cargo bench --bench instructions -- --write`.\n".to_owned();
        writeln!(text, "made_with = {:?}\n\n[instructions_per_operation]", self.made_with)?;
        for (name, count) in &self.per_operation {
            writeln!(text, "{name} = {count:.1}")?;
        }
        Ok(text)
    }

    /// Reads what `to_text` writes: of TOML, no more than that.
    fn from_text(text: &str) -> anyhow::Result<Self> {
        let mut recorded = Self::default();
        for line in text.lines() {
            match line.split_once(" = ") {
                Some(("made_with", list)) => {
                    let quoted = list.split('"').skip(1).step_by(2);
                    recorded.made_with = quoted.map(str::to_owned).collect();
                }
                Some((name, count)) => {
                    recorded.per_operation.insert(name.to_owned(), count.parse()?);
                }
                None => {}
            }
        }
        Ok(recorded)
    }
}

fn made_with(valgrind: &str) -> Vec<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = first_line(Command::new(rustc).arg("--version")).unwrap_or_default();
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut models = processors.lines().filter_map(|line| line.strip_prefix("model name"));
    let model = models.next().unwrap_or_default().trim_start_matches([' ', '\t', ':']);
    vec![rustc, valgrind.to_owned(), format!("{} {model}", std::env::consts::ARCH)]
}

/// What a command prints first; `None` if it cannot be run.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|it| it.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}

fn count() -> anyhow::Result<BTreeMap<String, f64>> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    CASES
        .iter()
        .map(|(name, _)| {
            let counted = count_case(name, &folder).with_context(|| format!("counting {name}"))?;
            Ok(((*name).to_owned(), counted))
        })
        .collect()
}

/// Runs a case under callgrind: instructions of one operation.
fn count_case(name: &str, folder: &Path) -> anyhow::Result<f64> {
    let profile = folder.join(format!("callgrind.{name}"));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", "--collect-atstart=no"]);
    command.args(TOGGLES.map(|function| format!("--toggle-collect={function}")));
    command.arg(format!("--callgrind-out-file={}", profile.display()));
    command.arg(std::env::current_exe()?).args(["--case", name]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut waited = Duration::ZERO;
    while child.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(20));
        waited += Duration::from_millis(20);
        if waited > LIMIT {
            child.kill()?;
            bail!("not done after {LIMIT:?}");
        }
    }
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "{}", output.status);
    let said = String::from_utf8(output.stdout)?;
    let operations = said.trim().strip_prefix("operations ").context("no count of operations")?;
    let counted = std::fs::read_to_string(&profile)?;
    let totals = counted.lines().find_map(|line| line.strip_prefix("totals: "));
    let totals: f64 = totals.context("no totals in callgrind's output")?.trim().parse()?;
    anyhow::ensure!(totals > 0.0, "nothing was counted: are {TOGGLES:?} still named so?");
    Ok(totals / operations.parse::<f64>()?)
}
