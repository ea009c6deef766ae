//! `regions`: what lies in shared memory under a name, and how to be rid of it.

use std::path::PathBuf;

use pagemesh::Error;
use pagemesh::admin::{Admin, ClusterStatus, MemberStatus, RegionStatus};
use serde::Serialize;

use crate::cluster::ADMIN_TIMEOUT;
use crate::out;
use crate::state::State;
use crate::table::{bytes, table};
use crate::trouble::Trouble;

/// Lists the regions of the running cluster.
pub(crate) fn list(state_dir: Option<PathBuf>, json: bool) -> Result<i32, Trouble> {
    let regions = of(connect(state_dir)?.cluster()?);
    if json {
        out::json(&regions)?;
    } else if regions.is_empty() {
        out::line("no regions")?;
    } else {
        out::text(&show(&regions))?;
    }
    Ok(0)
}

/// Removes one.
pub(crate) fn remove(state_dir: Option<PathBuf>, name: &str) -> Result<i32, Trouble> {
    pagemesh::membership::check_name(name).map_err(Trouble::start)?;
    let admin = connect(state_dir)?;
    admin.remove_region(name)?;
    // While it is used it stays, and is listed.
    match admin.cluster()?.regions.iter().find(|region| region.name == name) {
        Some(region) => {
            out::line(format_args!("{name} goes when the last of its {} users has left", region.users.len()))?
        }
        None => out::line(format_args!("removed {name}"))?,
    }
    Ok(0)
}

/// Opens a conversation with the running cluster's coordinator.
pub(crate) fn connect(state_dir: Option<PathBuf>) -> Result<Admin, Trouble> {
    let state = State::open(state_dir)?;
    let cluster = state.running()?;
    let (addr, key_file) = (cluster.nodes[0].addr, state.key_file());
    Admin::connect(addr, &key_file, ADMIN_TIMEOUT).map_err(|error| {
        if !matches!(error, Error::Timeout { .. } | Error::Refused(_)) {
            return Trouble::from(error);
        }
        Trouble::start(format!(
            "the cluster does not answer ({error}): its node 0 is stopped or gets no core, or {} is of another \
             cluster; try again, or end the cluster with `pagemesh down`",
            key_file.display()
        ))
    })
}

/// A region, and how many of its pages are where.
#[derive(Serialize)]
pub(crate) struct Region {
    #[serde(flatten)]
    region: RegionStatus,
    /// Pages that nodes of this host have, as homes or as copies.
    pages_here: u64,
    /// Pages that nodes of other hosts have.
    pages_there: u64,
}

impl Region {
    /// Finds out what these members have of it.
    pub(crate) fn of(region: RegionStatus, members: &[&MemberStatus], this_host: &str) -> Region {
        let (mut here, mut there) = (0, 0);
        for status in members.iter().flat_map(|member| &member.status) {
            let part = status.regions.iter().find(|part| part.start == region.start);
            *if status.host == this_host { &mut here } else { &mut there } +=
                part.map_or(0, |part| part.pages);
        }
        Region { region, pages_here: here, pages_there: there }
    }
}

/// All regions of the cluster.
pub(crate) fn of(cluster: ClusterStatus) -> Vec<Region> {
    // As nodes read it, so that theirs compare.
    let this_host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let members: Vec<&MemberStatus> = cluster.members.iter().collect();
    let region = |region| Region::of(region, &members, this_host.trim());
    cluster.regions.into_iter().map(region).collect()
}

/// Regions as a table.
pub(crate) fn show(regions: &[Region]) -> String {
    let row = |Region { region, pages_here, pages_there }: &Region| {
        vec![
            region.name.clone(),
            short(region.element.as_deref().unwrap_or("any")),
            bytes(region.bytes),
            region.placement.to_string(),
            pages_here.to_string(),
            pages_there.to_string(),
            region.users.len().to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = regions.iter().map(row).collect();
    table(&["REGION", "TYPE", "SIZE", "PLACEMENT", "PAGES HERE", "THERE", "USERS"], &rows)
}

/// A type's tag as far as a column of the table is wide; `--json` has all of it.
fn short(tag: &str) -> String {
    if tag.chars().count() <= TAG_CHARS_MAX {
        return tag.to_owned();
    }
    let start: String = tag.chars().take(TAG_CHARS_MAX - 2).collect();
    format!("{start}..")
}

/// Characters of a type's tag in the table.
const TAG_CHARS_MAX: usize = 16;
