//! Messages on their way out: the queues, and which bytes go into the next packet.
//!
//! A byte of a message is always in exactly one place: not sent yet (`fresh`, `waiting`), on its
//! way (in the record of one packet, `recovery.rs`), declared lost (`lost`) or acknowledged. So a
//! count of acknowledged bytes tells when a message is done, and nothing is acknowledged twice.
//!
//! A message that fits a datagram is never cut. Longer ones are admitted within the receiver's
//! reassembly bounds and wait, without holding up shorter ones, until there is room.

use std::collections::VecDeque;

use super::SendError;
use crate::config::MESSAGE_LEN_MAX;
use crate::config::net::{
    FRAGMENT_LEN_MIN, MESSAGE_OVERHEAD, MESSAGE_WINDOW, REASSEMBLY_BULK_BYTES_MAX,
    REASSEMBLY_BULK_MESSAGES_MAX, REASSEMBLY_BYTES_MAX, REASSEMBLY_MESSAGES_MAX,
};
use crate::net::message::{OutMessage, Priority};
use crate::net::wire::{ACK_LEN_MAX, CREDIT_LEN, PART_HEAD_LEN, WHOLE_HEAD_LEN};

/// Pieces are multiples of this, so that those of one message differ in the last one only.
const PIECE_UNIT: usize = 8;
/// Bytes that an acknowledgement and a credit may take in a packet before the first message.
const RIDERS_LEN_MAX: usize = ACK_LEN_MAX + CREDIT_LEN;
/// Part of what bulk may queue that control may use beyond it.
const CONTROL_QUEUE_SHARE: usize = 16;

/// Bytes of one message.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Fragment {
    slot: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Fragment {
    /// Other bytes of the same message.
    pub(crate) fn of_same(self, offset: u32, len: u32) -> Self {
        Fragment { slot: self.slot, offset, len }
    }
}

/// A fragment taken for the packet under construction, with what its frame must say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Taken {
    pub(super) fragment: Fragment,
    pub(super) id: u64,
    pub(super) cut: Cut,
    pub(super) send: Send,
}

/// How a message travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// In one packet.
    Whole,
    /// In pieces; it has this many bytes in all.
    Part { total: u32 },
}

/// Whether bytes go out for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Send {
    First,
    Again,
}

/// Room for one fragment's frame, head included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// In the packet under construction.
    pub(super) here: usize,
    /// In an empty packet.
    pub(super) empty: usize,
}

struct Outgoing {
    message: OutMessage,
    /// `None` until the first byte is sent: ids follow the order of first transmission.
    id: Option<u64>,
    total: u32,
    acked: u32,
    priority: Priority,
    admission: Admission,
}

/// Whether a message counts against the receiver's reassembly bounds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// It has only ever been sent whole.
    NotNeeded,
    /// It may be cut.
    Granted,
}

#[derive(Default)]
struct Lane {
    lost: VecDeque<Fragment>,
    /// Must be cut, and there was no room in the receiver's reassembly.
    waiting: VecDeque<Fragment>,
    fresh: VecDeque<Fragment>,
}

/// All messages that the peer has not acknowledged.
pub(crate) struct Outbox {
    slots: Vec<Option<Outgoing>>,
    free: Vec<u32>,
    control: Lane,
    bulk: Lane,
    /// Bytes that it takes.
    queue_max: usize,
    charged: usize,
    acknowledged: u64,
    /// Fate of the ids from `ids_first` on.
    ids: VecDeque<IdState>,
    ids_first: u64,
    cut_messages: usize,
    cut_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IdState {
    Open,
    Done,
}

impl Outbox {
    /// An empty one that takes so many bytes.
    pub(crate) fn new(queue_max: usize) -> Self {
        Outbox {
            queue_max,
            slots: Vec::new(),
            free: Vec::new(),
            control: Lane::default(),
            bulk: Lane::default(),
            charged: 0,
            acknowledged: 0,
            ids: VecDeque::new(),
            ids_first: 0,
            cut_messages: 0,
            cut_bytes: 0,
        }
    }

    /// Whether a message finds room. One that is too long finds it, and is refused.
    pub(super) fn has_room(&self, message: &OutMessage, priority: Priority) -> bool {
        let limit = match priority {
            Priority::Control => self.queue_max + self.queue_max / CONTROL_QUEUE_SHARE,
            Priority::Bulk => self.queue_max,
        };
        self.charged + message.total_len() + MESSAGE_OVERHEAD <= limit
    }

    /// Bytes of the queue that are taken.
    pub(super) fn charged(&self) -> usize {
        self.charged
    }

