//! Stubs of the interface that the runtime's tests call.

fn main() {
    if let Err(error) = pagemesh_rpcgen::compile(&["runtime/counter.idl"]) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
