//! Tables as psql draws them.
//!
//! Takes texts of cells row by row, gives lines. Widths come from the header and the first rows
//! ([`TABLE_ROWS_MAX`], [`TABLE_BYTES_MAX`]), so a result of any length is drawn in bounded memory; a later cell that
//! is wider is drawn whole and moves the rest of its line. Control characters are written out, as texts to moderate
//! may hold anything and a terminal obeys.

use crate::config::{TABLE_BYTES_MAX, TABLE_ROWS_MAX};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A column's head.
#[derive(Debug)]
pub(super) struct Column {
    title: String,
    right: bool,
    width: usize,
}

impl Column {
    /// `right` puts values to the right, as numbers are.
    pub fn new(title: &str, right: bool) -> Column {
        let title = printable(title).into_owned();
        let width = width(&title);
        Column {
            title,
            right,
            width,
        }
    }
}

/// A table that is being drawn.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    /// One record a block, one column a line.
    expanded: bool,
    /// Width of the widest cell, whatever its column.
    widest: usize,
    rows: Vec<Vec<String>>,
    bytes: usize,
    /// Rows drawn before those in `rows`.
    drawn: u64,
    begun: bool,
}

impl Table {
    /// A table without rows yet; nothing is written.
    pub fn new(columns: Vec<Column>, expanded: bool) -> Table {
        Table {
            columns,
            expanded,
            widest: 0,
            rows: Vec::new(),
            bytes: 0,
            drawn: 0,
            begun: false,
        }
    }

    /// Adds a row, with one text for each column; draws when enough rows are known.
    pub fn row(&mut self, cells: Vec<String>, out: &mut dyn Write) -> io::Result<()> {
        let cells: Vec<String> = cells
            .into_iter()
            .map(|cell| match printable(&cell) {
                Cow::Owned(text) => text,
                Cow::Borrowed(_) => cell,
            })
            .collect();
        self.bytes += cells.iter().map(String::len).sum::<usize>();
        self.rows.push(cells);
        if self.rows.len() >= TABLE_ROWS_MAX || self.bytes >= TABLE_BYTES_MAX {
            self.draw(out)?;
        }
        Ok(())
    }

    /// Draws what is left, and the count of rows.
    pub fn end(mut self, out: &mut dyn Write) -> io::Result<()> {
        self.draw(out)?;
        match self.drawn {
            n if self.expanded && n > 0 => writeln!(out),
            1 => writeln!(out, "(1 row)\n"),
            n => writeln!(out, "({n} rows)\n"),
        }
    }

    fn draw(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if !self.begun {
            self.begun = true;
            for row in &rows {
                for (column, cell) in self.columns.iter_mut().zip(row) {
                    let wide = width(cell);
                    column.width = column.width.max(wide);
                    self.widest = self.widest.max(wide);
                }
            }
            if !self.expanded {
                self.head(out)?;
            }
        }
        for row in rows {
            self.drawn += 1;
            let lines = match self.expanded {
                true => self.record(&row),
                false => self.line(&row),
            };
            out.write_all(lines.as_bytes())?;
        }
        Ok(())
    }

    fn head(&self, out: &mut dyn Write) -> io::Result<()> {
        let titles: Vec<Vec<&str>> = self
            .columns
            .iter()
            .map(|column| column.title.split('\n').collect())
            .collect();
        let height = titles.iter().map(Vec::len).max().unwrap_or(0);
        let mut text = String::new();
        for at in 0..height {
            for (index, (column, lines)) in self.columns.iter().zip(&titles).enumerate() {
                text.push_str(if index > 0 { "| " } else { " " });
                let line = lines.get(at).copied().unwrap_or("");
                let room = column.width.saturating_sub(line.width());
                pad(&mut text, room / 2);
                text.push_str(line);
                pad(&mut text, room.div_ceil(2));
                text.push(if at + 1 < lines.len() { '+' } else { ' ' });
            }
            text.push('\n');
        }
        for (index, column) in self.columns.iter().enumerate() {
            text.push_str(if index > 0 { "+" } else { "" });
            text.extend(std::iter::repeat_n('-', column.width + 2));
        }
        text.push('\n');
        out.write_all(text.as_bytes())
    }

