//! Generates the stubs of the gRPC services around the messages of `millrace-api`, without an external compiler.
//!
//! The library uses the client's; the server's are kept apart, for tests that speak as a server.

use std::path::PathBuf;

const FILES: [&str; 3] = [
    "millrace/v1/account.proto",
    "millrace/v1/basin.proto",
    "millrace/v1/stream.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../api/proto");
    let files = protox::compile(FILES, ["../api/proto"])?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    for (side, client) in [("client", true), ("server", false)] {
        let out_dir = out_dir.join(side);
        std::fs::create_dir_all(&out_dir)?;
        tonic_prost_build::configure()
            .build_client(client)
            .build_server(!client)
            .extern_path(".millrace.v1", "::millrace_api::grpc")
            .extern_path(".s2.v1", "::millrace_api::proto")
            .out_dir(out_dir)
            .compile_fds(files.clone())?;
    }
    Ok(())
}
