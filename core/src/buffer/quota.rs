//! A limit of the memory that several owners hold together.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::shared::Shared;

/// A limit of the bytes of all its [`Reservation`]s together. Clones are the same quota.
///
/// ```
/// use wirestate_core::buffer::{Quota, Reservation};
///
/// let quota = Quota::new(100);
/// let (mut first, mut second) = (Reservation::default(), Reservation::default());
/// quota.resize(&mut first, 70)?;
/// let exceeded = quota.resize(&mut second, 40).unwrap_err();
/// assert_eq!(exceeded.to_string(), "cannot reserve 40 more bytes: 70 of 100 are reserved");
/// drop(first);
/// quota.resize(&mut second, 40)?;
/// assert_eq!(quota.reserved(), 40);
/// # Ok::<(), wirestate_core::buffer::QuotaExceeded>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Quota {
    /// `None`: there is no limit, and nothing is counted.
    inner: Option<Shared<Inner>>,
}

#[derive(Debug)]
struct Inner {
    limit: usize,
    reserved: AtomicUsize,
}

/// Bytes that are reserved under a [`Quota`] until this is dropped. Default: 0.
#[derive(Debug, Default)]
pub struct Reservation {
    quota: Quota,
    bytes: usize,
}

/// A reservation would exceed the limit of its [`Quota`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot reserve {requested} more bytes: {reserved} of {limit} are reserved")]
pub struct QuotaExceeded {
    /// The bytes that were requested beyond the reservation's size.
    pub requested: usize,
    /// The bytes that were reserved at that time, by all reservations.
    pub reserved: usize,
    /// The limit.
    pub limit: usize,
}

impl Quota {
    /// A quota of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { inner: Some(Shared::new(Inner { limit, reserved: AtomicUsize::new(0) })) }
    }

    /// A quota without a limit. It counts nothing.
    pub const fn unlimited() -> Self {
        Self { inner: None }
    }

    /// The bytes that are reserved now; 0 without a limit.
    pub fn reserved(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.reserved.load(Relaxed))
    }

    /// Resizes `reservation` to `bytes`. It must be empty or belong to this quota.
    ///
    /// # Errors
    /// The reservations would exceed the limit. `reservation` keeps its size.
    pub fn resize(&self, reservation: &mut Reservation, bytes: usize) -> Result<(), QuotaExceeded> {
        let Some(inner) = &self.inner else { return Ok(()) };
        if bytes == reservation.bytes {
            return Ok(());
        }
        if bytes > reservation.bytes {
            let requested = bytes - reservation.bytes;
            let add = |sum: usize| sum.checked_add(requested).filter(|sum| *sum <= inner.limit);
            inner
                .reserved
                .fetch_update(Relaxed, Relaxed, add)
                .map_err(|reserved| QuotaExceeded { requested, reserved, limit: inner.limit })?;
            if reservation.bytes == 0 {
                reservation.quota = self.clone();
            }
        } else {
            inner.reserved.fetch_sub(reservation.bytes - bytes, Relaxed);
        }
        reservation.bytes = bytes;
        Ok(())
    }
}

impl Reservation {
    /// Whether no byte is reserved.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(inner) = &self.quota.inner {
            inner.reserved.fetch_sub(self.bytes, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bytes_count_until_the_reservation_is_dropped() {
        let quota = Quota::new(10);
        let (mut one, mut other) = (Reservation::default(), Reservation::default());
        quota.resize(&mut one, 6).unwrap();
        quota.resize(&mut other, 4).unwrap();
        let exceeded = QuotaExceeded { requested: 1, reserved: 10, limit: 10 };
        assert_eq!(quota.resize(&mut one, 7), Err(exceeded));
        quota.resize(&mut one, 2).unwrap();
        assert_eq!(quota.reserved(), 6, "a growth that fails changes nothing");
        quota.resize(&mut one, 0).unwrap();
        quota.resize(&mut one, 6).unwrap();
        assert!(quota.resize(&mut other, usize::MAX).is_err(), "the sum overflows");
        drop((one, other));
        assert_eq!(quota.reserved(), 0);
    }

    #[test]
    fn an_unlimited_quota_counts_nothing() {
        let (quota, mut all) = (Quota::unlimited(), Reservation::default());
        quota.resize(&mut all, usize::MAX).unwrap();
        assert_eq!(quota.reserved(), 0);
    }
}
