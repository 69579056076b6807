//! Stderr: the only place that writes to it, in the form of whoever reads it.
//!
//! A donor run's lines land in mysqld's error log, so they look like those of the stock SST scripts; an operator gets plain
//! sentences. One event is one line and one write: control characters are escaped and the length is bounded.

use std::fmt::{self, Debug, Write as _};
use std::io::Write as _;

use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::error::{Error, one_line, printable};
use crate::sys;

/// The most characters of one event: more is a mistake somewhere, not news.
const LONGEST: usize = 2000;

/// Who reads stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// mysqld's error log.
    Donor,
    /// A person.
    Operator,
}

/// Sends the events of this process to stderr from now on, those of `level` and graver; the first call counts.
pub fn start(face: Face, level: Level) {
    let layer = Stderr { face }.with_filter(LevelFilter::from_level(level));
    // It fails only if there is a subscriber already.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
}

/// The one report of a failure that ends the run, and what may be done about it.
pub fn failure(error: &Error) {
    tracing::error!("{}", one_line(error));
    if let Some(advice) = error.advice() {
        tracing::info!("hint: {advice}");
    }
}

/// An error as a line of a donor's log, for the one place that may take no lock.
pub(crate) fn donor_error(text: &str) -> String {
    // In UTC: the zone of the system is behind a lock of the library.
    line(Face::Donor, Level::ERROR, text, sys::now(), &TimeZone::UTC)
}

struct Stderr {
    face: Face,
}

impl<S: Subscriber> Layer<S> for Stderr {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // What a library says may repeat a URL or a header that opens something.
        if !event.metadata().target().starts_with(env!("CARGO_CRATE_NAME")) {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let line = line(self.face, *event.metadata().level(), &text.0, sys::now(), &TimeZone::system());
        // Where stderr is closed there is nobody to tell.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// The message of an event, and its other fields as `name=value`.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written: fmt::Result = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        // A value that cannot show itself is left out; writing to a string does not fail.
        let _ = written;
    }
}

/// One line of the log, with its newline.
fn line(face: Face, level: Level, text: &str, now: jiff::Timestamp, zone: &TimeZone) -> String {
    let text = printable(text.chars().take(LONGEST).collect::<String>());
    match face {
        Face::Donor => {
            let time = now.to_zoned(zone.clone()).strftime("%Y%m%d %H:%M:%S.%3f").to_string();
            format!("WSREP_SST: [{}] {text} ({time})\n", severity(level).to_uppercase())
        }
        Face::Operator if level == Level::INFO => format!("{text}\n"),
        Face::Operator => format!("{}: {text}\n", severity(level)),
    }
}

/// In the words of the stock scripts.
fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(face: Face, level: Level, text: &str) -> String {
        line(face, level, text, "2026-11-22T10:09:46.0374Z".parse().unwrap(), &TimeZone::UTC)
    }

    #[test]
    fn a_donors_line_looks_like_those_of_the_stock_scripts() {
        let time = "(20261122 10:09:46.037)";
        assert_eq!(shown(Face::Donor, Level::INFO, "window open"), format!("WSREP_SST: [INFO] window open {time}\n"));
        assert_eq!(shown(Face::Donor, Level::WARN, "odd"), format!("WSREP_SST: [WARNING] odd {time}\n"));
        assert_eq!(shown(Face::Donor, Level::ERROR, "bad"), format!("WSREP_SST: [ERROR] bad {time}\n"));
    }

    #[test]
    fn an_operators_line_is_a_sentence() {
        assert_eq!(shown(Face::Operator, Level::ERROR, "cannot open"), "error: cannot open\n");
        assert_eq!(shown(Face::Operator, Level::WARN, "odd"), "warning: odd\n");
        assert_eq!(shown(Face::Operator, Level::INFO, "done"), "done\n");
    }

    #[test]
    fn one_event_is_one_bounded_line() {
        let text = format!("a\nWSREP_SST: [INFO] forged\u{1b}[2J {}", "x".repeat(10_000));
        let line = shown(Face::Donor, Level::INFO, &text);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.len() < 2100 && !line.contains('\u{1b}'));
    }
}
