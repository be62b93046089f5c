//! Generates the Rust half of `proto/` into `native/contract/src/gen`, without protoc. Run by `make generate`.
use std::error::Error;
use std::path::Path;

const FILES: [&str; 7] = [
    "engine.proto",
    "route.proto",
    "authorization.proto",
    "traffic.proto",
    "envoy/authorization.proto",
    "istio/workload.proto",
    "istio/security.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = here.join("../../../proto");
    let out = here.join("../src/gen");
    std::fs::create_dir_all(&out)?;
    let descriptors = protox::compile(FILES.map(|file| proto.join(file)), [&proto])?;
    // The server half is for tests: a director in the engine's own test process.
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".trackbed.route.v1", "crate::route")
        .out_dir(&out)
        .compile_fds(descriptors)?;
    Ok(())
}