    /// Queues a message. On an error nothing was queued, and the message is gone.
    pub(super) fn push(&mut self, message: OutMessage, priority: Priority) -> Result<(), SendError> {
        let total = message.total_len();
        if total > MESSAGE_LEN_MAX {
            return Err(SendError::TooLong);
        }
        let charge = total + MESSAGE_OVERHEAD;
        if !self.has_room(&message, priority) {
            return Err(SendError::Full);
        }
        self.charged += charge;
        let outgoing = Outgoing {
            message,
            id: None,
            total: total as u32,
            acked: 0,
            priority,
            admission: Admission::NotNeeded,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(outgoing);
                slot
            }
            None => {
                self.slots.push(Some(outgoing));
                (self.slots.len() - 1) as u32
            }
        };
        self.lane(priority).fresh.push_back(Fragment { slot, offset: 0, len: total as u32 });
        Ok(())
    }

    /// Takes all messages, in the order in which they came. None has been acknowledged.
    pub(super) fn take_all(&mut self) -> Vec<(OutMessage, Priority)> {
        // As long as none is done, each has taken the next slot.
        debug_assert!(self.free.is_empty(), "none has been acknowledged");
        let emptied = std::mem::replace(self, Outbox::new(self.queue_max));
        emptied.slots.into_iter().flatten().map(|outgoing| (outgoing.message, outgoing.priority)).collect()
    }

