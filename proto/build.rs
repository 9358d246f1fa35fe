//! Compiles the `.proto` files with protox (pure Rust): no `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["docent/v1/docent.proto", "docent/internal/internal.proto"];
    files.iter().for_each(|file| println!("cargo:rerun-if-changed={file}"));
    let set = protox::compile(files, ["."])?;
    // Packed rows and bodies are taken out of the receive buffer without a copy.
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(set)?;
    Ok(())
}
