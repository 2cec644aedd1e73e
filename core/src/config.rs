//! Configurations: how they are set, and what is wrong with one.

/// A configuration that cannot work. Constructors return it; nothing has been started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The setting must be non-zero. To switch off a timeout, set it to `None`.
    #[error("{setting} must be non-zero")]
    Zero {
        /// The field's name.
        setting: &'static str,
    },
    /// The setting is below its minimum.
    #[error("{setting} is {value}, but must be at least {min}")]
    TooSmall {
        /// The field's name.
        setting: &'static str,
        /// What it was set to.
        value: u64,
        /// The least that works.
        min: u64,
    },
    /// The setting is above its maximum.
    #[error("{setting} is {value}, but must be at most {max}")]
    TooLarge {
        /// The field's name.
        setting: &'static str,
        /// What it was set to.
        value: u64,
        /// The most that works.
        max: u64,
    },
    /// Two settings exclude each other.
    #[error("{setting} cannot be combined with {with}")]
    Conflict {
        /// The field's name.
        setting: &'static str,
        /// The other setting, with its value.
        with: &'static str,
    },
}

/// A timeout must be `None` or non-zero: zero would elapse before anything could happen.
pub(crate) fn check_timeout(
    setting: &'static str,
    timeout: impl Into<Option<core::time::Duration>>,
) -> Result<(), ConfigError> {
    match timeout.into() {
        Some(timeout) if timeout.is_zero() => Err(ConfigError::Zero { setting }),
        Some(_) | None => Ok(()),
    }
}

/// Defines a method `with_…` for each field that is named.
macro_rules! with_setters {
    ($($with:ident($field:ident: $type:ty);)+) => {
        $(
            #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
            pub fn $with(mut self, $field: $type) -> Self {
                self.$field = $field.into();
                self
            }
        )+
    };
}
pub(crate) use with_setters;
