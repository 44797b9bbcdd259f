//! The `millrace` program.

mod allocator;
mod dev_cluster;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use millrace_server::admin;
use millrace_server::admin::args::ClusterArgs;
use millrace_server::bench;
use millrace_server::bench::args::BenchArgs;
use millrace_server::config::{
    ConfigError, DATA_DIR_DEFAULT, HTTP_ADDR_DEFAULT, NodeConfig, Settings, TlsConfig, parse_addr,
};
use millrace_server::env::Env;
use millrace_server::node::{Ended, Node};
use millrace_server::storage;
use millrace_server::storage::command::args::StorageArgs;
use millrace_server::telemetry;

/// Durable streams on object storage, compatible with S2.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a complete node on defaults for trying out and developing
    ///
    /// Streams and metadata are kept in the data directory and are there again at the next start. Prints what to
    /// paste for the `s2` command and for curl.
    Dev(DevArgs),
    /// Start a node with everything set by flag, environment (MILLRACE_*) or TOML file, in this order of precedence
    Server(Box<ServerArgs>),
    Cluster(Box<ClusterArgs>),
    Storage(Box<StorageArgs>),
    Bench(Box<BenchArgs>),
}

#[derive(Args)]
struct DevArgs {
    /// Where metadata and streams are kept [default: ./millrace-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Address of the HTTP API; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_addr)]
    http_addr: Option<SocketAddr>,

    /// Basins and streams to create or converge at start (TOML or JSON)
    #[arg(long, value_name = "FILE")]
    init_file: Option<PathBuf>,

    /// Where streams are stored, as for `millrace server` [default: below the data directory; with three nodes or more
    /// on their disks, as streams of class express alone]
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    /// Start a cluster of so many nodes on this machine, each a process of its own, with HTTP ports that follow each
    /// other; three survive the loss of one
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "init_file")]
    nodes: u16,
}

#[derive(Args)]
struct ServerArgs {
    /// TOML file with settings, named as the flags are
    #[arg(long, value_name = "FILE", env = "MILLRACE_CONFIG")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

impl From<DevArgs> for Settings {
    fn from(args: DevArgs) -> Self {
        Settings {
            data_dir: args.data_dir,
            store: args.store,
            http_addr: args.http_addr,
            init_file: args.init_file,
            ..Settings::default()
        }
    }
}

impl ServerArgs {
    fn settings(self) -> Result<Settings, ConfigError> {
        match self.config {
            None => Ok(self.settings),
            Some(path) => Ok(self.settings.over(Settings::from_file(&path)?)),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Dev(args) if args.nodes > 1 => run_cluster(args),
        Command::Dev(args) => run_node(args.into(), true),
        Command::Server(args) => args
            .settings()
            .map_err(Into::into)
            .and_then(|settings| run_node(settings, false)),
        Command::Cluster(args) => match run_operator(admin::command::run(*args, Env::system())) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Storage(args) => match run_operator(storage::command::run(*args, Env::system())) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Bench(args) => run_bench(*args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_bench(args: BenchArgs) -> anyhow::Result<()> {
    let plan = args.plan(Env::system().random_u128() as u64)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bench::run(plan))
}

fn run_operator(command: impl Future<Output = anyhow::Result<bool>>) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(command)
}

fn run_cluster(args: DevArgs) -> anyhow::Result<()> {
    telemetry::init_logging("warn", Default::default()).map_err(anyhow::Error::msg)?;
    let data_dir = args.data_dir.unwrap_or_else(|| DATA_DIR_DEFAULT.into());
    let http_addr = args.http_addr.unwrap_or(HTTP_ADDR_DEFAULT);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = stop_signal()?;
        dev_cluster::run(args.nodes, &data_dir, args.store.as_deref(), http_addr, stop).await
    })
}

fn run_node(settings: Settings, dev: bool) -> anyhow::Result<()> {
    let filter = settings
        .log
        .clone()
        .unwrap_or_else(|| if dev { "warn" } else { "info,openraft=warn" }.to_owned());
    telemetry::init_logging(&filter, settings.log_format.unwrap_or_default()).map_err(anyhow::Error::msg)?;
    let config = NodeConfig::resolve(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config, dev))
}

async fn serve(config: NodeConfig, dev: bool) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let (tls, express) = (config.tls != TlsConfig::Off, config.express.is_some());
    let data_dir = config.data_dir.display().to_string();
    tokio::pin!(stop);
    let node = tokio::select! {
        node = Node::start(config, Env::system()) => node.context("the node cannot start")?,
        // Storage that is down can keep a start waiting; nothing was accepted yet.
        () = &mut stop => return Ok(()),
    };
    announce(node.http_addr(), tls, express);
    if dev {
        print_examples(node.http_addr(), &data_dir);
    }
    match node.run(stop).await {
        Ended::Stopped => Ok(()),
        Ended::Failed(why) => Err(anyhow::anyhow!(why)),
    }
}

/// Resolves at SIGTERM or Ctrl-C.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}

/// For people and for programs that wait for the node: it serves from now on.
fn announce(addr: SocketAddr, tls: bool, express: bool) {
    let scheme = if tls { "https" } else { "http" };
    println!("listening {scheme}://{addr}");
    if !express {
        println!("streams of both storage classes are served by the Standard WAL");
    }
}

fn print_examples(addr: SocketAddr, data_dir: &str) {
    println!(
        r#"
data in {data_dir}

With the s2 command:
  export S2_ACCOUNT_ENDPOINT=http://{addr} S2_BASIN_ENDPOINT=http://{addr} S2_ACCESS_TOKEN=local
  s2 create-basin my-basin --create-stream-on-append
  echo "hello" | s2 append s2://my-basin/my-stream
  s2 read s2://my-basin/my-stream --seq-num 0

With curl:
  curl -X PUT http://{addr}/v1/basins/my-basin -H 'content-type: application/json' \
    -d '{{"config": {{"create_stream_on_append": true}}}}'
  curl http://{addr}/v1/streams/my-stream/records -H 's2-basin: my-basin' \
    -H 'content-type: application/json' -d '{{"records": [{{"body": "hello"}}]}}'
  curl 'http://{addr}/v1/streams/my-stream/records?seq_num=0' -H 's2-basin: my-basin'

Ctrl-C stops the node."#
    );
}
