//! Makes the stubs of `idl/greeter.idl`.

fn main() {
    if let Err(error) = pagemesh_rpcgen::compile(&["idl/greeter.idl"]) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
