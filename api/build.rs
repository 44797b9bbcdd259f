//! Compiles the wire messages without an external protobuf compiler.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["proto/s2/v1/s2.proto"], ["proto"])?;
    println!("cargo:rerun-if-changed=proto");
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
