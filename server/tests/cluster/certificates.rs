//! What `deploy/cluster-certificates.sh` makes is what nodes and operators need, and all that gets in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cell::{PATIENCE, free_ports};
use crate::processes::Process;

/// Needs the command `openssl`.
fn make(dir: &Path, names: &[&str]) {
    if let Err(error) = Command::new("openssl").arg("version").output() {
        panic!("openssl cannot be run, `scripts/deps.sh openssl` installs it: {error}");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cluster-certificates.sh");
    let made = Command::new(script).arg(dir).args(names).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Flags that name a certificate.
fn identity(dir: &Path, name: &str) -> Vec<PathBuf> {
    let files = [
        ("--cluster-tls-ca", "ca.pem".to_owned()),
        ("--cluster-tls-cert", format!("{name}.pem")),
        ("--cluster-tls-key", format!("{name}.key")),
    ];
    let flags = files.map(|(flag, file)| [PathBuf::from(flag), dir.join(file)]);
    flags.into_iter().flatten().collect()
}

fn spawn(dir: &Path, certificates: &Path, ports: &[u16], node: usize) -> Process {
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let peers: Vec<_> = (0..3)
        .map(|node| format!("{}=localhost:{}", node + 1, ports[node]))
        .collect();
    let http = at(ports[3 + node]);
    let child = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .arg("server")
        .args(["--node-id", &(node + 1).to_string(), "--peers", &peers.join(",")])
        .args(["--cluster-addr", &at(ports[node]).to_string()])
        .args(identity(certificates, &format!("node-{}", node + 1)))
        .args(["--election-timeout", "1s", "--log", "error"])
        .args(["--http-addr", &http.to_string()])
        .args(["--store", &format!("file://{}", dir.join("store").display())])
        .arg("--data-dir")
        .arg(dir.join(format!("node-{node}")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the node starts");
    Process { http, child }
}

async fn status(port: u16, who: &[PathBuf]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_millrace"));
    command
        .args(["cluster", "status", "--node", &format!("localhost:{port}")])
        .args(who);
    command.output().await.expect("the command runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_certificates_of_one_authority_form_a_cluster_and_let_nobody_else_in() {
    let dir = tempfile::tempdir().unwrap();
    let (own, foreign) = (dir.path().join("own"), dir.path().join("foreign"));
    let hosts = [
        "node-1=localhost,127.0.0.1",
        "node-2=localhost",
        "node-3=localhost",
    ];
    make(&own, &hosts);
    // Made later, with the authority that is there.
    make(&own, &["operator"]);
    make(&foreign, &["operator", "node-1=localhost"]);
    let ports = free_ports(6);
    let _nodes: Vec<Process> = (0..3).map(|node| spawn(dir.path(), &own, &ports, node)).collect();

    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = status(ports[1], &identity(&own, "operator")).await;
        if seen.status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "not in time: {seen:?}");
        sleep(Duration::from_millis(100)).await;
    }
    let mut borrowed = identity(&foreign, "operator");
    borrowed[1] = own.join("ca.pem");
    for (who, flags) in [
        ("no certificate", vec![PathBuf::from("--cluster-plain")]),
        ("a foreign certificate", borrowed),
        ("a foreign authority", identity(&foreign, "operator")),
        ("a foreign node's certificate", identity(&foreign, "node-1")),
    ] {
        let seen = status(ports[0], &flags).await;
        assert!(!seen.status.success(), "{who}: {seen:?}");
        assert!(seen.stdout.is_empty(), "{who} is told something: {seen:?}");
    }
}
