//! How training says what it is doing, whoever listens: a bar on a terminal, lines in a log, a row in a database.

/// Hears of the stages of a long job.
pub trait Progress: Sync {
    /// A stage begins; it has `total` steps.
    fn stage(&self, name: &str, total: usize);
    /// Steps of the current stage are done. Called from several threads.
    fn advance(&self, steps: usize);
    /// Something that the user should read once.
    fn note(&self, text: &str);
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _name: &str, _total: usize) {}
    fn advance(&self, _steps: usize) {}
    fn note(&self, _text: &str) {}
}
