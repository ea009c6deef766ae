//! Every bound of the system, by name, with its unit and its reason. A queue, a table, a retry or a
//! wait that is not listed here has no business in the code.

use crate::page::Span;

/// Nodes that a cluster has at one time: copysets are sets of this many bits.
pub const NODES_MAX: usize = 128;
/// Bytes of one message between nodes.
pub const MESSAGE_LEN_MAX: usize = 1 << 20;

/// Bounds of the reliable UDP sessions.
pub mod net {
    use super::Span;

    /// Packet numbers behind the newest that the duplicate window remembers.
    pub const DUPLICATE_WINDOW: u64 = 8192;
    /// Ranges in one ACK frame.
    pub const ACK_RANGES_MAX: usize = 32;
    /// Incomplete messages of one peer.
    pub const REASSEMBLY_MESSAGES_MAX: usize = 64;
    /// Bytes of incomplete messages of one peer.
    pub const REASSEMBLY_BYTES_MAX: usize = 4 << 20;
    /// Handshakes that have not finished.
    pub const HALF_OPEN_MAX: usize = 256;
    /// Sessions of one endpoint, observers included.
    pub const SESSIONS_MAX: usize = 512;
    /// Bytes of messages that wait to be sent to one peer; beyond it `send` refuses.
    pub const SEND_QUEUE_BYTES_MAX: usize = 64 << 20;
    /// Unacknowledged bytes to one peer, however large its socket buffer.
    pub const CREDIT_PEER_MAX: usize = 4 << 20;
    /// Unacknowledged bytes to all peers together.
    pub const CREDIT_NODE_MAX: usize = 64 << 20;
    /// RFC 9002: packets after a lost one before it is declared lost.
    pub const PACKET_THRESHOLD: u64 = 3;
    /// Timer granularity.
    pub const GRANULARITY: Span = Span::from_us(100);
    /// Assumed round-trip time before the first sample.
    pub const INITIAL_RTT: Span = Span::from_ms(5);
    /// Shortest probe timeout.
    pub const PTO_MIN: Span = Span::from_ms(2);
    /// Longest probe timeout, after all doublings.
    pub const PTO_MAX: Span = Span::from_ms(500);
    /// Longest that an acknowledgement waits for something to ride on.
    pub const ACK_DELAY_MAX: Span = Span::from_us(200);
    /// Longest handshake; then the connection attempt ends with an error.
    pub const HANDSHAKE_TIMEOUT: Span = Span::from_ms(3_000);
}

/// Bounds of the coherence protocol.
pub mod coherence {
    use super::Span;

    /// First hold of a faulted page: long enough for the instruction to run.
    pub const HOLD_MIN: Span = Span::from_us(50);
    /// Longest hold, after all doublings.
    pub const HOLD_MAX: Span = Span::from_ms(10);
    /// Pages remembered for one instruction: two operands, each across a page boundary, twice over.
    pub const INSTRUCTION_PAGES_MAX: usize = 8;
}

/// Times of the membership protocol.
pub mod membership {
    use super::Span;

    /// Between two signs of life to the coordinator, and from it.
    pub const HEARTBEAT: Span = Span::from_ms(250);
    /// Silence after which a node is declared dead. A stop of 1.5 s must not kill.
    pub const DEAD_AFTER: Span = Span::from_ms(3_000);
    /// Longest wait for the other ranks of a program to join.
    pub const JOIN_TIMEOUT: Span = Span::from_ms(30_000);
}

/// Bounds of remote procedure calls.
pub mod rpc {
    use super::Span;

    /// Frames inside each other in one message: how deep a recursive struct may be.
    pub const DECODE_DEPTH_MAX: usize = 64;
    /// Memory that the values of one message may take.
    pub const DECODE_MEMORY_MAX: usize = 16 << 20;
    /// Calls of this node that wait for one peer; beyond it a call is `Busy` at once.
    pub const IN_FLIGHT_PEER_MAX: usize = 4096;
    /// Calls that wait for a worker; beyond it the answer is `Busy`.
    pub const QUEUE_LEN_MAX: usize = 1024;
    /// Clients that a server remembers: more than a network has sessions.
    pub const CLIENTS_MAX: usize = 1024;
    /// Replies kept for one client until it says that it has them.
    pub const REPLIES_MAX: usize = 1024;
    /// Bytes of replies kept for one client.
    pub const REPLY_BYTES_MAX: usize = 4 << 20;
    /// Gaps in the sequences seen from one client: its calls in flight, and room for reordering.
    pub const SEQUENCE_GAPS_MAX: usize = 2 * IN_FLIGHT_PEER_MAX;
    /// Oneway calls behind the newest that are told from duplicates; older ones are dropped.
    pub const ONEWAY_WINDOW: u64 = 8192;
    /// Items of a stream that may wait at the client.
    pub const STREAM_WINDOW: u64 = 32;
    /// Between two signs of life of a long call.
    pub const ALIVE_EVERY: Span = Span::from_ms(1_000);
    /// Silence after which a client gives a long call up.
    pub const SILENCE_MAX: Span = Span::from_ms(10_000);
    /// Bytes of replies that are gathered for one peer before they are sent.
    pub const GATHER_LEN_MAX: usize = 16 << 10;
    /// Time in a handler up to which replies of earlier calls may wait for it.
    pub const QUICK: Span = Span::from_us(20);
}
