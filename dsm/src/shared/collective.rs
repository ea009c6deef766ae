//! Collective operations as programs call them: values of every rank, combined by a function.

use bytemuck::Pod;

use super::Dsm;
use crate::error::{Error, Result};

impl Dsm {
    /// Combines one value of each rank by `op`, in the order of the ranks; rank 0 gets the result, all
    /// others `None`.
    ///
    /// Every rank must call it, with a value of the same type; none returns before all have called, and what
    /// a rank wrote to shared memory before is seen by all after, as at a barrier. Costs 2(n - 1) calls
    /// between n ranks, of two messages each, in two hops; no region is made. A value has at most 32 KiB.
    ///
    /// Fails if a rank dies or has left (every rank gets an error that names it), if ranks call different operations
    /// (each gets an error that names two of them), or if two threads of a rank are in a collective operation at one
    /// time. `op` runs on rank 0: if it panics, the panic goes on there, and every other rank gets an error that says so.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let longest = dsm.reduce(1.5_f64, f64::max)?;
    /// if let Some(longest) = longest {
    ///     println!("the slowest of {} ranks took {longest} s", dsm.ranks());
    /// }
    /// # assert_eq!(longest, Some(1.5));
    /// # dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn reduce<T: Pod>(&self, value: T, op: impl Fn(T, T) -> T) -> Result<Option<T>> {
        let result = self.gather::<T>("reduce", value, op)?;
        Ok(self.is_root().then_some(result))
    }

    /// Combines one value of each rank by `op`, in the order of the ranks; every rank gets the result, the
    /// same bits. For the rest see [`Dsm::reduce`].
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let error = 0.25_f64; // of this rank's part
    /// let total = dsm.all_reduce(error, |a, b| a + b)?;
    /// # assert_eq!(total, 0.25);
    /// let [least, most] = dsm.all_reduce([error, error], |a, b| [a[0].min(b[0]), a[1].max(b[1])])?;
    /// # assert_eq!([least, most], [0.25, 0.25]);
    /// # dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn all_reduce<T: Pod>(&self, value: T, op: impl Fn(T, T) -> T) -> Result<T> {
        self.gather("all_reduce", value, op)
    }

    /// Gives every rank the value of rank `root`; what the others pass is not looked at. For the rest see
    /// [`Dsm::reduce`]. An error if there is no such rank.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let seed = dsm.broadcast(0, if dsm.is_root() { 42_u64 } else { 0 })?;
    /// assert_eq!(seed, 42);
    /// # dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn broadcast<T: Pod>(&self, root: u32, value: T) -> Result<T> {
        if root >= self.ranks() {
            return Err(Error::Invalid(format!("broadcast from rank {root} of {}", self.ranks())));
        }
        let what = format!("broadcast from rank {root} of {}", std::any::type_name::<T>());
        let own = if self.rank() == root { bytemuck::bytes_of(&value).to_vec() } else { Vec::new() };
        let result = self.node.gather(&what, own, |mut values| Ok(values.swap_remove(root as usize)))?;
        read(&what, &result).map_err(Error::Invalid)
    }

    fn gather<T: Pod>(&self, operation: &str, value: T, op: impl Fn(T, T) -> T) -> Result<T> {
        let what = format!("{operation} of {}", std::any::type_name::<T>());
        let own = bytemuck::bytes_of(&value).to_vec();
        let result = self.node.gather(&what, own, |values| {
            let values = values.iter().map(|value| read::<T>(&what, value));
            let values: Vec<T> = values.collect::<std::result::Result<_, String>>()?;
            let result = values.into_iter().reduce(op);
            Ok(result.as_ref().map_or_else(Vec::new, |result| bytemuck::bytes_of(result).to_vec()))
        })?;
        read(&what, &result).map_err(Error::Invalid)
    }
}

/// A value as it came. Another length means another program.
fn read<T: Pod>(what: &str, bytes: &[u8]) -> std::result::Result<T, String> {
    bytemuck::try_pod_read_unaligned(bytes)
        .map_err(|_| format!("{what}: {} bytes came, not {}", bytes.len(), size_of::<T>()))
}
