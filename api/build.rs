//! Compiles the wire messages without an external protobuf compiler.

use std::path::PathBuf;

use prost_types::field_descriptor_proto::Type;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

const S2_FILE: &str = "s2/v1/s2.proto";
const GRPC_FILES: [&str; 5] = [
    "millrace/v1/config.proto",
    "millrace/v1/error.proto",
    "millrace/v1/account.proto",
    "millrace/v1/basin.proto",
    "millrace/v1/stream.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let s2 = protox::compile([S2_FILE], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(s2)?;
    grpc()
}

/// The messages of the gRPC API, and their descriptors as the .proto files have them.
fn grpc() -> Result<(), Box<dyn std::error::Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(GRPC_FILES)?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out_dir.join("millrace.v1.descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    prost_build::Config::new()
        .bytes(["."])
        .extern_path(".s2.v1", "crate::proto")
        .extern_path(".millrace.v1.ReadResponse", "crate::grpc::ReadResponse")
        .compile_fds(with_encoded_inputs(compiler.file_descriptor_set()))?;
    Ok(())
}

/// The same messages with `AppendInput` fields as bytes. An embedded message and a bytes field are the same on the
/// wire; so an input stays a slice of the buffer that it came in, for `AppendBatch` to read in place.
fn with_encoded_inputs(mut files: FileDescriptorSet) -> FileDescriptorSet {
    let ours = |file: &&mut FileDescriptorProto| file.package() == "millrace.v1";
    let messages = files
        .file
        .iter_mut()
        .filter(ours)
        .flat_map(|file| &mut file.message_type);
    for field in messages.flat_map(|message| &mut message.field) {
        if field.type_name() == ".s2.v1.AppendInput" {
            field.set_type(Type::Bytes);
            field.type_name = None;
        }
    }
    files
}
