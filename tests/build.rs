//! Stubs of the interfaces that the runtime's tests call.

fn main() {
    if let Err(error) = pagemesh_rpcgen::compile(&["runtime/counter.idl", "runtime/eavesdropper.idl"]) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
