//! The benchmarks that need nothing but this workspace.

fn main() -> std::process::ExitCode {
    bench::main(&[])
}
