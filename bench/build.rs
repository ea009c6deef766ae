//! Stubs of the interface that the benchmark of calls uses.

fn main() {
    if let Err(error) = pagemesh_rpcgen::compile(&["echo.idl"]) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
