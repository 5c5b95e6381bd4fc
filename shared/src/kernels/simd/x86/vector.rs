//! Vectors of 32-bit words, of AVX-512 VNNI and of AVX2: what the int8 kernels are written over, once for both widths.
//!
//! An operation works on the words of one lane, or on the bytes or halves of each; what packs, unpacks or shuffles stays
//! within 128 bits, at either width.

use core::arch::x86_64::*;

use crate::kernels::sigmoid::TABLE;

/// # Safety
/// Callers of its functions run where the processor has the vector's instructions, in what [`Self::run`] runs.
pub trait Vector: Copy {
    /// Words of a vector: pixels.
    const PIXELS: usize;
    /// Most vectors of pixels of a convolution's tile: its sums by four channels leave half of the registers free.
    const TILE: usize;
    /// Parts of a quad that [`Self::dot`] takes one by one.
    const PARTS: usize;
    /// Whether [`Self::pixel`] takes any number of channels, and not quads only.
    const ANY_CHANNELS: bool;

    /// Runs `work`, compiled for the vector's instructions, in a function of its own. It and all that it is to be compiled
    /// with must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R;

    /// A vector is read; any alignment.
    unsafe fn load<T>(from: *const T) -> Self;
    /// A vector is written; any alignment.
    unsafe fn store<T>(self, to: *mut T);
    unsafe fn splat(word: i32) -> Self;
    unsafe fn splat16(half: i16) -> Self;
    unsafe fn splat8(byte: i8) -> Self;
    unsafe fn splat64(double: i64) -> Self;
    /// 128 bits, over and over.
    unsafe fn repeat(four: __m128i) -> Self;
    /// Each 128 bits as its number says, from the lowest on.
    unsafe fn of_fours(four: impl Fn(usize) -> __m128i) -> Self;
    /// What [`Self::of_fours`] takes.
    unsafe fn each_four(self, take: impl FnMut(usize, __m128i));

    /// As many bytes as the pixel has channels, sixteen at most; zeros beyond. See [`Self::ANY_CHANNELS`].
    unsafe fn pixel(from: *const i8, channels: usize) -> __m128i;
    /// The words of even, and of odd, number of two vectors that follow each other.
    unsafe fn unzip(self, next: Self) -> [Self; 2];
    /// The words of both in turn.
    unsafe fn zip(self, other: Self) -> [Self; 2];
    /// The lowest byte of each word, to as many bytes.
    unsafe fn store_bytes(self, to: *mut i8);

    /// Part `i` of quads of unsigned bytes.
    unsafe fn part(self, i: usize) -> Self;
    /// A word of each part of a quad's weights.
    fn weights(quad: [i8; 4]) -> [i32; 2];
    /// self + the products of a part of quads and of its weights.
    unsafe fn dot(self, part: Self, weights: Self) -> Self;
    /// self + the products of both halves of each word, signed.
    unsafe fn dot16(self, a: Self, b: Self) -> Self;
    /// Products of the even words, 64 bits each.
    unsafe fn products(self, other: Self) -> Self;
    /// The odd words in the places of the even ones.
    unsafe fn odd(self) -> Self;
    /// The upper words of 64 bits each, which belong to even and to odd words.
    unsafe fn upper(even: Self, odd: Self) -> Self;
    /// [`TABLE`] at indices 0…255.
    unsafe fn sigmoid(self) -> Self;

    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn and(self, other: Self) -> Self;
    unsafe fn or(self, other: Self) -> Self;
    unsafe fn xor(self, other: Self) -> Self;
    unsafe fn add64(self, other: Self) -> Self;
    unsafe fn add16(self, other: Self) -> Self;
    unsafe fn sub16(self, other: Self) -> Self;
    unsafe fn max16(self, other: Self) -> Self;
    /// Saturating.
    unsafe fn adds16(self, other: Self) -> Self;
    unsafe fn max8(self, other: Self) -> Self;
    /// Of signed halves: the sums of two products.
    unsafe fn madd16(self, other: Self) -> Self;
    /// To signed halves, and to signed bytes, saturated.
    unsafe fn pack32(self, other: Self) -> Self;
    unsafe fn pack16(self, other: Self) -> Self;
    unsafe fn shuffle8(self, index: Self) -> Self;
    unsafe fn low8(self, other: Self) -> Self;
    unsafe fn high8(self, other: Self) -> Self;
    unsafe fn low16(self, other: Self) -> Self;
    unsafe fn high16(self, other: Self) -> Self;
    unsafe fn low32(self, other: Self) -> Self;
    unsafe fn high32(self, other: Self) -> Self;
    unsafe fn low64(self, other: Self) -> Self;
    unsafe fn high64(self, other: Self) -> Self;
    /// Halves down by eight, zeros coming in.
    unsafe fn down8_of_16(self) -> Self;
    unsafe fn shl(self, count: u64) -> Self;
    /// Zeros coming in.
    unsafe fn shr(self, count: u64) -> Self;
    /// Signs coming in.
    unsafe fn sar(self, count: u64) -> Self;
}

