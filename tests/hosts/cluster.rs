//! Three daemons on hosts of their own, a program that keeps data, and what all members say of each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::member::{Member, Told};
use crate::network::{Host, Network};

/// No member takes as long for anything, on however busy a machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A member that the test has killed, cut off or stopped.
struct Doom {
    at: Instant,
    /// How log lines name it.
    name: String,
}

/// A member has said that another one is dead.
#[derive(Debug)]
struct Verdict {
    by: usize,
    at: Instant,
    text: String,
}

/// The cluster of a test.
pub(crate) struct Cluster {
    pub(crate) network: Network,
    /// One for each daemon.
    pub(crate) hosts: Vec<Host>,
    /// By number: first the daemons.
    members: BTreeMap<usize, Member>,
    names: BTreeMap<usize, String>,
    next_member: usize,
    next_program: u64,
    /// What all members are told.
    variables: Vec<(&'static str, String)>,
    /// Processes that are no members, and take the members' time.
    spinners: Vec<Member>,
    sender: Sender<Told>,
    told: Receiver<Told>,
    unread: VecDeque<Told>,
    doomed: BTreeMap<usize, Doom>,
    verdicts: Vec<Verdict>,
    /// Members that have ended, or are of no use, though nobody did them anything.
    ended: Vec<String>,
    keeper: usize,
}

/// In the long run tests measure, and take turns.
pub(crate) fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    system_tests::long().then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Cluster {
    /// Daemons on three hosts, a program on the second; none where no hosts can be made.
    pub(crate) fn start() -> Option<Cluster> {
        Cluster::start_with(Vec::new())
    }

    /// The same with variables for all members.
    pub(crate) fn start_with(variables: Vec<(&'static str, String)>) -> Option<Cluster> {
        let network = Network::new()?;
        let (sender, told) = channel();
        let hosts = (0..3).map(|_| network.host()).collect();
        let mut cluster = Cluster {
            network,
            hosts,
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            next_member: 0,
            next_program: 1,
            variables,
            spinners: Vec::new(),
            sender,
            told,
            unread: VecDeque::new(),
            doomed: BTreeMap::new(),
            verdicts: Vec::new(),
            ended: Vec::new(),
            keeper: 0,
        };
        for index in 0..3 {
            let daemon = cluster.spawn(index, &format!("daemon {index}"), Vec::new());
            let ready = cluster.ready(daemon);
            if index == 0 {
                let address = ready.rsplit_once(' ').expect("an address").1.to_owned();
                cluster.variables.push(("PAGEMESH_JOIN", address));
            }
        }
        cluster.keeper = cluster.rank(1, "keeper");
        cluster.expect(cluster.keeper, "checked");
        Some(cluster)
    }

    fn spawn(&mut self, host: usize, role: &str, mut variables: Vec<(&'static str, String)>) -> usize {
        let who = self.next_member;
        self.next_member += 1;
        let told = (who, self.sender.clone());
        variables.extend(self.variables.iter().cloned());
        self.members.insert(who, Member::start(&self.hosts[host], role, &variables, told));
        who
    }

    /// Lets so many threads compute on this machine, for as long as the cluster lives.
    pub(crate) fn load(&mut self, threads: usize) {
        let role = format!("spinner {threads}");
        let spinner = self.spawn(1, &role, Vec::new());
        self.expect(spinner, "ready");
        self.spinners.extend(self.members.remove(&spinner));
    }

    /// Waits until it is a member, and learns how others name it.
    fn ready(&mut self, who: usize) -> String {
        let (_, ready) = self.expect(who, "ready");
        ready
    }

    /// Starts the only rank of a program, and waits until it is a member.
    pub(crate) fn rank(&mut self, host: usize, role: &str) -> usize {
        let who = self.program(&[host], role)[0];
        self.await_member(who, host);
        who
    }

    /// Starts the ranks of a program, one on each of these hosts.
    pub(crate) fn program(&mut self, hosts: &[usize], role: &str) -> Vec<usize> {
        let program = self.next_program;
        self.next_program += 1;
        let start = |(rank, host): (usize, &usize)| {
            let variables = vec![
                ("PAGEMESH_PROGRAM", format!("{program:x}")),
                ("PAGEMESH_RANK", rank.to_string()),
                ("PAGEMESH_RANKS", hosts.len().to_string()),
            ];
            self.spawn(*host, role, variables)
        };
        hosts.iter().enumerate().map(start).collect()
    }

    pub(crate) fn await_member(&mut self, who: usize, host: usize) {
        let ready = self.ready(who);
        let process = ready.split(' ').nth(1).expect("a process");
        self.names.insert(who, format!("process {process} at {}:", self.hosts[host].address()));
    }

    pub(crate) fn member(&self, who: usize) -> &Member {
        &self.members[&who]
    }

    /// Takes in what was said until `until`.
    fn listen(&mut self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(told) = self.told.recv_timeout(left) else { return false };
        let is_doomed = self.doomed.contains_key(&told.who);
        if told.line.starts_with("log ") && told.line.contains(" died: ") {
            if !is_doomed {
                self.verdicts.push(Verdict { by: told.who, at: told.at, text: told.line });
            }
        } else if told.line.starts_with("ended") {
            if !is_doomed {
                self.ended.push(format!("member {}: {}", told.who, told.line));
            }
        } else {
            self.unread.push_back(told);
        }
        true
    }

    /// Waits for a word of a member; the line, and when it was said.
    pub(crate) fn expect(&mut self, who: usize, word: &str) -> (Instant, String) {
        self.expect_within(who, word, LIMIT).unwrap_or_else(|| panic!("no `{word}`: {}", self.complaint()))
    }

    /// The same; none if it does not come in time, or somebody has been called dead who is not.
    pub(crate) fn expect_within(
        &mut self,
        who: usize,
        word: &str,
        time: Duration,
    ) -> Option<(Instant, String)> {
        let until = Instant::now() + time;
        loop {
            let is_it = |told: &Told| told.who == who && told.line.starts_with(word);
            if let Some(at) = self.unread.iter().position(is_it) {
                let Told { at, line, .. } = self.unread.remove(at).expect("found");
                return Some((at, line));
            }
            if !self.false_deaths().is_empty() || !self.listen(until) {
                return None;
            }
        }
    }

    /// Takes in what is said for so long.
    pub(crate) fn listen_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while self.listen(until) {}
    }

    /// Notes that a healthy member does not do what others wait for: it might as well be dead.
    pub(crate) fn complain(&mut self, of: String) {
        self.ended.push(of);
    }

    /// What somebody does to a member, by which that one dies for the others.
    pub(crate) fn doom(&mut self, who: usize, deed: impl FnOnce(&Cluster)) {
        let doom = Doom { at: Instant::now(), name: self.names[&who].clone() };
        self.doomed.insert(who, doom);
        deed(self);
    }

    /// Waits until every healthy member has said that a doomed one is dead; how long the last one took. None if one
    /// of them says nothing in time.
    pub(crate) fn told_of(&mut self, doomed: usize, time: Duration) -> Option<Duration> {
        let Doom { at: since, name } = &self.doomed[&doomed];
        let (since, name) = (*since, name.clone());
        let healthy: Vec<usize> =
            self.members.keys().copied().filter(|who| !self.doomed.contains_key(who)).collect();
        loop {
            let told = |who: &usize| {
                let named = |told: &&Verdict| told.by == *who && told.text.contains(&name);
                self.verdicts.iter().find(named).map(|told| told.at.duration_since(since))
            };
            let all: Option<Vec<Duration>> = healthy.iter().map(told).collect();
            if let Some(all) = all {
                return all.into_iter().max();
            }
            if !self.listen(since + time) {
                return None;
            }
        }
    }

    /// What members have said, and had no reason to say.
    pub(crate) fn false_deaths(&self) -> Vec<String> {
        let is_true = |told: &Verdict| self.doomed.values().any(|doom| told.text.contains(&doom.name));
        let verdicts = self.verdicts.iter().filter(|told| !is_true(told));
        let verdicts = verdicts.map(|told| format!("member {}: {}", told.by, told.text));
        verdicts.chain(self.ended.iter().cloned()).collect()
    }

    /// Fails if a healthy member was called dead, has ended, or has lost data.
    pub(crate) fn check(&mut self) {
        let keeper = self.keeper;
        if self.false_deaths().is_empty() {
            self.tell(keeper, "check");
            let (_, checked) = self.expect(keeper, "checked");
            assert_eq!(checked, "checked 0");
        }
        assert_eq!(self.false_deaths(), [] as [String; 0], "a healthy member was called dead");
    }

    /// Ends processes.
    pub(crate) fn end(&mut self, who: impl IntoIterator<Item = usize>) {
        who.into_iter().for_each(|who| drop(self.members.remove(&who)));
    }

    /// Sends all members a signal, one after the other.
    pub(crate) fn signal_all(&self, signal: Signal) {
        self.members.values().for_each(|member| member.signal(signal));
    }

    /// Says something to a member.
    pub(crate) fn tell(&mut self, who: usize, word: &str) {
        self.members.get_mut(&who).expect("a member").tell(word);
    }

    /// Makes a host beside those of the daemons.
    pub(crate) fn add_host(&mut self) -> usize {
        self.hosts.push(self.network.host());
        self.hosts.len() - 1
    }

    /// Takes away the hosts beside those of the daemons.
    pub(crate) fn remove_hosts(&mut self) {
        self.hosts.truncate(3);
    }

    fn complaint(&self) -> String {
        format!("{:#?}, and these have said: {:#?}", self.false_deaths(), self.verdicts)
    }
}
