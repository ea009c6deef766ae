//! `doctor`: the library's findings about this host, each with its mend.

use dsm::{Check, Verdict};

use crate::trouble::{FAILED, Trouble};

/// Prints the findings; the exit code tells whether programs can run here.
pub(crate) fn show(json: bool) -> Result<i32, Trouble> {
    let checks = dsm::doctor();
    if json {
        let text = serde_json::to_string_pretty(&checks).map_err(|e| Trouble::failed(e.to_string()))?;
        println!("{text}");
    } else {
        checks.iter().for_each(print);
    }
    let bad = checks.iter().any(|check| matches!(check.verdict, Verdict::Bad));
    Ok(if bad { FAILED } else { 0 })
}

fn print(check: &Check) {
    let mark = match check.verdict {
        Verdict::Good => "good   ",
        Verdict::Limited => "limited",
        Verdict::Bad => "BAD    ",
    };
    println!("{mark}  {:<24}  {}", check.name, check.found);
    if !check.mend.is_empty() {
        println!("{:35}mend: {}", "", check.mend);
    }
}
