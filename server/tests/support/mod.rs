//! Real `millrace` processes for tests: started on a free port, waited for with a bound, stopped or killed, their
//! output kept in a file. Nothing here knows what the tests are about.
//!
//! A process is killed when its [`Server`] is dropped, so a test that fails leaves none behind.

#![allow(
    dead_code,
    reason = "each test binary compiles this module and uses its own part"
)]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// What a start may take: recovery of everything written so far, on a loaded machine, in a debug build.
pub const READY_WITHIN: Duration = Duration::from_secs(90);
/// What a process may take to end by itself once it was asked to.
pub const EXIT_WITHIN: Duration = Duration::from_secs(30);

const READY_LINE: &str = "listening http://";
const LOG_TAIL_BYTES: u64 = 6 * 1024;

/// How one node is started; the same value starts it again on the same data.
#[derive(Debug, Clone)]
pub struct Node {
    /// Directory of its metadata; created by the process.
    pub data_dir: PathBuf,
    /// Store URL.
    pub store: String,
    /// Everything the processes of this node print, one after the other.
    pub log: PathBuf,
    /// Further arguments of `millrace server`.
    pub args: Vec<OsString>,
}

impl Node {
    /// A node whose data, store and log are `name*` under `dir`.
    pub fn local(dir: &Path, name: &str) -> Self {
        let store = dir.join(format!("{name}-store"));
        Self::on_store(dir, name, format!("file://{}", store.display()))
    }

    /// A node with its own data directory under `dir`, on a given store.
    pub fn on_store(dir: &Path, name: &str, store: String) -> Self {
        Self {
            data_dir: dir.join(format!("{name}-data")),
            store,
            log: dir.join(format!("{name}.log")),
            args: Vec::new(),
        }
    }

    /// Starts the process and returns at once.
    pub fn spawn(&self) -> Result<Process> {
        if let Some(dir) = self.store.strip_prefix("file://") {
            fs::create_dir_all(dir)?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let log_start = log.metadata()?.len();
        let child = Command::new(program())
            .arg("server")
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--http-addr", "127.0.0.1:0", "--store", &self.store])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start millrace")?;
        Ok(Process {
            child,
            log: self.log.clone(),
            log_start,
        })
    }

    /// `millrace storage` with `args`, on the data of this node, which does not run.
    pub async fn storage(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(program());
        command
            .arg("storage")
            .args(args)
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--store", &self.store])
            .env_remove("MILLRACE_CONFIG");
        Ok(command.output().await?)
    }

    /// Starts the process and waits until it serves, at most [`READY_WITHIN`].
    pub async fn start(&self) -> Result<Server> {
        self.spawn()?.ready().await
    }

    /// The whole log of all processes of this node.
    pub fn log_text(&self) -> String {
        read_from(&self.log, 0).unwrap_or_default()
    }

    /// The end of the log, for a failure's message.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

/// A process that was started and may not serve yet.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    log_start: u64,
}

impl Process {
    /// Waits for the line that says where it listens.
    pub async fn ready(mut self) -> Result<Server> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            // The exit is looked at first: what it printed before is then complete.
            let exited = self.child.try_wait()?;
            if let Some(url) = ready_url(&self.log_text()) {
                return Ok(Server { process: self, url });
            }
            if let Some(status) = exited {
                bail!(
                    "millrace ended before it was ready, {status}:\n{}",
                    tail(&self.log)
                );
            }
            if Instant::now() > deadline {
                bail!("millrace not ready after {READY_WITHIN:?}:\n{}", tail(&self.log));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What this process printed so far.
    pub fn log_text(&self) -> String {
        read_from(&self.log, self.log_start).unwrap_or_default()
    }

    /// SIGKILL, then waits until it is gone.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("kill millrace")
    }

    /// Waits until it ends by itself, at most [`EXIT_WITHIN`].
    pub async fn exit(&mut self) -> Result<ExitStatus> {
        match timeout(EXIT_WITHIN, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("millrace still runs after {EXIT_WITHIN:?}:\n{}", tail(&self.log)),
        }
    }

    /// SIGTERM, then waits until it ends, at most [`EXIT_WITHIN`].
    pub async fn terminate(mut self) -> Result<ExitStatus> {
        let pid = self.child.id().context("it ended already")?;
        let status = Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await?;
        if !status.success() {
            bail!("kill -TERM {pid}: {status}");
        }
        self.exit().await
    }
}

/// A process that serves.
#[derive(Debug)]
pub struct Server {
    process: Process,
    url: String,
}

impl Server {
    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What this process printed so far.
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }

    /// SIGKILL, then waits until it is gone.
    pub async fn kill(self) -> Result<()> {
        self.process.kill().await
    }

    /// SIGTERM, then waits until it ends, at most [`EXIT_WITHIN`].
    pub async fn terminate(self) -> Result<ExitStatus> {
        self.process.terminate().await
    }
}

/// A directory that goes away with a test that passes and stays, named on stderr, after one that fails.
#[derive(Debug)]
pub struct Scratch {
    dir: Option<tempfile::TempDir>,
}

impl Scratch {
    /// Under `MILLRACE_TEST_DIR`, or the system's directory for temporary files.
    pub fn new(name: &str) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        let prefix = format!("millrace-{name}-");
        builder.prefix(&prefix);
        let dir = match std::env::var_os("MILLRACE_TEST_DIR") {
            Some(parent) => {
                fs::create_dir_all(&parent)?;
                builder.tempdir_in(parent)?
            }
            None => builder.tempdir()?,
        };
        Ok(Self { dir: Some(dir) })
    }

    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("held until drop").path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("data and logs are kept in {}", dir.keep().display());
        }
    }
}

/// Copies a directory and all below it. The files must not change meanwhile.
pub fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The address in the ready line, once that line is complete.
fn ready_url(log: &str) -> Option<String> {
    let start = log.find(READY_LINE)? + "listening ".len();
    let line = log[start..].split_inclusive('\n').next()?;
    let url = line.strip_suffix('\n')?.split_whitespace().next()?;
    Some(url.to_owned())
}

fn read_from(path: &Path, offset: u64) -> Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(path: &Path) -> String {
    let len = fs::metadata(path).map_or(0, |meta| meta.len());
    let text = read_from(path, len.saturating_sub(LOG_TAIL_BYTES)).unwrap_or_default();
    format!("--- end of {} ---\n{text}", path.display())
}

/// The server under test: the one built with the tests, or another build named by `MILLRACE_BIN`.
fn program() -> std::ffi::OsString {
    std::env::var_os("MILLRACE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_millrace").into())
}
