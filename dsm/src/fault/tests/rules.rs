//! Each rule of the fault path as a test, one page and one thread at a time.

use std::sync::atomic::Ordering;

use super::*;

#[test]
fn a_load_faults_as_a_read_and_a_store_as_a_write() {
    on_each_backend(4, |rig| {
        assert_eq!(rig.load(1), 0);
        rig.store(2, 7);
        assert_eq!(rig.faults(), [(1, Access::Read), (2, Access::Write)]);
    });
}

#[test]
fn a_read_modify_write_faults_once_and_as_a_write() {
    on_each_backend(2, |rig| {
        rig.atomic(1, 0).fetch_add(5, Ordering::Relaxed);
        rig.atomic(1, 0).fetch_add(5, Ordering::Relaxed);
        assert_eq!(rig.faults(), [(1, Access::Write)]);
        assert_eq!(rig.runtime_word(1), 10);
    });
}

#[test]
fn an_access_across_two_pages_faults_on_both() {
    on_each_backend(2, |rig| {
        let across = rig.word(0, 511).wrapping_byte_add(4);
        // SAFETY: eight bytes inside the region, around its page boundary.
        unsafe { across.write_unaligned(u64::MAX) };
        assert_eq!(rig.faults(), [(0, Access::Write), (1, Access::Write)]);
        assert_eq!(rig.runtime_word(1), u64::from(u32::MAX));
        rig.protect(0, Access::None);
        // SAFETY: as above.
        assert_eq!(unsafe { across.read_unaligned() }, u64::MAX);
        assert_eq!(rig.faults(), [(0, Access::Read)]);
    });
}

