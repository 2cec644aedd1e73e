//! What machines keep their bytes in: a [`Ring`] that the kernel reads into and writes from, and
//! the [`Pool`] that idle connections give its memory back to.

mod pool;
mod ring;

pub use self::{pool::Pool, ring::Ring};
