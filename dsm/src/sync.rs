//! Values behind locks that all ranks share.

use std::ops::{Deref, DerefMut};

use crate::coherence::LockId;
use crate::error::Result;
use crate::node::LockHandle;
use crate::page::PageId;
use crate::shared::{Pod, SharedSlice};

/// A value in shared memory that one holder at a time reads and writes.
///
/// The lock is fair between nodes: whoever waits longest is next. A node that takes it again while
/// nobody else wants it pays no message and no system call.
pub struct DsmMutex<T> {
    value: SharedSlice<T>,
    lock: LockHandle,
}

/// The right to use the value; given back when dropped.
pub struct DsmMutexGuard<'a, T: Pod> {
    mutex: &'a DsmMutex<T>,
    token: u64,
    value: T,
    written: Written,
}

/// Whether the guard's copy of the value must be written back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Written {
    No,
    Yes,
}

impl<T: Pod> DsmMutex<T> {
    pub(crate) fn new(value: SharedSlice<T>) -> Result<Self> {
        let lock = value.node().lock_handle(LockId(PageId::of(value.addr())));
        Ok(DsmMutex { value, lock })
    }

    /// Waits for the lock. An error names the node that died with it; the lock is of no use then.
    pub fn lock(&self) -> Result<DsmMutexGuard<'_, T>> {
        let token = self.value.node().lock(&self.lock)?;
        Ok(DsmMutexGuard { mutex: self, token, value: self.value.get(0), written: Written::No })
    }
}

impl<T: Pod> DsmMutexGuard<'_, T> {
    /// A number that grows with every holder: whoever acts on something outside shared memory can
    /// refuse one that is older than the newest it has seen.
    pub fn token(&self) -> u64 {
        self.token
    }
}

impl<T: Pod> Deref for DsmMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Pod> DerefMut for DsmMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.written = Written::Yes;
        &mut self.value
    }
}

impl<T: Pod> Drop for DsmMutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.written == Written::Yes {
            self.mutex.value.set(0, self.value);
        }
        self.mutex.value.node().unlock(&self.mutex.lock);
    }
}
