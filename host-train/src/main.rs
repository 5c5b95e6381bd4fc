//! The `gsacp` command.
use clap::Parser;

fn main() -> anyhow::Result<()> {
    without_spinning_threads();
    gsacp_train::commands::Cli::parse().run()
}

/// Starts over with `CANDLE_NUM_THREADS=1` unless the user has set it. candle's pool for element-wise operations waits by
/// spinning; beside rayon's threads on few cores every small addition then costs a time slice (measured: a training step
/// of 0.4 s took up to four times as long). candle reads the variable once, and a process cannot safely change its own
/// environment, so it is set for a fresh start of the same program in the same process.
fn without_spinning_threads() {
    #[cfg(unix)]
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        use std::os::unix::process::CommandExt;
        if let Ok(program) = std::env::current_exe() {
            let mut again = std::process::Command::new(program);
            // Returns only if it fails, and then the program runs on, slower.
            let _ = again.args(std::env::args_os().skip(1)).env("CANDLE_NUM_THREADS", "1").exec();
        }
    }
}
