//! How deep the stack went: cortex-m-rt paints it before `main`, and what is still painted was never used.
const PAINT: u32 = 0xCCCC_CCCC;

unsafe extern "C" {
    static _stack_start: u32;
    static _stack_end: u32;
}

/// Bytes of stack ever used, and bytes reserved.
pub fn high_water() -> (usize, usize) {
    let (top, bottom) = (&raw const _stack_start, &raw const _stack_end);
    let mut word = bottom;
    // SAFETY: the linker script puts both symbols at word boundaries of one RAM region; the words between are mapped.
    while word < top && unsafe { word.read_volatile() } == PAINT {
        word = word.wrapping_add(1);
    }
    (top as usize - word as usize, top as usize - bottom as usize)
}