    /// Messages that are not acknowledged entirely.
    pub(super) fn pending(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes of messages that the peer has acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether bytes of this priority wait to be sent, first or again. They may still be held back
    /// by the id window or by the receiver's reassembly bounds.
    pub(super) fn has(&self, priority: Priority) -> bool {
        let lane = match priority {
            Priority::Control => &self.control,
            Priority::Bulk => &self.bulk,
        };
        !(lane.lost.is_empty() && lane.waiting.is_empty() && lane.fresh.is_empty())
    }

    /// Takes the next bytes of this priority that fit into `room`: lost ones first.
    pub(super) fn take(&mut self, priority: Priority, room: Room) -> Option<Taken> {
        for source in [Source::Lost, Source::Waiting, Source::Fresh] {
            while let Some(&next) = self.queue(priority, source).front() {
                match self.fit(next, room) {
                    Fit::Fits(cut, len) => return Some(self.cut_off(priority, source, cut, len)),
                    Fit::NoRoom => return None,
                    Fit::NotAdmitted if source == Source::Waiting => break,
                    Fit::NotAdmitted => {
                        self.queue(priority, source).pop_front();
                        self.queue(priority, Source::Waiting).push_back(next);
                    }
                }
            }
        }
        None
    }

    /// The peer has these bytes.
    pub(super) fn on_acked(&mut self, fragment: Fragment) {
        self.acknowledged += u64::from(fragment.len);
        let outgoing = self.outgoing(fragment.slot);
        outgoing.acked += fragment.len;
        assert!(outgoing.acked <= outgoing.total, "a byte is acknowledged once");
        if outgoing.acked < outgoing.total {
            return;
        }
        let (total, id, admission) = (outgoing.total as usize, outgoing.id, outgoing.admission);
        self.slots[fragment.slot as usize] = None;
        self.free.push(fragment.slot);
        self.charged -= total + MESSAGE_OVERHEAD;
        if admission == Admission::Granted {
            self.cut_messages -= 1;
            self.cut_bytes -= total;
        }
        let id = id.expect("acknowledged bytes were sent, so the message has its id");
        self.ids[(id - self.ids_first) as usize] = IdState::Done;
        while self.ids.front() == Some(&IdState::Done) {
            self.ids.pop_front();
            self.ids_first += 1;
        }
    }

    /// These bytes must be sent again.
    pub(super) fn on_lost(&mut self, fragment: Fragment) {
        let priority = self.outgoing(fragment.slot).priority;
        self.lane(priority).lost.push_back(fragment);
    }

    /// Calls `each` with the slices that make up a fragment.
    pub(crate) fn for_slices<'a>(&'a self, fragment: Fragment, each: impl FnMut(&'a [u8])) {
        let outgoing = self.slots[fragment.slot as usize].as_ref().expect("fragments name live messages");
        outgoing.message.for_slices(fragment.offset as usize, fragment.len as usize, each);
    }

    fn outgoing(&mut self, slot: u32) -> &mut Outgoing {
        self.slots[slot as usize].as_mut().expect("fragments name live messages")
    }

    fn lane(&mut self, priority: Priority) -> &mut Lane {
        match priority {
            Priority::Control => &mut self.control,
            Priority::Bulk => &mut self.bulk,
        }
    }

    fn queue(&mut self, priority: Priority, source: Source) -> &mut VecDeque<Fragment> {
        let lane = self.lane(priority);
        match source {
            Source::Lost => &mut lane.lost,
            Source::Waiting => &mut lane.waiting,
            Source::Fresh => &mut lane.fresh,
        }
    }

    fn fit(&self, next: Fragment, room: Room) -> Fit {
        let outgoing = self.slots[next.slot as usize].as_ref().expect("queued fragments name live messages");
        if outgoing.id.is_none() && self.ids.len() as u64 >= MESSAGE_WINDOW {
            return Fit::NoRoom;
        }
        let len = next.len as usize;
        if outgoing.admission == Admission::NotNeeded {
            let needed = WHOLE_HEAD_LEN + len;
            if needed <= room.here {
                return Fit::Fits(Cut::Whole, next.len);
            }
            if needed <= room.empty {
                return Fit::NoRoom;
            }
            if !self.may_admit(outgoing) {
                return Fit::NotAdmitted;
            }
        }
        let here = room.here.saturating_sub(PART_HEAD_LEN);
        let max = room.empty.saturating_sub(PART_HEAD_LEN);
        let mut payload = piece_len(outgoing.total as usize, max).min(len);
        if payload > here {
            // A packet that is empty but for what rides along takes what it can hold; in any other,
            // and when a window is nearly used up, a shred would only cost its receiver a datagram.
            if here < len.min(FRAGMENT_LEN_MIN) || room.here + RIDERS_LEN_MAX < room.empty {
                return Fit::NoRoom;
            }
            payload = here;
        }
        Fit::Fits(Cut::Part { total: outgoing.total }, payload as u32)
    }

    fn may_admit(&self, outgoing: &Outgoing) -> bool {
        let (messages_max, bytes_max) = match outgoing.priority {
            Priority::Control => (REASSEMBLY_MESSAGES_MAX, REASSEMBLY_BYTES_MAX),
            Priority::Bulk => (REASSEMBLY_BULK_MESSAGES_MAX, REASSEMBLY_BULK_BYTES_MAX),
        };
        self.cut_messages < messages_max && self.cut_bytes + outgoing.total as usize <= bytes_max
    }

    fn cut_off(&mut self, priority: Priority, source: Source, cut: Cut, len: u32) -> Taken {
        let queue = self.queue(priority, source);
        let front = queue.front_mut().expect("the caller looked at it");
        let fragment = Fragment { len, ..*front };
        if len == front.len {
            queue.pop_front();
        } else {
            front.offset += len;
            front.len -= len;
        }
        let next_id = self.ids_first + self.ids.len() as u64;
        let outgoing = self.outgoing(fragment.slot);
        let id = *outgoing.id.get_or_insert(next_id);
        let newly_cut = cut != Cut::Whole && outgoing.admission == Admission::NotNeeded;
        if newly_cut {
            outgoing.admission = Admission::Granted;
            let total = outgoing.total as usize;
            self.cut_messages += 1;
            self.cut_bytes += total;
        }
        if id == next_id {
            self.ids.push_back(IdState::Open);
        }
        let send = match source {
            Source::Lost => Send::Again,
            Source::Waiting | Source::Fresh => Send::First,
        };
        Taken { fragment, id, cut, send }
    }
}

/// Length of the pieces that a message of `total` bytes is cut into where a datagram holds at most
/// `max`: no more pieces than needed, and equal but for the last, so that they share the windows evenly.
fn piece_len(total: usize, max: usize) -> usize {
    let count = total.div_ceil(max.max(1)).max(1);
    total.div_ceil(count).next_multiple_of(PIECE_UNIT).min(max)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Lost,
    Waiting,
    Fresh,
}

enum Fit {
    /// So many bytes of it, sent in this way.
    Fits(Cut, u32),
    /// Not into this packet.
    NoRoom,
    /// It must be cut, and the receiver's reassembly has no room.
    NotAdmitted,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::net::SEND_QUEUE_BYTES_MAX;

    const WIDE: Room = Room { here: 1171, empty: 1171 };

    fn message(len: usize) -> OutMessage {
        OutMessage::from_bytes(&vec![7; len])
    }

    fn take_all(outbox: &mut Outbox, priority: Priority) -> Vec<Taken> {
        std::iter::from_fn(|| outbox.take(priority, WIDE)).collect()
    }

    #[test]
    fn a_message_that_fits_a_datagram_is_never_cut() {
        let mut outbox = Outbox::new(SEND_QUEUE_BYTES_MAX);
        outbox.push(message(1000), Priority::Bulk).unwrap();
        assert_eq!(outbox.take(Priority::Bulk, Room { here: 900, empty: 1171 }), None);
        let taken = outbox.take(Priority::Bulk, WIDE).unwrap();
        assert_eq!((taken.cut, taken.fragment.len, taken.id), (Cut::Whole, 1000, 0));
        outbox.on_acked(taken.fragment);
        assert_eq!((outbox.pending(), outbox.charged), (0, 0));
    }

