//! What is made of figures: their spread over the rounds, their columns, the goals.

use std::fmt;

use serde::Serialize;

/// A figure over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<_> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[half - 1], sorted[half])
        } else {
            sorted[half]
        };
        Some(Self { median, min, max })
    }
}

/// The heads of [`Columns`] and what stands around them.
pub(crate) fn head(what: &str, last: &str) -> String {
    format!("  {what:<22}{:>9}{:>18}{last:>13}  goal", "median", "least – most")
}

/// Median and extremes, in columns.
pub(crate) struct Columns(pub(crate) Spread, pub(crate) usize);

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self(Spread { median, min, max }, digits) = self;
        let extremes = format!("{min:.digits$} – {max:.digits$}");
        write!(f, "{median:>9.digits$}{extremes:>18}")
    }
}

/// The goal, and whether it is reached.
pub(crate) struct Goal {
    pub(crate) most: Option<f64>,
    pub(crate) reached: Option<bool>,
    pub(crate) digits: usize,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((most, reached)) = self.most.zip(self.reached) else { return Ok(()) };
        let digits = self.digits;
        write!(f, "≤ {most:.digits$} {}", if reached { "reached" } else { "MISSED" })
    }
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are more than anything here is exact to")]
pub(crate) fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}
