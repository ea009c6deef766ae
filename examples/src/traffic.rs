//! What page faults and sockets did, summed over the ranks of an example.

use pagemesh::{Dsm, Result, Settings, Stats};

use crate::Table;

/// What the ranks' faults and sockets did, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Loads and stores that faulted.
    pub faults: u64,
    /// Pages that came over the network.
    pub pages: u64,
    /// Bytes that came over the network, headers and repetitions included.
    pub bytes: u64,
    /// Pieces of messages sent again.
    pub retransmissions: u64,
    /// Datagrams that the ranks' sockets had no room for.
    pub socket_drops: u64,
}

impl Traffic {
    /// What happened between two readings of a rank.
    pub fn between(before: &Stats, after: &Stats) -> Traffic {
        Traffic {
            faults: after.read_faults + after.write_faults - before.read_faults - before.write_faults,
            pages: after.pages_received - before.pages_received,
            bytes: after.bytes_received - before.bytes_received,
            retransmissions: after.retransmissions - before.retransmissions,
            socket_drops: after.socket_drops - before.socket_drops,
        }
    }

    /// The sum over all ranks, each of which must call it.
    pub fn sum(self, dsm: &Dsm) -> Result<Traffic> {
        let Traffic { faults, pages, bytes, retransmissions, socket_drops } = self;
        let own = [faults, pages, bytes, retransmissions, socket_drops];
        let add = |a: [u64; 5], b: [u64; 5]| std::array::from_fn(|at| a[at] + b[at]);
        let [faults, pages, bytes, retransmissions, socket_drops] = dsm.all_reduce(own, add)?;
        Ok(Traffic { faults, pages, bytes, retransmissions, socket_drops })
    }

    /// Its lines of a table.
    pub fn rows(&self, table: &mut Table) {
        table.row("page faults", self.faults);
        table.row("pages moved", self.pages);
        table.row("bytes received", format!("{:.1} MiB", self.bytes as f64 / (1 << 20) as f64));
        let injected = Settings::from_env().is_ok_and(|settings| loses(&settings));
        if let Some(text) = self.sent_again(injected) {
            table.row("fragments sent again", text);
        }
    }

    /// How many, and why as far as the ranks can see: most often nothing was lost, and an acknowledgement came
    /// late because its sender waited for a core.
    fn sent_again(&self, injected: bool) -> Option<String> {
        let why = match (injected, self.socket_drops) {
            (true, _) => "loss is injected".to_owned(),
            (false, 0) => "late; no loss seen".to_owned(),
            (false, drops) => format!("sockets dropped {drops}: see --socket-buffer"),
        };
        (self.retransmissions > 0).then(|| format!("{} ({why})", self.retransmissions))
    }
}

/// Whether the settings make the network lose datagrams.
fn loses(settings: &Settings) -> bool {
    ["LOSS", "CORRUPT"].iter().any(|kind| settings.inject.contains_key(*kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_again_stands_with_its_reason_and_nothing_is_no_line() {
        let traffic =
            |retransmissions, socket_drops| Traffic { retransmissions, socket_drops, ..Traffic::default() };
        assert_eq!(traffic(0, 0).sent_again(false), None);
        assert_eq!(traffic(0, 3).sent_again(true), None);
        let text = |traffic: Traffic, injected| traffic.sent_again(injected).unwrap_or_default();
        assert_eq!(text(traffic(20, 0), false), "20 (late; no loss seen)");
        assert_eq!(text(traffic(20, 7), false), "20 (sockets dropped 7: see --socket-buffer)");
        assert_eq!(text(traffic(20, 0), true), "20 (loss is injected)");
    }

    #[test]
    fn only_loss_and_corruption_make_a_network_lose() {
        let with = |key: &str| {
            let mut settings = Settings::default();
            settings.apply(key, "5%").unwrap_or_else(|e| panic!("{e}"));
            loses(&settings)
        };
        assert!(with("net_loss") && with("net_corrupt"));
        assert!(!with("net_reorder") && !loses(&Settings::default()));
    }
}