#[test]
fn a_copy_over_many_pages_faults_on_each() {
    on_each_backend(16, |rig| {
        let bytes = vec![7u8; 8 * PAGE_SIZE];
        // SAFETY: the first half of the region; the source is private memory.
        unsafe { rig.word(0, 0).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        // SAFETY: from one half of the region to the other.
        unsafe { rig.word(8, 0).copy_from_nonoverlapping(rig.word(0, 0), 8 * PAGE_SIZE / 8) };
        for page in 0..16 {
            assert_eq!(rig.runtime_word(page), u64::from_ne_bytes([7; 8]));
        }
        let mut faults = rig.faults();
        faults.sort();
        assert_eq!(faults, (0..16).map(|page| (page, Access::Write)).collect::<Vec<_>>());
    });
}

#[test]
fn a_fault_names_its_instruction_and_its_thread() {
    on_each_backend(2, |rig| {
        rig.store(0, 1);
        let fault = rig.core.lock().faults[0];
        assert_eq!(fault.thread, nix::unistd::gettid().as_raw() as u32);
        // The handler thread's kernel interface does not tell the instruction.
        assert_eq!(fault.instruction != 0, rig.arena.backend() != Backend::Thread);
    });
}

/// Another node has stored a pointer into a new region, and this one follows it before the news has come.
#[test]
fn a_pointer_into_a_region_that_the_node_has_not_heard_of_is_followed() {
    on_each_backend(4, |rig| {
        rig.locked(|memory| memory.unmap_region(PageId(2), 2)).expect("unmapped");
        rig.core.lock().unheard = Some((PageId(2), 2));
        rig.store(3, 9);
        assert_eq!(rig.load(3), 9);
        assert_eq!(rig.faults(), [(3, Access::Write)]);
    });
}

#[test]
fn a_load_of_a_hole_maps_it_read_only() {
    on_each_backend(2, |rig| {
        assert_eq!(rig.load(0), 0);
        assert_eq!(rig.locked(|memory| memory.access(PageId(0))), Access::Read);
        rig.store(0, 3);
        assert_eq!(rig.faults(), [(0, Access::Read), (0, Access::Write)]);
    });
}

#[test]
fn a_fault_keeps_errno() {
    on_each_backend(1, |rig| {
        nix::errno::Errno::set_raw(77);
        rig.load(0);
        assert_eq!(nix::errno::Errno::last_raw(), 77);
        assert_eq!(rig.faults(), [(0, Access::Read)]);
    });
}

#[test]
fn a_page_that_is_writable_faults_no_more() {
    on_each_backend(1, |rig| {
        rig.store(0, 1);
        rig.faults();
        rig.store(0, 2);
        assert_eq!(rig.load(0), 2);
        assert_eq!(rig.faults(), []);
    });
}

#[test]
fn after_a_downgrade_loads_run_and_stores_fault() {
    on_each_backend(1, |rig| {
        rig.store(0, 1);
        rig.protect(0, Access::Read);
        rig.faults();
        assert_eq!(rig.load(0), 1);
        assert_eq!(rig.faults(), []);
        rig.store(0, 2);
        assert_eq!(rig.faults(), [(0, Access::Write)]);
        assert_eq!(rig.runtime_word(0), 2);
    });
}

#[test]
fn after_an_invalidation_the_next_load_sees_the_new_bytes() {
    on_each_backend(1, |rig| {
        rig.store(0, 1);
        rig.protect(0, Access::None);
        rig.core.lock().remote.insert(PageId(0), page_of_words(99));
        rig.faults();
        assert_eq!(rig.load(0), 99);
        assert_eq!(rig.faults(), [(0, Access::Read)]);
    });
}

#[test]
fn an_invalidated_writable_page_returns_read_only() {
    on_each_backend(1, |rig| {
        for round in 1..4 {
            rig.store(0, round);
            rig.protect(0, Access::Read);
            rig.protect(0, Access::None);
            rig.faults();
            assert_eq!(rig.load(0), round);
            rig.store(0, round + 1);
            assert_eq!(rig.faults(), [(0, Access::Read), (0, Access::Write)]);
        }
    });
}

#[test]
fn a_grant_of_zeros_clears_older_bytes() {
    on_each_backend(1, |rig| {
        rig.store(0, 77);
        rig.protect(0, Access::None);
        rig.locked(|memory| memory.install(PageId(0), Contents::Zero, Access::Read, Version(1)));
        assert_eq!(rig.load(0), 0);
        assert_eq!(rig.runtime_word(0), 0);
    });
}

#[test]
fn a_grant_of_zeros_allocates_a_hole() {
    on_each_backend(1, |rig| {
        rig.locked(|memory| memory.install(PageId(0), Contents::Zero, Access::Write, Version(1)));
        rig.store(0, 4);
        assert_eq!(rig.faults(), []);
        assert_eq!(rig.runtime_word(0), 4);
    });
}

#[test]
fn bytes_installed_over_a_mapped_page_are_seen() {
    on_each_backend(1, |rig| {
        rig.store(0, 1);
        let bytes = page_of_words(2);
        rig.locked(|memory| {
            memory.install(PageId(0), Contents::Bytes(bytes.as_slice()), Access::Read, Version(1));
        });
        rig.faults();
        assert_eq!(rig.load(0), 2);
        assert_eq!(rig.faults(), []);
    });
}

#[test]
fn a_mapping_that_the_kernel_took_comes_back_without_a_message() {
    on_each_backend(2, |rig| {
        rig.store(0, 1);
        assert_eq!(rig.load(1), 0);
        rig.faults();
        // As reclaim does when it swaps the pages out.
        rig.locked(|memory| match &memory.mapper {
            Mapper::Userfault { view, .. } => view.drop_pages(0..2 * PAGE_SIZE).unwrap(),
            Mapper::Mprotect { view, .. } => view.protect(0..2 * PAGE_SIZE, Access::None).unwrap(),
            Mapper::Nothing => unreachable!("a view was asked for"),
        });
        rig.store(0, 2);
        assert_eq!(rig.load(1), 0);
        assert_eq!(rig.faults(), []);
        assert_eq!(rig.arena.counts().settled, 2);
        // The readable page is not writable by it.
        rig.store(1, 3);
        assert_eq!(rig.faults(), [(1, Access::Write)]);
    });
}

#[test]
fn a_range_is_installed_over_pages_in_every_state() {
    on_each_backend(8, |rig| {
        let pages: Vec<PageBuf> = (0..8).map(|page| page_of_words(100 + page)).collect();
        rig.store(2, 1);
        assert_eq!(rig.load(3), 0);
        assert_eq!(rig.load(5), 0);
        let contents: Vec<_> = pages.iter().map(|p| (Contents::Bytes(p.as_slice()), Version(1))).collect();
        rig.locked(|memory| memory.install_range(PageId(0), &contents, Access::Read));
        rig.faults();
        for page in 0..8 {
            assert_eq!(rig.load(page), 100 + page);
        }
        assert_eq!(rig.faults(), []);
        rig.store(5, 9);
        assert_eq!(rig.faults(), [(5, Access::Write)]);
    });
}

#[test]
fn a_range_continue_passes_over_pages_that_are_mapped() {
    for backend in [Backend::Signal, Backend::Thread] {
        if !is_available(backend) {
            continue;
        }
        let rig = Rig::new(backend, 8);
        rig.locked(|memory| memory.populate(PageId(0), 6)).unwrap();
        // Mapped behind the record's back, so that the one CONTINUE over all eight meets them.
        map_behind_the_record(&rig, 2..4, Access::Write);
        map_behind_the_record(&rig, 5..6, Access::Read);
        rig.locked(|memory| memory.protect_range(PageId(0), 8, Access::Read));
        for page in 0..8 {
            assert_eq!(rig.load(page), 0);
        }
        assert_eq!(rig.faults(), []);
        for page in 0..8 {
            rig.store(page, page);
        }
        let wanted: Vec<_> = (0..8).map(|page| (page, Access::Write)).collect();
        assert_eq!(rig.faults(), wanted);
    }
}

fn map_behind_the_record(rig: &Rig, pages: Range<u64>, access: Access) {
    let Arena { mapper, store, shared, .. } = &rig.arena;
    mapper.change(&shared.access, store, pages, Access::None, access);
}

#[test]
fn ranges_change_access_like_single_pages() {
    on_each_backend(8, |rig| {
        rig.locked(|memory| memory.protect_range(PageId(0), 8, Access::Write));
        (0..8).for_each(|page| rig.store(page, page));
        rig.locked(|memory| memory.protect_range(PageId(2), 4, Access::Read));
        rig.locked(|memory| memory.protect_range(PageId(4), 4, Access::None));
        assert_eq!(rig.faults(), []);
        (0..8).for_each(|page| assert_eq!(rig.load(page), page));
        let wanted: Vec<_> = (4..8).map(|page| (page, Access::Read)).collect();
        assert_eq!(rig.faults(), wanted);
        (0..8).for_each(|page| rig.store(page, page));
        let wanted: Vec<_> = (2..8).map(|page| (page, Access::Write)).collect();
        assert_eq!(rig.faults(), wanted);
    });
}

#[test]
fn a_discarded_page_has_no_memory_and_reads_as_zero() {
    on_each_backend(2, |rig| {
        rig.store(0, 5);
        assert_eq!(rig.locked(|memory| memory.backed_pages()), 1);
        rig.protect(0, Access::None);
        rig.locked(|memory| memory.discard(PageId(0)));
        assert_eq!(rig.runtime_word(0), 0);
        // Reading it did not bring the memory back.
        assert_eq!((rig.locked(|memory| memory.backed_pages()), rig.arena.store.blocks()), (0, 0));
        rig.faults();
        assert_eq!(rig.load(0), 0);
        assert_eq!(rig.faults(), [(0, Access::Read)]);
    });
}

#[test]
fn populated_pages_still_fault() {
    on_each_backend(4, |rig| {
        rig.locked(|memory| memory.populate(PageId(0), 4)).unwrap();
        assert_eq!(rig.locked(|memory| memory.backed_pages()), 4);
        assert_eq!(rig.load(3), 0);
        assert_eq!(rig.faults(), [(3, Access::Read)]);
    });
}

#[test]
fn a_region_mapped_again_starts_empty() {
    on_each_backend(4, |rig| {
        rig.store(1, 8);
        rig.locked(|memory| memory.unmap_region(PageId(0), 4)).unwrap();
        assert_eq!((rig.locked(|memory| memory.backed_pages()), rig.arena.store.blocks()), (0, 0));
        rig.locked(|memory| memory.map_region(PageId(0), 4)).unwrap();
        rig.faults();
        assert_eq!(rig.load(1), 0);
        assert_eq!(rig.faults(), [(1, Access::Read)]);
    });
}

#[test]
fn regions_do_not_overlap_and_stay_inside_the_arena() {
    on_each_backend(8, |rig| {
        rig.locked(|memory| memory.unmap_region(PageId(4), 4)).unwrap();
        assert!(rig.arena.map_region(PageId(3), 2).is_err());
        assert!(rig.arena.map_region(PageId(6), 3).is_err());
        assert!(rig.arena.map_region(PageId(6), 0).is_err());
        assert!(rig.arena.map_region(PageId(u64::MAX), 2).is_err());
        rig.locked(|memory| memory.map_region(PageId(4), 2)).unwrap();
        rig.store(5, 1);
        assert_eq!(rig.runtime_word(5), 1);
    });
}

#[test]
#[should_panic(expected = "p3 is in no region")]
fn a_call_for_a_page_outside_every_region_panics() {
    let rig = Rig::new(Backend::Mprotect, 4);
    rig.locked(|memory| memory.unmap_region(PageId(3), 1)).unwrap();
    (&rig.arena).protect(PageId(3), Access::Read);
}

#[test]
fn a_node_without_a_view_keeps_bytes_and_protects_nothing() {
    let arena = Arena::reserve(&options(Backend::None, 4)).unwrap();
    arena.map_region(PageId(0), 4).unwrap();
    let (mut memory, bytes) = (&arena, page_of_words(6));
    memory.install(PageId(1), Contents::Bytes(bytes.as_slice()), Access::Read, Version(1));
    memory.protect(PageId(1), Access::None);
    assert_eq!(memory.read(PageId(1)), bytes);
    assert_eq!(memory.read(PageId(2)), PageBuf::zeroed());
    assert_eq!(arena.base(), None);
    memory.discard(PageId(1));
    assert_eq!(memory.read(PageId(1)), PageBuf::zeroed());
}

#[test]
fn pointers_and_global_addresses_match() {
    let rig = Rig::new(Backend::Mprotect, 2);
    let addr = GlobalAddr(PAGE_SIZE as u64 + 12);
    let pointer = rig.arena.pointer(addr).unwrap();
    assert_eq!(rig.arena.global(pointer), Some(addr));
    assert_eq!(rig.arena.pointer(GlobalAddr(2 * PAGE_SIZE as u64)), None);
    assert_eq!(rig.arena.global(std::ptr::null()), None);
}

#[test]
fn several_arenas_in_one_process_keep_their_faults_apart() {
    let rigs = [Backend::Mprotect, Backend::Signal, Backend::Thread]
        .into_iter()
        .filter(|backend| is_available(*backend))
        .map(|backend| Rig::new(backend, 2))
        .collect::<Vec<_>>();
    for (value, rig) in rigs.iter().enumerate() {
        rig.store(1, value as u64);
    }
    for (value, rig) in rigs.iter().enumerate() {
        assert_eq!(rig.runtime_word(1), value as u64);
        assert_eq!(rig.faults(), [(1, Access::Write)]);
    }
}

#[test]
fn an_arena_ends_while_others_fault() {
    on_each_backend(1, |rig| {
        let backend = rig.arena.backend();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..50).for_each(|round| Rig::new(backend, 2).store(1, round)));
            for round in 0..500 {
                rig.store(0, round);
                rig.protect(0, Access::None);
            }
        });
    });
}

