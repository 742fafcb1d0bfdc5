//! Aligned columns, and numbers for people.

use std::fmt::Write as _;

/// Where a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under a header. Cells may hold what a client sent: whatever could steer a terminal is escaped.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[(&str, Align)]) -> Self {
        Self {
            columns: header.iter().map(|(_, align)| *align).collect(),
            rows: vec![header.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    /// Adds a row; an empty cell shows as `-`.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let clean = |cell: String| if cell.is_empty() { "-".to_owned() } else { printable(&cell) };
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    pub(crate) fn render(&self) -> String {
        // Every character counts as one cell; wide ones shift their own row only.
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| self.rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.columns).zip(&widths) {
                let gap = if line.is_empty() { "" } else { "  " };
                // Writing to a string cannot fail.
                let _ = match align {
                    Align::Left => write!(line, "{gap}{cell:<width$}"),
                    Align::Right => write!(line, "{gap}{cell:>width$}"),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values, one a line; what has no value is left out.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let there = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = there().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in there() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<width$}  {}", printable(name), printable(value));
    }
    text
}

/// `1 session`, `2 sessions`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Bytes with a binary unit: `999 B`, `1.2 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let power = (number.ilog2() / 10) as usize;
    // Tenths, rounded down: a counter never shows more than there is.
    let tenths = (u128::from(number) * 10) >> (10 * power);
    format!("{}.{} {}", tenths / 10, tenths % 10, units[power - 1])
}

/// Seconds in the two largest units: `45s`, `5m 3s`, `2d 7h`.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Control characters, and those that change the direction of text, as escapes.
pub(crate) fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if steers(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("BYTES", Align::Right), ("CLIENT", Align::Left)]);
        table.row(["älice".into(), "1".into(), String::new()]);
        table.row(["b".into(), "1234567".into(), "2.6\u{1b}[2J\n\u{202e}".into()]);
        assert_eq!(
            table.render(),
            "NAME     BYTES  CLIENT\n\
             älice        1  -\n\
             b      1234567  2.6\\u{1b}[2J\\n\\u{202e}\n"
        );
    }

    #[test]
    fn numbers_are_for_people() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1_300_000, "1.2 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3599, "59m 59s"), (3600, "1h 0m"), (90_061, "1d 1h")]
        {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!((count(1, "token"), count(2, "token")), ("1 token".to_owned(), "2 tokens".to_owned()));
    }
}
