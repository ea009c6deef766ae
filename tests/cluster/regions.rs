//! Regions outlive the program that made them, and go when somebody says so.

use crate::bed::Bed;

#[test]
fn a_later_program_finds_what_an_earlier_one_wrote() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 3").ok();
    bed.pagemesh("run region write data --len 40001").ok();
    let status = bed.status();
    assert_eq!(status["members"].as_array().map(Vec::len), Some(3), "only daemons are left: {status:#}");
    for ranks in [1, 2, 4] {
        let checked = bed.pagemesh(&format!("run --ranks {ranks} region check data")).ok();
        checked.says(&["holds the 40001 numbers"]);
    }
    bed.pagemesh("regions ls").ok().says(&["data", "<u8", "312.5 KiB", "79"]);
    bed.pagemesh("regions rm data").ok();
    bed.pagemesh("regions ls").ok().says(&["no regions"]);
    bed.pagemesh("run --ranks 1 region check data").says(&["there is no region `data`"]);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn two_programs_must_agree_on_the_size() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 1").ok();
    bed.pagemesh("run region write data --len 1000").ok();
    let done = bed.pagemesh("run region write data --len 2000");
    assert_eq!(done.code, 2, "{done:#?}");
    done.says(&["region: ", "data"]);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn a_region_beyond_the_homes_memory_is_refused() {
    let bed = Bed::new();
    let done = bed.pagemesh("run --nodes 2 --memory-max 1MiB region write data --len 10000000");
    assert_eq!(done.code, 2, "{done:#?}");
    done.says(&["[0] region: ", "data"]);
    bed.assert_nothing_left();
}

#[test]
fn a_region_four_times_a_node_s_limit_is_kept_by_four_nodes() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 4 --memory-max 1MiB").ok();
    bed.pagemesh("run region write data --len 524288").ok();
    bed.pagemesh("run region check data").ok().says(&["holds the 524288 numbers"]);
    let status = bed.status();
    for member in status["members"].as_array().expect("members") {
        let status = &member["status"];
        assert_eq!(status["resident_limit"], 256, "{status:#}");
        assert_eq!(
            (&status["resident_pages"], &status["resident_peak"]),
            (&256.into(), &256.into()),
            "{status:#}"
        );
    }
    bed.pagemesh("status").ok().says(&["256/256"]);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn the_limit_is_a_flag_a_variable_or_a_setting_and_holds_without_daemons_too() {
    const TOO_LARGE: &str = "region write data --len 1000000";
    let refused = |done: crate::bed::Done| {
        assert_eq!(done.code, 2, "{done:#?}");
        done.says(&["region `data` of 8000000 bytes is larger", "memory_max"]);
    };
    let bed = Bed::new();
    refused(bed.pagemesh(&format!("run --nodes 2 --memory-max 1MiB {TOO_LARGE}")));
    refused(bed.pagemesh(&format!("run --no-daemons --ranks 2 --memory-max 1MiB {TOO_LARGE}")));
    bed.file("pagemesh.toml", "memory_max = \"1MiB\"\n");
    refused(bed.pagemesh(&format!("run --nodes 2 {TOO_LARGE}")));
    let bed = Bed::new().set("PAGEMESH_MEMORY_MAX", "1MiB");
    refused(bed.pagemesh(&format!("run --nodes 2 {TOO_LARGE}")));
    bed.assert_nothing_left();
}
