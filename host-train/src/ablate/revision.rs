//! The revision of the code that a run was made with, as far as the folder one works in tells it.

use std::process::Command;

/// The commit of the git checkout around the current folder, with `+` behind it where tracked files differ from it;
/// `None` outside a checkout. (The binary's own checksum stands beside it in the ledger.)
pub fn of_checkout() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|text| !text.is_empty());
    Some(if changed { commit + "+" } else { commit })
}
