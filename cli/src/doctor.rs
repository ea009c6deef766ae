//! `doctor`: the library's findings about this host, each with its mend.

use pagemesh::settings::Settings;
use pagemesh::{Check, Health};

use crate::out;
use crate::trouble::{FAILED, Trouble};

/// Prints the findings; the exit code tells whether programs can run here.
pub(crate) fn show(json: bool) -> Result<i32, Trouble> {
    let settings = Settings::from_env()?;
    let checks = pagemesh::doctor(settings.arena_base, settings.arena_size);
    if json {
        out::json(&checks)?;
    } else {
        checks.iter().try_for_each(print)?;
    }
    let bad = checks.iter().any(|check| matches!(check.health, Health::Bad));
    Ok(if bad { FAILED } else { 0 })
}

fn print(check: &Check) -> Result<(), Trouble> {
    let mark = match check.health {
        Health::Ok => "good   ",
        Health::Limited => "limited",
        Health::Bad => "BAD    ",
    };
    out::line(format_args!("{mark}  {:<24}  {}", check.name, check.found))?;
    if let Some(mend) = &check.mend {
        out::line(format_args!("{:35}mend: {mend}", ""))?;
    }
    Ok(())
}
