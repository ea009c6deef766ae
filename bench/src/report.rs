//! Figures, their floors, and how both are printed.
//!
//! A round gives one figure and its floor. Printed are the medians over the rounds, and the median,
//! least and greatest of the rounds' ratios `figure / floor`: whether large or small is good follows
//! from the unit.

use serde::Serialize;

/// One figure over the rounds.
pub(crate) struct Series {
    name: String,
    unit: &'static str,
    rounds: Vec<(f64, Option<f64>)>,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Figure<'a> {
    name: &'a str,
    value: f64,
    unit: &'a str,
    floor: Option<f64>,
    ratio: Option<f64>,
    min_ratio: Option<f64>,
    max_ratio: Option<f64>,
}

/// Where figures go.
pub(crate) struct Report {
    json: bool,
    head_is_due: bool,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str) -> Series {
        Series { name: name.into(), unit, rounds: Vec::new() }
    }

    /// A round's figure, and the floor that was measured beside it.
    pub(crate) fn push(&mut self, value: f64, floor: f64) {
        self.rounds.push((value, Some(floor)));
    }

    /// A round of a figure that has no floor.
    pub(crate) fn push_alone(&mut self, value: f64) {
        self.rounds.push((value, None));
    }

    fn figure(&self) -> Figure<'_> {
        let values: Vec<f64> = self.rounds.iter().map(|round| round.0).collect();
        let floors: Vec<f64> = self.rounds.iter().filter_map(|round| round.1).collect();
        let ratios: Vec<f64> =
            self.rounds.iter().filter_map(|(value, floor)| Some(value / (*floor)?)).collect();
        let some = |share| (!ratios.is_empty()).then(|| quantile(&ratios, share));
        Figure {
            name: &self.name,
            value: quantile(&values, 0.5),
            unit: self.unit,
            floor: (!floors.is_empty()).then(|| quantile(&floors, 0.5)),
            ratio: some(0.5),
            min_ratio: some(0.0),
            max_ratio: some(1.0),
        }
    }
}

impl Report {
    pub(crate) fn new(json: bool) -> Report {
        Report { json, head_is_due: !json }
    }

    /// Says what follows, to people.
    pub(crate) fn title(&mut self, text: &str) {
        if !self.json {
            println!("\n{text}");
            self.head_is_due = true;
        }
    }

    /// A remark, to people: on standard error under `--json`, so that lines stay objects.
    pub(crate) fn note(&mut self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            println!("  {text}");
        }
    }

    /// Prints a figure.
    pub(crate) fn add(&mut self, series: &Series) {
        if series.rounds.is_empty() {
            return;
        }
        let figure = series.figure();
        if self.json {
            println!("{}", serde_json::to_string(&figure).expect("numbers and texts"));
            return;
        }
        if std::mem::take(&mut self.head_is_due) {
            let (name, figure, floor) = ("name", "figure", "floor");
            println!("  {name:<38} {figure:>10} {floor:>10} {:<8} {:>7}  min - max", "unit", "ratio");
        }
        let floor = figure.floor.map_or_else(|| "-".to_owned(), number);
        let ratio = match (figure.ratio, figure.min_ratio, figure.max_ratio) {
            (Some(ratio), Some(min), Some(max)) => format!("{ratio:>7.2}  {min:.2} - {max:.2}"),
            _ => format!("{:>7}", "-"),
        };
        println!("  {:<38} {:>10} {floor:>10} {:<8} {ratio}", figure.name, number(figure.value), figure.unit);
    }
}

/// The value below which `share` of the samples lie.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (share * (sorted.len() as f64 - 1.0)).round();
    sorted.get(at as usize).copied().unwrap_or(f64::NAN)
}

/// Three digits, more only before the point.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut series = Series::new("a", "us");
        for (value, floor) in [(10.0, 10.0), (30.0, 10.0), (40.0, 20.0)] {
            series.push(value, floor);
        }
        let figure = series.figure();
        assert_eq!((figure.value, figure.floor), (30.0, Some(10.0)));
        assert_eq!((figure.min_ratio, figure.ratio, figure.max_ratio), (Some(1.0), Some(2.0), Some(3.0)));
    }

    #[test]
    fn quantiles_are_samples() {
        let samples = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!([0.0, 0.5, 1.0].map(|share| quantile(&samples, share)), [1.0, 3.0, 5.0]);
    }
}
