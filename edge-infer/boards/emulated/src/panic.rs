//! The proof that nothing panics: the handler calls a function that exists nowhere, so a firmware in which a panic is
//! reachable does not link.
use core::panic::PanicInfo;

unsafe extern "C" {
    fn a_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    // SAFETY: never called: the symbol is undefined, and the link succeeds only when this function is dropped.
    unsafe { a_panic_is_reachable() }
}
