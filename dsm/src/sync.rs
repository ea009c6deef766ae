//! Values behind locks that all ranks share.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::coherence::LockId;
use crate::error::Result;
use crate::fork;
use crate::node::LockHandle;
use crate::page::PageId;
use crate::shared::{Pod, SharedSlice};

/// A value in shared memory that one thread of one rank at a time reads and writes. See [`Dsm::mutex`].
///
/// The lock is fair between nodes: the node that waits longest is next. A node that takes it again while no
/// other node wants it pays no message and no system call; otherwise a free lock costs two messages, and one
/// that is handed on three.
///
/// The lock belongs to the node for the time being, so a second thread of a rank waits as a thread of another
/// rank does; a thread that has the lock and takes it again gets an error at once. A thread that has waited
/// for 5 s writes one line to standard error that says which rank has the lock, and for how long; it goes on
/// waiting. A lock whose holder died is of no use any more: every call fails with
/// [`Error::NodeDied`](crate::Error::NodeDied), or [`Error::NodeLeft`](crate::Error::NodeLeft) if it has left
/// with the lock.
///
/// ```
/// use pagemesh::prelude::*;
///
/// # fn main() -> pagemesh::Result<()> {
/// let dsm = Dsm::builder().arena_anywhere().join()?;
/// let counter = dsm.mutex::<u64>("counter")?;
/// for _ in 0..1000 {
///     *counter.lock()? += 1; // given back at the end of the statement
/// }
/// dsm.barrier()?;
/// assert_eq!(*counter.lock()?, 1000 * u64::from(dsm.ranks()));
/// dsm.leave()
/// # }
/// ```
///
/// [`Dsm::mutex`]: crate::Dsm::mutex
pub struct DsmMutex<T> {
    value: SharedSlice<T>,
    lock: LockHandle,
}

/// The right to use the value of a [`DsmMutex`]; the lock is given back, and a changed value written, when it
/// is dropped. It stays in the thread that took the lock. A changed value that is dropped after
/// [`Dsm::leave`](crate::Dsm::leave) can be written nowhere: the process ends with a line that says so.
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let balance = dsm.mutex::<[i64; 2]>("balance")?;
/// let mut guard = balance.lock()?;
/// guard[0] -= 5;
/// guard[1] += 5;
/// drop(guard);
/// # dsm.leave()?;
/// # Ok::<(), pagemesh::Error>(())
/// ```
#[must_use = "the lock is given back when the guard is dropped"]
pub struct DsmMutexGuard<'a, T: Pod> {
    mutex: &'a DsmMutex<T>,
    token: u64,
    value: T,
    written: Written,
    /// A thread that takes its own lock again is known by its thread.
    _not_send: PhantomData<*const ()>,
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

    /// Waits for the lock.
    ///
    /// Fails if this thread has the lock already ([`Error::Invalid`](crate::Error::Invalid)), or if a node died
    /// that had the lock or keeps its queue.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let value = dsm.mutex::<u64>("value")?;
    /// let guard = value.lock()?;
    /// let again = value.lock().map(|_| ()).unwrap_err();
    /// assert!(matches!(again, Error::Invalid(_)), "this thread has it");
    /// # drop(guard);
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn lock(&self) -> Result<DsmMutexGuard<'_, T>> {
        let token = self.value.node().lock(&self.lock, None)?;
        Ok(self.guard(token))
    }

    /// Takes the lock if it is free now; `None` if it is not, or is on its way to this node.
    ///
    /// Costs two messages if the lock is free at its home, three if it lies idle at another node or is held
    /// there. A try that fails leaves the node's place in the queue: the lock comes when it is given back, so
    /// that trying again costs no message.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let queue = dsm.mutex::<u64>("queue")?;
    /// let guard = queue.try_lock()?.expect("nobody has it");
    /// assert!(queue.try_lock()?.is_none());
    /// # drop(guard);
    /// # dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn try_lock(&self) -> Result<Option<DsmMutexGuard<'_, T>>> {
        let token = self.value.node().try_lock(&self.lock)?;
        Ok(token.map(|token| self.guard(token)))
    }

    /// Waits for the lock, but for `timeout` at most. [`Error::Timeout`](crate::Error::Timeout) names the rank
    /// that has it; the request is withdrawn then, and a lock that is on its way to this node goes to the next
    /// that waits.
    ///
    /// The holder is asked for its name after the deadline: where it does not answer, the error comes later,
    /// after twice the timeout at most, and within a second.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let queue = dsm.mutex::<u64>("queue")?;
    /// match queue.lock_timeout(Duration::from_millis(200)) {
    ///     Ok(mut guard) => *guard += 1,
    ///     Err(Error::Timeout { what, .. }) => eprintln!("not now: {what}"),
    ///     Err(error) => return Err(error),
    /// }
    /// # dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn lock_timeout(&self, timeout: Duration) -> Result<DsmMutexGuard<'_, T>> {
        // A time that the clock cannot count is never reached.
        let token = self.value.node().lock(&self.lock, Instant::now().checked_add(timeout))?;
        Ok(self.guard(token))
    }

    /// As [`DsmMutex::lock_timeout`], until a point in time.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let (first, second) = (dsm.mutex::<u64>("first")?, dsm.mutex::<u64>("second")?);
    /// let deadline = Instant::now() + Duration::from_secs(1); // for both
    /// let (mut from, mut to) = (first.lock_deadline(deadline)?, second.lock_deadline(deadline)?);
    /// std::mem::swap(&mut *from, &mut *to);
    /// # drop((from, to));
    /// # dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn lock_deadline(&self, deadline: Instant) -> Result<DsmMutexGuard<'_, T>> {
        let token = self.value.node().lock(&self.lock, Some(deadline))?;
        Ok(self.guard(token))
    }

    fn guard(&self, token: u64) -> DsmMutexGuard<'_, T> {
        let (value, written) = (self.value.get(0), Written::No);
        DsmMutexGuard { mutex: self, token, value, written, _not_send: PhantomData }
    }
}

impl<T: Pod> DsmMutexGuard<'_, T> {
    /// The fencing token, a number that grows with every holder: a system outside shared memory that is given
    /// it can refuse one that is older than the newest it has seen.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let leader = dsm.mutex::<u64>("leader")?;
    /// let first = leader.lock()?.token();
    /// assert!(leader.lock()?.token() > first);
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
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
        // In a forked child the lock and the value are the parent's.
        let is_ours = !fork::is_child();
        if self.written == Written::Yes && is_ours {
            self.mutex.value.set(0, self.value);
        }
        self.mutex.value.node().unlock(&self.mutex.lock);
    }
}
