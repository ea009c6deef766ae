//! The network of the bare rig: every message arrives, after a delay without bound, and some arrive
//! twice, the second time much later. Nothing is lost: a session would repeat it.

use pagemesh::coherence::{Input, Message, Plant};
use pagemesh::page::{Epoch, NodeId, PageBuf, Span};

use crate::plan::Net;
use crate::trace::What;
use crate::world::{Phase, World};

/// A message under way.
pub(crate) struct Parcel {
    from: (NodeId, u32),
    /// How often the sender's process had ended.
    life: u32,
    to: (NodeId, u32),
    /// Of the sender's view.
    epoch: Epoch,
    message: Message,
    page: Option<PageBuf>,
    copy: Copy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Copy {
    First,
    Duplicate,
}

impl World {
    /// Sends a message, and perhaps a duplicate of it.
    pub(crate) fn post_message(
        &mut self,
        from: NodeId,
        to: (NodeId, u32),
        message: Message,
        page: Option<PageBuf>,
    ) {
        let epoch = self.node(from).epoch;
        let life = self.node(from).life;
        let from = (from, self.node(from).incarnation);
        let net = self.shared.plan.net;
        if Net::happens(net.duplicate_one_in, &mut self.shared.rng) {
            let late = Span(self.shared.rng.u64(..net.tail.0 * 4 + net.typical.0 * 8));
            let parcel = Parcel { from, life, to, epoch, message, page: page.clone(), copy: Copy::Duplicate };
            self.post(parcel, late);
        }
        self.node(from.0).in_flight += 1;
        self.post(Parcel { from, life, to, epoch, message, page, copy: Copy::First }, Span(0));
    }

    fn post(&mut self, parcel: Parcel, late: Span) {
        let delay = self.shared.plan.net.delay(&mut self.shared.rng);
        let at = self.shared.now + delay + late;
        let slot = self.parcels.insert(parcel);
        self.schedule(at, crate::world::Event::Deliver { slot });
    }

    pub(crate) fn deliver(&mut self, slot: u32) {
        let parcel = self.parcels.remove(slot);
        let receiver = &self.nodes[parcel.to.0.0 as usize];
        let is_ended = receiver.phase == Phase::Ended;
        let takes = (receiver.takes_part() || is_ended) && receiver.incarnation == parcel.to.1;
        let keeps = parcel.epoch > receiver.epoch || is_ended;
        let drops = is_ended && self.shared.plant == Some(Plant::HeirDropsEarlyMessages);
        if takes && keeps && !drops {
            // Kept until the view comes that explains it, or until the heir of the node begins.
            return self.post(parcel, Span(0));
        }
        let (from, incarnation) = parcel.from;
        let to = parcel.to.0;
        if self.accepts(&parcel) {
            let (message, epoch) = (parcel.message, parcel.epoch);
            self.record(to, What::Deliver { from, message });
            let page = parcel.page.as_ref().map_or(&[][..], PageBuf::as_slice);
            self.feed(to, Input::Message { from, epoch, message, page });
            self.disturb(to);
        }
        let sender = self.node(from);
        if parcel.copy == Copy::First && sender.incarnation == incarnation {
            sender.in_flight -= 1;
            self.settle_left(from);
        }
    }

    /// Messages count between members; of what a node sent before it crashed, some is cut off.
    fn accepts(&mut self, parcel: &Parcel) -> bool {
        let (from, incarnation) = parcel.from;
        let sender = &self.nodes[from.0 as usize];
        let has_ended = sender.is_dead(incarnation) || sender.life != parcel.life;
        let cut = has_ended && self.shared.rng.bool();
        let is_about_pages = matches!(parcel.message, Message::ToHome(_) | Message::ToNode(_));
        let sender = &self.nodes[from.0 as usize];
        let has_left = sender.phase == Phase::Left && sender.incarnation == incarnation;
        let vanished = has_left && is_about_pages && self.shared.plan.vanishes;
        let receiver = &self.nodes[parcel.to.0.0 as usize];
        !cut && !vanished
            && !self.is_true_by_now(from, &parcel.message)
            && receiver.takes_part()
            && receiver.incarnation == parcel.to.1
            && receiver.view[from.0 as usize] == Some(incarnation)
    }
}
