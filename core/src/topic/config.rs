//! The limits of a topic.

use crate::{ConfigError, config::with_setters};

/// The limits of a topic's window. An item that exceeds one displaces the oldest items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The most items. Default: 1,024.
    pub items: usize,
    /// The most bytes that all items weigh together. A heavier item displaces all others, and stays
    /// until the next one. Default: 1 MiB.
    pub bytes: usize,
}

impl Config {
    with_setters! {
        with_items(items: usize);
        with_bytes(bytes: usize);
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (setting, value) in [("items", self.items), ("bytes", self.bytes)] {
            if value == 0 {
                return Err(ConfigError::Zero { setting });
            }
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { items: 1024, bytes: 1 << 20 }
    }
}
