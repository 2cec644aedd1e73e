//! Memory for a host that has no `malloc` of its own.

use std::{
    alloc::{Layout, alloc, dealloc},
    ptr,
};

/// Allocates `size` bytes, aligned to 16, for a host that has no `malloc` of its own: JavaScript
/// with WebAssembly. Returns NULL if `size` is 0 or the memory is exhausted. The memory is not
/// initialised. Free it with `wirestate_free`.
#[unsafe(no_mangle)]
pub extern "C" fn wirestate_alloc(size: usize) -> *mut u8 {
    match layout(size) {
        // SAFETY: the size is not 0.
        Some(layout) => unsafe { alloc(layout) },
        None => ptr::null_mut(),
    }
}

/// Frees memory of `wirestate_alloc`. `size` is the size that was allocated. NULL is ignored.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_free(memory: *mut u8, size: usize) {
    if let (false, Some(layout)) = (memory.is_null(), layout(size)) {
        // SAFETY: the caller passes memory that `wirestate_alloc` has allocated with this size.
        unsafe { dealloc(memory, layout) };
    }
}

fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, ALIGN).ok().filter(|layout| layout.size() > 0)
}

/// The alignment of what `malloc` returns, for every type of C.
const ALIGN: usize = 16;
