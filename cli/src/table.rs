//! Tables and numbers that people can read.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

/// Columns of an output that is no terminal.
const WIDTH: u16 = 80;

/// Lays rows out in columns under a heading; numbers to the right, text to the left. The first column's cells
/// go on in further lines where the terminal, or 80 columns, have no room for them.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_col);
    lay_out(heading, rows, if size == 0 { WIDTH } else { size })
}

fn lay_out(heading: &[&str], rows: &[Vec<String>], width: u16) -> String {
    let numeric = |column: usize| {
        let cells = rows.iter().map(|row| &row[column]);
        cells.into_iter().all(|cell| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit()))
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.set_header(heading.iter().map(Cell::new));
    rows.iter().for_each(|row| {
        table.add_row(row);
    });
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if place + 1 == heading.len() { 0 } else { 2 }));
        if place > 0 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if numeric(place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Text of at most `max` characters: a longer one loses its end.
pub(crate) fn short(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// Bytes with a binary unit.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A count with at most four digits, in thousands beyond.
pub(crate) fn count(n: f64) -> String {
    scaled(n, 1000.0, &["", "k", "M", "G", "T"])
}

/// Microseconds as a time with its unit.
pub(crate) fn micros(n: u64) -> String {
    scaled(n as f64, 1000.0, &["us", "ms", "s"])
}

fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= base - 0.05 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 999.95);
    format!("{value:.digits$} {}", units[unit]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(row: &[&str]) -> Vec<String> {
        row.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn numbers_stand_right_and_text_left() {
        let rows = [cells(&["a", "1"]), cells(&["bcd", "100"])];
        assert_eq!(lay_out(&["name", "n"], &rows, 80), "name    n\na       1\nbcd   100\n");
    }

    #[test]
    fn a_long_name_goes_on_in_the_next_line() {
        let name = "n".repeat(30);
        let text = lay_out(&["NAME", "SIZE", "USERS"], &[cells(&[&name, "1.5 MiB", "12"])], 30);
        assert!(text.lines().all(|line| line.chars().count() <= 30), "{text}");
        assert_eq!(text.matches('n').count(), 30, "{text}");
        assert!(text.lines().any(|line| line.contains("1.5 MiB") && line.contains("12")), "{text}");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([bytes(512), bytes(3 << 19), bytes(1023 << 20)], ["512 B", "1.5 MiB", "1023 MiB"]);
        assert_eq!(
            [count(0.0), count(999.0), count(1500.0), count(999_999.0)],
            ["0", "999", "1.5 k", "1.0 M"]
        );
        assert_eq!([micros(64), micros(1024), micros(8_388_608)], ["64 us", "1.0 ms", "8.4 s"]);
        assert_eq!(short("matmul", 6), "matmul");
        assert_eq!(short("matmul-large", 8), "matmul-…");
    }
}