#[test]
fn neither_view_is_inherited_dumped_or_huge() {
    on_each_backend(3, |rig| {
        rig.store(1, 1);
        let runtime = rig.arena.store.view_address();
        for start in [rig.arena.base().unwrap(), runtime] {
            let flags = flags_of_mapping(start);
            assert!(flags.contains(" dc ") && flags.contains(" dd "), "{flags}");
        }
    });
}

#[test]
fn userfaultfd_splits_no_mapping() {
    if !is_available(Backend::Signal) {
        return;
    }
    let rig = Rig::new(Backend::Signal, 300);
    for page in 0..300 {
        match page % 3 {
            0 => rig.store(page, 1),
            1 => assert_eq!(rig.load(page), 0),
            _ => {}
        }
    }
    let base = rig.arena.base().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let starts = maps.lines().map(|line| usize::from_str_radix(line.split('-').next().unwrap(), 16));
    let inside = starts.filter(|start| (base..base + 300 * PAGE_SIZE).contains(start.as_ref().unwrap()));
    assert_eq!(inside.count(), 1);
}

/// The `VmFlags` line of the mapping that contains an address.
fn flags_of_mapping(address: usize) -> String {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in text.lines() {
        let ends = line.split(' ').next().and_then(|ends| ends.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        if let Some((Some(start), Some(end))) = ends.map(|(start, end)| (number(start), number(end))) {
            inside = (start..end).contains(&address);
        } else if inside && line.starts_with("VmFlags:") {
            return format!("{line} ");
        }
    }
    panic!("no mapping at {address:#x}");
}
