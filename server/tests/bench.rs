//! `millrace bench` against a node in this process, with loads so small that only what they count matters, and the
//! program itself where its exit code and its output do.

#[path = "api_http/node.rs"]
#[allow(
    dead_code,
    reason = "each test binary compiles this module and uses its own part"
)]
mod node;

use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use clap::Parser;
use millrace_server::bench::args::BenchArgs;
use millrace_server::bench::measure_quietly;
use millrace_server::bench::plan::Plan;
use millrace_server::bench::report::{Report, RoundReport};
use node::TestNode;

static SHARED: LazyLock<TestNode> = LazyLock::new(|| TestNode::start(|_| {}));

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn url() -> String {
    format!("http://{}", SHARED.addr)
}

fn plan(args: &str) -> Plan {
    let short = "--warm-up 50ms --duration 300ms --interval 100ms --settle 0s";
    let args = format!("bench {args} {short}");
    let cli = Cli::try_parse_from(args.split_whitespace()).expect("arguments");
    cli.bench.plan(seed()).expect("a plan")
}

/// Names come from it: no two tests may share one.
fn seed() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn measure(args: &str) -> Report {
    measure_quietly(&plan(args)).await.expect("a report")
}

async fn failure(args: &str) -> String {
    let error = measure_quietly(&plan(args)).await.expect_err("a failure");
    format!("{error:#}")
}

