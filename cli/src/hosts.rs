//! The hosts file, in MPI's syntax: one `host slots=k` a line, `#` begins a comment. Slots say how many
//! daemons a host gets before the next host's turn; ranks follow their daemons.

use std::collections::HashMap;
use std::path::Path;

use crate::trouble::Trouble;

/// Slots that one host may have; more is a typing error.
const SLOTS_MAX: u32 = pagemesh::config::NODES_MAX as u32;

/// One host of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostLine {
    /// Name or address, as ssh takes it.
    pub(crate) host: String,
    /// Daemons that it gets.
    pub(crate) slots: u32,
}

/// Reads and checks a hosts file.
pub(crate) fn read(path: &Path) -> Result<Vec<HostLine>, Trouble> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Trouble::os(format_args!("hosts file {}", path.display()), error))?;
    parse(&text).map_err(|error| Trouble::start(format!("hosts file {}: {error}", path.display())))
}

/// Which host each of `nodes` daemons goes to: fill the slots in order, then begin again.
pub(crate) fn place(hosts: &[HostLine], nodes: Option<u32>) -> Vec<String> {
    let one_round: Vec<&String> =
        hosts.iter().flat_map(|line| std::iter::repeat_n(&line.host, line.slots as usize)).collect();
    let nodes = nodes.map_or(one_round.len(), |n| n as usize);
    one_round.into_iter().cycle().take(nodes).cloned().collect()
}

fn parse(text: &str) -> Result<Vec<HostLine>, String> {
    let mut hosts = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let parsed = parse_line(line).map_err(|error| format!("line {number}: {error}"))?;
        if let Some(first) = seen.insert(parsed.host.clone(), number) {
            return Err(format!(
                "line {number}: `{}` is already on line {first}; give it slots=2 there instead",
                parsed.host
            ));
        }
        hosts.push(parsed);
    }
    if hosts.is_empty() {
        return Err("no host in it; a line is like `host1 slots=2`".to_owned());
    }
    let far = hosts.iter().find(|line| !is_local(&line.host));
    let near = hosts.iter().find(|line| is_local(&line.host));
    if let (Some(far), Some(near)) = (far, near) {
        return Err(format!(
            "`{}` means another machine on each host; give this host the name by which `{}` reaches it",
            near.host, far.host
        ));
    }
    Ok(hosts)
}

fn parse_line(line: &str) -> Result<HostLine, String> {
    let mut words = line.split_whitespace();
    let host = words.next().unwrap_or_default();
    if host.contains('=') {
        return Err(format!("`{host}` stands where a host's name should; a line is like `host1 slots=2`"));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || ".-_:@[]".contains(c);
    // A name that begins with a dash would be a flag to ssh.
    if host.starts_with('-') || !host.chars().all(legal) {
        return Err(format!("`{host}` is not a host's name or address"));
    }
    let mut slots = 1;
    for word in words {
        slots = match word.split_once('=') {
            Some(("slots", value)) => parse_slots(value)?,
            // MPI's upper limit; we never start more than slots.
            Some(("max_slots" | "max-slots", _)) => slots,
            Some(_) | None => return Err(format!("`{word}`: only `slots=k` may follow the host")),
        };
    }
    Ok(HostLine { host: host.to_owned(), slots })
}

fn parse_slots(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(slots) if (1..=SLOTS_MAX).contains(&slots) => Ok(slots),
        Ok(_) | Err(_) => Err(format!("`slots={value}`: a number from 1 to {SLOTS_MAX}")),
    }
}

/// Whether processes on this host are started directly instead of over ssh.
pub(crate) fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text).expect_err("a bad hosts file")
    }

    #[test]
    fn a_host_has_one_slot_unless_told_otherwise() {
        let hosts = parse("# ours\n\nred slots=2 # two\nuser@blue\n").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(place(&hosts, None), ["red", "red", "user@blue"]);
        assert_eq!(place(&hosts, Some(4)), ["red", "red", "user@blue", "red"]);
        assert_eq!(place(&hosts, Some(1)), ["red"]);
    }

    #[test]
    fn errors_name_the_line() {
        assert!(error("red\nblue slots=none").starts_with("line 2: `slots=none`"));
        assert!(error("red slots=0").contains("a number from 1"));
        assert!(error("slots=4").contains("line 1: `slots=4` stands where a host's name should"));
        assert!(error("red\n\nred").contains("line 3: `red` is already on line 1"));
        assert!(error("red cores=3").contains("only `slots=k`"));
        assert!(error("-oProxyCommand=x").contains("stands where") || error("-x").contains("not a host"));
        assert!(error("red;reboot").contains("not a host's name"));
        assert!(error("# nothing\n").contains("no host in it"));
    }

    #[test]
    fn localhost_among_others_is_refused() {
        assert!(error("localhost\nred").contains("means another machine"));
    }
}
