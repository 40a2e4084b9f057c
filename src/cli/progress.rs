//! What training says: a bar on a terminal, a line a stage in a log.

use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use linewarden_train::progress::Progress;

/// How often a bar's clock moves while no step ends.
const TICK: Duration = Duration::from_millis(200);

/// Shows progress on standard error.
pub(crate) struct Shown {
    on_terminal: bool,
    bar: Mutex<ProgressBar>,
}

impl Shown {
    /// A bar when standard error is a terminal, lines otherwise.
    pub(crate) fn new() -> Self {
        Self { on_terminal: std::io::stderr().is_terminal(), bar: Mutex::new(ProgressBar::hidden()) }
    }

    fn bar(&self) -> MutexGuard<'_, ProgressBar> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar().finish_and_clear();
    }
}

impl Progress for Shown {
    fn stage(&self, name: &str, total: usize) {
        let mut bar = self.bar();
        bar.finish_and_clear();
        if !self.on_terminal {
            tracing::info!(steps = total, "{name}");
            return;
        }
        *bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        let template = "{msg:<36} [{bar:30}] {pos}/{len} {elapsed}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(TICK);
    }

    fn advance(&self, steps: usize) {
        self.bar().inc(steps as u64);
    }

    fn note(&self, text: &str) {
        self.bar().suspend(|| tracing::info!("{text}"));
    }
}
