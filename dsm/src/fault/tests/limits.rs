//! What happens at the kernel's limits, and what the errors and the doctor say.

use super::*;

/// The pattern of the memory model's list: 65,530 pages and more in mixed states, so that no two
/// neighbours could share a mapping.
const PAGES: u64 = 66_000;

/// Gives every second page a state of its own, and checks that all pages behave, mapped or not.
pub(super) fn mix_states(rig: &Rig) {
    for page in 0..PAGES {
        match page % 4 {
            1 => rig.store(page, page),
            2 => assert_eq!(rig.load(page), 0),
            _ => {}
        }
    }
    let faults = rig.faults();
    assert_eq!(faults.len() as u64, PAGES / 2);
    for page in (1..PAGES).step_by(4) {
        rig.store(page, page + 1);
        assert_eq!(rig.load(page), page + 1);
    }
    // However many mappings were lost, the core heard nothing of it.
    assert_eq!(rig.faults(), []);
    rig.store(2, 5);
    assert_eq!(rig.faults(), [(2, Access::Write)]);
}

#[test]
fn a_large_region_in_mixed_states_works_under_userfaultfd() {
    if is_available(Backend::Signal) {
        mix_states(&Rig::new(Backend::Signal, PAGES));
    }
}

#[test]
fn a_large_region_in_mixed_states_gives_up_mappings_under_mprotect() {
    // A budget of its own: other tests of this process need mappings too.
    let options = ArenaOptions { mappings_max: Some(4000), ..options(Backend::Mprotect, PAGES) };
    let rig = Rig::with(options);
    mix_states(&rig);
    let counts = rig.arena.counts();
    assert!(counts.reductions > 8, "{counts:?}");
    let base = rig.arena.base().unwrap();
    assert!(mappings_in(base..base + PAGES as usize * PAGE_SIZE) <= 4100);
}

#[test]
fn pages_that_lost_their_mappings_return_together() {
    let options = ArenaOptions { mappings_max: Some(64), ..options(Backend::Mprotect, 4096) };
    let rig = Rig::with(options);
    rig.locked(|memory| memory.protect_range(PageId(0), 64, Access::Read));
    for page in (1024..2048).step_by(2) {
        rig.store(page, 1);
    }
    assert!(rig.arena.counts().reductions > 0);
    // Sixteen pages of one extent: one fault brings all of them back.
    let before = rig.arena.counts();
    (0..16).for_each(|page| assert_eq!(rig.load(page), 0));
    let after = rig.arena.counts();
    assert!(after.settled - before.settled <= 1, "{before:?} {after:?}");
}

#[test]
fn regions_that_come_and_go_keep_the_count_of_mappings_right() {
    let options = ArenaOptions { mappings_max: Some(64), ..options(Backend::Mprotect, 4096) };
    let rig = Rig::with(options);
    for round in 1..6 {
        for page in (0..4096).step_by(3) {
            rig.store(page, round);
        }
        // A hole in the region's midst, at changing places, then whole again.
        let start = PageId(100 * round);
        rig.locked(|memory| memory.unmap_region(start, 1001)).unwrap();
        for page in (0..start.0).step_by(3) {
            rig.protect(page, Access::None);
        }
        rig.locked(|memory| memory.map_region(start, 1001)).unwrap();
        assert_eq!(rig.load(start.0), 0);
    }
    // Down first: pages that lost their mappings have their access on paper only.
    rig.locked(|memory| memory.protect_range(PageId(0), 4096, Access::None));
    rig.locked(|memory| memory.protect_range(PageId(0), 4096, Access::Write));
    let Mapper::Mprotect { protections, .. } = &rig.arena.mapper else {
        unreachable!("the backend was forced");
    };
    assert_eq!(protections.edges(), 0);
}

