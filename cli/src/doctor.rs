//! `doctor`: whether programs can run here, and on the hosts of a file: a verdict, what it rests on, and a mend for
//! each bad finding. It changes nothing and needs no cluster.

mod hosts;
mod machine;
mod peer;

use std::path::Path;

use pagemesh::settings::Settings;
use pagemesh::{Check, Health};
use serde::Serialize;

use crate::args::Doctor;
use crate::trouble::{FAILED, Trouble};
use crate::{hosts as hosts_file, out};

pub(crate) use peer::serve as serve_peer;

/// The findings about one host.
#[derive(Serialize)]
struct Report {
    /// None: this host.
    host: Option<String>,
    checks: Vec<Check>,
}

/// The verdict that follows from all findings.
#[derive(Serialize)]
struct Verdict {
    /// The worst of all findings.
    health: Health,
    /// The sentence for people.
    verdict: String,
}

/// Prints the verdict and the findings; the exit code is 0 if programs can run, 1 if not.
pub(crate) fn show(doctor: &Doctor) -> Result<i32, Trouble> {
    // A wrong file is an error before anything is looked at.
    let hosts = doctor.hosts.as_deref().map(hosts_file::read).transpose()?.unwrap_or_default();
    let mut reports = vec![Report { host: None, checks: this_host()? }];
    let others = hosts.into_iter().map(|line| line.host).filter(|host| !hosts_file::is_local(host));
    reports.extend(hosts::examine(others.collect()));
    let verdict = Verdict::of(&reports);
    if doctor.json {
        #[derive(Serialize)]
        struct Everything<'a> {
            #[serde(flatten)]
            verdict: &'a Verdict,
            hosts: &'a [Report],
        }
        out::json(&Everything { verdict: &verdict, hosts: &reports })?;
    } else {
        out::text(&text(&verdict, &reports))?;
    }
    Ok(if verdict.health == Health::Bad { FAILED } else { 0 })
}

/// Looks at this host: the library's findings, then the machine's.
fn this_host() -> Result<Vec<Check>, Trouble> {
    let settings = Settings::from_env()?;
    let mut checks = pagemesh::doctor(settings.arena_base, settings.arena_size);
    checks.extend(machine::examine(Path::new("/")));
    Ok(checks)
}

impl Verdict {
    fn of(reports: &[Report]) -> Verdict {
        let because = |wanted: Health| {
            let of_host = |report: &Report| {
                let host = report.host.as_ref().map_or_else(String::new, |host| format!("{host}: "));
                let found = report.checks.iter().filter(|check| check.health == wanted);
                found.map(|check| format!("{host}{}: {}", check.name, check.found)).collect::<Vec<_>>()
            };
            reports.iter().flat_map(of_host).collect::<Vec<_>>().join("; ")
        };
        let (bad, limited) = (because(Health::Bad), because(Health::Limited));
        let (health, verdict) = match (bad.is_empty(), limited.is_empty()) {
            (false, _) => (Health::Bad, format!("will not work: {bad}")),
            (true, false) => (Health::Limited, format!("usable, slower because {limited}")),
            (true, true) => (Health::Ok, "ready".to_owned()),
        };
        Verdict { health, verdict }
    }
}

fn text(verdict: &Verdict, reports: &[Report]) -> String {
    let mut text = format!("{}\n", verdict.verdict);
    for Report { host, checks } in reports {
        text.push_str(&format!("\n{}\n", host.as_deref().unwrap_or("this host")));
        for check in checks {
            let (mark, mend) = match check.health {
                Health::Ok => ("good", "mend"),
                Health::Note => ("note", "to change it"),
                Health::Limited => ("slower", "mend"),
                Health::Bad => ("BAD", "mend"),
            };
            text.push_str(&format!("  {mark:<7} {}: {}\n", check.name, check.found));
            if let Some(advice) = &check.mend {
                text.push_str(&format!("          {mend}: {advice}\n"));
            }
        }
    }
    text
}

/// A finding that is as it should be.
fn good(name: &str, found: impl Into<String>) -> Check {
    Check { name: name.to_owned(), health: Health::Ok, found: found.into(), mend: None }
}

/// A finding with its mend.
fn ill(health: Health, name: &str, found: impl Into<String>, mend: impl Into<String>) -> Check {
    Check { name: name.to_owned(), health, found: found.into(), mend: Some(mend.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(host: Option<&str>, checks: Vec<Check>) -> Report {
        Report { host: host.map(str::to_owned), checks }
    }

    #[test]
    fn the_verdict_is_that_of_the_worst_finding_and_names_it() {
        let ok = || report(None, vec![good("cores", "8")]);
        let note = || report(None, vec![ill(Health::Note, "system calls", "only by io", "root")]);
        let slow = || report(Some("red"), vec![ill(Health::Limited, "cores", "1", "more")]);
        let bad = || report(Some("blue"), vec![ill(Health::Bad, "ssh", "no", "a key")]);
        let verdict = |reports: &[Report]| Verdict::of(reports).verdict;
        assert_eq!(verdict(&[ok(), note()]), "ready");
        assert_eq!(verdict(&[ok(), slow()]), "usable, slower because red: cores: 1");
        assert_eq!(verdict(&[slow(), bad()]), "will not work: blue: ssh: no");
        let text = text(&Verdict::of(&[bad()]), &[bad()]);
        assert_eq!(text, "will not work: blue: ssh: no\n\nblue\n  BAD     ssh: no\n          mend: a key\n");
    }
}
