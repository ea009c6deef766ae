//! What a user is told about how the ranks of a program ended: the cause at once, its consequences in one
//! line at the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::merge::ranges;
use crate::process::Ending;

/// Exit code of a rank that ends because another process of the cluster has died.
pub(crate) const PEER_DIED: i32 = 70;

/// How ranks have ended, those that ended well left out.
#[derive(Default)]
pub(crate) struct Endings {
    /// The first ending that is not a consequence was told.
    cause_told: bool,
    /// The cause is that the cluster was taken down.
    taken_down: bool,
    /// Endings that were not told yet.
    others: BTreeMap<Ending, BTreeSet<u32>>,
}

impl Endings {
    /// A rank has ended; gives the line to show now. A rank that ends because another one died can be seen
    /// before that one.
    pub(crate) fn add(&mut self, rank: u32, ending: Ending) -> Option<String> {
        match ending {
            Ending::Code(0) => return None,
            Ending::Code(PEER_DIED) => {}
            Ending::Code(_) | Ending::Signal(_) if !self.cause_told => {
                self.cause_told = true;
                return Some(format!("rank {rank} {ending}"));
            }
            Ending::Code(_) | Ending::Signal(_) => {}
        }
        self.others.entry(ending).or_default().insert(rank);
        None
    }

    /// The cluster of the program was taken down; gives the line to show now, once.
    pub(crate) fn cluster_taken_down(&mut self) -> Option<&'static str> {
        self.cause_told = true;
        let told = std::mem::replace(&mut self.taken_down, true);
        (!told).then_some("the cluster was taken down (`pagemesh down`)")
    }

    /// One line for all endings that were not shown; `None` if there are none.
    pub(crate) fn summary(&self) -> Option<String> {
        let of = |(ending, ranks): (&Ending, &BTreeSet<u32>)| {
            let plural = if ranks.len() > 1 { "s" } else { "" };
            let verb = if ranks.len() > 1 {
                ending.to_string().replacen("was ", "were ", 1)
            } else {
                ending.to_string()
            };
            let why = if *ending == Ending::Code(PEER_DIED) && !self.taken_down {
                " (another process of the cluster died)"
            } else {
                ""
            };
            format!("rank{plural} {} {verb}{why}", ranges(ranks))
        };
        let parts: Vec<String> = self.others.iter().map(of).collect();
        let then = if self.cause_told { "then " } else { "" };
        (!parts.is_empty()).then(|| format!("{then}{}", parts.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_shown_at_once_and_its_consequences_in_one_line() {
        let mut endings = Endings::default();
        assert_eq!(endings.add(0, Ending::Code(70)), None, "seen first, but a consequence");
        assert_eq!(endings.add(2, Ending::Signal(9)).as_deref(), Some("rank 2 was killed by SIGKILL"));
        assert_eq!(endings.add(1, Ending::Code(70)), None);
        assert_eq!(endings.add(3, Ending::Signal(15)), None);
        assert_eq!(endings.add(4, Ending::Code(0)), None);
        let line = "then ranks 0-1 exited with code 70 (another process of the cluster died); \
                    rank 3 was killed by SIGTERM";
        assert_eq!(endings.summary().as_deref(), Some(line));
    }

    #[test]
    fn no_process_has_died_when_the_cluster_was_taken_down() {
        let mut endings = Endings::default();
        assert_eq!(endings.cluster_taken_down(), Some("the cluster was taken down (`pagemesh down`)"));
        assert_eq!(endings.add(0, Ending::Code(70)), None);
        assert_eq!(endings.cluster_taken_down(), None, "once");
        assert_eq!(endings.add(1, Ending::Code(2)), None);
        let line = "then rank 1 exited with code 2; rank 0 exited with code 70";
        assert_eq!(endings.summary().as_deref(), Some(line));
    }

    #[test]
    fn equal_ends_of_n_ranks_are_two_lines() {
        let mut endings = Endings::default();
        let told: Vec<String> = (0..4).filter_map(|rank| endings.add(rank, Ending::Code(2))).collect();
        assert_eq!(told, ["rank 0 exited with code 2"]);
        assert_eq!(endings.summary().as_deref(), Some("then ranks 1-3 exited with code 2"));
    }

    #[test]
    fn a_good_end_is_no_line() {
        let mut endings = Endings::default();
        assert_eq!(endings.add(0, Ending::Code(0)), None);
        assert_eq!(endings.summary(), None);
    }
}