/// [`Vector`] over registers: instructions that differ in their width alone, and others as they come.
macro_rules! registers {
    ($vector:ty, $features:literal, $splat:ident $splat16:ident $splat8:ident $splat64:ident $load:ident $store:ident $odd:ident $down8:ident;
     $($two:ident: $of_two:ident)*; $($shift:ident: $by:ident)*; $($own:item)*) => {
        impl Vector for $vector {
            #[inline(always)]
            unsafe fn run<R>(work: impl FnOnce() -> R) -> R {
                #[inline(never)]
                #[target_feature(enable = $features)]
                fn compiled<R>(work: impl FnOnce() -> R) -> R {
                    work()
                }
                // SAFETY: the promise of the caller.
                unsafe { compiled(work) }
            }
            #[inline(always)]
            unsafe fn splat(word: i32) -> Self {
                // SAFETY: callers run where the instructions are. So for all without a pointer.
                unsafe { $splat(word) }
            }
            #[inline(always)]
            unsafe fn splat16(half: i16) -> Self {
                // SAFETY: as `splat`.
                unsafe { $splat16(half) }
            }
            #[inline(always)]
            unsafe fn splat8(byte: i8) -> Self {
                // SAFETY: as `splat`.
                unsafe { $splat8(byte) }
            }
            #[inline(always)]
            unsafe fn splat64(double: i64) -> Self {
                // SAFETY: as `splat`.
                unsafe { $splat64(double) }
            }
            #[inline(always)]
            unsafe fn load<T>(from: *const T) -> Self {
                // SAFETY: callers have a vector there.
                unsafe { $load(from.cast()) }
            }
            #[inline(always)]
            unsafe fn store<T>(self, to: *mut T) {
                // SAFETY: callers have room for a vector there.
                unsafe { $store(to.cast(), self) }
            }
            #[inline(always)]
            unsafe fn odd(self) -> Self {
                // SAFETY: as `splat`.
                unsafe { $odd::<32>(self) }
            }
            #[inline(always)]
            unsafe fn down8_of_16(self) -> Self {
                // SAFETY: as `splat`.
                unsafe { $down8::<8>(self) }
            }
            $(#[inline(always)]
            unsafe fn $two(self, other: Self) -> Self {
                // SAFETY: as `splat`.
                unsafe { $of_two(self, other) }
            })*
            $(#[inline(always)]
            unsafe fn $shift(self, count: u64) -> Self {
                // SAFETY: as `splat`.
                unsafe { $by(self, _mm_cvtsi64_si128(count as i64)) }
            })*
            $($own)*
        }
    };
}

