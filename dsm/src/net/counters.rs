//! What the transport counts, for `status`, for tests, and for whoever asks why it is slow.

/// Counts since the session, or the endpoint, began.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Counters {
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
    /// Packets declared lost.
    pub packets_lost: u64,
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
    /// Packets for a session that is not here, or from another address than its peer's.
    pub unknown_session: u64,
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
    /// Handshakes refused: another version, or no room.
    pub handshakes_refused: u64,
    /// Sessions ended because the peer broke the protocol.
    pub violations: u64,
    /// Hints from the network that nobody listens at a peer's address.
    pub refused_hints: u64,
}

impl Counters {
    /// Adds another set of counts to this one.
    pub fn add(&mut self, other: &Counters) {
        self.packets_out += other.packets_out;
        self.packets_in += other.packets_in;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
        self.messages_out += other.messages_out;
        self.messages_in += other.messages_in;
        self.fragments_retransmitted += other.fragments_retransmitted;
        self.packets_lost += other.packets_lost;
        self.probe_timeouts += other.probe_timeouts;
        self.mtu_probes += other.mtu_probes;
        self.mtu_black_holes += other.mtu_black_holes;
        self.duplicate_packets += other.duplicate_packets;
        self.duplicate_messages += other.duplicate_messages;
        self.malformed += other.malformed;
        self.unknown_session += other.unknown_session;
        self.bad_tag += other.bad_tag;
        self.bad_key += other.bad_key;
        self.bad_mac += other.bad_mac;
        self.stale_handshakes += other.stale_handshakes;
        self.cookies_sent += other.cookies_sent;
        self.half_open_evicted += other.half_open_evicted;
        self.handshakes_refused += other.handshakes_refused;
        self.violations += other.violations;
        self.refused_hints += other.refused_hints;
    }
}
