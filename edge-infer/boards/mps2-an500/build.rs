//! Puts the board's memory map, or that of the firmware for large frames, where the linker looks for it.
fn main() {
    let folder = if std::env::var_os("CARGO_FEATURE_LARGE").is_some() { "/large" } else { "" };
    println!("cargo:rustc-link-search={}{folder}", env!("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed=memory.x");
    println!("cargo:rerun-if-changed=large/memory.x");
}
