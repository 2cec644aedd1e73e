//! State that several machines, or a machine and its handle, have in common.

/// A counted handle: an `Arc`, or an `Rc` without the feature `std`.
#[cfg(feature = "std")]
pub type Shared<T> = alloc::sync::Arc<T>;
/// A counted handle: an `Arc`, or an `Rc` without the feature `std`.
#[cfg(not(feature = "std"))]
pub type Shared<T> = alloc::rc::Rc<T>;

/// A value behind a lock that is only ever held for a moment, and never across IO.
///
/// It survives poisoning: a panic of one connection must not end the others. So whoever changes
/// the value must leave it whole at every step that can panic.
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

    /// Calls `f` with the value. `f` must not come back to this lock.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(feature = "std")]
        return f(&mut self.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        #[cfg(not(feature = "std"))]
        return f(&mut self.value.borrow_mut());
    }
}
