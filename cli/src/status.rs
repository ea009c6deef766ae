//! `status`: the members and regions as the coordinator sees them now.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pagemesh::admin::{Admin, ClusterStatus, MemberStatus, NodeStatus};
use pagemesh::membership::Kind;

use crate::args::Status;
use crate::signals::Signals;
use crate::table::{bytes, table};
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};
use crate::{out, regions};

/// Between two pictures of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Prints the cluster's state, once or until Ctrl-C.
pub(crate) fn show(state_dir: Option<PathBuf>, show: &Status) -> Result<i32, Trouble> {
    let signals = if show.watch { Some(Signals::install()?) } else { None };
    let admin = regions::connect(state_dir)?;
    loop {
        let text = picture(&admin, show.json)?;
        let Some(signals) = &signals else {
            out::text(&text)?;
            return Ok(0);
        };
        // Home, the picture, and nothing of the older one behind it.
        if show.json {
            out::text(&text)?
        } else {
            out::text(&format!("\x1b[H{text}\x1b[J"))?
        }
        let until = Instant::now() + WATCH_INTERVAL;
        if !wait(&[((), signals.as_fd(), Interest::Read)], Some(until))?.is_empty() {
            return Ok(0);
        }
    }
}

fn picture(admin: &Admin, json: bool) -> Result<String, Trouble> {
    let cluster = admin.cluster()?;
    if json {
        let text = serde_json::to_string_pretty(&cluster).map_err(|e| Trouble::failed(e.to_string()))?;
        return Ok(text + "\n");
    }
    Ok(describe(&cluster))
}

fn describe(cluster: &ClusterStatus) -> String {
    let heading =
        ["NODE", "WHAT", "ADDRESS", "PID", "PAGES", "SERVED", "BYTES", "SENT AGAIN", "DROPPED", "RTT us"];
    let rows: Vec<Vec<String>> = cluster.members.iter().map(row).collect();
    let mut text = table(&heading, &rows);
    text.push('\n');
    if cluster.regions.is_empty() {
        text.push_str("no regions\n");
    } else {
        text.push_str(&regions::show(&cluster.regions));
    }
    for death in &cluster.deaths {
        text.push_str(&format!("\ndied: {death}"));
    }
    let lost: u64 = cluster.members.iter().flat_map(|m| &m.status).map(|s| s.lost_page_count).sum();
    if lost > 0 {
        text.push_str(&format!("\n{lost} pages were lost with nodes that died\n"));
    }
    text
}

fn row(member: &MemberStatus) -> Vec<String> {
    let what = match member.kind {
        Kind::Daemon => "daemon".to_owned(),
        Kind::Rank { rank, ranks, .. } => format!("{} {rank}/{ranks}", member.name),
    };
    let mut row = vec![member.id.0.to_string(), what, member.addr.to_string(), member.pid.to_string()];
    match &member.status {
        Some(status) => row.extend([
            format!("{}/{}", status.resident_pages, status.resident_limit),
            status.faults_served.to_string(),
            bytes(status.net.bytes_in + status.net.bytes_out),
            status.net.fragments_retransmitted.to_string(),
            status.socket_drops.to_string(),
            round_trip(status),
        ]),
        // It did not answer in time.
        None => row.extend(std::iter::repeat_n("-".to_owned(), 6)),
    }
    row
}

/// The mean over the sessions of a node.
fn round_trip(status: &NodeStatus) -> String {
    let sessions = status.peers.len();
    if sessions == 0 {
        return "-".to_owned();
    }
    format!("{:.0}", status.peers.iter().map(|peer| peer.rtt_us).sum::<f64>() / sessions as f64)
}