fn round(report: &Report) -> &RoundReport {
    &report.endpoints[0].rounds[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn append_counts_what_was_acknowledged() {
    let report = measure(&format!(
        "append --url {} --streams 3 --connections 2 --record-bytes 100 --batch-records 7",
        url()
    ))
    .await;
    let round = round(&report);
    let append = round.append.expect("appends");
    assert!(append.batches > 0);
    assert_eq!(append.records, 7 * append.batches);
    assert_eq!(append.bytes, 100 * append.records);
    assert_eq!(append.latency.count % 7, 0);
    assert!(append.latency.p50_ms > 0.0 && append.latency.p50_ms <= append.latency.max_ms);
    assert!(round.verified.records_written >= append.records);
    assert!(!round.intervals.is_empty());
    assert!(round.tail.is_none() && round.catch_up.is_none() && round.target.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_reaches_every_follower() {
    let report = measure(&format!(
        "tail --url {} --streams 2 --readers 3 --batch-records 5 --record-bytes 200",
        url()
    ))
    .await;
    let round = round(&report);
    assert!(round.verified.records_written > 0);
    assert_eq!(round.verified.records_read, 3 * round.verified.records_written);
    assert_eq!(round.verified.chains, 6);
    let tail = round.tail.expect("deliveries");
    assert!(tail.latency.count > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn catch_up_reads_all_that_it_wrote_once_per_reader() {
    let report = measure(&format!(
        "catch-up --url {} --streams 2 --readers 2 --preload 1MiB --record-bytes 1024 --batch-records 100",
        url()
    ))
    .await;
    let round = round(&report);
    // Half a MiB is 5.12 batches, so that each stream gets 6.
    assert_eq!(round.verified.records_written, 2 * 600);
    assert_eq!(round.verified.records_read, 2 * 2 * 600);
    assert_eq!(round.verified.chains, 4);
    let catch_up = round.catch_up.expect("reads");
    assert_eq!(catch_up.records, 2 * 2 * 600);
    assert_eq!(catch_up.bytes, 2 * 2 * 600 * 1024);
    // The first batch of each reading.
    assert_eq!(catch_up.latency.count, 4);
    assert!(round.append.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_reads_old_and_new_at_once() {
    let report = measure(&format!(
        "mixed --url {} --batch-records 5 --rate 5000 --catch-up-readers 2",
        url()
    ))
    .await;
    let round = round(&report);
    assert!(round.append.is_some() && round.tail.is_some() && round.catch_up.is_some());
    assert!(round.verified.records_read >= round.verified.records_written);
    assert!(round.verified.chains >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_sends_or_counts_all_that_was_due() {
    let report = measure(&format!(
        "append --url {} --rate 2000 --batch-records 10 --streams 2",
        url()
    ))
    .await;
    let round = round(&report);
    let aim = round.target.expect("an aim");
    assert_eq!(aim.records_s, 2000.0);
    // 200 batches per second for 350 ms, and at most one more for the moment between two looks at the clock.
    let due = round.verified.records_written / 10 + aim.unsent_batches;
    assert!((70..=72).contains(&due), "{due}");
    // 60 of them within the measured 300 ms.
    let latencies = round.append.expect("appends").latency.count / 10;
    assert!((59..=61).contains(&latencies), "{latencies}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_were_kept_can_be_read_again() {
    let names = "--basin kept-basin --stream-prefix kept/";
    let url = url();
    let written = measure(&format!(
        "append --url {url} {names} --keep --streams 2 --rate 1000 --batch-records 10"
    ))
    .await;
    let written = round(&written).verified.records_written;
    let read = measure(&format!("catch-up --url {url} {names} --existing --streams 2")).await;
    let verified = round(&read).verified;
    assert_eq!((verified.records_written, verified.records_read), (0, written));
    // A third stream is not there.
    let error = failure(&format!("catch-up --url {url} {names} --existing --streams 3")).await;
    assert!(error.contains("404"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_bench_did_not_write_fail_it_unless_it_is_told_so() {
    let url = url();
    let http = reqwest::Client::new();
    let basin = serde_json::json!({"basin": "foreign-basin", "config": {"create_stream_on_append": true}});
    let created = http.post(format!("{url}/v1/basins")).json(&basin).send().await;
    assert!(created.expect("an answer").status().is_success());
    let appended = http
        .post(format!("{url}/v1/streams/s0/records"))
        .header("s2-basin", "foreign-basin")
        .json(&serde_json::json!({"records": [{"body": "not what a bench writes, but long enough"}]}))
        .send()
        .await;
    assert!(appended.expect("an answer").status().is_success());
    let args = format!("catch-up --url {url} --basin foreign-basin --stream-prefix s --existing");
    let error = failure(&args).await;
    assert!(error.contains("was written as record"), "{error}");
    let report = measure(&format!("{args} --foreign")).await;
    assert_eq!(round(&report).verified.records_read, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_endpoints_are_driven_in_turns_and_compared() {
    let url = url();
    let report = measure(&format!(
        "append --url {url} --versus {url} --rounds 2 --batch-records 10"
    ))
    .await;
    let rounds: Vec<_> = report
        .endpoints
        .iter()
        .map(|e| (e.label, e.rounds.len()))
        .collect();
    assert_eq!(rounds, [("A", 2), ("B", 2)]);
    let append = &report.ratios[0];
    assert_eq!(append.figure, "append MiB/s");
    assert!((append.ratio - append.a / append.b).abs() < 1e-9);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_workload_goes_over_grpc_too() {
    for load in ["append", "tail --readers 2", "catch-up --preload 1MiB", "mixed"] {
        let report = measure(&format!(
            "{load} --url {} --protocol grpc --streams 2 --connections 2 --batch-records 10",
            url()
        ))
        .await;
        let verified = round(&report).verified;
        assert!(verified.records_written > 0, "{load}");
        match load.split(' ').next() {
            Some("append") => assert_eq!(verified.chains, 0),
            Some("tail") => {
                assert_eq!(verified.records_read, 2 * verified.records_written);
                assert_eq!(verified.chains, 4);
            }
            Some("catch-up") => {
                assert_eq!(verified.records_read, verified.records_written);
                assert_eq!(verified.chains, 2);
            }
            _ => assert!(verified.chains >= 2),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_endpoint_is_compared_with_itself_over_the_other_protocol() {
    let url = url();
    let report = measure(&format!(
        "tail --url {url} --versus {url} --versus-protocol grpc --rounds 1 --batch-records 10"
    ))
    .await;
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["endpoints"][0]["protocol"], "s2s");
    assert_eq!(json["endpoints"][1]["protocol"], "grpc");
    assert!(!report.ratios.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_watched_if_its_process_is_known() {
    let pid = std::process::id();
    let report = measure(&format!("append --url {} --server-pid {pid}", url())).await;
    let server = round(&report).server.expect("figures of the server");
    assert!(server.peak_bytes > 0);
    let error = failure(&format!("append --url {} --server-pid {}", url(), u32::MAX)).await;
    assert!(error.contains("no process"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_is_deleted_also_after_a_failure() {
    let url = url();
    let plan = plan(&format!(
        "append --url {url} --server-pid {} --basin short-lived",
        u32::MAX
    ));
    measure_quietly(&plan).await.expect_err("no such process");
    let reply = reqwest::get(format!("{url}/v1/basins?prefix=short-lived")).await;
    let reply: serde_json::Value = reply.expect("an answer").json().await.expect("JSON");
    let deleting = |basin: &serde_json::Value| !basin["deleted_at"].is_null();
    assert!(
        reply["basins"].as_array().expect("a list").iter().all(deleting),
        "{reply}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_in_the_middle_fails_the_run() {
    let mut node = TestNode::start(|_| {});
    let args = format!("tail --url http://{} --timeout 20s", node.addr);
    let mut plan = plan(&args);
    plan.duration = Duration::from_secs(600);
    let run = tokio::time::timeout(Duration::from_secs(60), measure_quietly(&plan));
    let leave = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.begin_stop();
    };
    let (outcome, ()) = tokio::join!(run, leave);
    assert!(outcome.expect("it notices").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_null_sink_serves_every_workload() {
    for load in ["append", "tail --readers 2", "catch-up --preload 2MiB", "mixed"] {
        let report = measure(&format!("{load} --null-sink --streams 2")).await;
        let round = round(&report);
        let json = serde_json::to_value(round).expect("JSON");
        assert_eq!(json["limited_by"], "client", "{load}");
        assert!(round.total_mib_s() > 0.0, "{load}");
        if load.starts_with("tail") {
            assert_eq!(round.verified.chains, 4);
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_named() {
    let error = failure("append --url http://127.0.0.1:1").await;
    assert!(error.contains("cannot connect to http://127.0.0.1:1/"), "{error}");
}

#[test]
fn the_program_prints_json_where_it_was_asked_to_and_fails_where_it_must() {
    let run = |args: &str| {
        let program =
            std::env::var_os("MILLRACE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_millrace").into());
        std::process::Command::new(program)
            .arg("bench")
            .args(args.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .expect("the program runs")
    };
    let dir = tempfile::tempdir().expect("a directory");
    let plot = dir.path().join("out.svg");
    let output = run(&format!(
        "append --null-sink --duration 200ms --warm-up 0s --json - --plot {}",
        plot.display()
    ));
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("nothing but JSON");
    assert_eq!(json["settings"]["workload"], "append");
    let table = String::from_utf8_lossy(&output.stderr);
    assert!(table.contains("append MiB/s"), "{table}");
    // Not a terminal: no progress.
    assert!(!table.contains('\r') && !table.contains('\x1b'), "{table}");
    let svg = std::fs::read_to_string(&plot).expect("a picture");
    assert!(svg.starts_with("<svg"));

    let output = run("append --url http://127.0.0.1:1 --duration 200ms");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot connect"));
}