#[test]
fn the_setting_is_parsed_and_refused_with_the_choices() {
    assert_eq!("auto".parse::<BackendChoice>().unwrap(), BackendChoice::Auto);
    for backend in [Backend::Signal, Backend::Thread, Backend::Mprotect, Backend::None] {
        let choice: BackendChoice = backend.to_string().parse().unwrap();
        assert_eq!(choice, BackendChoice::Only(backend));
    }
    let error = "sigbus".parse::<BackendChoice>().unwrap_err().to_string();
    assert!(error.contains("'sigbus'") && error.contains("mprotect"), "{error}");
}

#[test]
fn a_mapping_in_the_way_of_an_arena_is_named() {
    let mapping = memmap2::MmapOptions::new().len(16 * PAGE_SIZE).map_anon().unwrap();
    let base = Some(mapping.as_ptr().addr());
    let error = Arena::reserve(&ArenaOptions { base, ..options(Backend::Mprotect, 4) });
    let error = error.err().expect("a refusal").to_string();
    assert!(error.contains("in the way") && error.contains("rw-p"), "{error}");
}

#[test]
fn a_second_arena_at_the_addresses_of_the_first_says_that_the_process_has_joined_before() {
    let first = Arena::reserve(&options(Backend::Mprotect, 16)).unwrap();
    let base = first.base().map(|base| base + 4 * PAGE_SIZE);
    let error = Arena::reserve(&ArenaOptions { base, ..options(Backend::Mprotect, 4) });
    let error = error.err().expect("a refusal").to_string();
    assert!(error.contains("this process has joined before") && !error.contains("in the way"), "{error}");
    assert!(error.contains("`leave`") && error.contains("arena_anywhere"), "{error}");
}

#[test]
fn an_arena_of_broken_pages_is_refused() {
    for len in [0, 1, PAGE_SIZE as u64 + 1] {
        let options = ArenaOptions { len, ..options(Backend::Mprotect, 1) };
        assert!(matches!(Arena::reserve(&options), Err(Error::Invalid(_))));
    }
}

/// The system lets a privileged process map pages there.
#[test]
fn an_arena_at_address_0_is_refused() {
    let options = ArenaOptions { base: Some(0), ..options(Backend::Mprotect, 1) };
    let error = Arena::reserve(&options).err().expect("a refusal").to_string();
    assert!(error.contains("a multiple of 4096 above 0"), "{error}");
}

#[test]
fn the_default_arena_can_be_reserved_and_cut() {
    let options =
        ArenaOptions { len: 1 << 40, base: Some(0x2000_0000_0000), ..options(Backend::Mprotect, 1) };
    let arena = Arena::reserve(&options).unwrap();
    let last = PageId((1 << 40) / PAGE_SIZE as u64 - 1);
    struct Nobody;
    impl FaultSink for Nobody {
        fn resolve(&self, _: PageFault) {}
        fn submit(&self, _: PageFault) {}
    }
    arena.deliver_to(Weak::<Nobody>::new());
    arena.map_region(last, 1).unwrap();
    (&arena).install(last, Contents::Zero, Access::Write, Version(1));
    let word = arena.pointer(last.start()).unwrap();
    // SAFETY: the page has been made writable, and is this test's alone.
    unsafe { word.write_volatile(3) };
    assert_eq!((&arena).read(last).as_slice()[0], 3);
}

#[test]
fn the_doctor_reports_each_check_with_a_mend_where_it_is_ill() {
    let occupied = Arena::reserve(&options(Backend::Mprotect, 4)).unwrap();
    let checks = doctor(occupied.base().unwrap(), 4 * PAGE_SIZE);
    for check in &checks {
        assert!(!check.found.is_empty(), "{check:?}");
        assert_eq!(check.health == Health::Ok, check.mend.is_none(), "{check:?}");
    }
    let arena = checks.iter().find(|check| check.name == "arena's addresses").unwrap();
    assert_eq!(arena.health, Health::Bad);
}

/// Mappings that start inside an address range.
fn mappings_in(range: Range<usize>) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let start = |line: &str| usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    maps.lines().filter(|line| range.contains(&start(line))).count()
}
