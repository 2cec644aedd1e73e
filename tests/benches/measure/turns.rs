//! The order in which servers get their load.

use std::io;

/// All get a turn, so often, back and forth: a slow minute of the machine hits all of them, and
/// nobody always comes behind the same. The turn's number is handed on; that of the first is 0, and
/// it is one more than `turns`, to warm up.
pub(crate) fn back_and_forth<T>(
    all: &mut [T],
    turns: u32,
    mut take: impl FnMut(&mut T, u32) -> io::Result<()>,
) -> io::Result<()> {
    for turn in 0..=turns {
        let mut order: Vec<_> = all.iter_mut().collect();
        if turn % 2 == 1 {
            order.reverse();
        }
        for one in order {
            take(one, turn)?;
        }
    }
    Ok(())
}
