//! Dotted module paths without an allocator.

use core::fmt;

const PIECES: usize = 4;

/// A module path such as `stage.resnet1_2.branch1.0`, kept as up to four static pieces so that it is `const` and `Copy`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name([&'static str; PIECES]);

impl Name {
    /// A path of one piece.
    pub const fn new(root: &'static str) -> Self {
        Name([root, "", "", ""])
    }

    /// The path followed by `piece` (which brings its own dot). At most three joins; a fourth does not compile.
    pub const fn join(mut self, piece: &'static str) -> Self {
        let mut i = 0;
        while !self.0[i].is_empty() {
            i += 1;
        }
        self.0[i] = piece;
        self
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| f.write_str(piece))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        let mut rest = Some(other);
        for piece in self.0 {
            rest = rest.and_then(|r| r.strip_prefix(piece));
        }
        rest == Some("")
    }
}

#[cfg(feature = "defmt")]
impl defmt::Format for Name {
    fn format(&self, f: defmt::Formatter<'_>) {
        defmt::write!(f, "{=str}{=str}{=str}{=str}", self.0[0], self.0[1], self.0[2], self.0[3]);
    }
}
