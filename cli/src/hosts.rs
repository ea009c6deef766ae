//! The hosts file: which hosts a cluster gets, and how many daemons each. A line is what MPI's files and Slurm's
//! lists have: `host slots=2`, `host:2`, `a:2,b`, `node[1-4,7]`, `[fe80::1]:2`; `#` begins a comment. The slots of
//! a host that is named again add up. Ranks follow their daemons.

use std::net::Ipv6Addr;
use std::path::Path;

use crate::trouble::Trouble;

/// Slots that one host may have; more is a typing error.
const SLOTS_MAX: u32 = pagemesh::config::NODES_MAX as u32;
/// Hosts that one file may name: each gets a daemon at least.
const HOSTS_MAX: usize = pagemesh::config::NODES_MAX;
/// The forms of a line, for messages.
const SYNTAX: &str =
    "a line is like `host`, `host slots=2`, `a:2,b`, `node[1-4,7]` or `[fe80::1]:2`; `#` begins a comment";

/// One host of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostLine {
    /// Name or address, as ssh takes it: without brackets, and with a user in front if one was named.
    pub(crate) host: String,
    /// Daemons that it gets.
    pub(crate) slots: u32,
}

/// Reads and checks a hosts file.
pub(crate) fn read(path: &Path) -> Result<Vec<HostLine>, Trouble> {
    let text = pagemesh::settings::short_text(path)
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

/// Whether processes on this host are started directly instead of over ssh.
pub(crate) fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1")
}

