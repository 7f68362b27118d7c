//! Generates the API's types, their gRPC stubs and their proto3-JSON form from `proto/`.
use std::{env, error::Error, path::PathBuf};

const FILES: [&str; 11] = [
    "manifest", "identity", "node", "event", "image", "volume", "workload", "fabric", "update", "debug",
    "install",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    let mut files: Vec<String> = FILES.iter().map(|name| format!("proto/capsule/v1/{name}.proto")).collect();
    files.push("proto/capsule/member/v1/member.proto".into());
    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        .file_descriptor_set_path(&descriptors)
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .btree_map(".")
        .compile_protos(&files, &["proto".into()])?;
    pbjson_build::Builder::new()
        .btree_map(["."])
        .register_descriptors(&std::fs::read(descriptors)?)?
        .build(&[".capsule.v1"])?;
    Ok(())
}
