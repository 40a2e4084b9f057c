//! What whoever runs a test may set.

use anyhow::{Context as _, Result};

/// The number in a variable of the environment, or another one without it.
///
/// # Errors
/// When it is none.
pub fn number(variable: &str, otherwise: u64) -> Result<u64> {
    std::env::var(variable)
        .map_or(Ok(otherwise), |text| text.parse().with_context(|| format!("{variable} is no number: {text}")))
}
