//! Stdout of the operator commands: tables and sentences, or one JSON document.
//!
//! Every line is made printable, because node names, paths and warnings come out of a backup. A reader that has seen
//! enough (`list | head -1`) is no error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::error::{Error, Result, printable};

/// Who owns stdout.
pub struct Output {
    out: Box<dyn Write + Send>,
    json: bool,
    bar: bool,
    closed: bool,
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings, in aligned columns.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Output {
    /// The process's stdout; `json` for one document instead of lines, `quiet` for no progress bar.
    pub fn stdout(json: bool, quiet: bool) -> Self {
        let bar = !json && !quiet && io::stderr().is_terminal();
        Self { out: Box::new(io::stdout()), json, bar, closed: false }
    }

    /// Anything else that takes bytes; without a progress bar.
    pub fn to(out: impl Write + Send + 'static, json: bool) -> Self {
        Self { out: Box::new(out), json, bar: false, closed: false }
    }

    /// Whether the facts go out as one JSON document.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a progress bar may be drawn on stderr.
    pub fn may_draw(&self) -> bool {
        self.bar
    }

    /// One line; nothing where a JSON document is wanted.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let mut text = printable(text.as_ref());
        text.push('\n');
        self.write(text.as_bytes())
    }

    /// A table; nothing where a JSON document is wanted.
    pub fn table(&mut self, table: &Table) -> Result<()> {
        table.lines().iter().try_for_each(|line| self.line(line))
    }

    /// The JSON document; nothing where lines are wanted.
    pub fn json(&mut self, document: &impl Serialize) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut text = serde_json::to_vec_pretty(document)
            .map_err(|cause| Error::io("write", "standard output", io::Error::from(cause)))?;
        text.push(b'\n');
        self.write(&text)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        match self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            written => written.map_err(|cause| Error::io("write", "standard output", cause)),
        }
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("json", &self.json).finish_non_exhaustive()
    }
}

impl Table {
    /// A table with these headings.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, with a cell for each heading.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(printable).collect();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    fn lines(&self) -> Vec<String> {
        let head: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let every = || std::iter::once(&head).chain(&self.rows);
        let width = |at: usize| every().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| width(at).unwrap_or(0)).collect();
        every().map(|row| self.aligned(row, &widths)).collect()
    }

    fn aligned(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, (_, align)), width) in row.iter().zip(&self.columns).zip(widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let padded = match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            };
            line.push_str(&padded);
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What a command printed, for tests.
    #[derive(Clone, Default)]
    pub(crate) struct Printed(Arc<Mutex<Vec<u8>>>);

    impl Printed {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Failing(i32);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(self.0))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
        let mut gone = Output::to(Failing(nix::libc::EPIPE), false);
        gone.line("one").unwrap();
        gone.line("two").unwrap();
        let error = Output::to(Failing(nix::libc::ENOSPC), true).json(&1).unwrap_err();
        assert_eq!(error.os_error(), Some(nix::libc::ENOSPC));
    }

    #[test]
    fn columns_line_up_and_no_cell_drives_the_terminal() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right), ("LAST", Align::Left)]);
        table.row(["é\x1b[31m".to_owned(), "1000".to_owned(), "x".to_owned()]);
        table.row(["b".to_owned(), "1".to_owned(), String::new()]);
        let printed = Printed::default();
        Output::to(printed.clone(), false).table(&table).unwrap();
        let wanted = ["NAME            N  LAST", "é\\u{1b}[31m  1000  x", "b               1", ""];
        assert_eq!(printed.text(), wanted.join("\n"));
    }

    #[test]
    fn json_is_one_document_and_lines_stay_out_of_it() {
        let printed = Printed::default();
        let mut output = Output::to(printed.clone(), true);
        output.line("words").unwrap();
        output.json(&vec![1, 2]).unwrap();
        assert_eq!(serde_json::from_str::<Vec<u32>>(&printed.text()).unwrap(), [1, 2]);
    }
}