fn parse(text: &str) -> Result<Vec<HostLine>, String> {
    let mut hosts: Vec<HostLine> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let named = parse_line(line).map_err(|error| format!("line {number}: {error}; {SYNTAX}"))?;
        for HostLine { host, slots } in named {
            match hosts.iter_mut().find(|known| known.host == host) {
                Some(known) if known.slots + slots > SLOTS_MAX => {
                    let sum = known.slots + slots;
                    return Err(format!(
                        "line {number}: `{host}` has {sum} slots by now, at most {SLOTS_MAX}; {SYNTAX}"
                    ));
                }
                Some(known) => known.slots += slots,
                None => hosts.push(HostLine { host, slots }),
            }
        }
        if hosts.len() > HOSTS_MAX {
            return Err(format!("line {number}: more than {HOSTS_MAX} hosts by now; {SYNTAX}"));
        }
    }
    if hosts.is_empty() {
        return Err(format!("no host in it; {SYNTAX}"));
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

/// The hosts of a line that is not empty.
fn parse_line(line: &str) -> Result<Vec<HostLine>, String> {
    let mut words = line.split_whitespace();
    let list = words.next().unwrap_or_default();
    if list.contains('=') {
        return Err(format!("`{list}` stands where a host's name should"));
    }
    let mut slots = None;
    for word in words {
        match word.split_once('=') {
            Some(("slots", _)) if slots.is_some() => {
                return Err(format!("`{word}`: slots were given before"));
            }
            Some(("slots", value)) => slots = Some(parse_slots(word, value)?),
            // MPI's upper limit; we never start more than slots.
            Some(("max_slots" | "max-slots", value)) => drop(parse_slots(word, value)?),
            Some(_) | None => return Err(format!("`{word}`: only `slots=k` may follow the host")),
        }
    }
    let mut hosts = Vec::new();
    for item in split_list(list)? {
        let (name, own) = split_slots(item)?;
        if let (Some(own), Some(_)) = (own, slots) {
            return Err(format!("`{item}` has {own} slots already; leave `slots=` away"));
        }
        let slots = own.or(slots).unwrap_or(1);
        hosts.extend(expand(name)?.into_iter().map(|host| HostLine { host, slots }));
        if hosts.len() > HOSTS_MAX {
            return Err(format!("`{list}` names more than {HOSTS_MAX} hosts"));
        }
    }
    Ok(hosts)
}

/// The items of a list, at commas outside brackets.
fn split_list(list: &str) -> Result<Vec<&str>, String> {
    let (mut items, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in list.char_indices() {
        match c {
            '[' if inside => return Err(format!("`{list}`: a bracket inside brackets")),
            ']' if !inside => return Err(format!("`{list}`: a closing bracket without its opening one")),
            '[' | ']' => inside = c == '[',
            ',' if !inside => {
                items.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(format!("`{list}`: a bracket is not closed"));
    }
    items.push(&list[start..]);
    if items.iter().any(|item| item.is_empty()) {
        return Err(format!("`{list}`: nothing between two commas, or behind the last"));
    }
    Ok(items)
}

/// `name:2` as its parts.
fn split_slots(item: &str) -> Result<(&str, Option<u32>), String> {
    // Colons in brackets belong to an address.
    let outside = item.rfind(']').map_or(0, |end| end + 1);
    let Some(at) = item[outside..].find(':').map(|at| outside + at) else { return Ok((item, None)) };
    let (name, slots) = (&item[..at], &item[at + 1..]);
    let address = item.rsplit('@').next().unwrap_or(item);
    if address.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("`{item}`: an IPv6 address stands in brackets, `[{address}]`"));
    }
    Ok((name, Some(parse_slots(item, slots)?)))
}

/// The hosts that a name with lists in brackets stands for; itself, if there are none.
fn expand(name: &str) -> Result<Vec<String>, String> {
    let (user, rest) = name.rsplit_once('@').map_or((None, name), |(user, rest)| (Some(user), rest));
    // A name that begins with a dash would be a flag to ssh.
    if user.is_some_and(|user| user.is_empty() || user.starts_with('-') || !user.chars().all(is_legal)) {
        return Err(format!("`{name}`: not a user's name before the `@`"));
    }
    let user = user.map_or_else(String::new, |user| format!("{user}@"));
    if let Some(address) = rest.strip_prefix('[') {
        return match address.strip_suffix(']').map(str::parse::<Ipv6Addr>) {
            Some(Ok(address)) => Ok(vec![format!("{user}{address}")]),
            Some(Err(_)) | None => Err(format!("`{name}`: not an IPv6 address in brackets")),
        };
    }
    let mut names = vec![String::new()];
    let mut rest = rest;
    while let Some((before, behind)) = rest.split_once('[') {
        // Brackets are in pairs: the list was split by them.
        let (list, after) = behind.split_once(']').unwrap_or((behind, ""));
        let numbers = numbers(list).map_err(|error| format!("`{name}`: {error}"))?;
        if names.len() * numbers.len() > HOSTS_MAX {
            return Err(format!("`{name}` names more than {HOSTS_MAX} hosts"));
        }
        let joined = names.iter().flat_map(|name| numbers.iter().map(move |n| format!("{name}{before}{n}")));
        names = joined.collect();
        rest = after;
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    match names.iter().find(|host| host.is_empty() || host.starts_with('-') || !host.chars().all(is_legal)) {
        Some(_) => Err(format!("`{name}` is not a host's name or address")),
        None => Ok(names.into_iter().map(|host| format!("{user}{host}")).collect()),
    }
}

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".-_".contains(c)
}

/// The numbers of a list like `1-4,7` or `01-12`, with as many digits as the list gives them.
fn numbers(list: &str) -> Result<Vec<String>, String> {
    let mut numbers = Vec::new();
    for item in list.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let bad = || format!("`{item}` is not a number or a range like `1-4`");
        let number = |text: &str| {
            let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
            if digits { text.parse::<u32>().map_err(|_| bad()) } else { Err(bad()) }
        };
        let (from, to) = (number(first)?, number(last)?);
        if from > to {
            return Err(format!("`{item}` runs backwards"));
        }
        let padded = |text: &str| text.len() > 1 && text.starts_with('0');
        if (padded(first) || padded(last)) && first.len() != last.len() {
            return Err(format!("`{item}`: both ends need the zeros in front, or neither"));
        }
        if numbers.len() + (to - from) as usize >= HOSTS_MAX {
            return Err(format!("`{list}` has more than {HOSTS_MAX} numbers"));
        }
        let width = if padded(first) { first.len() } else { 0 };
        numbers.extend((from..=to).map(|n| format!("{n:0width$}")));
    }
    Ok(numbers)
}

fn parse_slots(word: &str, value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(slots) if (1..=SLOTS_MAX).contains(&slots) => Ok(slots),
        Ok(_) | Err(_) => Err(format!("`{word}`: slots are a number from 1 to {SLOTS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text).expect_err("a bad hosts file")
    }

    fn placed(text: &str) -> Vec<String> {
        place(&parse(text).unwrap_or_else(|error| panic!("{error}")), None)
    }

    #[test]
    fn a_host_has_one_slot_unless_told_otherwise() {
        let hosts = parse("# ours\n\nred slots=2 # two\nuser@blue\n").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(place(&hosts, None), ["red", "red", "user@blue"]);
        assert_eq!(place(&hosts, Some(4)), ["red", "red", "user@blue", "red"]);
        assert_eq!(place(&hosts, Some(1)), ["red"]);
    }

    #[test]
    fn slots_stand_behind_a_colon_too_and_hosts_in_a_list() {
        assert_eq!(placed("red:2\n"), ["red", "red"]);
        assert_eq!(placed("a:2,b\nc # and d"), ["a", "a", "b", "c"]);
        assert_eq!(placed("a,me@b slots=2 max_slots=4"), ["a", "a", "me@b", "me@b"]);
    }

    #[test]
    fn a_list_in_brackets_is_as_many_hosts() {
        assert_eq!(placed("node[1-3,7]"), ["node1", "node2", "node3", "node7"]);
        assert_eq!(placed("node[08-10].lan"), ["node08.lan", "node09.lan", "node10.lan"]);
        assert_eq!(placed("r[1-2]n[1,3]:2,x").len(), 9);
        assert_eq!(placed("r[1-2]n[1,3]"), ["r1n1", "r1n3", "r2n1", "r2n3"]);
        assert_eq!(placed("me@node[1-2] slots=1"), ["me@node1", "me@node2"]);
    }

    #[test]
    fn slots_of_a_host_that_is_named_again_add_up() {
        assert_eq!(placed("red\nblue\nred:2"), ["red", "red", "red", "blue"]);
        assert_eq!(placed("red,red"), ["red", "red"]);
        assert!(error("red:100\nred:29").starts_with("line 2: `red` has 129 slots"));
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        assert_eq!(placed("[fe80::1]:2,me@[fd00::2]"), ["fe80::1", "fe80::1", "me@fd00::2"]);
        assert!(error("fe80::1").contains("stands in brackets, `[fe80::1]`"));
        assert!(error("me@fe80::1").contains("stands in brackets, `[fe80::1]`"));
        assert!(error("[fe80::1%eth0]").contains("not an IPv6 address in brackets"));
        assert!(error("[1-4]").contains("not an IPv6 address in brackets"));
    }

    #[test]
    fn a_malformed_line_is_one_error_with_its_number_and_the_accepted_syntax() {
        for (line, words) in [
            ("blue slots=none", "`slots=none`: slots are a number"),
            ("blue slots=0", "a number from 1 to 128"),
            ("blue slots=129", "a number from 1 to 128"),
            ("blue slots=1 slots=2", "given before"),
            ("blue max_slots=many", "`max_slots=many`"),
            ("blue:0", "`blue:0`: slots are a number"),
            ("blue:", "`blue:`: slots are a number"),
            ("blue:2:3", "`blue:2:3`"),
            ("blue:2 slots=2", "`blue:2` has 2 slots already"),
            ("slots=4", "`slots=4` stands where a host's name should"),
            ("blue cores=3", "only `slots=k`"),
            ("blue green", "`green`: only `slots=k`"),
            ("a,,b", "nothing between two commas"),
            ("a,", "nothing between two commas"),
            ("a, b", "`b`: only `slots=k`"),
            (":2", "`` is not a host's name"),
            ("-oProxyCommand", "is not a host's name"),
            ("-x@blue", "not a user's name"),
            ("@blue", "not a user's name"),
            ("blue;reboot", "is not a host's name"),
            ("bl\u{fc}e", "is not a host's name"),
            ("node[1-4", "a bracket is not closed"),
            ("node1-4]", "without its opening one"),
            ("node[1-[2]]", "a bracket inside brackets"),
            ("node[]", "`` is not a number"),
            ("node[a-c]", "`a-c` is not a number"),
            ("node[1-2-3]", "`1-2-3` is not a number"),
            ("node[4-1]", "runs backwards"),
            ("node[1-004]", "both ends need the zeros"),
            ("node[1-4000000000]", "more than 128 numbers"),
            ("r[1-100]n[1-100]", "names more than 128 hosts"),
            ("node[1-99999999999]", "is not a number"),
        ] {
            let error = error(&format!("red\n{line}\n"));
            assert!(error.starts_with("line 2: ") && error.contains(words), "{line}: {error}");
            assert!(error.ends_with(SYNTAX) && !error.contains('\n'), "{line}: {error}");
        }
        assert!(error("# nothing\n").starts_with("no host in it; a line is like"));
        assert!(error("node[1-100]\nrack[1-100]").starts_with("line 2: more than 128 hosts"));
    }

    #[test]
    fn localhost_among_others_is_refused() {
        assert!(error("localhost\nred").contains("means another machine"));
        assert!(error("[::1]\nred").contains("means another machine"));
    }
}
