//! Makes a failing case smaller.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use proptest::{
    strategy::{NewTree, Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::{Found, run};

/// Replaces the case of `found` by the smallest one with which `test` fails alike, of those that
/// `tree` has. Takes at most `limit`, and the run that exceeds it.
pub(super) fn shrink<T: ValueTree>(
    tree: &mut T,
    found: &mut Found<T::Value>,
    limit: Duration,
    test: &impl Fn(T::Value),
) {
    let began = Instant::now();
    let mut has_next = tree.simplify();
    while has_next && began.elapsed() < limit {
        found.runs += 1;
        let result = run(test, tree.current());
        has_next = match result.filter(|(failure, _)| failure.is_like(&found.failure)) {
            Some((failure, panic)) => {
                (found.case, found.failure, found.panic) = (tree.current(), failure, panic);
                tree.simplify()
            }
            None => tree.complicate(),
        };
    }
    (found.time, found.is_minimal) = (began.elapsed(), !has_next);
}

/// A strategy for lists. A failing list that the strategy does not make smaller becomes smaller
/// until no item can be left out or replaced by a `simpler` one.
///
/// Proptest tries to leave out each item once, before it makes the others smaller.
#[derive(Debug)]
pub(crate) struct Smaller<S, E> {
    pub(crate) strategy: S,
    /// Items to try instead of an item. Each of them is simpler, so that there is an end.
    pub(crate) simpler: fn(&E) -> Vec<E>,
}

impl<E: Clone + Debug, S: Strategy<Value = Vec<E>>> Strategy for Smaller<S, E> {
    type Tree = SmallerTree<S::Tree, E>;
    type Value = Vec<E>;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let tree = self.strategy.new_tree(runner)?;
        let simpler = self.simpler;
        Ok(SmallerTree { tree, simpler, best: Vec::new(), next: Next::OfTree, helps: false })
    }
}

/// A list of [`Smaller`].
#[derive(Debug)]
pub(crate) struct SmallerTree<T, E> {
    tree: T,
    simpler: fn(&E) -> Vec<E>,
    /// The smallest list that fails.
    best: Vec<E>,
    next: Next,
    /// Whether a list has become the best one since the first item was tried.
    helps: bool,
}

/// How the current list differs from the best one.
#[derive(Clone, Copy, Debug)]
enum Next {
    OfTree,
    LeaveOut {
        start: usize,
        count: usize,
    },
    Replace {
        index: usize,
        choice: usize,
    },
    /// It is the best one.
    None,
}

impl<E: Clone + Debug, T: ValueTree<Value = Vec<E>>> SmallerTree<T, E> {
    /// Takes the next list, if there is none at the place of `next`. False if there is no other.
    fn advance(&mut self) -> bool {
        let len = self.best.len();
        loop {
            self.next = match self.next {
                Next::OfTree => Next::LeaveOut { start: 0, count: len },
                Next::LeaveOut { start, .. } if start < len => return true,
                Next::LeaveOut { count: 0 | 1, .. } => Next::Replace { index: 0, choice: 0 },
                Next::LeaveOut { count, .. } => Next::LeaveOut { start: 0, count: count / 2 },
                Next::Replace { index, choice } if index < len => {
                    if choice < (self.simpler)(&self.best[index]).len() {
                        return true;
                    }
                    Next::Replace { index: index + 1, choice: 0 }
                }
                Next::Replace { .. } if self.helps => {
                    self.helps = false;
                    Next::LeaveOut { start: 0, count: 1 }
                }
                Next::Replace { .. } | Next::None => {
                    self.next = Next::None;
                    return false;
                }
            }
        }
    }
}

impl<E: Clone + Debug, T: ValueTree<Value = Vec<E>>> ValueTree for SmallerTree<T, E> {
    type Value = Vec<E>;

    fn current(&self) -> Vec<E> {
        let mut list = self.best.clone();
        match self.next {
            Next::OfTree => return self.tree.current(),
            Next::LeaveOut { start, count } => {
                list.drain(start..list.len().min(start + count));
            }
            Next::Replace { index, choice } => {
                let simpler = (self.simpler)(&list[index]).into_iter().nth(choice);
                list.splice(index..=index, simpler);
            }
            Next::None => {}
        }
        list
    }

    fn simplify(&mut self) -> bool {
        self.best = self.current();
        match &mut self.next {
            Next::OfTree if self.tree.simplify() => return true,
            Next::OfTree | Next::None => {}
            Next::LeaveOut { .. } => self.helps = true,
            Next::Replace { choice, .. } => {
                self.helps = true;
                *choice = 0;
            }
        }
        self.advance()
    }

    fn complicate(&mut self) -> bool {
        match &mut self.next {
            Next::OfTree if self.tree.complicate() => return true,
            Next::OfTree => {}
            Next::LeaveOut { start, count } => *start += *count,
            Next::Replace { choice, .. } => *choice += 1,
            Next::None => return false,
        }
        // At the end, the best list is restored: it fails, so `simplify` is next. False would end
        // the search even if another part of the case can still become smaller.
        self.advance();
        true
    }
}
