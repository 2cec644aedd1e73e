//! A value behind a lock.

/// A value behind a lock, which is held only for a short time, and never across IO.
///
/// The lock ignores poisoning, since a panic of one connection must not end the others. A closure
/// that changes the value must leave it consistent at every step that can panic.
///
/// Without the feature `std` it is a `RefCell`, and stays on one thread.
#[derive(Debug, Default)]
pub struct Lock<T> {
    #[cfg(feature = "std")]
    value: std::sync::Mutex<T>,
    #[cfg(not(feature = "std"))]
    value: core::cell::RefCell<T>,
}

impl<T> Lock<T> {
    /// Puts `value` behind a lock.
    pub const fn new(value: T) -> Self {
        Self {
            #[cfg(feature = "std")]
            value: std::sync::Mutex::new(value),
            #[cfg(not(feature = "std"))]
            value: core::cell::RefCell::new(value),
        }
    }

    /// Calls `f` with the value. `f` must not use this lock: that would be a deadlock, or a panic
    /// without the feature `std`.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(feature = "std")]
        return f(&mut self.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        #[cfg(not(feature = "std"))]
        return f(&mut self.value.borrow_mut());
    }
}
