//! Operating points: the logit threshold at which a requested false-alarm rate is met, and what was measured there.
use crate::Error;

/// A threshold chosen for a requested false-alarm rate on a calibration set.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct OperatingPoint {
    /// Requested false-alarm rate as a fraction of all pixels: 5e-6 is "5" in tables that print Fa ×1e6.
    pub requested_fa: f32,
    /// Logit threshold in steps of 1/256; a pixel is a target's where its logit is strictly greater.
    pub threshold: i16,
    /// Pd measured on the calibration set, in [0, 1]; NaN where the set has no targets.
    pub pd: f32,
    /// Fa measured on the calibration set, a fraction of all pixels.
    pub fa: f32,
}

/// What the calibration set gives at one threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Probability of detection; NaN without targets.
    pub pd: f32,
    /// False-alarm rate as a fraction of all pixels.
    pub fa: f32,
}

/// Step of the first descent, in 1/256.
const COARSE: i16 = 64;

/// The lowest threshold from which on no measured Fa exceeds the request.
///
/// Fa is not monotone (two blobs that merge can become a match), so "the lowest threshold that meets the request" could be an
/// accident far below a stretch that breaks it. The search therefore comes down from `highest` (the largest logit of the
/// set, where nothing is predicted and Fa is 0), in steps of ¼ until the request is broken or `lowest` is reached,
/// then in single steps of 1/256 through the last of those. `measure` is called for a threshold each time, at most
/// (highest − lowest)/64 + 65 times.
///
/// # Errors
/// [`Error::FalseAlarmRate`] for a request that is negative or NaN; whatever `measure` returns.
pub fn lowest_meeting<E: From<Error>>(
    requested_fa: f32,
    lowest: i16,
    highest: i16,
    mut measure: impl FnMut(i16) -> Result<Measured, E>,
) -> Result<OperatingPoint, E> {
    if requested_fa.is_nan() || requested_fa < 0.0 {
        return Err(Error::FalseAlarmRate.into());
    }
    let (mut best, mut at) = (measure(highest)?, highest);
    for step in [COARSE, 1] {
        while at > lowest {
            let next = at.saturating_sub(step).max(lowest);
            let measured = measure(next)?;
            // Also stops at a NaN, which no request is met by.
            if measured.fa.is_nan() || measured.fa > requested_fa {
                break;
            }
            (best, at) = (measured, next);
        }
    }
    Ok(OperatingPoint { requested_fa, threshold: at, pd: best.pd, fa: best.fa })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(requested: f32, lowest: i16, highest: i16, fa: impl Fn(i16) -> f32) -> OperatingPoint {
        lowest_meeting::<Error>(requested, lowest, highest, |t| Ok(Measured { pd: 0.5, fa: fa(t) })).unwrap()
    }

    #[test]
    fn the_threshold_is_exact_to_one_step() {
        for edge in [-2000, -1, 0, 1, 63, 64, 65, 2999, 3000] {
            let point = choose(5e-6, -3000, 3000, |t| if t < edge { 6e-6 } else { 5e-6 });
            assert_eq!((point.threshold, point.fa), (edge, 5e-6), "a measured Fa equal to the request meets it");
        }
    }

    #[test]
    fn a_lucky_threshold_below_a_broken_stretch_is_not_taken() {
        let point = choose(1e-6, -3000, 3000, |t| if (-500..500).contains(&t) { 1.0 } else { 0.0 });
        assert_eq!(point.threshold, 500);
    }

    #[test]
    fn a_request_that_is_always_met_gives_the_lowest_threshold() {
        assert_eq!(choose(1.0, i16::MIN, i16::MAX, |_| 0.5).threshold, i16::MIN);
        assert_eq!(choose(0.0, 7, 7, |_| 0.0).threshold, 7);
    }

    #[test]
    fn zero_false_alarms_can_be_requested_but_not_fewer() {
        assert_eq!(choose(0.0, -100, 3000, |t| if t < 1234 { 1e-9 } else { 0.0 }).threshold, 1234);
        for requested in [-1e-6, f32::NAN] {
            let refused = lowest_meeting::<Error>(requested, 0, 1, |_| Ok(Measured { pd: 0.0, fa: 0.0 }));
            assert_eq!(refused, Err(Error::FalseAlarmRate));
        }
    }
}
