//! Compiles the crate's protobuf messages. No `protoc` is needed.

const FILES: [&str; 6] = [
    "millrace/raft/v1/common.proto",
    "millrace/raft/v1/command.proto",
    "millrace/raft/v1/forward.proto",
    "millrace/raft/v1/log.proto",
    "millrace/raft/v1/rpc.proto",
    "millrace/raft/v1/state.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    let service = protox::compile(["millrace/node/v1/group.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(service)?;
    Ok(())
}
