//! Generates the gRPC services: the public ones, whose messages are those of `millrace-api`, those between nodes,
//! and those for operators.

use std::path::PathBuf;

use tonic_prost_build::Builder;

const PROTO_DIR: &str = "../api/proto";
/// Services whose server is generated too. The one of records is served by hand: see `frontend/grpc/stream.rs`.
const SERVED: [&str; 2] = ["millrace/v1/account.proto", "millrace/v1/basin.proto"];
const RECORDS: &str = "millrace/v1/stream.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIR}");
    generator()
        .build_client(false)
        .codec_path("crate::frontend::grpc::codec::Codec")
        .compile_fds(protox::compile(SERVED, [PROTO_DIR])?)?;
    // Clients that know nothing but the .proto files, for the tests; no part of the library includes them.
    let clients = PathBuf::from(std::env::var("OUT_DIR")?).join("clients");
    std::fs::create_dir_all(&clients)?;
    let [account, basin] = SERVED;
    generator()
        .build_server(false)
        .out_dir(clients)
        .compile_fds(protox::compile([account, basin, RECORDS], [PROTO_DIR])?)?;
    among_nodes()
}

/// What nodes say to each other and operators to nodes, both sides of it.
fn among_nodes() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let generate = |served: bool, service: &str| -> Result<(), Box<dyn std::error::Error>> {
        tonic_prost_build::configure()
            .build_transport(false)
            .build_server(served)
            .bytes(".")
            .emit_rerun_if_changed(false)
            .compile_fds(protox::compile([service], ["proto"])?)?;
        Ok(())
    };
    generate(true, "millrace/admin/v1/admin.proto")?;
    // Served by hand: see `peer/serve.rs` and `zone_disk/serve.rs`.
    generate(false, "millrace/peer/v1/peer.proto")?;
    messages_of_zones()
}

/// Both sides of the service are written by hand.
fn messages_of_zones() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(protox::compile(["millrace/zone/v1/zone.proto"], ["proto"])?)?;
    Ok(())
}

/// Connections are ours, not tonic's.
fn generator() -> Builder {
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".s2.v1", "::millrace_api::proto")
        .extern_path(".millrace.v1", "::millrace_api::grpc")
        .emit_rerun_if_changed(false)
}
