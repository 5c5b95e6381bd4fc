//! Chooses the kernels, `cfg(kernels = "…")`: `helium` for cores with MVE, `dsp` for Arm cores with the DSP extension, both
//! int8 only; `neon` for AArch64, int8 only, and `vnni` for x86-64, int8 and float, where the processor is asked at run
//! time (of x86-64: AVX-512 VNNI, AVX2 or neither); `portable` for every other target and with the feature `scalar`.
//!
//! Stable Rust shows neither extension of the 32-bit cores in `cfg(target_feature)`, so the target and `-Ctarget-cpu`
//! decide.
use std::env;

const HELIUM: [&str; 3] = ["cortex-m52", "cortex-m55", "cortex-m85"];
const DSP: [&str; 4] = ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m35p"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(kernels, values(\"helium\", \"dsp\", \"neon\", \"vnni\", \"portable\"))");
    println!("cargo:rustc-cfg=kernels=\"{}\"", kernels());
}

fn kernels() -> &'static str {
    let target = env::var("TARGET").unwrap_or_default();
    if env::var_os("CARGO_FEATURE_SCALAR").is_some() {
        return "portable";
    }
    if target.starts_with("x86_64") {
        return "vnni";
    }
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if target.starts_with("aarch64-") && features.split(',').any(|feature| feature == "neon") {
        return "neon";
    }
    if !target.starts_with("thumb") {
        return "portable";
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let cpu = flags.rsplit("target-cpu=").next().and_then(|rest| rest.split('\x1f').next()).unwrap_or_default();
    if HELIUM.contains(&cpu) {
        "helium"
    } else if DSP.contains(&cpu) || target.starts_with("thumbv7em") {
        "dsp"
    } else {
        "portable"
    }
}
