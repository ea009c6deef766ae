//! The core driven by hand: races written down with their order of delivery, every reaction of both
//! tables as a snapshot, and the bytes of the messages.

mod authority;
mod bytes;
mod crossings;
mod deaths;
mod holds;
mod leaving;
mod locks;
mod rig;
mod room;
mod stays;
mod streams;
mod table;
