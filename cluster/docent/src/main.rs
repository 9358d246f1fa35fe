//! The `docent` binary: everything is in the library beside it.

/// A sixth of an import's CPU went into glibc's allocator (perf, gowalla at RF 3); mimalloc takes less of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    docent::cli::main()
}
