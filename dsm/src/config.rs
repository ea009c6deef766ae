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

    /// Bytes asked for a socket's buffers; most systems give less to an ordinary user.
    pub const SOCKET_BUFFER: usize = 4 << 20;
    /// Errors of a socket, without a datagram between them, after which the receiving thread pauses.
    pub const ERRORS_IN_A_ROW: u32 = 1_000;
    /// How long.
    pub const ERRORS_PAUSE: Span = Span::from_ms(10);
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
    /// From so many on, a hello is answered only if it brings a cookie: half of them are for those.
    pub const HALF_OPEN_COOKIES: usize = HALF_OPEN_MAX / 2;
    /// How long a cookie holds at least; at most twice as long.
    pub const COOKIE_LIFE: Span = Span::from_ms(4_000);
    /// Packets that one key encrypts: AES-GCM is safe for 2^24.5 of the longest (RFC 9001, appendix B.1).
    pub const REKEY_PACKETS: u64 = 1 << 22;
    /// How long one key is used, at most a round trip more.
    pub const REKEY_AFTER: Span = Span::from_ms(60_000);
    /// Sessions of one endpoint, observers included.
    pub const SESSIONS_MAX: usize = 512;
    /// So many of them are a crowd: who is silent, and no member, makes room for others.
    pub const SESSIONS_CROWD: usize = SESSIONS_MAX - super::NODES_MAX;
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
    /// Shortest probe timeout: the round trip's variation and the peer's delay come on top of it anyway.
    pub const PTO_MIN: Span = Span::from_us(300);
    /// Longest probe timeout, after all doublings.
    pub const PTO_MAX: Span = Span::from_ms(500);
    /// Longest that an acknowledgement waits for something to ride on.
    pub const ACK_DELAY_MAX: Span = Span::from_us(200);
    /// Longest handshake; then the connection attempt ends with an error.
    pub const HANDSHAKE_TIMEOUT: Span = Span::from_ms(3_000);
    /// Longest that a peer takes to show that it knows of a session that it has welcomed; then the attempt begins
    /// anew, since the peer may have forgotten it. Several probe timeouts.
    pub const WELCOMED_MAX: Span = Span::from_ms(1_000);
    /// Wait before a hello is repeated; it doubles.
    pub const HELLO_RETRY: Span = Span::from_ms(10);
    /// Longest wait before a hello is repeated.
    pub const HELLO_RETRY_MAX: Span = Span::from_ms(500);
    /// How long a closed session answers late packets with its CLOSE.
    pub const CLOSE_LINGER: Span = Span::from_ms(500);
    /// CLOSE packets that a closed session sends at most.
    pub const CLOSE_REPEATS_MAX: u32 = 8;
    /// Bytes of the reason in a CLOSE frame.
    pub const CLOSE_REASON_LEN_MAX: usize = 120;
    /// Message ids between the oldest unacknowledged and the newest: what the receiver must remember.
    pub const MESSAGE_WINDOW: u64 = 8192;
    /// Bytes that one waiting message is charged besides its own, so that empty ones are bounded too.
    pub const MESSAGE_OVERHEAD: usize = 256;
    /// Message fragments in one packet.
    pub const FRAGMENTS_PER_PACKET_MAX: usize = 16;
    /// As many of them the record of a sent packet holds inline: most packets have one or two, and records
    /// are moved.
    pub const FRAGMENTS_INLINE: usize = 4;
    /// Shortest piece that a message is cut into, its last piece excepted.
    pub const FRAGMENT_LEN_MIN: usize = 256;
    /// Holes that one incomplete message may have: 1 MiB in pieces of 1,150 bytes, every other one lost, twice over.
    pub const REASSEMBLY_RANGES_MAX: usize = 1024;
    /// Incomplete messages that bulk may cause; the rest of the receiver's table is kept for control.
    pub const REASSEMBLY_BULK_MESSAGES_MAX: usize = 48;
    /// Bytes of incomplete messages that bulk may cause; the rest is kept for control.
    pub const REASSEMBLY_BULK_BYTES_MAX: usize = 3 << 20;
    /// Reassembly buffers of one peer that are kept for the next message.
    pub const REASSEMBLY_SPARE_MAX: usize = 2;
    /// Records of packets whose fate is open; half the receiver's duplicate window.
    pub const SENT_PACKETS_MAX: usize = 4096;
    /// Credit of a peer that is idle: one page datagram, a probe of 1,472 bytes and two small ones.
    pub const CREDIT_PEER_MIN: usize = 12 << 10;
    /// Credit that bulk leaves to control: two small datagrams.
    pub const CREDIT_CONTROL_RESERVE: usize = 1536;
    /// How long a peer counts as active after its last large datagram.
    pub const CREDIT_ACTIVE: Span = Span::from_ms(20);
    /// Bytes by which control may exceed the congestion window.
    pub const CONGESTION_CONTROL_RESERVE: usize = 16 << 10;
    /// Largest congestion window: twice what credit lets out, so that it is never what bounds a good path.
    pub const CONGESTION_WINDOW_MAX: usize = 2 * CREDIT_PEER_MAX;
    /// Initial congestion window, once the path is known to carry large datagrams.
    pub const CONGESTION_INITIAL_MAX: usize = 128 << 10;
    /// Datagram that every path is assumed to carry (RFC 8899's BASE_PLPMTU).
    pub const MTU_BASE: usize = 1200;
    /// Datagram that carries a page and its headers; smaller credit still allows one of these.
    pub const MTU_PAGE: usize = 4608;
    /// Datagram sizes that are probed: Ethernet, one page, jumbo frames, loopback.
    pub const MTU_PROBES: [usize; 4] = [1472, MTU_PAGE, 8972, MTU_LIMIT];
    /// The largest UDP payload over IPv4.
    pub const MTU_LIMIT: usize = 65_507;
    /// Probes of one size that must be lost before the size is given up.
    pub const MTU_PROBE_TRIES_MAX: u32 = 3;
    /// Wait before sizes that were given up are probed again.
    pub const MTU_RAISE_AFTER: Span = Span::from_ms(600_000);
    /// Wait before probing after a black hole; it doubles up to [`MTU_RAISE_AFTER`].
    pub const MTU_BLACK_HOLE_HOLD: Span = Span::from_ms(1_000);
    /// Large packets lost in a row, none arriving, that mean a black hole.
    pub const MTU_BLACK_HOLE_LOSSES: u32 = 6;
    /// Packets of a session after which it has a socket of its own to send from, on loopback.
    pub const PATH_AFTER: u64 = 256;
    /// Such sockets of a node.
    pub const PATHS_MAX: usize = 64;
    /// A socket that was not used for so long makes room for another peer's.
    pub const PATH_IDLE: Span = Span::from_ms(1_000);
    /// A datagram for which the socket had no room is tried again after so long: in that time 10 Gb/s empty
    /// half of the smallest usual socket buffer, 212,992 bytes.
    pub const ROOM_AGAIN_MIN: Span = Span::from_us(100);
    /// The wait doubles with each try in vain, up to this.
    pub const ROOM_AGAIN_MAX: Span = Span::from_us(3_200);
    /// Longest datagram that is copied into a train: Ethernet's.
    pub const TRAIN_DATAGRAM_MAX: usize = 1472;
    /// Datagrams of one train (UDP_MAX_SEGMENTS of older kernels).
    pub const TRAIN_DATAGRAMS_MAX: usize = 64;
    /// Datagrams that the loss injector holds back at one time.
    pub const INJECTOR_QUEUE_MAX: usize = 16_384;
}

