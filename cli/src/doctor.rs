//! `doctor`: the library's findings about this host, each with its mend.

use pagemesh::settings::Settings;
use pagemesh::{Check, Health};

use crate::trouble::{FAILED, Trouble};

/// Prints the findings; the exit code tells whether programs can run here.
pub(crate) fn show(json: bool) -> Result<i32, Trouble> {
    let settings = Settings::from_env()?;
    let checks = pagemesh::doctor(settings.arena_base, settings.arena_size);
    if json {
        let text = serde_json::to_string_pretty(&checks).map_err(|e| Trouble::failed(e.to_string()))?;
        println!("{text}");
    } else {
        checks.iter().for_each(print);
    }
    let bad = checks.iter().any(|check| matches!(check.health, Health::Bad));
    Ok(if bad { FAILED } else { 0 })
}

fn print(check: &Check) {
    let mark = match check.health {
        Health::Ok => "good   ",
        Health::Limited => "limited",
        Health::Bad => "BAD    ",
    };
    println!("{mark}  {:<24}  {}", check.name, check.found);
    if let Some(mend) = &check.mend {
        println!("{:35}mend: {mend}", "");
    }
}
