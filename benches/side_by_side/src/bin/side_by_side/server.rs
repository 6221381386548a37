//! A server that runs on a core of its own, and one run of the load generator against it.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use side_by_side::{Reading, peer::NOT_OFFERED, sys};

use crate::machine::Ticks;
use crate::programs::Programs;

/// Cores, and how long to measure.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) server_core: usize,
    pub(crate) load_core: usize,
    pub(crate) secs: f64,
}

/// A running server; dropping it ends it.
pub(crate) struct Server {
    child: Child,
    kind: &'static str,
    port: u16,
}

/// How long a server may take to answer for the first time.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long a run may take beyond what it measures.
const RUN_BEYOND: Duration = Duration::from_secs(30);
/// Runs made in place of one in which others had a part.
const REPEATS: usize = 2;

impl Server {
    /// Starts a server and waits until it answers. `None`: it does not offer this kind of load,
    /// or cannot be had here.
    pub(crate) fn start(
        programs: &Programs,
        name: &str,
        options: &str,
        kind: &'static str,
        setting: Setting,
    ) -> anyhow::Result<Option<Self>> {
        let port = free_port(kind)?;
        let Some(command) = programs.command(name, options, kind, port) else { return Ok(None) };
        let child = Command::new("taskset")
            .args(["-c", &setting.server_core.to_string()])
            .args(command)
            .stdout(Stdio::null())
            .spawn()
            .context("taskset (of util-linux) pins the servers")?;
        let mut server = Self { child, kind, port };
        let offered = server.wait_until_ready().with_context(|| name.to_owned())?;
        Ok(offered.then_some(server))
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<bool> {
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN {
            match self.child.try_wait()? {
                Some(status) if status.code() == Some(NOT_OFFERED) => return Ok(false),
                Some(status) => bail!("ended with {status}"),
                None if self.answers() => return Ok(true),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        bail!("no answer within {READY_WITHIN:?}")
    }

    fn answers(&self) -> bool {
        let address = (Ipv4Addr::LOCALHOST, self.port);
        if self.kind.starts_with("tcp") {
            return TcpStream::connect(address).is_ok();
        }
        let ask = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            socket.connect(address)?;
            socket.send(b"STAT")?;
            socket.recv(&mut [0; 64])
        };
        ask().is_ok()
    }

    /// One run of a load, made again if others had a part in it; whether they had to the last.
    pub(crate) fn load(
        &mut self,
        programs: &Programs,
        load: &str,
        setting: Setting,
    ) -> anyhow::Result<(Reading, bool)> {
        let mut run = self.load_once(programs, load, setting)?;
        for _ in 0..REPEATS {
            if !run.1 || load.starts_with("idle") {
                break;
            }
            run = self.load_once(programs, load, setting)?;
        }
        Ok(run)
    }

    fn load_once(
        &mut self,
        programs: &Programs,
        load: &str,
        setting: Setting,
    ) -> anyhow::Result<(Reading, bool)> {
        let pid = self.child.id() as i32;
        let cpu = || sys::process_cpu(pid).context("the server is gone");
        let (ticks, before, started) = (Ticks::now(), cpu()?, Instant::now());
        let mut loader = Command::new("taskset")
            .args(["-c", &setting.load_core.to_string()])
            .arg(programs.load())
            .args(["--to", &format!("127.0.0.1:{}", self.port), "--pid", &pid.to_string()])
            .args(["--secs", &setting.secs.to_string()])
            .args(load.split(' '))
            .stdout(Stdio::piped())
            .spawn()?;
        let status = loop {
            if let Some(status) = loader.try_wait()? {
                break status;
            }
            if started.elapsed() > RUN_BEYOND + Duration::from_secs_f64(setting.secs) {
                loader.kill()?;
                loader.wait()?;
                bail!("the load took too long");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        ensure!(status.success(), "the load ended with {status}");
        let mut said = String::new();
        loader.stdout.take().context("its output")?.read_to_string(&mut said)?;
        let reading: Reading = serde_json::from_str(&said)?;
        let ours = cpu()? - before + reading.load_cpu;
        let disturbed = ticks.disturbed_since(started.elapsed().as_secs_f64(), ours);
        Ok((reading, disturbed))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody has: the system's choice, and free again.
fn free_port(kind: &str) -> anyhow::Result<u16> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let address = if kind.starts_with("tcp") {
        TcpListener::bind(any)?.local_addr()?
    } else {
        UdpSocket::bind(any)?.local_addr()?
    };
    Ok(address.port())
}
