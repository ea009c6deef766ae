//! Refuses to build for a system that the library does not run on, before anything else is compiled: one sentence
//! instead of a hundred errors.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let (os, width, arch) = (target("OS"), target("POINTER_WIDTH"), target("ARCH"));
    if (os.as_str(), width.as_str()) != ("linux", "64") || !["x86_64", "aarch64"].contains(&arch.as_str()) {
        println!(
            "cargo::error=pagemesh runs on 64-bit Linux (x86-64 or ARM) only, not on {os} ({arch}, {width} bits): it shares memory by page faults that it handles with userfaultfd and signals"
        );
    }
}
