//! The progress bar of operator commands, on stderr.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::archive::progress::Progress;

/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(100);

/// A bar that follows a [`Progress`] until it is dropped.
#[derive(Debug)]
pub struct Bar(Option<(Sender<()>, JoinHandle<()>)>);

impl Bar {
    /// Draws a bar headed `verb`, if `draw` says that somebody looks.
    pub fn start(draw: bool, verb: &'static str, progress: &Arc<Progress>) -> Self {
        if !draw {
            return Self(None);
        }
        let (stop, stopped) = channel::<()>();
        let progress = Arc::clone(progress);
        let drawing = std::thread::spawn(move || {
            let bar = ProgressBar::new(progress.total());
            bar.set_style(style());
            bar.set_message(verb);
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                bar.set_length(progress.total());
                bar.set_position(progress.raw_done());
            }
            bar.finish_and_clear();
        });
        Self(Some((stop, drawing)))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((stop, drawing)) = self.0.take() {
            drop(stop);
            // The bar's own panic would be no reason to fail what it shows.
            let _ = drawing.join();
        }
    }
}

fn style() -> ProgressStyle {
    let form = "{msg} [{bar:30}] {percent:>3} %  {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    ProgressStyle::with_template(form).map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "))
}
