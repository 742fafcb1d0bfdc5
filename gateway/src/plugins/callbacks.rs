//! What plugins of version 3 may call back.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::slice;

use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, encoded_len};
use zeroize::{Zeroize as _, Zeroizing};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// What the functions for base64 return when they cannot do it.
const FAILED: c_int = -1;

unsafe extern "C" {
    // Variadic functions of `log.c`; Rust only takes their addresses.
    fn tessera_plugin_log();
    fn tessera_plugin_vlog();
}

/// The table of callbacks, structure version 5.
#[repr(C)]
pub(super) struct Callbacks {
    log: unsafe extern "C" fn(),
    vlog: unsafe extern "C" fn(),
    secure_memzero: unsafe extern "C" fn(*mut c_void, usize),
    base64_encode: unsafe extern "C" fn(*const c_void, c_int, *mut *mut c_char) -> c_int,
    base64_decode: unsafe extern "C" fn(*const c_char, *mut c_void, c_int) -> c_int,
}

/// Lives for ever, as plugins keep the pointer.
pub(super) static CALLBACKS: Callbacks = Callbacks {
    log: tessera_plugin_log,
    vlog: tessera_plugin_vlog,
    secure_memzero,
    base64_encode,
    base64_decode,
};

/// Wipes memory in a way that is not optimised away.
///
/// # Safety
/// `data` is null, or points to `len` bytes that the caller may write.
pub(super) unsafe extern "C" fn secure_memzero(data: *mut c_void, len: usize) {
    if !data.is_null() {
        // SAFETY: by this function's own condition.
        unsafe { slice::from_raw_parts_mut(data.cast::<u8>(), len) }.zeroize();
    }
}

/// Encodes into a new string, which the plugin frees. Its length, or -1.
///
/// # Safety
/// `data` points to `size` bytes, `out` to where a pointer may be written.
unsafe extern "C" fn base64_encode(data: *const c_void, size: c_int, out: *mut *mut c_char) -> c_int {
    let Ok(size) = usize::try_from(size) else { return FAILED };
    if out.is_null() || data.is_null() {
        return FAILED;
    }
    // SAFETY: by this function's own condition.
    let bytes = unsafe { slice::from_raw_parts(data.cast::<u8>(), size) };
    let Some(length) = encoded_len(size, true) else { return FAILED };
    // All room at once, with a NUL: growing would leave a copy behind.
    let mut text = Zeroizing::new(vec![0; length + 1]);
    if BASE64.encode_slice(bytes, &mut text[..length]).is_err() {
        return FAILED;
    }
    let Ok(length) = c_int::try_from(length) else { return FAILED };
    // SAFETY: a plain allocation; null is looked for.
    let string = unsafe { libc::malloc(text.len()) }.cast::<u8>();
    if string.is_null() {
        return FAILED;
    }
    // SAFETY: just allocated with the length of the text, so the two do not overlap.
    unsafe { string.copy_from_nonoverlapping(text.as_ptr(), text.len()) };
    // SAFETY: not null, and by this function's own condition to be written to.
    unsafe { out.write(string.cast()) };
    length
}

/// Decodes into `size` bytes. How many it became, or -1 if it is not base64 or does not fit.
///
/// # Safety
/// `text` is a string with a NUL at its end, `out` points to `size` bytes that may be written.
unsafe extern "C" fn base64_decode(text: *const c_char, out: *mut c_void, size: c_int) -> c_int {
    let Ok(size) = usize::try_from(size) else { return FAILED };
    if text.is_null() || out.is_null() {
        return FAILED;
    }
    // SAFETY: by this function's own condition.
    let text = unsafe { CStr::from_ptr(text) };
    let Ok(bytes) = BASE64.decode(text.to_bytes()).map(Zeroizing::new) else { return FAILED };
    if bytes.len() > size {
        return FAILED;
    }
    // SAFETY: `out` has room for `size` bytes, and these are no more; a vector of ours does not overlap it.
    unsafe { out.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    c_int::try_from(bytes.len()).unwrap_or(FAILED)
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn base64_as_plugins_use_it() {
        for (plain, text) in [(&b""[..], c""), (b"a", c"YQ=="), (b"pass word\n", c"cGFzcyB3b3JkCg==")] {
            let mut out = ptr::null_mut();
            // SAFETY: the pointers and the length are those of live locals.
            let n = unsafe { base64_encode(plain.as_ptr().cast(), plain.len() as c_int, &raw mut out) };
            // SAFETY: the call has just written a string there.
            let made = unsafe { CStr::from_ptr(out) };
            assert_eq!((n as usize, made), (text.count_bytes(), text));
            // SAFETY: the call has allocated it with malloc.
            unsafe { libc::free(out.cast()) };
            let mut room = [0xff_u8; 10];
            // SAFETY: ten bytes are there.
            let n = unsafe { base64_decode(text.as_ptr(), room.as_mut_ptr().cast(), 10) };
            assert_eq!(&room[..n as usize], plain);
        }
        let mut room = [0xff_u8; 2];
        for (text, size) in [(c"YWJj", 2), (c"Y!", 2), (c"YQ==", -1), (c"YQ==", 0)] {
            // SAFETY: two bytes are there, and no case says more.
            assert_eq!(unsafe { base64_decode(text.as_ptr(), room.as_mut_ptr().cast(), size) }, FAILED);
        }
        assert_eq!(room, [0xff; 2]);
        // SAFETY: null arguments are refused.
        assert_eq!(unsafe { base64_encode(ptr::null(), 3, ptr::null_mut()) }, FAILED);
    }

    #[test]
    fn memory_is_wiped() {
        let mut secret = *b"hunter2";
        // SAFETY: seven bytes of a live local, of which five.
        unsafe { secure_memzero(secret.as_mut_ptr().cast(), 5) };
        assert_eq!(&secret, b"\0\0\0\0\0r2");
        // SAFETY: null is left alone.
        unsafe { secure_memzero(ptr::null_mut(), 5) };
    }
}