    #[test]
    fn short_messages_pass_long_ones_that_the_receiver_has_no_room_for() {
        let mut outbox = Outbox::new(SEND_QUEUE_BYTES_MAX);
        for _ in 0..8 {
            outbox.push(message(1 << 20), Priority::Bulk).unwrap();
        }
        outbox.push(message(5), Priority::Bulk).unwrap();
        let taken = take_all(&mut outbox, Priority::Bulk);
        let bytes: usize = taken.iter().map(|t| t.fragment.len as usize).sum();
        assert_eq!(bytes, REASSEMBLY_BULK_BYTES_MAX + 5);
        assert_eq!(taken.last().unwrap().cut, Cut::Whole);
        // Control still has room of its own.
        outbox.push(message(1 << 20), Priority::Control).unwrap();
        assert!(outbox.take(Priority::Control, WIDE).is_some());
        // What is acknowledged makes room for what waits.
        for t in taken.iter().filter(|t| t.id == 0) {
            outbox.on_acked(t.fragment);
        }
        assert_eq!(outbox.take(Priority::Bulk, WIDE), None, "control holds the last MiB");
    }

    #[test]
    fn lost_bytes_go_first_and_may_be_cut_smaller() {
        let mut outbox = Outbox::new(SEND_QUEUE_BYTES_MAX);
        outbox.push(message(1100), Priority::Bulk).unwrap();
        outbox.push(message(10), Priority::Bulk).unwrap();
        let first = outbox.take(Priority::Bulk, WIDE).unwrap();
        outbox.on_lost(first.fragment);
        let small = Room { here: 619, empty: 619 };
        let again: Vec<Taken> = std::iter::from_fn(|| outbox.take(Priority::Bulk, small)).take(3).collect();
        assert_eq!(again[0].cut, Cut::Part { total: 1100 });
        assert_eq!((again[0].fragment.len, again[1].fragment.len), (552, 548));
        assert_eq!((again[0].id, again[0].send, again[2].id), (0, Send::Again, 1));
        for taken in again {
            outbox.on_acked(taken.fragment);
        }
        assert_eq!((outbox.pending(), outbox.cut_messages, outbox.cut_bytes), (0, 0, 0));
    }

    #[test]
    fn pieces_of_a_message_are_equal_but_for_the_last_and_no_more_than_needed() {
        for (len, max) in [(65_536, 65_459), (65_536, 1424), (1 << 20, 24_000), (1 << 20, 8924), (1501, 1424)]
        {
            let piece = piece_len(len, max);
            let pieces: Vec<usize> = (0..len).step_by(piece).map(|at| piece.min(len - at)).collect();
            assert_eq!(pieces.len(), len.div_ceil(max), "{len} in {max}");
            assert!(pieces.iter().all(|&p| p <= max));
        }
        assert_eq!((piece_len(65_536, 65_459), piece_len(1501, 1424)), (32_768, 752));
    }

    #[test]
    fn a_window_that_is_nearly_used_up_makes_no_shreds() {
        let mut outbox = Outbox::new(SEND_QUEUE_BYTES_MAX);
        outbox.push(message(4000), Priority::Bulk).unwrap();
        assert_eq!(outbox.take(Priority::Bulk, Room { here: 700, empty: 1171 }), None);
        // An acknowledgement that rides along is no reason to wait.
        assert!(outbox.take(Priority::Bulk, Room { here: 1100, empty: 1171 }).is_some());
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_room_for_control() {
        let mut outbox = Outbox::new(SEND_QUEUE_BYTES_MAX);
        while outbox.push(message(1 << 20), Priority::Bulk).is_ok() {}
        assert_eq!(outbox.push(message(1 << 20), Priority::Bulk), Err(SendError::Full));
        assert_eq!(outbox.push(message(1 << 20), Priority::Control), Ok(()));
        assert_eq!(outbox.push(message((1 << 20) + 1), Priority::Control), Err(SendError::TooLong));
    }

    #[test]
    fn ids_stay_within_the_window_that_the_receiver_remembers() {
        let mut outbox = Outbox::new(SEND_QUEUE_BYTES_MAX);
        for _ in 0..MESSAGE_WINDOW + 10 {
            outbox.push(message(1), Priority::Control).unwrap();
        }
        let taken = take_all(&mut outbox, Priority::Control);
        assert_eq!(taken.len() as u64, MESSAGE_WINDOW);
        // Only the oldest id moves the window.
        outbox.on_acked(taken[1].fragment);
        assert_eq!(outbox.take(Priority::Control, WIDE), None);
        outbox.on_acked(taken[0].fragment);
        assert_eq!(take_all(&mut outbox, Priority::Control).len(), 2);
    }
}
