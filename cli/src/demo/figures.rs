//! The demo's figures as lines for people and as JSON.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::RANKS;
use super::counter::Counter;
use super::fault::FaultCost;
use super::list::List;
use super::product::Product;
use super::speed_up::SpeedUp;
use crate::process::this_executable;
use crate::table::bytes;
use crate::trouble::{FAILED, Trouble};

/// All that the demo found.
#[derive(Serialize)]
pub(super) struct Figures {
    pub(super) ranks: u32,
    pub(super) cores: usize,
    pub(super) counter: Counter,
    pub(super) list: List,
    pub(super) product: Product,
    pub(super) fault: FaultCost,
    pub(super) speed_up: SpeedUp,
    /// Whether every result was right.
    pub(super) ok: bool,
}

impl Figures {
    pub(super) fn new(
        cores: usize,
        counter: Counter,
        list: List,
        product: Product,
        fault: FaultCost,
        speed_up: SpeedUp,
    ) -> Figures {
        let ok = counter.ok() && list.ok() && product.ok();
        Figures { ranks: RANKS, cores, counter, list, product, fault, speed_up, ok }
    }

    /// The exit code of the demo.
    pub(super) fn code(&self) -> i32 {
        if self.ok { 0 } else { FAILED }
    }
}

/// The first line.
pub(super) fn title(ranks: u32, cores: usize) -> String {
    let here = match cores {
        1 => "   (1 core here: the processes take turns)".to_owned(),
        cores if cores < ranks as usize => format!("   ({cores} cores here: the processes take turns)"),
        cores => format!("   ({cores} cores here)"),
    };
    format!("{ranks} processes, one memory. No MPI, no root.{here}")
}

/// A line with a result: what, of what kind, at what price, and whether it is right.
pub(super) fn row(what: &str, how: &str, cost: &str, verdict: &str) -> String {
    format!("{what:<31} {how:<27} {cost:<15} {verdict}")
}

/// `ok`, or what is wrong.
pub(super) fn verdict(ok: bool, wrong: impl FnOnce() -> String) -> String {
    if ok { "ok".to_owned() } else { format!("WRONG: {}", wrong()) }
}

/// The cost of the product's pages, beside the figures that frame it.
pub(super) struct Costs<'a> {
    pub(super) fault: &'a FaultCost,
    pub(super) product: &'a Product,
}

impl fmt::Display for Costs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let udp = match self.fault.udp_round_trip_p50_us {
            Some(us) => format!("a UDP round trip here: {us:.0} us"),
            None => "UDP datagrams on 127.0.0.1 did not come back".to_owned(),
        };
        let size = bytes(self.product.pages_moved * 4096);
        let [pages, ahead, faults] =
            [self.product.pages_moved, self.product.pages_ahead, self.product.faults].map(grouped);
        writeln!(f, "     a remote page fault: {:.0} us p50 ({udp})", self.fault.fault_p50_us)?;
        writeln!(f, "     pages moved for C: {pages} ({size}) by {faults} page faults;")?;
        write!(f, "     {ahead} of {pages} pages came ahead of their fault")
    }
}

/// A number with its digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let comma = |place: usize| if place > 0 && (digits.len() - place).is_multiple_of(3) { "," } else { "" };
    digits.char_indices().map(|(place, digit)| format!("{}{digit}", comma(place))).collect()
}

/// The last line: commands as they can be typed here.
pub(super) fn next_steps() -> Result<String, Trouble> {
    let command = typed(&this_executable()?);
    Ok(["new my-program", "doctor", "--help"].map(|next| format!("{command} {next}")).join("  |  "))
        .map(|commands| format!("Next:  {commands}"))
}

/// How this command is called from here: by its name if `PATH` leads to it, or else by its path.
fn typed(this: &Path) -> String {
    let name = this.file_name().unwrap_or(this.as_os_str());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let by_name = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if by_name.is_some_and(|file| std::fs::canonicalize(file).is_ok_and(|file| file == this)) {
        return name.to_string_lossy().into_owned();
    }
    let here = std::env::current_dir().ok();
    let shorter = here.as_deref().and_then(|here| this.strip_prefix(here).ok());
    shorter.unwrap_or(this).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_processes_than_cores_take_turns() {
        assert!(title(4, 2).ends_with("(2 cores here: the processes take turns)"));
        assert!(title(4, 1).ends_with("(1 core here: the processes take turns)"));
        assert!(title(4, 8).ends_with("(8 cores here)"));
    }

    /// Figures of a demo whose counter went to `found`, of 0.
    fn figures(found: u64) -> Figures {
        let counter = Counter { found, ..Counter::default() };
        let speed_up = SpeedUp::DoesNotPay { why: "there is 1 core".into() };
        let (list, product, fault) = (List::default(), Product::default(), FaultCost::default());
        Figures::new(2, counter, list, product, fault, speed_up)
    }

    #[test]
    fn a_wrong_result_makes_the_exit_code_and_the_json_say_so() {
        assert_eq!((figures(0).code(), figures(1).code()), (0, FAILED));
        for (found, ok) in [(0, true), (1, false)] {
            let json = serde_json::to_value(figures(found)).expect("JSON");
            assert_eq!(json["ok"], ok, "{json}");
            assert_eq!(json["speed_up"]["outcome"], "does_not_pay", "{json}");
        }
    }

    #[test]
    fn digits_stand_in_groups_of_three() {
        assert_eq!([0, 12, 123, 1_234, 1_234_567].map(grouped), ["0", "12", "123", "1,234", "1,234,567"]);
    }

    #[test]
    fn a_command_that_is_not_in_the_path_is_named_by_its_path() {
        assert_eq!(typed(Path::new("/no/such/place/pagemesh")), "/no/such/place/pagemesh");
        let shell = std::fs::canonicalize("/bin/sh").expect("a shell");
        let typed = typed(&shell);
        assert_eq!(Some(typed.as_ref()), shell.file_name().map(|name| name.to_string_lossy()).as_deref());
    }
}
