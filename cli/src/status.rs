//! `cluster status`: the members and regions as the coordinator sees them now.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dsm::admin::{Admin, ClusterStatus};

use crate::args::Status;
use crate::regions;
use crate::signals::Signals;
use crate::table::{bytes, table};
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};

/// Between two pictures of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Prints the cluster's state, once or until Ctrl-C.
pub(crate) fn show(state_dir: Option<PathBuf>, show: &Status) -> Result<i32, Trouble> {
    let signals = if show.watch { Some(Signals::install()?) } else { None };
    let mut admin = regions::connect(state_dir)?;
    loop {
        let text = picture(&mut admin, show.json)?;
        let Some(signals) = &signals else {
            print!("{text}");
            return Ok(0);
        };
        // Home, the picture, and nothing of the older one behind it.
        if show.json {
            print!("{text}")
        } else {
            print!("\x1b[H{text}\x1b[J")
        }
        let until = Instant::now() + WATCH_INTERVAL;
        if !wait(&[((), signals.as_fd(), Interest::Read)], Some(until))?.is_empty() {
            return Ok(0);
        }
    }
}

fn picture(admin: &mut Admin, json: bool) -> Result<String, Trouble> {
    let cluster = admin.cluster()?;
    if json {
        let text = serde_json::to_string_pretty(&cluster).map_err(|e| Trouble::failed(e.to_string()))?;
        return Ok(text + "\n");
    }
    Ok(describe(&cluster))
}

fn describe(cluster: &ClusterStatus) -> String {
    let rows: Vec<Vec<String>> = cluster
        .members
        .iter()
        .map(|member| {
            let mut row = vec![
                format!("{}", member.id.0),
                member.name.clone(),
                member.addr.to_string(),
                member.pid.to_string(),
            ];
            match &member.status {
                Some(status) => row.extend([
                    status.resident_pages.to_string(),
                    status.faults_served.to_string(),
                    bytes(status.bytes),
                    status.retransmissions.to_string(),
                    status.socket_drops.to_string(),
                    status.rtt_us.to_string(),
                ]),
                None => row.extend(std::iter::repeat_n("-".to_owned(), 6)),
            }
            row
        })
        .collect();
    let heading =
        ["NODE", "WHAT", "ADDRESS", "PID", "PAGES", "SERVED", "BYTES", "RETRANSMITTED", "DROPPED", "RTT us"];
    let mut text = table(&heading, &rows);
    text.push('\n');
    if cluster.regions.is_empty() {
        text.push_str("no regions\n");
    } else {
        text.push_str(&regions::show(&cluster.regions));
    }
    if cluster.lost_pages > 0 {
        text.push_str(&format!("\n{} pages were lost with nodes that died\n", cluster.lost_pages));
    }
    text
}