    /// A row; a cell of several lines has a `+` after each but its last.
    fn line(&self, cells: &[String]) -> String {
        let cells: Vec<Vec<&str>> = cells
            .iter()
            .map(|cell| cell.split('\n').collect())
            .collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        let last = self.columns.len().saturating_sub(1);
        let mut text = String::new();
        for at in 0..height {
            for (index, (column, lines)) in self.columns.iter().zip(&cells).enumerate() {
                text.push_str(if index > 0 { "| " } else { " " });
                let more = at + 1 < lines.len();
                let line = lines.get(at).copied();
                let room = column
                    .width
                    .saturating_sub(line.map_or(0, UnicodeWidthStr::width));
                if column.right && line.is_some() {
                    pad(&mut text, room);
                }
                text.push_str(line.unwrap_or(""));
                // Nothing after the last column, so that lines end where their words do.
                if (index < last || more) && !(column.right && line.is_some()) {
                    pad(&mut text, room);
                }
                match more {
                    true => text.push('+'),
                    false if index < last => text.push(' '),
                    false => {}
                }
            }
            text.push('\n');
        }
        text
    }

    fn record(&self, cells: &[String]) -> String {
        let head = self
            .columns
            .iter()
            .map(|c| width(&c.title))
            .max()
            .unwrap_or(0);
        let body = self.widest;
        let mut text = format!("-[ RECORD {} ]", self.drawn);
        // The rule has a + where the lines below have a |, unless the record's number is already there.
        for at in text.len()..head + body + 3 {
            text.push(if at == head + 1 { '+' } else { '-' });
        }
        text.push('\n');
        for (column, cell) in self.columns.iter().zip(cells) {
            let mut titles = column.title.split('\n');
            let mut lines = cell.split('\n').peekable();
            loop {
                let (title, line) = (titles.next(), lines.next());
                if title.is_none() && line.is_none() {
                    break;
                }
                let title = title.unwrap_or("");
                text.push_str(title);
                pad(&mut text, head - title.width());
                text.push_str(" |");
                if let Some(line) = line {
                    text.push(' ');
                    text.push_str(line);
                    if lines.peek().is_some() {
                        pad(&mut text, body.saturating_sub(line.width()));
                        text.push('+');
                    }
                }
                text.push('\n');
            }
        }
        text
    }
}

fn pad(text: &mut String, columns: usize) {
    text.extend(std::iter::repeat_n(' ', columns));
}

/// Of the widest line, in columns of a terminal.
fn width(text: &str) -> usize {
    text.split('\n')
        .map(UnicodeWidthStr::width)
        .max()
        .unwrap_or(0)
}

