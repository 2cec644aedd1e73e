//! Output as [`Bytes`], which outlive the machine's next call.

use bytes::Bytes;

/// Fills `out` from its start with at most `most` bytes of `parts`, and returns how many slots it
/// filled. It leaves out empty parts.
///
/// It implements [`write_owned`](crate::Machine::write_owned) for output that is stored as
/// [`Bytes`].
pub(crate) fn fill_owned(
    out: &mut [Bytes],
    mut most: usize,
    parts: impl Iterator<Item = Bytes>,
) -> usize {
    let mut parts = parts.filter(|part| !part.is_empty());
    let mut count = 0;
    while count < out.len()
        && most > 0
        && let Some(mut part) = parts.next()
    {
        part.truncate(most);
        most -= part.len();
        out[count] = part;
        count += 1;
    }
    count
}
