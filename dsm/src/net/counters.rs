//! What the transport counts, for `status`, for tests, and for whoever asks why it is slow. Whatever is dropped,
//! refused or sent again moves a counter that names the reason.

macro_rules! counters {
    ($($(#[$doc:meta])+ pub $name:ident: u64,)+) => {
        /// Counts since the session, or the endpoint, began.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
        pub struct Counters {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Adds another set of counts to this one.
            pub fn add(&mut self, other: &Counters) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counters! {
    /// Packets sent, handshakes and acknowledgements included.
    pub packets_out: u64,
    /// Packets received that passed every check.
    pub packets_in: u64,
    /// Bytes of the packets sent, UDP payload.
    pub bytes_out: u64,
    /// Bytes of the packets received that passed every check, UDP payload.
    pub bytes_in: u64,
    /// Messages accepted by `send`.
    pub messages_out: u64,
    /// Messages delivered.
    pub messages_in: u64,
    /// Fragments sent again.
    pub fragments_retransmitted: u64,
    /// Packets declared lost, for whatever reason: what they carried is sent again.
    pub packets_lost: u64,
    /// Of them: three newer ones had been acknowledged.
    pub lost_overtaken: u64,
    /// Of them: a newer one had been acknowledged, and 9/8 of a round trip was over.
    pub lost_late: u64,
    /// Of them: nobody had answered for so long that there was no room to remember more packets.
    pub lost_forgotten: u64,
    /// Packets whose bytes a probe timeout sent again, while nothing was known of them.
    pub resent_on_timeout: u64,
    /// Packets that arrived although their bytes had been sent again: the peer or the path was late, nothing was lost.
    pub resent_in_vain: u64,
    /// Probe timeouts.
    pub probe_timeouts: u64,
    /// Path MTU probes sent.
    pub mtu_probes: u64,
    /// Falls back to the base MTU.
    pub mtu_black_holes: u64,
    /// Packets that had arrived before.
    pub duplicate_packets: u64,
    /// Messages, or pieces of one, that had been delivered before.
    pub duplicate_messages: u64,
    /// Datagrams too short, or of no known type.
    pub malformed: u64,
    /// Packets for a session that is not here, or not yet open.
    pub unknown_session: u64,
    /// Packets for a session that is here, from another address than its peer's.
    pub foreign_address: u64,
    /// Authentic packets for a session that has ended a moment ago.
    pub ended_session: u64,
    /// Messages that this node had no room for: they come again.
    pub messages_refused: u64,
    /// Messages that `send` refused, because the queue to the peer was full.
    pub sends_refused: u64,
    /// Packets of a session whose tag does not match: altered, or made by somebody else.
    pub bad_tag: u64,
    /// Handshake packets made with another cluster's key.
    pub bad_key: u64,
    /// Handshake packets whose MAC does not match.
    pub bad_mac: u64,
    /// Authentic handshake packets that answer nothing that is open here.
    pub stale_handshakes: u64,
    /// Hellos answered with a cookie, because many handshakes were half-open.
    pub cookies_sent: u64,
    /// Half-open handshakes pushed out by newer ones.
    pub half_open_evicted: u64,
    /// Hellos sent again, because no answer had come.
    pub hellos_resent: u64,
    /// Welcomes sent again, because their hello came again.
    pub welcomes_resent: u64,
    /// Answers to handshake packets that were not sent, because too many waited.
    pub replies_dropped: u64,
    /// Handshakes refused: another version.
    pub refused_version: u64,
    /// Handshakes refused: there were too many sessions.
    pub refused_full: u64,
    /// Sessions ended because the peer broke the protocol.
    pub violations: u64,
    /// Hints from the network that nobody listens at a peer's address.
    pub refused_hints: u64,
}

impl Counters {
    /// Why packets and messages were dropped or refused here, and how many for each reason. What a network does by
    /// itself, duplicates among them, is not part of it.
    pub fn refusals(&self) -> [(&'static str, u64); 15] {
        [
            ("malformed", self.malformed),
            ("unknown session", self.unknown_session),
            ("foreign address", self.foreign_address),
            ("ended session", self.ended_session),
            ("bad tag", self.bad_tag),
            ("other key", self.bad_key),
            ("bad MAC", self.bad_mac),
            ("stale handshake", self.stale_handshakes),
            ("cookie asked for", self.cookies_sent),
            ("handshake pushed out", self.half_open_evicted),
            ("answer dropped", self.replies_dropped),
            ("other version", self.refused_version),
            ("too many sessions", self.refused_full),
            ("no room for a message", self.messages_refused),
            ("violation", self.violations),
        ]
    }
}
