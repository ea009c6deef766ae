//! The MPI program: compiled when it is needed, if the machine has Open MPI.

use std::path::PathBuf;
use std::process::Command;

use crate::Result;

const SOURCE: &str = include_str!("../../mpi/matmul.c");
const KERNEL: &str = "libbench_gemm.so";

/// A compiled MPI program.
pub(super) struct Program(PathBuf);

/// Compiles it beside this program; the error says what is missing.
pub(super) fn compile() -> std::result::Result<Program, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = own.parent().ok_or("this program is nowhere")?;
    let kernel =
        [folder.join(KERNEL), folder.join("deps").join(KERNEL)].into_iter().find(|path| path.exists());
    let kernel = kernel.ok_or_else(|| format!("{KERNEL} is not beside this program"))?;
    let (source, program) = (folder.join("mpi-matmul.c"), folder.join("mpi-matmul"));
    std::fs::write(&source, SOURCE).map_err(|error| format!("{}: {error}", source.display()))?;
    let compiled = Command::new("mpicc")
        .args(["-O2", "-Wall", "-o"])
        .arg(&program)
        .arg(&source)
        .arg(&kernel)
        .arg(format!("-Wl,-rpath,{}", kernel.parent().unwrap_or(folder).display()))
        .output()
        .map_err(|error| format!("mpicc (Debian: libopenmpi-dev): {error}"))?;
    if !compiled.status.success() {
        return Err(format!("mpicc: {}", String::from_utf8_lossy(&compiled.stderr)));
    }
    Ok(Program(program))
}

impl Program {
    /// Multiplies on two processes over TCP; the seconds that it took, without the start of MPI.
    pub(super) fn run(&self, n: usize) -> Result<f64> {
        let mut command = Command::new("mpirun");
        if nix::unistd::geteuid().is_root() {
            command.arg("--allow-run-as-root");
        }
        let output = command
            .args(["-np", "2", "--mca", "btl", "tcp,self"])
            .arg(&self.0)
            .arg(n.to_string())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let time = text.lines().find_map(|line| line.strip_prefix("seconds ")?.trim().parse().ok());
        time.ok_or_else(|| format!("mpirun: {}{}", text, String::from_utf8_lossy(&output.stderr)).into())
    }
}
