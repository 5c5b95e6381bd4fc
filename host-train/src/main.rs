//! The `gsacp` command.
use clap::Parser;

fn main() -> anyhow::Result<()> {
    with_settings();
    gsacp_train::commands::Cli::parse().run()
}

/// What the libraries underneath read from the environment once, at the start. The first is the mark of a program that was started over.
///
/// - candle's pool for element-wise operations waits by spinning; beside rayon's threads on few cores every small addition then costs a time
///   slice (measured: a training step of 0.4 s took up to four times as long).
/// - A training step takes and returns maps of megabytes by the hundred. glibc gives such blocks back to the system, and fetching them anew, page
///   by page, was 8 to 23 % of a step; so it keeps them. Another C library does not look at this.
#[cfg(unix)]
const SETTINGS: [(&str, &str); 2] = [
    ("CANDLE_NUM_THREADS", "1"),
    (
        "GLIBC_TUNABLES",
        "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=268435456",
    ),
];

/// Starts over with [`SETTINGS`], but for what the user has set; a process cannot safely change its own environment, so this is a fresh start of
/// the same program in the same process.
fn with_settings() {
    #[cfg(unix)]
    if std::env::var_os(SETTINGS[0].0).is_none() {
        use std::os::unix::process::CommandExt;
        if let Ok(program) = std::env::current_exe() {
            let unset = SETTINGS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
            let mut again = std::process::Command::new(program);
            // Returns only if it fails, and then the program runs on, slower.
            let _ = again.args(std::env::args_os().skip(1)).envs(unset).exec();
        }
    }
}
