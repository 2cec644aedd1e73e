//! Pointers that cross the border, and what they refer to.

use std::{ffi::c_char, ptr, slice};

use crate::result::ResultCode;

/// Bytes: a pointer and a length. The pointer may be NULL if the length is 0.
///
/// On Unix it has the layout of `struct iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slice {
    /// The first byte.
    pub data: *const u8,
    /// The number of bytes.
    pub len: usize,
}

impl From<&[u8]> for Slice {
    fn from(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), len: bytes.len() }
    }
}

impl Slice {
    /// No bytes.
    pub(crate) const EMPTY: Self = Self { data: ptr::null(), len: 0 };
}

/// Borrows an object for a change.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn exclusive<'a, T>(pointer: *mut T) -> Result<&'a mut T, ResultCode> {
    // SAFETY: the caller passes null or a valid pointer that no other thread uses.
    unsafe { pointer.as_mut() }.ok_or(ResultCode::Null)
}

/// Borrows an object.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn shared<'a, T>(pointer: *const T) -> Result<&'a T, ResultCode> {
    // SAFETY: the caller passes null or a valid pointer to an object that nothing changes.
    unsafe { pointer.as_ref() }.ok_or(ResultCode::Null)
}

/// Borrows bytes.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn bytes<'a>(data: *const u8, len: usize) -> Result<&'a [u8], ResultCode> {
    match (data.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(ResultCode::Null),
        // No object is larger, so it is a negative number that was converted.
        (false, len) if isize::try_from(len).is_err() => Err(ResultCode::Length),
        // SAFETY: the caller passes a valid pointer to `len` bytes, which nothing changes.
        (false, len) => Ok(unsafe { slice::from_raw_parts(data, len) }),
    }
}

/// Borrows bytes to be written to.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn bytes_mut<'a>(data: *mut u8, len: usize) -> Result<&'a mut [u8], ResultCode> {
    match (data.is_null(), len) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(ResultCode::Null),
        (false, len) if isize::try_from(len).is_err() => Err(ResultCode::Length),
        // SAFETY: the caller passes a valid pointer to `len` writable bytes.
        (false, len) => Ok(unsafe { slice::from_raw_parts_mut(data, len) }),
    }
}

/// Stores a result.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn store<T>(result: *mut T, value: T) -> Result<(), ResultCode> {
    if result.is_null() {
        return Err(ResultCode::Null);
    }
    // SAFETY: the caller passes a pointer to writable memory of this type.
    unsafe { result.write(value) };
    Ok(())
}

/// Stores a new object.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn store_new<T>(result: *mut *mut T, value: T) -> Result<(), ResultCode> {
    if result.is_null() {
        return Err(ResultCode::Null);
    }
    // SAFETY: `result` was checked, and the caller's pointer is valid.
    unsafe { store(result, Box::into_raw(Box::new(value))) }
}

/// Takes an object back from C. `None` if the pointer is null.
///
/// # Safety
/// See [the rules](crate#safety). C does not use the pointer any more.
pub(crate) unsafe fn take<T>(pointer: *mut T) -> Option<T> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the object was allocated by `store_new`, and C gives it back.
    Some(*unsafe { Box::from_raw(pointer) })
}

/// Copies `text` and a NUL to `buffer`, as far as they fit, and returns the length of the text.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn store_text(text: &str, buffer: *mut c_char, size: usize) -> usize {
    // SAFETY: the caller passes null or a pointer to `size` writable bytes.
    if let Ok([copy @ .., nul]) = unsafe { bytes_mut(buffer.cast(), size) } {
        // Not within a character.
        let len = text.floor_char_boundary(copy.len());
        copy[..len].copy_from_slice(&text.as_bytes()[..len]);
        *copy.get_mut(len).unwrap_or(nul) = 0;
    }
    text.len()
}
