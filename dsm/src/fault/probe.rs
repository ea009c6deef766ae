//! Finds out whether this kernel's userfaultfd does what a page's life needs, by living one.
//!
//! CONTINUE with write-protection (Linux 6.4) has no feature bit, and sandboxes that emulate the
//! interface differ in what they leave out; so the whole cycle runs on a scratch page. Access is
//! tried by system calls, whose faults yield EFAULT: no signal handler is needed.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::map::{AppView, Store};
use super::uffd::{Delivery, Uffd};
use crate::page::{Access, PAGE_SIZE};

/// Tries the cycle. The error names the step that failed.
pub(super) fn cycle() -> Result<(), String> {
    let scratch = Scratch::new()?;
    scratch.expect("a hole", Access::None)?;
    scratch.map(Access::Read)?;
    scratch.expect("a page mapped by CONTINUE with write-protection", Access::Read)?;
    scratch.write_protect(Access::Write)?;
    scratch.expect("a page after its write-protection was lifted", Access::Write)?;
    scratch.write_protect(Access::Read)?;
    scratch.expect("a page write-protected again", Access::Read)?;
    scratch.drop_page()?;
    scratch.expect("a dropped page with memory", Access::None)?;
    scratch.map(Access::Write)?;
    scratch.expect("a page mapped by CONTINUE", Access::Write)
}

struct Scratch {
    uffd: Uffd,
    view: AppView,
    store: Store,
    /// Holds one byte between two trials.
    pipe: (OwnedFd, OwnedFd),
}

impl Scratch {
    fn new() -> Result<Scratch, String> {
        let uffd = Uffd::open(Delivery::Signal)?;
        let view = AppView::reserve(None, PAGE_SIZE).map_err(|e| format!("mmap: {e}"))?;
        let store = Store::new(PAGE_SIZE).map_err(|e| format!("memfd: {e}"))?;
        view.map(&store, 0..PAGE_SIZE).map_err(|e| format!("mmap of a memfd: {e}"))?;
        uffd.register(view.addresses()).map_err(|e| format!("UFFDIO_REGISTER: {e}"))?;
        view.protect(0..PAGE_SIZE, Access::Write).map_err(|e| format!("mprotect: {e}"))?;
        let pipe = nix::unistd::pipe().map_err(|e| format!("pipe: {e}"))?;
        nix::unistd::write(&pipe.1, b"x").map_err(|e| format!("pipe: {e}"))?;
        Ok(Scratch { uffd, view, store, pipe })
    }

    fn map(&self, access: Access) -> Result<(), String> {
        let touch = |_| self.store.touch(0);
        self.uffd
            .map(self.view.addresses(), access, touch)
            .map_err(|e| format!("UFFDIO_CONTINUE to {access:?}: {e} (with protection: Linux 6.4)"))
    }

    fn write_protect(&self, access: Access) -> Result<(), String> {
        self.uffd
            .write_protect(self.view.addresses(), access)
            .map_err(|e| format!("UFFDIO_WRITEPROTECT to {access:?}: {e}"))
    }

    fn drop_page(&self) -> Result<(), String> {
        self.view.drop_pages(0..PAGE_SIZE).map_err(|e| format!("MADV_DONTNEED: {e}"))
    }

    /// Fails unless loads and stores run or fault as `access` says.
    fn expect(&self, what: &str, access: Access) -> Result<(), String> {
        let stored = self.view.system_store(0, self.pipe.0.as_fd());
        if stored.is_ok() {
            nix::unistd::write(&self.pipe.1, b"x").map_err(|e| format!("pipe: {e}"))?;
        }
        let loaded = self.view.system_load(0, self.pipe.1.as_fd());
        if loaded.is_ok() {
            nix::unistd::read(&self.pipe.0, &mut [0]).map_err(|e| format!("pipe: {e}"))?;
        }
        let allowed = |yes| if yes { Ok(()) } else { Err(Errno::EFAULT) };
        let wanted = (allowed(access >= Access::Read), allowed(access == Access::Write));
        if (loaded, stored) == wanted {
            return Ok(());
        }
        Err(format!("{what} is not {access:?}: load {loaded:?}, store {stored:?}"))
    }
}
