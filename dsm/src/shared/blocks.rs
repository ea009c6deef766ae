//! Shares of the ranks in the items of a program: contiguous blocks, in whole items or in whole pages.

use std::ops::Range;

use crate::page::PAGE_SIZE;

/// The share of `index` among `parts` in `n` items. Shares differ by at most one item.
pub(super) fn block(n: usize, index: usize, parts: usize) -> Range<usize> {
    let (each, rest) = (n / parts, n % parts);
    let start = index * each + index.min(rest);
    start..start + each + usize::from(index < rest)
}

/// Items that lie one behind the other in shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Items {
    pub(super) count: usize,
    /// Bytes of one.
    pub(super) size: usize,
    /// Where the first one is.
    pub(super) addr: u64,
}

impl Items {
    /// The share of `index` among `parts`, such that no two shares have bytes of one page. Where items do not
    /// fill a page evenly, the shares are numbers of pages that items fill evenly; if no item but the first
    /// may begin a share, the first share is everything.
    pub(super) fn block_of_pages(self, index: usize, parts: usize) -> Range<usize> {
        let Items { count, size, addr } = self;
        // The fewest items that fill whole pages.
        let step = PAGE_SIZE / gcd(size, PAGE_SIZE);
        let offset = (addr % PAGE_SIZE as u64) as usize;
        let begins_page = |item: &usize| (offset + item * (size % PAGE_SIZE)).is_multiple_of(PAGE_SIZE);
        // A share begins at this item, or some steps behind it.
        let Some(first) = (0..step.min(count)).find(begins_page) else {
            return if index == 0 { 0..count } else { count..count };
        };
        let before = usize::from(first > 0);
        let share = block(before + (count - first).div_ceil(step), index, parts);
        let begin = |unit: usize| match unit {
            0 => 0,
            unit => count.min(first + (unit - before) * step),
        };
        begin(share.start)..begin(share.end)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::{Items, block};

    #[test]
    fn blocks_cover_everything_once() {
        for (n, parts) in [(0, 3), (1, 3), (7, 3), (9, 3), (10, 1), (3, 8)] {
            let mut next = 0;
            for index in 0..parts {
                let share = block(n, index, parts);
                assert_eq!(share.start, next);
                assert!(share.len() <= n.div_ceil(parts));
                next = share.end;
            }
            assert_eq!(next, n);
        }
    }

    #[test]
    fn blocks_of_pages_cover_everything_once_and_share_no_page() {
        for size in [1, 2, 3, 8, 12, 24, 100, 512, 4096, 4100, 8192] {
            for (n, parts, skipped) in
                (0..40).flat_map(|n| [(n, 3, 0), (n * 97, 1, 3), (n * 97, 4, 0), (n * 641, 4, 5)])
            {
                let addr = 0x10000 + skipped * size;
                let pages = |share: &std::ops::Range<usize>| {
                    (addr + share.start * size) / 4096..(addr + share.end * size).div_ceil(4096)
                };
                let mut next = 0;
                let mut last = 0..0;
                for index in 0..parts {
                    let share = Items { count: n, size, addr: addr as u64 }.block_of_pages(index, parts);
                    assert_eq!(share.start, next, "{n} of {size} bytes");
                    next = share.end;
                    if !share.is_empty() {
                        assert!(last.end <= pages(&share).start, "{n} of {size} bytes, part {index}");
                        last = pages(&share);
                    }
                }
                assert_eq!(next, n, "{n} of {size} bytes");
            }
        }
    }

    #[test]
    fn blocks_of_pages_are_as_even_as_pages_allow() {
        let share = |count, size, index| Items { count, size, addr: 0 }.block_of_pages(index, 4);
        // 512 numbers of 8 bytes a page; eight pages.
        assert_eq!((0..4).map(|index| share(4096, 8, index).len()).collect::<Vec<_>>(), [1024; 4]);
        // Ten pages, the last half full.
        let lens: Vec<usize> = (0..4).map(|index| share(4864, 8, index).len()).collect();
        assert_eq!(lens, [1536, 1536, 1024, 768]);
        // 24 bytes are in step with pages every three pages, 512 items.
        assert_eq!((0..4).map(|index| share(1024, 24, index).len()).collect::<Vec<_>>(), [512, 512, 0, 0]);
    }
}