/// The text with tabs as spaces and other control characters written out, line feeds kept.
fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| c.is_control() && c != '\n') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let mut at = 0;
    for c in text.chars() {
        let before = out.len();
        match c {
            '\n' => {
                out.push('\n');
                at = 0;
                continue;
            }
            '\t' => pad(&mut out, 8 - at % 8),
            '\r' => out.push_str("\\r"),
            c if c.is_ascii_control() => _ = write!(out, "\\x{:02X}", u32::from(c)),
            c if c.is_control() => _ = write!(out, "\\u{:04X}", u32::from(c)),
            c => {
                out.push(c);
                at += c.width().unwrap_or(0);
                continue;
            }
        }
        at += out.len() - before;
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expanded: bool, columns: &[(&str, bool)], rows: &[&[&str]], expected: &str) {
        let columns = columns
            .iter()
            .map(|(title, right)| Column::new(title, *right))
            .collect();
        let mut table = Table::new(columns, expanded);
        let mut out = Vec::new();
        for row in rows {
            let cells = row.iter().map(|cell| (*cell).to_owned()).collect();
            table.row(cells, &mut out).unwrap();
        }
        table.end(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn tables_look_like_psqls() {
        check(
            false,
            &[("id", true), ("label", false), ("n", true)],
            &[
                &["1", "allowed", "5"],
                &["20", "", "1000"],
                &["", "hate", ""],
            ],
            concat!(
                " id |  label  |  n   \n",
                "----+---------+------\n",
                "  1 | allowed |    5\n",
                " 20 |         | 1000\n",
                "    | hate    |     \n",
                "(3 rows)\n\n"
            ),
        );
        check(
            false,
            &[("?column?", true)],
            &[&["1"]],
            " ?column? \n----------\n        1\n(1 row)\n\n",
        );
        check(
            false,
            &[("a", false), ("b", false)],
            &[],
            " a | b \n---+---\n(0 rows)\n\n",
        );
    }

    #[test]
    fn cells_of_several_lines_are_continued() {
        check(
            false,
            &[("a", false), ("b", false), ("c", true)],
            &[&["one\ntwo", "x", "1"], &["y", "p\nlonger\n", "2"]],
            concat!(
                "  a  |   b    | c \n",
                "-----+--------+---\n",
                " one+| x      | 1\n",
                " two |        | \n",
                " y   | p     +| 2\n",
                "     | longer+| \n",
                "     |        | \n",
                "(2 rows)\n\n"
            ),
        );
        check(
            false,
            &[("head\nline", false)],
            &[&["a\nb"]],
            " head+\n line \n------\n a   +\n b\n(1 row)\n\n",
        );
    }

    #[test]
    fn widths_are_those_of_a_terminal() {
        check(
            false,
            &[("text", false), ("n", true)],
            &[&["日本語", "1"], &["e\u{301}", "2"], &["🙂", "3"]],
            concat!(
                "  text  | n \n",
                "--------+---\n",
                " 日本語 | 1\n",
                " e\u{301}      | 2\n",
                " 🙂     | 3\n",
                "(3 rows)\n\n"
            ),
        );
    }

    #[test]
    fn control_characters_do_nothing_to_the_terminal() {
        let cases = [
            ("plain é\n", "plain é\n"),
            ("a\tb", "a       b"),
            ("12345678\t|", "12345678        |"),
            ("x\n\ty", "x\n        y"),
            (
                "\u{1b}[2J\r\n\u{0}\u{7f}\u{9b}",
                "\\x1B[2J\\r\n\\x00\\x7F\\u009B",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(printable(text), expected, "{text:?}");
        }
    }

    #[test]
    fn records_are_drawn_one_column_a_line() {
        check(
            true,
            &[("id", true), ("rationale", false)],
            &[&["1", "because\nof H2"], &["22", ""]],
            concat!(
                "-[ RECORD 1 ]------\n",
                "id        | 1\n",
                "rationale | because+\n",
                "          | of H2\n",
                "-[ RECORD 2 ]------\n",
                "id        | 22\n",
                "rationale | \n",
                "\n"
            ),
        );
        check(true, &[("a", false)], &[], "(0 rows)\n\n");
    }

    #[test]
    fn long_tables_are_drawn_in_parts_with_the_first_widths() {
        let mut table = Table::new(
            vec![Column::new("a", false), Column::new("b", false)],
            false,
        );
        let mut out = Vec::new();
        for _ in 0..TABLE_ROWS_MAX {
            table
                .row(vec!["x".to_owned(), "y".to_owned()], &mut out)
                .unwrap();
        }
        assert!(!out.is_empty() && table.rows.is_empty());
        table
            .row(vec!["wider".to_owned(), "y".to_owned()], &mut out)
            .unwrap();
        table.end(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with(&format!(
            " x | y\n wider | y\n({} rows)\n\n",
            TABLE_ROWS_MAX + 1
        )));
        assert_eq!(text.matches("---+---").count(), 1);
    }
}
