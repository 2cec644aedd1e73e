//! Output as [`Bytes`], which stay valid beyond the machine's next call.

use bytes::Bytes;

/// Fills `out` from its start with at most `max` bytes of `parts`, and returns the number of
/// buffers in it. Empty parts are left out.
///
/// It implements [`write_owned`](crate::Machine::write_owned) for output that is stored as
/// [`Bytes`].
pub(crate) fn fill_owned(
    out: &mut [Bytes],
    mut max: usize,
    parts: impl Iterator<Item = Bytes>,
) -> usize {
    let mut parts = parts.filter(|part| !part.is_empty());
    let mut count = 0;
    while count < out.len()
        && max > 0
        && let Some(mut part) = parts.next()
    {
        part.truncate(max);
        max -= part.len();
        out[count] = part;
        count += 1;
    }
    count
}