/// Bounds of the coherence protocol.
pub mod coherence {
    use super::Span;

    /// First hold of a faulted page: long enough for the instruction to run.
    pub const HOLD_MIN: Span = Span::from_us(50);
    /// Longest hold, after all doublings.
    pub const HOLD_MAX: Span = Span::from_ms(10);
    /// Pages of one instruction that makes no progress before it has all: two operands, each across
    /// a page boundary. (String moves and gathers keep what they have done.)
    pub const INSTRUCTION_PAGES_MAX: usize = 4;
    /// A node that asks again for a lock so soon after it has handed it on stays with it when it comes.
    pub const STAY_AFTER: Span = Span::from_us(200);
    /// Longest stay with a lock for which another node waits.
    pub const STAY_MAX: Span = Span::from_ms(1);
    /// Critical sections in a stay, the first not counted, below which it did not pay.
    pub const STAY_TENURES_MIN: u64 = 2;
    /// The assumed length of a hand-off until a node has measured one.
    pub const HAND_OFF_START: Span = Span::from_us(100);
    /// Locks of which a node remembers when it has handed them on.
    pub const LOCKS_REMEMBERED_MAX: usize = 16;
    /// Longest that a reader's INSTALLED waits for a message to ride on.
    pub const INSTALLED_DELAY_MAX: Span = Span::from_us(200);
    /// So many upgrades of a page are acknowledged at once after somebody has waited for one that was not.
    pub const WANTED_GRANTS: u8 = 64;
    /// Messages that wait for an occasion; further ones are sent at once.
    pub const LAZY_MESSAGES_MAX: usize = 256;
    /// Threads whose faulting instruction is remembered; beyond it all are forgotten and learnt anew.
    pub const FAULTING_THREADS_MAX: usize = 1024;
    /// Parts of reports that a node sends at one time when a round begins, so that nobody waits long for it.
    pub const REPORT_PARTS_AT_ONCE: usize = 4096;
    /// Pages that a stream of read faults runs ahead: twice what comes while the first half is read.
    pub const READ_AHEAD_MAX: i64 = 120;
    /// Pages that a stream of write faults runs ahead. Fewer: a page that is taken from another writer
    /// in vain costs that one a fault.
    pub const WRITE_AHEAD_MAX: i64 = 60;
    /// Pages that a new stream runs ahead.
    pub const STREAM_START: i64 = 4;
    /// Largest distance in pages between two faults of a stream.
    pub const STRIDE_MAX: i64 = 64;
    /// Streams that are followed at one time.
    pub const STREAMS_MAX: usize = 8;
    /// Faults among which a stream is looked for.
    pub const RECENT_FAULTS_MAX: usize = 8;
    /// Places where running ahead was in vain that are remembered.
    pub const FENCES_MAX: usize = 16;
    /// Pages asked for at one time beyond which nothing is fetched ahead.
    pub const AHEAD_PENDING_MAX: usize = 512;
    /// Pages that came ahead and are mapped by one touch: half of what a stream of stores runs ahead, so
    /// that the next touch comes in time to go on.
    pub const MAP_RUN_MAX: u64 = 30;
    /// Neighbours, at a multiple of their number, that an owner lowers together for readers.
    pub const LOWER_RUN: u64 = 16;
    /// So many of them must have been read before the others are lowered ahead of need.
    pub const LOWER_EVIDENCE: usize = 2;
    /// Write-backs under way while a node leaves.
    pub const LEAVE_WRITE_BACKS_MAX: usize = 64;
    /// Write-backs under way to make room.
    pub const WRITE_BACKS_MAX: usize = 64;
    /// Pages of other homes that a node may always hold, though it be home of as much as its limit
    /// allows: what sixteen threads need for one instruction each.
    pub const CACHE_PAGES_MIN: u64 = 64;
    /// Places kept free ahead of need, of a sixteenth of all.
    pub const SPARE_PAGES_MAX: u64 = 256;
    /// Pages that go at one time, so that nobody waits long for the core.
    pub const RECLAIM_PAGES_MAX: u64 = 64;
    /// Extents that are searched for shared copies before owned pages are written back.
    pub const SHARED_FIRST_EXTENTS: usize = 16;
    /// Extents that are looked at in one search.
    pub const SWEEP_EXTENTS_MAX: usize = 64;
    /// Between two searches that find nothing: all pages are held or asked for.
    pub const SWEEP_RETRY: Span = Span::from_us(100);
}

