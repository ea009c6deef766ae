//! What a program or daemon is told from outside: `PAGEMESH_*` variables over `pagemesh.toml`, with units in the
//! names and an error for every key that is not known. Flags of the commands end up here too.

#[allow(unsafe_code)]
mod inherited;
mod memory;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::coherence::CACHE_PAGES_MIN;
use crate::error::{Error, Result};
use crate::page::{NodeId, PAGE_SIZE};
pub use inherited::InheritedSocket;
pub use memory::host_memory;

/// Settings of a node. Sizes are bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Address of the coordinator (daemon 0, or rank 0 without daemons). None: a cluster of one.
    pub join: Option<SocketAddr>,
    /// Address to bind; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// File with the cluster's key, 64 hexadecimal digits. Needed to join. Without it a founder makes a random key,
    /// and nobody can join.
    pub key_file: Option<PathBuf>,
    /// Which sessions must be encrypted; of two nodes the stricter decides.
    pub encrypt: Encrypt,
    /// Number of the program, the same for all its ranks, never reused; as text, hexadecimal digits.
    pub program: u64,
    /// This rank, below `ranks`.
    pub rank: u32,
    /// Ranks of the program.
    pub ranks: u32,
    /// The daemon on this host: home of what this rank touches first.
    pub nearest: Option<NodeId>,
    /// A bound UDP socket to use instead of binding one. The first node that starts with these settings, or with
    /// a copy of them, takes it.
    pub socket: Option<InheritedSocket>,
    /// Fault backend; None: the best that works here.
    pub fault: Option<String>,
    /// Address at which the arena is mapped, the same on every node of a cluster.
    pub arena_base: usize,
    /// Length of the arena.
    pub arena_size: usize,
    /// Most memory that this node holds pages in.
    pub memory_max: u64,
    /// Socket buffer to ask for; None: as large as the system gives.
    pub socket_buffer: Option<usize>,
    /// Threads that run calls from other nodes.
    pub rpc_workers: usize,
    /// Longest silence of a member that raises no suspicion, in milliseconds, at least 500; where it is longer than
    /// the usual 3 s, or 30 s for a process of this host, those hold. None: those.
    pub silence_max_ms: Option<u64>,
    /// Directory of the sockets by which processes of a host keep each other's memory, of this user alone. None: in the
    /// system's directory for files of processes that run.
    pub keep_dir: Option<PathBuf>,
    /// Most memory that the nodes of other processes may hold, by their limits together, whose memory this process
    /// keeps. 0: it keeps none.
    pub keep_max: u64,
    /// `PAGEMESH_NET_LOSS` and its kin, for the loss injector, without the prefix.
    pub inject: BTreeMap<String, String>,
}

/// Which sessions a node wants encrypted. Of two nodes the stricter decides.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Encrypt {
    /// All.
    #[default]
    All,
    /// All but those within one host.
    Hosts,
    /// None: who reads along sees all memory, and can forge packets.
    Never,
}

impl Encrypt {
    /// The one of this name.
    pub fn of_name(name: &str) -> Option<Encrypt> {
        [Encrypt::All, Encrypt::Hosts, Encrypt::Never].into_iter().find(|one| one.name() == name)
    }

    /// What it is called in settings.
    pub fn name(self) -> &'static str {
        match self {
            Encrypt::All => "all",
            Encrypt::Hosts => "hosts",
            Encrypt::Never => "never",
        }
    }
}

/// Where the arena lies unless told otherwise.
pub const ARENA_BASE: usize = 0x2000_0000_0000;
/// How long the arena is unless told otherwise.
pub const ARENA_SIZE: usize = 1 << 40;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            join: None,
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            key_file: None,
            encrypt: Encrypt::All,
            program: 0,
            rank: 0,
            ranks: 1,
            nearest: None,
            socket: None,
            fault: None,
            arena_base: ARENA_BASE,
            arena_size: ARENA_SIZE,
            memory_max: memory::default_max(1),
            socket_buffer: None,
            rpc_workers: crate::config::rpc::WORKERS,
            silence_max_ms: None,
            keep_dir: None,
            keep_max: u64::MAX,
            inject: BTreeMap::new(),
        }
    }
}

