//! A common bound on the memory of several owners.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::shared::Shared;

/// A limit on the bytes that all its [`Reservation`]s hold together. Clones are the same quota.
///
/// ```
/// use wirestate_core::buffer::{Quota, Reservation};
///
/// let quota = Quota::new(100);
/// let (mut first, mut second) = (Reservation::default(), Reservation::default());
/// quota.resize(&mut first, 70)?;
/// let exceeded = quota.resize(&mut second, 40).unwrap_err();
/// assert_eq!(exceeded.to_string(), "40 bytes more do not fit: 70 of 100 are taken");
/// drop(first);
/// quota.resize(&mut second, 40)?;
/// assert_eq!(quota.held(), 40);
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
    held: AtomicUsize,
}

/// Bytes that are reserved under a [`Quota`] until this is dropped. By default 0.
#[derive(Debug, Default)]
pub struct Reservation {
    quota: Quota,
    bytes: usize,
}

/// A reservation would exceed the limit of its [`Quota`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes more do not fit: {held} of {limit} are taken")]
pub struct QuotaExceeded {
    /// The bytes that were to be added.
    pub wanted: usize,
    /// The bytes that were reserved at that time.
    pub held: usize,
    /// The limit.
    pub limit: usize,
}

impl Quota {
    /// A quota of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { inner: Some(Shared::new(Inner { limit, held: AtomicUsize::new(0) })) }
    }

    /// A quota without a limit, which counts nothing.
    pub const fn unlimited() -> Self {
        Self { inner: None }
    }

    /// The bytes that are reserved now.
    pub fn held(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.held.load(Relaxed))
    }

    /// Sets the size of `reservation`, which is empty or belongs to this quota, to `bytes`.
    ///
    /// # Errors
    /// The reservation would exceed the limit. It keeps its size.
    pub fn resize(&self, reservation: &mut Reservation, bytes: usize) -> Result<(), QuotaExceeded> {
        let Some(inner) = &self.inner else { return Ok(()) };
        if bytes == reservation.bytes {
            return Ok(());
        }
        if bytes > reservation.bytes {
            let wanted = bytes - reservation.bytes;
            let add = |held: usize| held.checked_add(wanted).filter(|sum| *sum <= inner.limit);
            inner.held.fetch_update(Relaxed, Relaxed, add).map_err(|held| QuotaExceeded {
                wanted,
                held,
                limit: inner.limit,
            })?;
            if reservation.bytes == 0 {
                reservation.quota = self.clone();
            }
        } else {
            inner.held.fetch_sub(reservation.bytes - bytes, Relaxed);
        }
        reservation.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(inner) = &self.quota.inner {
            inner.held.fetch_sub(self.bytes, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_counts_until_it_is_dropped() {
        let quota = Quota::new(10);
        let (mut one, mut other) = (Reservation::default(), Reservation::default());
        quota.resize(&mut one, 6).unwrap();
        quota.resize(&mut other, 4).unwrap();
        let exceeded = QuotaExceeded { wanted: 1, held: 10, limit: 10 };
        assert_eq!(quota.resize(&mut one, 7), Err(exceeded));
        quota.resize(&mut one, 2).unwrap();
        assert_eq!(quota.held(), 6, "a refused growth has changed nothing");
        quota.resize(&mut one, 0).unwrap();
        quota.resize(&mut one, 6).unwrap();
        assert!(quota.resize(&mut other, usize::MAX).is_err(), "a sum that no integer holds");
        drop((one, other));
        assert_eq!(quota.held(), 0);
    }

    #[test]
    fn without_a_limit_nothing_counts() {
        let (quota, mut all) = (Quota::unlimited(), Reservation::default());
        quota.resize(&mut all, usize::MAX).unwrap();
        assert_eq!(quota.held(), 0);
    }
}
