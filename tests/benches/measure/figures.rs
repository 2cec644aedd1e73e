//! Figures: their spread over the rounds, the columns of a table, goals.

use std::{fmt, time::Duration};

use serde::Serialize;

/// The median and the extremes of a figure over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// The spread of `figures`; `None` if there are none.
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

/// The heading of [`Row`]s.
pub(crate) fn head(first: &str, last: &str) -> String {
    format!("  {first:<22}{:>9}{:>18}{last:>13}  goal", "median", "min – max")
}

/// A line of a table.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) spread: Spread,
    /// Digits behind the decimal point.
    pub(crate) digits: usize,
    /// The last column.
    pub(crate) note: String,
    /// The goal, the highest acceptable median, and whether it is reached.
    pub(crate) goal: Option<f64>,
    pub(crate) reached: Option<bool>,
    /// Rounds in which the server did not sleep while no byte was in flight.
    pub(crate) spinning_rounds: usize,
}

impl Row {
    pub(crate) fn of_ratio(
        name: String,
        spread: Spread,
        goal: Option<f64>,
        reached: Option<bool>,
    ) -> Self {
        Self { name, spread, digits: 2, note: String::new(), goal, reached, spinning_rounds: 0 }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, digits, note, spinning_rounds, .. } = self;
        let Spread { median, min, max } = self.spread;
        let extremes = format!("{min:.digits$} – {max:.digits$}");
        write!(f, "  {name:<22}{median:>9.digits$}{extremes:>18}{note:>13}  ")?;
        if let Some((goal, reached)) = self.goal.zip(self.reached) {
            write!(f, "≤ {goal:.digits$} {}", if reached { "reached" } else { "MISSED" })?;
        }
        if *spinning_rounds > 0 {
            write!(f, "DOES NOT SLEEP without load, rounds: {spinning_rounds}")?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "no figure is exact to 53 bits")]
pub(crate) fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

/// The `percent`th percentile of the sorted times, in microseconds.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default().as_secs_f64() * 1e6
}