/// Least memory in which a node can hold pages, in bytes.
pub const MEMORY_MIN: u64 = CACHE_PAGES_MIN * PAGE_SIZE as u64;

/// Least `silence_max_ms`: signs of life are up to 375 ms apart.
pub const SILENCE_MIN_MS: u64 = 500;

/// Longest file that is read as a whole because people write it, in bytes.
pub const TEXT_LEN_MAX: u64 = 1 << 20;

/// Differences up to which a name counts as mistyped.
pub const TYPING_ERRORS_MAX: usize = 3;

/// The settings by their name in `pagemesh.toml`; the variable is the same in capitals after `PAGEMESH_`.
const KEYS: [&str; 26] = [
    "join",
    "bind",
    "key_file",
    "encrypt",
    "program",
    "rank",
    "ranks",
    "nearest",
    "socket_fd",
    "fault",
    "arena_base",
    "arena_size",
    "memory_max",
    "socket_buffer",
    "rpc_workers",
    "silence_max_ms",
    "keep_dir",
    "keep_max",
    "net_loss",
    "net_dup",
    "net_reorder",
    "net_corrupt",
    "net_delay",
    "net_seed",
    "log",
    "state_dir",
];

/// Variables that are no settings: where those are, what `scripts/cluster.sh` is told, and where a
/// program's tests find the command.
const NOT_SETTINGS: [&str; 4] = ["config", "build", "bin", HOST_NODES];

/// How many nodes a command starts on this host together: they share its memory where none is said.
const HOST_NODES: &str = "host_nodes";

impl Settings {
    /// The process's environment over the file named by `PAGEMESH_CONFIG`, or `pagemesh.toml` here if it exists.
    pub fn from_env() -> Result<Settings> {
        let mut settings = Settings::default();
        if let Some(nodes) = std::env::var_os("PAGEMESH_HOST_NODES") {
            let nodes = number(&nodes.to_string_lossy());
            let nodes = nodes.map_err(|why| Error::Invalid(format!("PAGEMESH_HOST_NODES: {why}")))?;
            settings.memory_max = memory::default_max(nodes);
        }
        match std::env::var_os("PAGEMESH_CONFIG").map(PathBuf::from) {
            Some(path) => settings.apply_file(&path, &read(&path)?)?,
            None => settings.apply_found(Path::new("pagemesh.toml"))?,
        }
        settings.apply_variables(std::env::vars_os())?;
        Ok(settings)
    }

