//! Bounded memory for machines.
//!
//! A machine keeps its bytes in a [`Ring`], which the kernel reads into and writes from. The ring's
//! memory comes from a [`Pool`], and an idle connection gives it back. A [`Quota`] limits the
//! memory that several owners hold together, outside of a pool.

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
