//! What machines keep their bytes in: a [`Ring`] that the kernel reads into and writes from, and
//! the [`Pool`] that idle connections give its memory back to; and the [`Quota`], a common bound on
//! the memory that several owners hold outside of a pool.

mod owned;
mod pool;
mod quota;
mod ring;

pub(crate) use self::owned::fill_owned;
pub use self::{
    pool::Pool,
    quota::{Quota, QuotaExceeded, Reservation},
    ring::Ring,
};