/// Bounds of a node's shell.
pub mod node {
    use super::Span;

    /// A thread that has waited for so long for a lock, a barrier or a collective operation says which ranks
    /// it waits for.
    pub const LONG_WAIT: Span = Span::from_ms(5_000);
    /// Longest that it takes to find that out.
    pub const QUESTION_MAX: Span = Span::from_ms(1_000);
    /// Messages of members kept that a later view must explain.
    pub const EARLY_MESSAGES_MAX: usize = 4096;
    /// Bytes of them.
    pub const EARLY_BYTES_MAX: usize = 16 << 20;
    /// Messages kept of one session that leads to no member yet: what a node that joins says before its welcome
    /// is known here.
    pub const EARLY_STRANGER_MESSAGES_MAX: usize = 256;
    /// Bytes of them: one message of the longest kind, and short ones.
    pub const EARLY_STRANGER_BYTES_MAX: usize = super::MESSAGE_LEN_MAX + (256 << 10);
    /// Messages of calls kept for a member whose session has not come yet.
    pub const UNSENT_MESSAGES_MAX: usize = 4096;
    /// Datagrams that the progress thread takes in before it looks at the timers again.
    pub const RECEIVE_BURST: usize = 64;
    /// Pages in one batch: what fits a datagram of 64 KiB.
    pub const BATCH_PAGES_MAX: usize = 15;
    /// Bytes that a long copy goes on at a time: the pages of two full datagrams.
    pub const COPY_PART: usize = 120 << 10;
    /// Bytes that a long copy asks for ahead.
    pub const COPY_AHEAD: usize = 4 * COPY_PART;
    /// Page buffers kept for the next page.
    pub const PAGE_POOL_MAX: usize = 1024;
    /// After the last message, timers are looked at every [`ACTIVE_TICK`] for this long, so that a
    /// thread that hands the socket back need not wake the progress thread.
    pub const ACTIVE_FOR: Span = Span::from_ms(10);
    /// See [`ACTIVE_FOR`].
    pub const ACTIVE_TICK: Span = Span::from_ms(1);
    /// A thread that has waited, and waits again so soon, need not hand the socket over in between; the
    /// progress thread, when it looks, takes it from who has been away for longer.
    pub const ABSENCE_MAX: Span = Span::from_us(100);
    /// So many times in a row promise another one, at least.
    pub const ABSENCES_MIN: u32 = 16;
    /// The same after promises that were not kept.
    pub const ABSENCES_MAX: u32 = 512;
    /// Promises that were kept, 0.8 us each, and outweigh one that was not.
    pub const ABSENCES_WORTH: u32 = 128;
    /// So many pages on their way are a stream: more than a thread's own instruction can wait for.
    pub const STREAMING_MIN: usize = 8;
    /// Longest look for an answer before the thread that waits for it sleeps: what an answer takes when
    /// an idle core must be woken for it. What takes longer is not worth a core.
    pub const ANSWER_SOON: Span = Span::from_us(100);
    /// What takes longer is not the way of waiting's doing.
    pub const ANSWER_LATE: Span = Span::from_us(400);
    /// How often [`TRIAL_WAITS`] waits for an answer are done the other way, to see whether that is better
    /// now.
    pub const TRIAL_EVERY: Span = Span::from_ms(50);
    /// The first trial of looking comes so long after it has failed; the time doubles up to [`TRIAL_EVERY`].
    pub const TRIAL_FIRST: Span = Span::from_ms(2);
    /// See [`TRIAL_EVERY`]: several, because the first does not find the peer in the state that it makes.
    pub const TRIAL_WAITS: u32 = 4;
    /// Longest look for another message. Traffic with longer gaps is not worth a core; what it costs when
    /// traffic ends is one of these.
    pub const BUSY_POLL_MAX: Span = Span::from_ms(2);
    /// Shortest look, if there is traffic.
    pub const BUSY_POLL_MIN: Span = Span::from_us(50);
    /// Time slice of threads that have errands: the shortest that Linux gives.
    pub const ERRAND_SLICE: Span = Span::from_us(100);
    /// How often a thread that was woken elsewhere may go back to its core.
    pub const AFFINITY_EVERY: Span = Span::from_ms(1);
    /// A thread that does not run for so long has made room for another.
    pub const ERRAND_MIN: Span = Span::from_us(8);
    /// A thread that does not run for so long has made room for one that computes.
    pub const SLICE_MIN: Span = Span::from_us(500);
    /// Time spent looking after which is judged whether others want the cores.
    pub const CONTENTION_JUDGED_AFTER: Span = Span::from_ms(2);
    /// How long others are believed to want the cores, at first.
    pub const CONTENTION_AGAIN_MIN: Span = Span::from_ms(50);
    /// The same after they were found there again and again.
    pub const CONTENTION_AGAIN_MAX: Span = Span::from_ms(800);
    /// Datagrams that lie in the socket for so long, and nobody comes for them: the thread that receives gets no
    /// core, and the progress thread takes its place.
    pub const UNREAD_MAX: Span = Span::from_ms(10);
    /// Longest sleep of the progress thread.
    pub const SLEEP_MAX: Span = Span::from_ms(250);
    /// Longest wait for methods that run, and for the acknowledgement of the last messages by clients, when a node
    /// stops.
    pub const FLUSH_MAX: Span = Span::from_ms(1_000);
    /// Messages to the operator that wait for the progress thread.
    pub const NOTES_MAX: usize = 64;
    /// Bytes of the text that names the process with which a page was lost.
    pub const LOSS_NAME_LEN_MAX: usize = 1024;
    /// Notices about lost pages that a node keeps; a fault on one of them ends the process.
    pub const LOSS_NOTICES_MAX: usize = 64;
    /// Longest that a fault on a lost page waits for the notice that names the process.
    pub const LOSS_NOTICE_WAIT: Span = Span::from_ms(1_000);
    /// A node that was told to end by a signal, or that exits, gives its pages up when no home has
    /// acknowledged one for so long.
    pub const WRITE_BACK_STALL_MAX: Span = Span::from_ms(2_000);
    /// Longest wait for the coordinator's consent to a departure, when everything has been given back.
    pub const CONSENT_MAX: Span = Span::from_ms(20_000);
    /// A node that leaves gives up when it could give nothing back for so long. A home that is dead is found out
    /// earlier.
    pub const LEAVE_STALL_MAX: Span = Span::from_ms(60_000);
}