    /// Applies a file that lies in the current directory, if there is one. It need not be the user's own
    /// directory, so the file counts only if no other user can have written it.
    fn apply_found(&mut self, path: &Path) -> Result<()> {
        let found = |error| Error::os(format!("read {}", path.display()), error);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(found(error)),
        };
        let metadata = file.metadata().map_err(found)?;
        if let Some(why) = distrust(metadata.uid(), metadata.mode(), nix::unistd::geteuid().as_raw()) {
            return Err(Error::Invalid(format!("{}: {why}", path.display())));
        }
        let text = text_of(file).map_err(found)?;
        self.apply_file(path, &text)
    }

    /// Other programs' variables may be of any bytes; ours are text.
    fn apply_variables(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<()> {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let Some(key) = name.strip_prefix("PAGEMESH_") else { continue };
            let value = value.to_str().ok_or_else(|| {
                Error::Invalid(format!("{name}: `{}` is not UTF-8 text", value.to_string_lossy()))
            })?;
            self.apply_variable(&name, key, value)?;
        }
        Ok(())
    }

    fn apply_variable(&mut self, name: &str, key: &str, value: &str) -> Result<()> {
        let key = key.to_lowercase();
        if NOT_SETTINGS.contains(&key.as_str()) {
            return Ok(());
        }
        let applied = match key.as_str() {
            "socket_fd" => number(value).and_then(InheritedSocket::of_process).map(|socket| {
                self.socket = Some(socket);
            }),
            _ => self.apply(&key, value),
        };
        applied.map_err(|error| Error::Invalid(format!("{name}: {error}")))
    }

    /// Applies the keys of a settings file.
    pub fn apply_file(&mut self, path: &Path, text: &str) -> Result<()> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            // The parser's own text is a drawing of many lines.
            let what = error.message().replace('\n', "; ");
            Error::Invalid(format!("{}: line {line}: {what}", path.display()))
        })?;
        for (key, value) in table {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(_)
                | toml::Value::Datetime(_)
                | toml::Value::Array(_)
                | toml::Value::Table(_) => {
                    return Err(Error::Invalid(format!("{}: {key}: a text or a number", path.display())));
                }
            };
            self.apply(&key, &value)
                .map_err(|error| Error::Invalid(format!("{}: {key}: {error}", path.display())))?;
        }
        Ok(())
    }

    /// Sets one key from text.
    pub fn apply(&mut self, key: &str, value: &str) -> std::result::Result<(), String> {
        match key {
            "join" => self.join = Some(address(value)?),
            "bind" => self.bind = address(value)?,
            "key_file" => self.key_file = Some(PathBuf::from(value)),
            "encrypt" => {
                let unknown = || format!("`{value}` is none of all, hosts and never");
                self.encrypt = Encrypt::of_name(value).ok_or_else(unknown)?;
            }
            "program" => self.program = id(value)?,
            "rank" => self.rank = number(value)?,
            "ranks" => self.ranks = number(value)?,
            "nearest" => self.nearest = Some(NodeId(number(value)?)),
            // A number in a file or in code may be that of any descriptor.
            "socket_fd" => return Err("only PAGEMESH_SOCKET_FD passes a socket on".to_owned()),
            "fault" => self.fault = Some(value.to_owned()),
            "arena_base" => self.arena_base = arena_base(value)? as usize,
            "arena_size" => self.arena_size = arena_size(value)? as usize,
            "memory_max" => self.memory_max = memory(value)?,
            "socket_buffer" => self.socket_buffer = Some(size(value)? as usize),
            "rpc_workers" => self.rpc_workers = number(value)?,
            "silence_max_ms" => {
                let least = SILENCE_MIN_MS;
                let given = number(value)?;
                let few =
                    || format!("{given} ms are too few: a busy node is silent for longer; at least {least}");
                self.silence_max_ms = Some(if given < least { return Err(few()) } else { given });
            }
            "keep_dir" => self.keep_dir = Some(directory(value)?),
            "keep_max" => self.keep_max = size(value)?,
            "net_loss" | "net_dup" | "net_reorder" | "net_corrupt" | "net_delay" | "net_seed" => {
                let kind = key.trim_start_matches("net_").to_uppercase();
                self.inject.insert(kind, value.to_owned());
            }
            // Read by the commands and programs, not by the library.
            "log" | "state_dir" => {}
            _ => return Err(unknown(key)),
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String> {
    short_text(path).map_err(|error| Error::os(format!("read {}", path.display()), error))
}

/// Reads a file that people write, such as settings or a list of hosts: an error if it is longer than
/// [`TEXT_LEN_MAX`], as a device without an end is.
pub fn short_text(path: &Path) -> std::io::Result<String> {
    text_of(File::open(path)?)
}

fn text_of(file: File) -> std::io::Result<String> {
    let mut text = String::new();
    file.take(TEXT_LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > TEXT_LEN_MAX {
        return Err(std::io::Error::other(format!("longer than {} MiB", TEXT_LEN_MAX >> 20)));
    }
    Ok(text)
}

/// Why user `me` must not obey a settings file with this owner and mode.
fn distrust(owner: u32, mode: u32, me: u32) -> Option<String> {
    if owner != me && owner != 0 {
        return Some(format!(
            "it belongs to user {owner}, not to you or root; to use it, name it in PAGEMESH_CONFIG"
        ));
    }
    (mode & 0o022 != 0)
        .then(|| "other users may write it; run `chmod go-w` on it, or name it in PAGEMESH_CONFIG".to_owned())
}

fn address(value: &str) -> std::result::Result<SocketAddr, String> {
    value.parse().map_err(|_| format!("`{value}` is not an address like 127.0.0.1:7400"))
}

/// Other processes get the path: it must not depend on where a process runs.
fn directory(value: &str) -> std::result::Result<PathBuf, String> {
    let path = Path::new(value);
    path.is_absolute().then(|| path.to_owned()).ok_or_else(|| format!("`{value}` is not an absolute path"))
}

fn number<T: std::str::FromStr>(value: &str) -> std::result::Result<T, String> {
    value.parse().map_err(|_| format!("`{value}` is not a number that fits"))
}

/// An id of 64 bits has one form wherever it is text: hexadecimal digits.
fn id(value: &str) -> std::result::Result<u64, String> {
    let digits = value.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u64::from_str_radix(value, 16).ok().filter(|_| digits);
    id.ok_or_else(|| format!("`{value}` is not an id of at most 16 hexadecimal digits"))
}

/// Parses a size: bytes, `0x` hexadecimal, or with KiB, MiB, GiB or TiB behind.
pub fn size(value: &str) -> std::result::Result<u64, String> {
    let bad = || format!("`{value}` is not a size like 4096, 64MiB or 0x200000000000");
    if let Some(digits) = value.strip_prefix("0x") {
        return u64::from_str_radix(&digits.replace('_', ""), 16).map_err(|_| bad());
    }
    let split = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (digits, unit) = value.split_at(split);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Parses a memory limit: a size in which a node finds room for the pages of a few instructions.
pub fn memory(value: &str) -> std::result::Result<u64, String> {
    let bytes = size(value)?;
    if bytes < MEMORY_MIN {
        return Err(format!("`{value}` is too little: a node needs at least {} KiB", MEMORY_MIN >> 10));
    }
    Ok(bytes)
}

/// Parses the address of an arena: a multiple of the page size, and not 0, where no value can be.
pub fn arena_base(value: &str) -> std::result::Result<u64, String> {
    whole_pages(value).ok_or_else(|| {
        format!("`{value}` is not an address for the arena: a multiple of {PAGE_SIZE} above 0, e.g. {ARENA_BASE:#x}")
    })
}

/// Parses the length of an arena: whole pages, at least one.
pub fn arena_size(value: &str) -> std::result::Result<u64, String> {
    whole_pages(value).ok_or_else(|| {
        format!("`{value}` is not a length for the arena: a multiple of {PAGE_SIZE} above 0, e.g. 64GiB")
    })
}

fn whole_pages(value: &str) -> Option<u64> {
    let bytes = size(value).ok()?;
    (bytes > 0 && bytes.is_multiple_of(PAGE_SIZE as u64)).then_some(bytes)
}

fn unknown(key: &str) -> String {
    match nearest(key, KEYS.iter().copied(), TYPING_ERRORS_MAX) {
        Some(known) => format!("no such setting; did you mean `{known}`?"),
        None => format!("no such setting; there are: {}", KEYS.join(", ")),
    }
}

/// What a parser of command lines found wrong, and what may have been meant, in one line: without the
/// summary of the usage that it puts behind.
pub fn one_line(error: &str) -> String {
    let lines = error.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    let line = lines.join("; ").replace(":; ", ": ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// What may have been meant by a mistyped word: the name that is nearest to it, if it is at most `errors_max`
/// letters away. Of several the first.
pub fn nearest<'a>(
    word: &str,
    names: impl IntoIterator<Item = &'a str>,
    errors_max: usize,
) -> Option<&'a str> {
    let measured = names.into_iter().map(|name| (strsim::levenshtein(word, name), name));
    measured
        .filter(|(errors, _)| *errors <= errors_max)
        .min_by_key(|(errors, _)| *errors)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("0x2000_0000_0000"), Ok(0x2000_0000_0000));
        assert!(size("64 parsecs").is_err());
        assert!(size("99999999999TiB").is_err());
    }

    #[test]
    fn an_arena_that_cannot_be_is_refused_where_it_is_named() {
        let apply = |key: &str, value: &str| Settings::default().apply(key, value);
        for base in ["0", "1", "0x1001", "pages"] {
            let error = apply("arena_base", base).unwrap_err();
            assert!(error.contains(base) && error.contains("a multiple of 4096 above 0"), "{error}");
        }
        for size in ["0", "1", "4097", "pages"] {
            let error = apply("arena_size", size).unwrap_err();
            assert!(error.contains(size) && error.contains("a multiple of 4096 above 0"), "{error}");
        }
        assert_eq!(apply("arena_base", "0x2000_0000_0000"), Ok(()));
        assert_eq!(apply("arena_size", "4096"), Ok(()));
    }

    #[test]
    fn a_settings_file_without_an_end_is_an_error() {
        let error = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("/dev/zero") && error.contains("longer than 1 MiB"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_a_suggestion() {
        let error = Settings::default().apply("net_los", "5%").unwrap_err();
        assert!(error.contains("net_loss"), "{error}");
    }

    #[test]
    fn variables_for_scripts_and_tests_are_no_settings() {
        let apply = |name: &str| {
            Settings::default().apply_variables([(name.into(), "/usr/bin/pagemesh".into())].into_iter())
        };
        for name in ["PAGEMESH_CONFIG", "PAGEMESH_BUILD", "PAGEMESH_BIN"] {
            assert!(apply(name).is_ok(), "{name}");
        }
        assert!(apply("PAGEMESH_BINN").is_err());
    }

    #[test]
    fn variables_of_others_may_hold_any_bytes_and_ours_must_be_text() {
        let odd = || OsString::from_vec(vec![0xff, b'x']);
        let apply = |name: OsString| Settings::default().apply_variables([(name, odd())].into_iter());
        assert!(apply("LESS".into()).is_ok());
        assert!(apply(odd()).is_ok());
        let error = apply("PAGEMESH_FAULT".into()).unwrap_err().to_string();
        assert!(error.starts_with("PAGEMESH_FAULT: ") && error.contains("not UTF-8"), "{error}");
    }

    /// As IBM's backup client sets them on many machines.
    #[test]
    fn variables_of_another_program_have_no_effect() {
        let ibm =
            [("DSM_CONFIG", "/opt/tivoli/dsm.opt"), ("DSM_LOG", "/var/log"), ("DSM_DIR", "/opt/tivoli")];
        let mut settings = Settings::default();
        let variables = ibm.map(|(name, value)| (name.into(), value.into()));
        settings.apply_variables(variables.into_iter()).expect("they are nobody's settings here");
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn a_settings_file_in_the_current_directory_counts_only_if_nobody_else_can_have_written_it() {
        assert_eq!(distrust(1000, 0o100_644, 1000), None);
        assert_eq!(distrust(0, 0o100_644, 1000), None);
        let other = distrust(1001, 0o100_600, 1000).expect("another user's");
        assert!(other.contains("user 1001") && other.contains("PAGEMESH_CONFIG"), "{other}");
        for mode in [0o100_664, 0o100_646] {
            let open = distrust(1000, mode, 1000).expect("open to others");
            assert!(open.contains("chmod go-w"), "{open}");
        }
    }

    #[test]
    fn a_settings_file_that_others_may_write_is_not_obeyed() {
        let name = format!("pagemesh-settings-{}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "rank = 3").expect("written");
        let mut settings = Settings::default();
        let mut apply = |mode| {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
            let outcome = settings.apply_found(&path).map_err(|error| error.to_string());
            (outcome, settings.rank)
        };
        let (refused, rank) = apply(0o666);
        let accepted = apply(0o600);
        std::fs::remove_file(&path).expect("removed");
        let line = refused.expect_err("anybody may have written it");
        assert!(line.starts_with(&path.display().to_string()) && !line.contains('\n'), "{line}");
        assert_eq!((rank, accepted), (0, (Ok(()), 3)));
    }

    #[test]
    fn a_settings_file_names_the_bad_key() {
        let error = Settings::default().apply_file(Path::new("pagemesh.toml"), "rank = \"x\"").unwrap_err();
        assert!(error.to_string().contains("pagemesh.toml: rank"), "{error}");
    }

    #[test]
    fn a_settings_file_that_is_no_toml_is_one_line_with_its_number() {
        let apply = |text| Settings::default().apply_file(Path::new("pagemesh.toml"), text);
        for text in ["rank = 1\nthis is no toml\n", "rank = 1\nrank = 2\n", "rank = 1\nfault = \"", "\n= 3"] {
            let error = apply(text).unwrap_err().to_string();
            assert!(error.starts_with("pagemesh.toml: line 2: ") && !error.contains('\n'), "{error}");
        }
    }
}
