//! The `docent` binary: everything is in the library beside it.

fn main() -> std::process::ExitCode {
    docent::cli::main()
}