/// Bounds of keeping the memory of other processes' nodes.
pub mod keep {
    use super::Span;

    /// Keepers of a node: other processes of its host that hold its memory. Fewer where the host has fewer.
    pub const KEEPERS: usize = 2;
    /// Connections whose request has not come, or cannot be decided yet. Above, the oldest is closed.
    pub const UNDECIDED_MAX: usize = 64;
    /// An offer without an answer for so long has failed; a keeper answers from a thread of its own. An offer of a node
    /// that the keeper's view has not told for so long is refused.
    pub const ANSWER_MAX: Span = Span::from_ms(5_000);
    /// A member that has refused is asked again after so long.
    pub const ASK_AGAIN: Span = Span::from_ms(30_000);
    /// After it had no descriptor for a connection a keeper waits for so long.
    pub const ACCEPT_AGAIN: Span = Span::from_ms(100);
    /// The deadline of a process whose node another one is to run on, from the order to do so: by then it has ended by
    /// itself, with the last line and the exit code that its user is to see, or has left the memory. It knows before the
    /// runner that it has to end, because it has said so itself or was told. After that it is killed.
    pub const ENDS_BY_ITSELF_MAX: Span = Span::from_ms(2_000);
    /// A look at how much memory the nodes that are run on hold.
    pub const MEMORY_LOOK: Span = Span::from_ms(1_000);
    /// The end of a process that is waited for is looked at again after so long, if the kernel says nothing before: a
    /// debugger may have let it go, or a child may have ended that maps its memory.
    pub const END_LOOK: Span = Span::from_ms(50);
    /// So long after that deadline a line says who is waited for.
    pub const END_TOLD: Span = Span::from_ms(2_000);
    /// Descriptors of a node that is kept: memory, record, process, connection.
    pub const DESCRIPTORS: usize = 4;
    /// Hundredths of a process's descriptors above which it keeps no more nodes.
    pub const DESCRIPTORS_PERCENT: usize = 80;
    /// Connections that wait to be accepted: two offers of each member.
    pub const BACKLOG: i32 = 2 * super::NODES_MAX as i32;
    /// Sockets in the directory, above which those of killed processes are looked for: more than a host's members have.
    pub const SOCKETS_MAX: usize = super::NODES_MAX;
    /// Longest path of a socket, in bytes.
    pub const PATH_LEN_MAX: usize = 512;
}

