//! Bytes that start at a multiple of 16, as the arena and the model image must.

/// A block of memory.
pub struct Aligned {
    words: Vec<Block>,
    len: usize,
}

#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
#[repr(C, align(16))]
struct Block([u8; 16]);

impl Aligned {
    /// `len` zero bytes.
    pub fn zeros(len: usize) -> Self {
        Self { words: vec![Block([0; 16]); len.div_ceil(16)], len }
    }

    /// The same bytes, aligned.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeros(bytes.len());
        copy.bytes_mut().copy_from_slice(bytes);
        copy
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &zerocopy::IntoBytes::as_bytes(self.words.as_slice())[..self.len]
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut zerocopy::IntoBytes::as_mut_bytes(self.words.as_mut_slice())[..self.len]
    }

    /// The bytes as int8 values, to write.
    pub fn signed_mut(&mut self) -> &mut [i8] {
        zerocopy::transmute_mut!(self.bytes_mut())
    }
}
