//! The setters of configurations, and the error for a setting that cannot work.

/// A setting that cannot work. A constructor that returns this has started nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The setting is zero. To switch off a timeout, set it to `None`.
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
        /// Its value.
        value: u64,
        /// The minimum.
        min: u64,
    },
    /// The setting is above its maximum.
    #[error("{setting} is {value}, but must be at most {max}")]
    TooLarge {
        /// The field's name.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// The maximum.
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

/// Checks that a timeout is `None` or non-zero. A timeout of zero would have passed from the start.
pub(crate) fn check_timeout(
    setting: &'static str,
    timeout: impl Into<Option<core::time::Duration>>,
) -> Result<(), ConfigError> {
    match timeout.into() {
        Some(timeout) if timeout.is_zero() => Err(ConfigError::Zero { setting }),
        Some(_) | None => Ok(()),
    }
}

/// Defines a setter `with_…` for each field that is named.
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