/// Times of the membership protocol.
pub mod membership {
    use super::Span;

    /// Messages kept that overtook the welcome; the coordinator sends a few for each change meanwhile. A newcomer
    /// that hears of more changes gives up.
    pub const EARLY_MAX: usize = 1024;
    /// Requests of one member that wait at the coordinator until the homes of their regions have them: a thread
    /// makes one at a time.
    pub const ASKERS_MAX: usize = 1024;
    /// Changes of members that a cluster lives through: a node's request numbers begin with the epoch in which it
    /// joined. Newcomers are refused before, so that those who are there can still go.
    pub const EPOCHS_MAX: u64 = (1 << 24) - 1;
    /// Bytes of the regions in one message to a newcomer.
    pub const REGIONS_LEN_MAX: usize = 64 << 10;
    /// Uses of regions that one message gives back.
    pub const RETURNED_MAX: usize = 1024;
    /// Longest name of a region or a program, in bytes.
    pub const NAME_LEN_MAX: usize = 255;
    /// Longest text that says how a death is known, in bytes.
    pub const HOW_LEN_MAX: usize = 1024;
    /// Longest text that says where a node runs, in bytes.
    pub const HOST_LEN_MAX: usize = 255;
    /// Longest tag of a region's element type, in bytes.
    pub const TYPE_TAG_LEN_MAX: usize = 4096;
    /// Deaths that a view tells of.
    pub const DEATHS_MAX: usize = 32;
    /// Between two looks at who has been silent. Signs of life are at most one and a half of these apart.
    pub const HEARTBEAT: Span = Span::from_ms(250);
    /// Silence after which a member is suspected, in time that the judge has listened.
    pub const SILENCE_MAX: Span = Span::from_ms(3_000);
    /// The same for a process of the judge's host whose end the kernel reports: it lives, and is starved or
    /// stopped.
    pub const SILENCE_MAX_WATCHED: Span = Span::from_ms(30_000);
    /// Silence after which a process of this host is looked at: somebody may be debugging it.
    pub const INSPECT_AFTER: Span = Span::from_ms(5_000);
    /// Most that counts as listened between two moments at which the socket was found empty. One that does not
    /// run for longer has not listened. It is more than a heartbeat: on a busy machine each look is late by
    /// a little, and the signs of life of that time have been taken in all the same.
    pub const LISTENED_MAX: Span = Span::from_ms(500);
    /// Members that are declared dead or cut off at one look. Each is a view of its own, and a view that a
    /// member misses is made up for only while later views tell of its death ([`DEATHS_MAX`]).
    pub const RULINGS_MAX: usize = DEATHS_MAX / 2;
    /// How long a suspected member, and those that are asked about it, have time to answer.
    pub const ANSWER_MAX: Span = Span::from_ms(2_000);
    /// The same for one whose process has ended, as a member of its host says.
    pub const ENDED_ANSWER_MAX: Span = Span::from_ms(100);
    /// Between two questions about a suspected member.
    pub const ASK_EVERY: Span = Span::from_ms(250);
    /// Members that are asked about another one at a time.
    pub const HELPERS: usize = 2;
    /// How long two members may be unable to reach each other while others reach both.
    pub const CUT_MAX: Span = Span::from_ms(10_000);
    /// Of two such members one goes only if the other has said so again within this time; it does every
    /// [`SILENCE_MAX`].
    pub const CONFIRMED_MAX: Span = Span::from_ms(5_000);
    /// Questions about others that a member answers at one time.
    pub const ERRANDS_MAX: usize = super::NODES_MAX;
    /// Longest wait for the other ranks of a program to join.
    pub const JOIN_TIMEOUT: Span = Span::from_ms(30_000);
}

