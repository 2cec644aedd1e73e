//! A test that fails: how it fails, where it is, and its source code.

mod panics;
mod place;
mod source;
mod tokens;
mod variable;

pub(crate) use self::{
    panics::{Failure, hook_panics, is_quiet, quietly},
    place::Place,
    source::{Copy, indented},
    tokens::{arguments, items, token},
    variable::{SHRINK_FOR, seconds, shrink_for, variable},
};
