//! Sizes, command lines that a user can copy into a shell, and output that goes into a pipe.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// Prints `text`; a reader that has seen enough (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to the standard output"),
    }
}

/// A size as a user writes it, `256x192`: width and height.
pub fn size(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once(['x', '×']).and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
    parsed.ok_or_else(|| format!("{text} is no size: write it as 256x192"))
}

/// The words of a command line, each quoted for a POSIX shell where it needs to be.
pub fn quoted(words: impl IntoIterator<Item = String>) -> String {
    words.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn quote(word: String) -> String {
    match word.contains(|c: char| c.is_whitespace() || "'\"$&;()<>|*?".contains(c)) {
        true => format!("'{}'", word.replace('\'', "'\\''")),
        false => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        let words = ["a", "b c", "it's", "x=1"].map(String::from);
        assert_eq!(quoted(words), "a 'b c' 'it'\\''s' x=1");
    }
}