/// Bounds of the page fault machinery.
pub mod fault {
    /// Arenas of one process: the signal handlers search them one by one.
    pub const ARENAS_MAX: usize = 64;
    /// Bytes of the stack that a fault is resolved on when the signal came on an alternate stack.
    /// Untouched pages of it cost nothing.
    pub const HANDLER_STACK_LEN: usize = 256 << 10;
    /// Such stacks that an arena keeps: more threads may fault at once, and map one each time.
    pub const HANDLER_STACKS_MAX: usize = 64;
    /// Page faults taken from the userfaultfd in one read.
    pub const EVENTS_MAX: usize = 32;
    /// Mappings of a process if the kernel does not say: its own default.
    pub const MAPPINGS_DEFAULT: usize = 65_530;
    /// Pages that lose their mappings together when those run out: 4 MiB.
    pub const NEIGHBOURHOOD_PAGES: u64 = 1024;
    /// Bytes of the private buffer between shared memory and a file.
    pub const BOUNCE_LEN: usize = 64 << 10;
}

/// Bounds of remote procedure calls.
pub mod rpc {
    use super::Span;

    /// Threads of a node that run calls, unless its settings say otherwise.
    pub const WORKERS: usize = 4;
    /// Calls of one of the system's own interfaces that wait or run at one time.
    pub const SYSTEM_CALLS_MAX: usize = 2 * super::NODES_MAX;
    /// Bytes of a value that a rank brings to a collective operation: those of all ranks are within
    /// [`SYSTEM_BYTES_MAX`] at one time.
    pub const COLLECTIVE_VALUE_MAX: usize = 32 << 10;
    /// Departures that a copy of the directory of servers remembers: more than are on their way at once.
    pub const DEPARTED_MAX: usize = 256;
    /// Longest that a node waits for the coordinator about who serves what.
    pub const DIRECTORY_WAIT: Span = Span::from_ms(3_000);
    /// Longest that the coordinator waits for the other members meanwhile.
    pub const DIRECTORY_TELL_WAIT: Span = Span::from_ms(1_000);
    /// Frames inside each other in one message: how deep a recursive struct may be.
    pub const DECODE_DEPTH_MAX: usize = 64;
    /// Values inside each other in an argument or answer in JSON: as many as readers of JSON accept, and few
    /// enough for a small stack.
    pub const JSON_DEPTH_MAX: usize = 128;
    /// Memory of the values of one answer in JSON, the items of a stream together.
    pub const ANSWER_MEMORY_MAX: usize = 64 << 20;
    /// Memory that the values of one message may take.
    pub const DECODE_MEMORY_MAX: usize = 16 << 20;
    /// Calls of this node that wait for one peer; beyond it a call is `Busy` at once.
    pub const IN_FLIGHT_PEER_MAX: usize = 4096;
    /// Calls that wait for a worker; beyond it the answer is `Busy`.
    pub const QUEUE_LEN_MAX: usize = 1024;
    /// Bytes of their arguments; beyond it the answer is `Busy`.
    pub const QUEUE_BYTES_MAX: usize = 64 << 20;
    /// Bytes of arguments of the system's own calls; beyond it the answer is `Busy`.
    pub const SYSTEM_BYTES_MAX: usize = 8 << 20;
    /// Peers whose end a server remembers: more than have messages on their way at once.
    pub const ENDED_MAX: usize = 256;
    /// Clients that a server remembers: more than a network has sessions.
    pub const CLIENTS_MAX: usize = 1024;
    /// Replies kept for one client until it says that it has them.
    pub const REPLIES_MAX: usize = 1024;
    /// Bytes of replies kept for one client.
    pub const REPLY_BYTES_MAX: usize = 4 << 20;
    /// Bytes of replies kept for all clients.
    pub const REPLY_BYTES_NODE_MAX: usize = 64 << 20;
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
    /// Calls may take one part in so many of a peer's send queue: pages and control messages have the rest.
    pub const CALLS_QUEUE_SHARE: usize = 2;
    /// Longest message of the calls: a byte that says whom it is for goes in front.
    pub const CALL_LEN_MAX: usize = super::MESSAGE_LEN_MAX - 1;
    /// A message for which the queue to its peer has no room is offered again after so long.
    pub const ROOM_AGAIN: Span = Span::from_ms(1);
    /// Of a peer whose queue is full and who acknowledges nothing for so long, no worker expects anything: as
    /// long as a member may be silent.
    pub const ROOM_WAIT_MAX: Span = super::membership::SILENCE_MAX;
    /// Messages of the calls' own that wait for room in the queues to their peers. Each answers a message of
    /// a peer, so a flood of those can fill it; what comes then is dropped, and counted.
    pub const DELAYED_MAX: usize = 16_384;
    /// Messages that a client keeps while its session is made anew: those that are not asked for again then.
    pub const UNSENT_MAX: usize = 1024;
    /// Bytes of them.
    pub const UNSENT_BYTES_MAX: usize = 8 << 20;
    /// Bytes of delayed messages, of which answers that are given again may be long.
    pub const DELAYED_BYTES_MAX: usize = 8 << 20;
    /// Bytes of replies that are gathered for one peer before they are sent.
    pub const GATHER_LEN_MAX: usize = 16 << 10;
    /// Items of a stream that a call in JSON gathers.
    pub const GATHERED_ITEMS_MAX: usize = 100_000;
    /// Messages that batches gather, for all peers, before they are sent.
    pub const GATHERED_MAX: usize = 64;
    /// Time in a handler up to which replies of earlier calls may wait for it.
    pub const QUICK: Span = Span::from_us(20);
}
