//! Runs of faults: which pages a program will touch next, as far as its faults so far tell.
//!
//! Fetching ahead must be earned, because a page fetched in vain costs its bytes, and its owner a
//! downgrade. Three misses at equal distances begin a *stream*; every further fault of it doubles how
//! far it runs ahead, up to a bound; a page that is taken away before it was touched halves that, and
//! leaves a *fence* that no stream crosses before the program itself does. So random access fetches
//! nothing ahead, and a program that sweeps its own part of an array again and again learns where its
//! part ends. The shape is that of file read-ahead; the strides are after Baer and Chen (1991).

use std::ops::Range;

use smallvec::SmallVec;

use crate::config::coherence::{
    FENCES_MAX, READ_AHEAD_MAX, RECENT_FAULTS_MAX, STREAM_START, STREAMS_MAX, STRIDE_MAX, WRITE_AHEAD_MAX,
};
use crate::page::{Access, PageId};

/// The node's latest faults, and the streams that they belong to.
#[derive(Clone, Default)]
pub(super) struct Streams {
    /// The last faults that belong to no stream, newest last.
    recent: SmallVec<[(i64, Access); RECENT_FAULTS_MAX]>,
    /// Least recently used first.
    streams: SmallVec<[Stream; STREAMS_MAX]>,
    /// Pages at which running ahead was in vain, oldest first.
    fences: SmallVec<[i64; FENCES_MAX]>,
}

/// Why there was a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// Nobody had asked for the page.
    Miss,
    /// It was asked for before it was touched. Such a fault may follow a stream but begins none: the first
    /// touches of what came together are at equal distances, whatever the program does in between.
    FirstTouch,
}

/// A run of faults at equal distances.
#[derive(Clone, Copy, Hash)]
struct Stream {
    access: Access,
    stride: i64,
    /// The last page that was touched by a fault.
    last: i64,
    /// The last page that was asked for.
    ahead: i64,
    /// Pages that it may run ahead.
    window: i64,
}

impl Streams {
    /// Takes note of a fault; returns the pages to fetch ahead, nearest first. `bounds` are the pages of the
    /// region faulted on. A stream ends there: it goes on in the next region only when a thread faults there.
    pub(super) fn faulted(
        &mut self,
        page: PageId,
        access: Access,
        cause: Cause,
        bounds: Range<u64>,
    ) -> Option<impl Iterator<Item = PageId> + use<>> {
        let page = page.0 as i64;
        self.fences.retain(|fence| *fence != page);
        let mut stream = match self.streams.iter().position(|stream| stream.is_continued_by(page, access)) {
            Some(at) => self.streams.remove(at),
            None if cause == Cause::FirstTouch => return None,
            None => self.begun_by(page, access)?,
        };
        self.fences.retain(|fence| !stream.crosses(*fence, page));
        let next = stream.advance(page, &self.fences, &bounds);
        self.streams.push(stream);
        Some(next)
    }

    /// Whether a fault there continues a stream: how far its next page is away.
    pub(super) fn stride(&self, page: PageId, access: Access) -> Option<i64> {
        let page = page.0 as i64;
        self.streams.iter().find(|stream| stream.is_continued_by(page, access)).map(|stream| stream.stride)
    }

    /// A page that was fetched ahead has been taken away untouched.
    pub(super) fn wasted(&mut self, page: PageId) {
        let page = page.0 as i64;
        for stream in &mut self.streams {
            if stream.reaches(page) {
                (stream.window, stream.ahead) = ((stream.window / 2).max(1), page - stream.stride);
            }
        }
        if !self.fences.contains(&page) {
            if self.fences.len() == FENCES_MAX {
                self.fences.remove(0);
            }
            self.fences.push(page);
        }
    }

    /// A new stream, if the fault is the third at equal distances.
    fn begun_by(&mut self, page: i64, access: Access) -> Option<Stream> {
        let was = |page: i64| self.recent.contains(&(page, access));
        let strides = self.recent.iter().map(|&(before, _)| page - before);
        let stride = strides
            .filter(|&stride| stride != 0 && stride.abs() <= STRIDE_MAX)
            .filter(|&stride| was(page - stride) && was(page - 2 * stride))
            .min_by_key(|stride| stride.abs());
        let Some(stride) = stride else {
            if !was(page) {
                if self.recent.len() == RECENT_FAULTS_MAX {
                    self.recent.remove(0);
                }
                self.recent.push((page, access));
            }
            return None;
        };
        self.recent.retain(|&mut (known, _)| known != page - stride && known != page - 2 * stride);
        if self.streams.len() == STREAMS_MAX {
            self.streams.remove(0);
        }
        Some(Stream { access, stride, last: page, ahead: page, window: STREAM_START / 2 })
    }
}

impl std::hash::Hash for Streams {
    /// Without the single faults, which change nothing before they make a stream.
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        (&self.streams, &self.fences).hash(hasher);
    }
}

impl Stream {
    /// How many strides lie between two of its pages; `None` if `page` is not on its way.
    fn steps(&self, from: i64, page: i64) -> Option<i64> {
        let distance = page - from;
        (distance % self.stride == 0).then_some(distance / self.stride)
    }

    /// Whether a fault is on a page that was fetched, or on the first that was not.
    fn is_continued_by(&self, page: i64, access: Access) -> bool {
        let fetched = self.steps(self.last, self.ahead).unwrap_or(0);
        self.access == access
            && self.steps(self.last, page).is_some_and(|steps| steps > 0 && steps <= fetched + 1)
    }

    /// Whether it has asked for the page, and the program has not come there yet.
    fn reaches(&self, page: i64) -> bool {
        let fetched = self.steps(self.last, self.ahead).unwrap_or(0);
        self.steps(self.last, page).is_some_and(|steps| steps > 0 && steps <= fetched)
    }

    /// Whether a fence lies between the last fault and this one.
    fn crosses(&self, fence: i64, page: i64) -> bool {
        let (low, high) = (self.last.min(page), self.last.max(page));
        low < fence && fence < high
    }

    /// Goes on to `page`; the pages to ask for.
    fn advance(
        &mut self,
        page: i64,
        fences: &[i64],
        bounds: &Range<u64>,
    ) -> impl Iterator<Item = PageId> + use<> {
        let window_max = match self.access {
            Access::None | Access::Read => READ_AHEAD_MAX,
            Access::Write => WRITE_AHEAD_MAX,
        };
        self.last = page;
        let asked = self.steps(page, self.ahead).unwrap_or(0).max(0);
        let wider = (self.window * 2).min(window_max);
        // Many pages at a time: whoever asked for one at each fault would be sent one a datagram for ever.
        let goes_on = asked <= wider / 2;
        if goes_on {
            self.window = wider;
        }
        let free = |&steps: &i64| {
            let page = page + steps * self.stride;
            u64::try_from(page).is_ok_and(|page| bounds.contains(&page)) && !fences.contains(&page)
        };
        let limit = if goes_on { self.window } else { asked };
        let reach = (asked + 1..=limit).take_while(free).last().unwrap_or(asked);
        self.ahead = page + reach * self.stride;
        let stride = self.stride;
        (asked + 1..=reach)
            .map(move |steps| page + steps * stride)
            .filter_map(|page| u64::try_from(page).ok().map(PageId))
    }
}
