//! Stubs of the examples' interfaces.

fn main() {
    if let Err(error) = pagemesh_rpcgen::compile(&["idl/calculator.idl", "idl/wordcount.idl"]) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
