//! One face over the mechanisms that protect the application's view.
//!
//! A mapper carries a run of pages from one access to another. What the pages' access is stands in
//! [`AccessMap`], which the caller keeps; when it changes is decided further up.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::access::AccessMap;
use super::events::EventThread;
use super::map::{AppView, Store};
use super::mprotect::{Mprotect, Target};
use super::uffd::{Delivery, Uffd};
use super::{ArenaOptions, Backend, Shared, bytes, expect, run_of};
use crate::error::{Error, Result};
use crate::page::{Access, PageId};

/// The application's view and what protects it.
pub(super) enum Mapper {
    /// This node has no application.
    Nothing,
    /// The `signal` and `thread` backends, which differ only in who hears of a fault.
    Userfault {
        // Declared first, so that the thread stops before the view goes.
        _events: Option<EventThread>,
        uffd: Arc<Uffd>,
        view: AppView,
        /// Held while the mappings' own protection changes, which bounds what userfaultfd can give: once it is
        /// taken away, pages may be mapped and are not accessible.
        admission: Mutex<Admission>,
    },
    /// The `mprotect` backend.
    Mprotect { protections: Mprotect, view: AppView },
}

/// Whether accesses to regions may reach userfaultfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    Open,
    /// For ever: the node has ended.
    Revoked,
}

impl Mapper {
    pub(super) fn start(
        view: Option<AppView>,
        shared: &Arc<Shared>,
        options: &ArenaOptions,
    ) -> Result<Mapper> {
        let Some(view) = view else {
            return Ok(Mapper::Nothing);
        };
        let open = |delivery| {
            Uffd::open(delivery).map(Arc::new).map_err(|why| Error::Refused(format!("userfaultfd: {why}")))
        };
        match shared.backend {
            Backend::None => Ok(Mapper::Nothing),
            Backend::Signal => {
                let admission = Mutex::new(Admission::Open);
                Ok(Mapper::Userfault { _events: None, uffd: open(Delivery::Signal)?, view, admission })
            }
            Backend::Thread => {
                let uffd = open(Delivery::Message)?;
                let events = EventThread::start(uffd.clone(), shared.clone())?;
                let admission = Mutex::new(Admission::Open);
                Ok(Mapper::Userfault { _events: Some(events), uffd, view, admission })
            }
            Backend::Mprotect => {
                Ok(Mapper::Mprotect { protections: Mprotect::new(options.mappings_max), view })
            }
        }
    }

    pub(super) fn view(&self) -> Option<&AppView> {
        match self {
            Mapper::Nothing => None,
            Mapper::Userfault { view, .. } | Mapper::Mprotect { view, .. } => Some(view),
        }
    }

    /// Maps a region's pages, without access. An error leaves them as they were.
    pub(super) fn open_region(&self, store: &Store, pages: &Range<u64>) -> io::Result<()> {
        let Some(view) = self.view() else {
            return Ok(());
        };
        let registered = view.map(store, bytes(pages)).map_err(io::Error::from).and_then(|()| match self {
            Mapper::Userfault { uffd, .. } => uffd.register(view.span(bytes(pages))),
            Mapper::Mprotect { .. } | Mapper::Nothing => Ok(()),
        });
        if registered.is_err() {
            let _ = view.unmap(bytes(pages));
        }
        registered
    }

    /// Lets accesses to a region reach the mechanism.
    pub(super) fn admit(&self, access: &AccessMap, pages: &Range<u64>) {
        match self {
            Mapper::Nothing => {}
            Mapper::Userfault { view, admission, .. } => {
                let admission = admission.lock();
                if *admission == Admission::Open {
                    expect(view.protect(bytes(pages), Access::Write), "admitting a region");
                }
            }
            Mapper::Mprotect { protections, view } => {
                protections.add_region(Target { view, access }, pages.clone());
            }
        }
    }

    /// Takes all access away, and keeps later calls from giving any. Complete on return, whichever thread began.
    pub(super) fn revoke(&self) {
        match self {
            Mapper::Nothing => {}
            Mapper::Userfault { uffd, view, admission, .. } => {
                let mut admission = admission.lock();
                if *admission == Admission::Open {
                    *admission = Admission::Revoked;
                    expect(view.protect_all(), "taking all access away");
                    // Who waits for a page faults again, and not by userfaultfd: that thread itself hears of the end.
                    expect(uffd.wake(view.addresses()), "waking all who wait for pages");
                }
            }
            Mapper::Mprotect { protections, view } => protections.revoke(view),
        }
    }

    pub(super) fn close_region(&self, access: &AccessMap, pages: &Range<u64>) -> io::Result<()> {
        match self {
            Mapper::Nothing => Ok(()),
            Mapper::Userfault { uffd, view, .. } => {
                view.unmap(bytes(pages))?;
                // Whoever waits there, against the rules, ends with a message instead of never.
                uffd.wake(view.span(bytes(pages)))
            }
            Mapper::Mprotect { protections, view } => {
                protections.remove_region(Target { view, access }, pages.clone());
                Ok(view.unmap(bytes(pages))?)
            }
        }
    }

    /// Carries a run of pages, all at access `old`, to `new`. Lowering is complete on return.
    pub(super) fn change(
        &self,
        access: &AccessMap,
        store: &Store,
        run: Range<u64>,
        old: Access,
        new: Access,
    ) {
        match self {
            Mapper::Nothing => {}
            Mapper::Mprotect { protections, view } => protections.set(Target { view, access }, run, new),
            Mapper::Userfault { uffd, view, .. } => match (old, new) {
                (_, Access::None) => expect(view.drop_pages(bytes(&run)), "unmapping pages"),
                (Access::None, Access::Read | Access::Write) => {
                    // CONTINUE would refuse holes, one by one.
                    for hole in run.clone().map(PageId).filter(|page| !access.is_backed(*page)) {
                        store.touch(bytes(&run_of(hole)).start);
                    }
                    // What the record takes for memory may still be a hole, after an allocation failed.
                    let touch = |address: usize| store.touch(address - view.address(0));
                    expect(uffd.map(view.span(bytes(&run)), new, touch), "mapping pages");
                }
                (Access::Read | Access::Write, Access::Read | Access::Write) => {
                    expect(uffd.write_protect(view.span(bytes(&run)), new), "write-protecting pages");
                }
            },
        }
    }

    /// Puts a mapping back that the page's access entitles it to, and wakes who waits for it.
    pub(super) fn restore(&self, access: &AccessMap, store: &Store, page: PageId, granted: Access) {
        match self {
            Mapper::Nothing => {}
            // From nothing, whatever is mapped: pages that are there are passed over, and woken.
            Mapper::Userfault { .. } => self.change(access, store, run_of(page), Access::None, granted),
            Mapper::Mprotect { protections, view } => {
                protections.restore(Target { view, access }, page);
            }
        }
    }

    /// Neighbourhoods that lost their mappings so far.
    pub(super) fn reductions(&self) -> u64 {
        match self {
            Mapper::Nothing | Mapper::Userfault { .. } => 0,
            Mapper::Mprotect { protections, .. } => protections.reductions(),
        }
    }
}
