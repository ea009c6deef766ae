//! Programs in C with Open MPI (`mpi/*.c`): compiled when they are needed, if the machine has it.
//!
//! With `-O3 -march=native`, in a folder of their own that goes away with the last program.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Result;

const COMMON: &str = include_str!("../mpi/common.h");
const KERNEL: &str = "libbench_gemm.so";

/// The programs, by name.
const SOURCES: [(&str, &str); 4] = [
    ("matmul", include_str!("../mpi/matmul.c")),
    ("jacobi", include_str!("../mpi/jacobi.c")),
    ("sort", include_str!("../mpi/sort.c")),
    ("queue", include_str!("../mpi/queue.c")),
];

/// How the processes of a program exchange messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Tcp,
    SharedMemory,
}

impl Transport {
    pub(crate) const ALL: [Transport; 2] = [Transport::Tcp, Transport::SharedMemory];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::SharedMemory => "shm",
        }
    }

    /// The name that Open MPI 4 has for it.
    fn component(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp,self",
            Transport::SharedMemory => "vader,self",
        }
    }
}

/// A compiled program. Its folder goes away with it.
pub(crate) struct Program {
    folder: PathBuf,
    name: &'static str,
}

/// The output of an MPI program that was started once: the seconds of its first run and of the further runs, and its
/// result.
pub(crate) struct Said {
    pub(crate) first: f64,
    pub(crate) warm: Vec<f64>,
    pub(crate) result: String,
}

impl Program {
    /// Compiles one of the programs; the error says what is missing.
    pub(crate) fn compile(name: &str) -> std::result::Result<Program, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (name, source) = SOURCES.into_iter().find(|known| known.0 == name).ok_or("no such program")?;
        let kernel = kernel()?;
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(format!("pagemesh-bench-{process}-{count}.mpi"));
        std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let program = Program { folder, name };
        let file = |name: &str| program.folder.join(name);
        for (name, text) in [("common.h", COMMON), ("program.c", source)] {
            std::fs::write(file(name), text).map_err(|error| format!("{}: {error}", file(name).display()))?;
        }
        let rpath = kernel.parent().map(|folder| format!("-Wl,-rpath,{}", folder.display()));
        let compiled = Command::new("mpicc")
            .args(["-O3", "-march=native", "-Wall", "-o"])
            .args([file(name), file("program.c"), kernel])
            .args(rpath)
            .output()
            .map_err(|error| format!("mpicc: {error}; install libopenmpi-dev and openmpi-bin (Debian)"))?;
        if compiled.status.success() { Ok(program) } else { Err(format!("mpicc: {}", errors(&compiled))) }
    }

    /// Starts the program on `ranks` processes. The program takes its times after MPI has started.
    pub(crate) fn run(&self, ranks: usize, transport: Transport, arguments: &[usize]) -> Result<Said> {
        let mut command = Command::new("mpirun");
        if nix::unistd::geteuid().is_root() {
            command.arg("--allow-run-as-root");
        }
        let output = command
            .args(["--oversubscribe", "-np", &ranks.to_string(), "--mca", "btl", transport.component()])
            .arg(self.folder.join(self.name))
            .args(arguments.iter().map(usize::to_string))
            .output()
            .map_err(|error| format!("mpirun: {error}; install openmpi-bin (Debian)"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        read(&text).ok_or_else(|| format!("mpirun: {text}{}", errors(&output)).into())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The kernel of the matrix product, which is built together with this program.
fn kernel() -> std::result::Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = own.parent().ok_or("this program is nowhere")?;
    let mut places = [folder.join(KERNEL), folder.join("deps").join(KERNEL)].into_iter();
    places.find(|path| path.exists()).ok_or_else(|| format!("{KERNEL} is not beside this program"))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(text: &str) -> Option<Said> {
    let values = |key: &str| -> Vec<String> {
        let of_key = |line: &str| Some(line.strip_prefix(key)?.strip_prefix(' ')?.trim().to_owned());
        text.lines().filter_map(of_key).collect()
    };
    let first = values("first").first()?.parse().ok()?;
    let warm: Vec<f64> = values("warm").iter().map(|time| time.parse().ok()).collect::<Option<_>>()?;
    let result = values("result").pop()?;
    (!warm.is_empty()).then_some(Said { first, warm, result })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_warm_runs_are_told_apart_and_half_an_answer_is_none() {
        let said = read("first 0.5\nwarm 0.25\nwarm 0.125\nresult 7\n").expect("a whole answer");
        assert_eq!((said.first, said.warm, said.result.as_str()), (0.5, vec![0.25, 0.125], "7"));
        assert!(read("first 0.5\nresult 7\n").is_none());
        assert!(read("warm 0.5\nresult 7\n").is_none());
        assert!(read("first 0.5\nwarm 0.5\n").is_none());
    }
}
