//! The programs that are run: where they are, and how they are built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// What is beside Strand: its name in the tables, its program, the variant of it.
const PEERS: [(&str, &str, &str); 10] = [
    ("raw-epoll", "peer_raw", "epoll"),
    ("raw-mmsg", "peer_raw", "mmsg"),
    ("raw-gso", "peer_raw", "gso"),
    ("raw-gro", "peer_raw", "gro"),
    ("mio", "peer_mio", "plain"),
    ("tokio-await", "peer_tokio", "await"),
    ("tokio-try", "peer_tokio", "try"),
    ("quinn-udp", "peer_quinn_udp", "gro"),
    // Built here, where libuv's headers are.
    ("uv-plain", "libuv", "plain"),
    ("uv-mmsg", "libuv", "mmsg"),
];

/// The name of Strand's server among the programs.
pub(crate) const STRAND: &str = "strand";

pub(crate) struct Programs {
    folder: PathBuf,
    repository: PathBuf,
    /// The command of Strand's server, with {kind} and {port} to be filled in.
    server: String,
    /// Why libuv is left out, if it is.
    pub(crate) without_libuv: Option<String>,
}

impl Programs {
    /// Builds everything; Strand's server only if it is to serve.
    pub(crate) fn build(server: Option<String>, serves: bool) -> anyhow::Result<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = package.join("../..").canonicalize()?;
        let executable = std::env::current_exe()?;
        let folder = executable.parent().context("a program lies in a folder")?.to_owned();
        // Into the folder where this one was built, whose parent is the target folder.
        let target = folder.parent().context("target/release")?;
        cargo(package, &["build", "--release", "--locked", "--bins"], target)?;
        let server = match server {
            Some(command) => command,
            None if !serves => String::new(),
            None => {
                let target = match std::env::var_os("CARGO_TARGET_DIR") {
                    Some(target) => target.into(),
                    None => repository.join("target"),
                };
                let example = ["build", "--release", "--locked", "--example", "bench_server"];
                cargo(&repository, &example, &target)?;
                let program = target.join("release/examples/bench_server");
                format!("{} {{kind}} {{port}}", program.display())
            }
        };
        let without_libuv = build_libuv(package, &folder).err().map(|error| format!("{error:#}"));
        Ok(Self { folder, repository, server, without_libuv })
    }

    pub(crate) fn repository(&self) -> &Path {
        &self.repository
    }

    pub(crate) fn load(&self) -> PathBuf {
        self.folder.join("load")
    }

    /// The command of a timer queue with so many timers; `None` if it cannot be had here.
    pub(crate) fn timers(&self, name: &str, count: &str) -> Option<Vec<OsString>> {
        let mut command = match name {
            "libuv" if self.without_libuv.is_some() => return None,
            "libuv" => vec![self.folder.join("libuv_timers").into_os_string()],
            _ => vec![self.folder.join("timer_queue").into_os_string(), name.into()],
        };
        command.push(count.into());
        Some(command)
    }

    /// The command of a server, with options if it is Strand's; `None` if it cannot be had here.
    pub(crate) fn command(
        &self,
        name: &str,
        options: &str,
        kind: &str,
        port: u16,
    ) -> Option<Vec<OsString>> {
        if name == STRAND {
            let filled = format!("{} {options}", self.server)
                .replace("{kind}", kind)
                .replace("{port}", &port.to_string());
            return Some(filled.split_whitespace().map(OsString::from).collect());
        }
        let &(_, program, variant) = PEERS.iter().find(|peer| peer.0 == name)?;
        if program == "libuv" && self.without_libuv.is_some() {
            return None;
        }
        let path = self.folder.join(program).into_os_string();
        Some(vec![path, variant.into(), kind.into(), port.to_string().into()])
    }
}

/// The libuv programs, which are made here.
const LIBUV: [&str; 2] = ["libuv", "libuv_timers"];

fn cargo(folder: &Path, arguments: &[&str], target: &Path) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(folder).args(arguments).env("CARGO_TARGET_DIR", target);
    let status = command.status().context("cargo")?;
    ensure!(status.success(), "cargo {} failed in {}", arguments.join(" "), folder.display());
    Ok(())
}

fn build_libuv(package: &Path, folder: &Path) -> anyhow::Result<()> {
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs", "libuv"])
        .output()
        .context("no pkg-config to find libuv with")?;
    ensure!(flags.status.success(), "pkg-config finds no headers of libuv");
    let flags = String::from_utf8(flags.stdout)?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    for program in LIBUV {
        let source = package.join("c").join(program).with_extension("c");
        let mut command = Command::new(&compiler);
        command.arg("-O2").arg(&source).arg("-o").arg(folder.join(program));
        let status = command.args(flags.split_whitespace()).status().context("no C compiler")?;
        ensure!(status.success(), "{} does not compile here", source.display());
    }
    Ok(())
}