registers! {
    __m512i, "avx512f,avx512bw,avx512vl,avx512vnni",
    _mm512_set1_epi32 _mm512_set1_epi16 _mm512_set1_epi8 _mm512_set1_epi64 _mm512_loadu_si512 _mm512_storeu_si512
    _mm512_srli_epi64 _mm512_srli_epi16;
    add: _mm512_add_epi32
    sub: _mm512_sub_epi32
    mul: _mm512_mullo_epi32
    min: _mm512_min_epi32
    max: _mm512_max_epi32
    and: _mm512_and_si512
    or: _mm512_or_si512
    xor: _mm512_xor_si512
    add64: _mm512_add_epi64
    add16: _mm512_add_epi16
    sub16: _mm512_sub_epi16
    max16: _mm512_max_epi16
    adds16: _mm512_adds_epi16
    max8: _mm512_max_epi8
    madd16: _mm512_madd_epi16
    products: _mm512_mul_epi32
    pack32: _mm512_packs_epi32
    pack16: _mm512_packs_epi16
    shuffle8: _mm512_shuffle_epi8
    low8: _mm512_unpacklo_epi8
    high8: _mm512_unpackhi_epi8
    low16: _mm512_unpacklo_epi16
    high16: _mm512_unpackhi_epi16
    low32: _mm512_unpacklo_epi32
    high32: _mm512_unpackhi_epi32
    low64: _mm512_unpacklo_epi64
    high64: _mm512_unpackhi_epi64;
    shl: _mm512_sll_epi32
    shr: _mm512_srl_epi32
    sar: _mm512_sra_epi32;
    const PIXELS: usize = 16;
    const TILE: usize = 4;
    const PARTS: usize = 1;
    const ANY_CHANNELS: bool = true;
    #[inline(always)]
    unsafe fn repeat(four: __m128i) -> Self {
        // SAFETY: as `splat`.
        unsafe { _mm512_broadcast_i32x4(four) }
    }
    #[inline(always)]
    unsafe fn of_fours(four: impl Fn(usize) -> __m128i) -> Self {
        // SAFETY: as `splat`.
        unsafe {
            let v = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(four(0)), four(1));
            _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(v, four(2)), four(3))
        }
    }
    #[inline(always)]
    unsafe fn each_four(self, mut take: impl FnMut(usize, __m128i)) {
        // SAFETY: as `splat`.
        unsafe {
            take(0, _mm512_castsi512_si128(self));
            take(1, _mm512_extracti32x4_epi32::<1>(self));
            take(2, _mm512_extracti32x4_epi32::<2>(self));
            take(3, _mm512_extracti32x4_epi32::<3>(self));
        }
    }
    #[inline(always)]
    unsafe fn pixel(from: *const i8, channels: usize) -> __m128i {
        // SAFETY: callers have the channels there; what lies beyond is not read.
        unsafe { _mm_maskz_loadu_epi8(((1u32 << channels) - 1) as __mmask16, from) }
    }
    #[inline(always)]
    unsafe fn unzip(self, next: Self) -> [Self; 2] {
        // SAFETY: as `splat`.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            [_mm512_permutex2var_epi32(self, even, next), _mm512_permutex2var_epi32(self, odd, next)]
        }
    }
    #[inline(always)]
    unsafe fn zip(self, other: Self) -> [Self; 2] {
        // SAFETY: as `splat`.
        unsafe {
            let front = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let back = _mm512_add_epi32(front, _mm512_set1_epi32(8));
            [_mm512_permutex2var_epi32(self, front, other), _mm512_permutex2var_epi32(self, back, other)]
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        // SAFETY: callers have room for sixteen bytes.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(self)) }
    }
    #[inline(always)]
    unsafe fn part(self, _: usize) -> Self {
        self
    }
    #[inline(always)]
    fn weights(quad: [i8; 4]) -> [i32; 2] {
        [i32::from_ne_bytes(quad.map(|w| w as u8)), 0]
    }
    #[inline(always)]
    unsafe fn dot(self, part: Self, weights: Self) -> Self {
        // SAFETY: as `splat`.
        unsafe { _mm512_dpbusd_epi32(self, part, weights) }
    }
    #[inline(always)]
    unsafe fn dot16(self, a: Self, b: Self) -> Self {
        // SAFETY: as `splat`.
        unsafe { _mm512_dpwssd_epi32(self, a, b) }
    }
    #[inline(always)]
    unsafe fn upper(even: Self, odd: Self) -> Self {
        // SAFETY: as `splat`.
        unsafe { _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even) }
    }
    #[inline(always)]
    unsafe fn sigmoid(self) -> Self {
        let (quarters, _) = TABLE.as_chunks::<64>();
        // SAFETY: as `splat`; both halves of a quarter are 64 bytes.
        unsafe {
            let mut found = _mm512_setzero_si512();
            for (i, quarter) in quarters.iter().enumerate() {
                let (low, high) = (Self::load(quarter.as_ptr()), Self::load(quarter.as_ptr().add(32)));
                let here = _mm512_cmpeq_epi32_mask(_mm512_srli_epi32::<6>(self), _mm512_set1_epi32(i as i32));
                found = _mm512_mask_mov_epi32(found, here, _mm512_permutex2var_epi16(low, self, high));
            }
            _mm512_and_si512(found, _mm512_set1_epi32(0xFFFF))
        }
    }
}

