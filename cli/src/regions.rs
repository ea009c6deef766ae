//! `regions`: what lies in shared memory under a name, and how to be rid of it.

use std::path::PathBuf;

use pagemesh::Placement;
use pagemesh::admin::{Admin, RegionStatus};

use crate::cluster::ADMIN_TIMEOUT;
use crate::out;
use crate::state::State;
use crate::table::{bytes, table};
use crate::trouble::Trouble;

/// Lists the regions of the running cluster.
pub(crate) fn list(state_dir: Option<PathBuf>, json: bool) -> Result<i32, Trouble> {
    let regions = connect(state_dir)?.cluster()?.regions;
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
    Ok(Admin::connect(cluster.nodes[0].addr, &state.key_file(), ADMIN_TIMEOUT)?)
}

/// Regions as a table.
pub(crate) fn show(regions: &[RegionStatus]) -> String {
    let rows: Vec<Vec<String>> = regions
        .iter()
        .map(|region| {
            vec![
                region.name.clone(),
                bytes(region.bytes),
                region.pages.to_string(),
                placement(region.placement),
                region.users.len().to_string(),
                format!("{:016x}", region.program),
            ]
        })
        .collect();
    table(&["REGION", "SIZE", "PAGES", "PLACEMENT", "USERS", "MADE BY PROGRAM"], &rows)
}

fn placement(placement: Placement) -> String {
    match placement {
        Placement::FirstTouch => "first touch".to_owned(),
        Placement::Block => "block".to_owned(),
        Placement::Cyclic => "cyclic".to_owned(),
        Placement::OnNode(node) => format!("on {node}"),
    }
}