registers! {
    __m256i, "avx2",
    _mm256_set1_epi32 _mm256_set1_epi16 _mm256_set1_epi8 _mm256_set1_epi64x _mm256_loadu_si256 _mm256_storeu_si256
    _mm256_srli_epi64 _mm256_srli_epi16;
    add: _mm256_add_epi32
    sub: _mm256_sub_epi32
    mul: _mm256_mullo_epi32
    min: _mm256_min_epi32
    max: _mm256_max_epi32
    and: _mm256_and_si256
    or: _mm256_or_si256
    xor: _mm256_xor_si256
    add64: _mm256_add_epi64
    add16: _mm256_add_epi16
    sub16: _mm256_sub_epi16
    max16: _mm256_max_epi16
    adds16: _mm256_adds_epi16
    max8: _mm256_max_epi8
    madd16: _mm256_madd_epi16
    products: _mm256_mul_epi32
    pack32: _mm256_packs_epi32
    pack16: _mm256_packs_epi16
    shuffle8: _mm256_shuffle_epi8
    low8: _mm256_unpacklo_epi8
    high8: _mm256_unpackhi_epi8
    low16: _mm256_unpacklo_epi16
    high16: _mm256_unpackhi_epi16
    low32: _mm256_unpacklo_epi32
    high32: _mm256_unpackhi_epi32
    low64: _mm256_unpacklo_epi64
    high64: _mm256_unpackhi_epi64;
    shl: _mm256_sll_epi32
    shr: _mm256_srl_epi32
    sar: _mm256_sra_epi32;
    const PIXELS: usize = 8;
    const TILE: usize = 2;
    const PARTS: usize = 2;
    const ANY_CHANNELS: bool = false;
    #[inline(always)]
    unsafe fn repeat(four: __m128i) -> Self {
        // SAFETY: as `splat`.
        unsafe { _mm256_broadcastsi128_si256(four) }
    }
    #[inline(always)]
    unsafe fn of_fours(four: impl Fn(usize) -> __m128i) -> Self {
        // SAFETY: as `splat`.
        unsafe { _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four(0)), four(1)) }
    }
    #[inline(always)]
    unsafe fn each_four(self, mut take: impl FnMut(usize, __m128i)) {
        // SAFETY: as `splat`.
        unsafe {
            take(0, _mm256_castsi256_si128(self));
            take(1, _mm256_extracti128_si256::<1>(self));
        }
    }
    #[inline(always)]
    unsafe fn pixel(from: *const i8, channels: usize) -> __m128i {
        // SAFETY: callers have the channels there; quads beyond are not read.
        unsafe {
            let there = _mm_cmpgt_epi32(_mm_set1_epi32(channels as i32), _mm_setr_epi32(0, 4, 8, 12));
            if channels == 16 { _mm_loadu_si128(from.cast()) } else { _mm_maskload_epi32(from.cast(), there) }
        }
    }
    #[inline(always)]
    unsafe fn unzip(self, next: Self) -> [Self; 2] {
        // SAFETY: as `splat`.
        unsafe {
            let even = _mm256_shuffle_ps::<0b10_00_10_00>(_mm256_castsi256_ps(self), _mm256_castsi256_ps(next));
            let odd = _mm256_shuffle_ps::<0b11_01_11_01>(_mm256_castsi256_ps(self), _mm256_castsi256_ps(next));
            [even, odd].map(|v| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(v)))
        }
    }
    #[inline(always)]
    unsafe fn zip(self, other: Self) -> [Self; 2] {
        // SAFETY: as `splat`.
        unsafe {
            let (low, high) = (_mm256_unpacklo_epi32(self, other), _mm256_unpackhi_epi32(self, other));
            [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)]
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        // SAFETY: callers have room for eight bytes.
        unsafe {
            let turn = _mm256_set1_epi32(0x0C08_0400);
            let bytes = _mm256_shuffle_epi8(self, turn);
            let both = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            _mm_storel_epi64(to.cast(), both);
        }
    }
    /// The even bytes as halves, and the odd ones: a half holds any product's factor, and none of the sums saturates as
    /// those of `vpmaddubsw` would.
    #[inline(always)]
    unsafe fn part(self, i: usize) -> Self {
        // SAFETY: as `splat`.
        unsafe {
            if i == 0 { _mm256_and_si256(self, _mm256_set1_epi16(0xFF)) } else { _mm256_srli_epi16::<8>(self) }
        }
    }
    #[inline(always)]
    fn weights([a, b, c, d]: [i8; 4]) -> [i32; 2] {
        let pair = |low: i8, high: i8| i32::from(low) & 0xFFFF | i32::from(high) << 16;
        [pair(a, c), pair(b, d)]
    }
    #[inline(always)]
    unsafe fn dot(self, part: Self, weights: Self) -> Self {
        // SAFETY: as `splat`.
        unsafe { self.dot16(part, weights) }
    }
    #[inline(always)]
    unsafe fn dot16(self, a: Self, b: Self) -> Self {
        // SAFETY: as `splat`.
        unsafe { _mm256_add_epi32(self, _mm256_madd_epi16(a, b)) }
    }
    #[inline(always)]
    unsafe fn upper(even: Self, odd: Self) -> Self {
        // SAFETY: as `splat`.
        unsafe { _mm256_blend_epi32::<0b1010_1010>(_mm256_shuffle_epi32::<0b11_11_01_01>(even), odd) }
    }
    #[inline(always)]
    unsafe fn sigmoid(self) -> Self {
        // SAFETY: as `splat`; the table is 128 words, of two entries each.
        unsafe {
            let words = _mm256_i32gather_epi32::<4>(TABLE.as_ptr().cast(), _mm256_srli_epi32::<1>(self));
            let half = _mm256_slli_epi32::<4>(_mm256_and_si256(self, _mm256_set1_epi32(1)));
            _mm256_and_si256(_mm256_srlv_epi32(words, half), _mm256_set1_epi32(0xFFFF))
        }
    }
}
